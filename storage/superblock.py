"""What a broker must remember outside its log: who it is, what it promised, and what it is in the middle of.

Why two copies: a power cut while one is rewritten leaves the other whole, and a later bit flip in one must not bring an
older promise back. Both copies live in one file, a page each, and every save rewrites one, syncs, then the other, and
syncs. This module knows the directory protocol and nothing of records.
"""

from __future__ import annotations

import struct
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sluicemq.storage.decisions import Decision
from sluicemq.storage.decisions_superblock import (
    OWNER,
    Belongs,
    Copies,
    FirstCopy,
    Others,
    SecondCopy,
    SuperblockFile,
)
from sluicemq.storage.errors import ForeignData, NewerFormat, PromiseRegression, SuperblockDamaged
from sluicemq.storage.files import naming
from sluicemq.storage.pages import PAGE_BYTES, PageDamaged, seal, unseal

if TYPE_CHECKING:
    from sluicemq.storage.files import Directory, File

__all__ = [
    "FORMAT_VERSION",
    "FORMAT_VERSION_AT_REST",
    "Generations",
    "InstallationIntent",
    "Superblock",
    "SuperblockStore",
    "Truncation",
]

FORMAT_VERSION = 4
"""2: segments before `first_segment` are the live store; software of version 1 would remove them. 1 is read as 2.

3: an installation is under way, or damage is noted; written for so long only, because other software would not carry
the one out, and would vote in spite of the other.

4: the broker belongs to another cluster than its files say; written only then, because other software would go back to
the old one."""
_FORMAT_VERSION_WITH_NOTES = 3
FORMAT_VERSION_AT_REST = 2

SUPERBLOCK_NAME = "superblock"
SUPERBLOCK_NEW_NAME = "superblock.new"

_MAGIC = b"SluiceSB"
_BODY = struct.Struct("<16s16sIIQQQQQQQQQQ16s")
_COPIES = 2
_NO_ID = bytes(16)
_WITHOUT_INTENT, _TRUNCATION, _INSTALLATION = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Truncation:
    """The intent to end the log after `zxid`, at byte `offset` of the segment with this sequence number."""

    zxid: int
    segment: int
    offset: int


@dataclass(frozen=True, slots=True)
class InstallationIntent:
    """The intent to go on with a snapshot at `zxid` in the place of the log.

    The log goes on in the new segment `segment`; new files stand for segments from `base` on, everything before is old.
    """

    zxid: int
    segment: int
    base: int


@dataclass(frozen=True, slots=True)
class Superblock:
    """The state; `sequence` counts saves.

    `first_segment` is 0 until the first segment exists. Segments from `first_segment` to `last_segment` must be there;
    later ones may be: a segment that vanished is damage, also if it was the last.

    Segments before `first_segment` belong to the live store, which loses files as they die.

    `generation_next`: no file with this generation or a later one was ever written.

    `synced_zxid`: the log reached at least this entry, durably, at the last save that was told. A log that ends earlier
    is damaged, whatever its files say.

    `damaged_from`: the first entry that this broker may have acknowledged and lost; 0 for none. See `setting_aside`.

    `cluster_id` stands in every file and never changes while there are any. `renamed_to` is the id of the cluster that
    the broker was made the first of since, with the same files; 16 zeros for none. `known_as` is the one that counts.
    """

    cluster_id: bytes
    incarnation: bytes
    group_id: int = 0
    sequence: int = 1
    generation_next: int = 1
    promised_epoch: int = 0
    first_segment: int = 0
    last_segment: int = 0
    truncation: Truncation | None = None
    synced_zxid: int = 0
    installation: InstallationIntent | None = None
    damaged_from: int = 0
    renamed_to: bytes = _NO_ID

    @property
    def known_as(self) -> bytes:
        """The id of the cluster that the broker belongs to, as it tells others. 16 bytes."""
        return self.cluster_id if self.renamed_to == _NO_ID else self.renamed_to

    @property
    def _format_version(self) -> int:
        """The oldest that says all of this."""
        if self.renamed_to != _NO_ID:
            return FORMAT_VERSION
        noted = self.installation is not None or self.damaged_from
        return _FORMAT_VERSION_WITH_NOTES if noted else FORMAT_VERSION_AT_REST

    def to_page(self) -> bytes:
        """The page as it lies on disk."""
        cut, new = self.truncation, self.installation
        assert cut is None or new is None, "one thing at a time"
        kind, intent = _WITHOUT_INTENT, (0, 0, 0)
        if cut is not None:
            kind, intent = _TRUNCATION, (cut.zxid, cut.segment, cut.offset)
        if new is not None:
            kind, intent = _INSTALLATION, (new.zxid, new.segment, new.base)
        return seal(
            _MAGIC,
            self._format_version,
            _BODY.pack(
                self.cluster_id,
                self.incarnation,
                self.group_id,
                kind,
                self.sequence,
                self.generation_next,
                self.promised_epoch,
                self.first_segment,
                self.last_segment,
                *intent,
                self.synced_zxid,
                self.damaged_from,
                self.renamed_to,
            ),
        )

    @classmethod
    def from_body(cls, body: bytes) -> Superblock:
        """The state in the body of a page of any version up to FORMAT_VERSION."""
        cluster, incarnation, group, kind, *counters = _BODY.unpack_from(body)
        sequence, generation, promised, first, last, zxid, segment, offset, synced, damaged_from, renamed_to = counters
        return cls(
            cluster_id=cluster,
            incarnation=incarnation,
            group_id=group,
            sequence=sequence,
            generation_next=generation,
            promised_epoch=promised,
            first_segment=first,
            last_segment=last,
            truncation=Truncation(zxid, segment, offset) if kind == _TRUNCATION else None,
            synced_zxid=synced,
            installation=InstallationIntent(zxid, segment, offset) if kind == _INSTALLATION else None,
            damaged_from=damaged_from,
            renamed_to=renamed_to,
        )


class SuperblockStore:
    """The superblock of one directory. `current` is durable at all times.

    Saving raises OSError, which is fatal for the log. The log thread saves, and whoever takes generations.
    """

    def __init__(self, file: File, current: Superblock, repaired: bool) -> None:
        self._file = file
        self.current = current
        self.repaired = repaired
        self._saving = threading.Lock()

    @classmethod
    def create(cls, directory: Directory, superblock: Superblock) -> SuperblockStore:
        """Write the first superblock of a directory. It appears under its name only when it is whole and durable."""
        if SUPERBLOCK_NEW_NAME in directory.names():
            directory.unlink(SUPERBLOCK_NEW_NAME)
        file = directory.open(SUPERBLOCK_NEW_NAME, create=True)
        file.pwritev([superblock.to_page()] * _COPIES, 0)
        file.sync()
        directory.rename(SUPERBLOCK_NEW_NAME, SUPERBLOCK_NAME)
        directory.sync()
        return cls(file, superblock, repaired=False)

    @classmethod
    def load(
        cls, directory: Directory, cluster_id: bytes | None = None, group_id: int | None = None
    ) -> SuperblockStore:
        """Read both copies and take the newest valid one, if it is of this cluster and group (None: of any). Changes
        nothing: call `make_durable` once the directory is accepted.

        Raises FileNotFoundError, SuperblockDamaged, NewerFormat, ForeignData.
        """
        file = directory.open(SUPERBLOCK_NAME)
        try:
            return cls._load(directory.path_of(SUPERBLOCK_NAME), file, cluster_id, group_id)
        except BaseException:
            file.close()
            raise

    @classmethod
    def _load(cls, path: str, file: File, cluster_id: bytes | None, group_id: int | None) -> SuperblockStore:
        valid: list[Superblock] = []
        reasons: list[str] = []
        states: list[str] = []
        newer = 0
        for copy in range(_COPIES):
            try:
                with naming(path):
                    page = file.pread(PAGE_BYTES, copy * PAGE_BYTES)
                version, body = unseal(page, _MAGIC)
            except PageDamaged as damage:
                reasons.append(f"copy {copy + 1}: {damage}")
                states.append("DAMAGED")
                continue
            if version > FORMAT_VERSION:
                newer = max(newer, version)
                states.append("NEWER")
                continue
            states.append("WHOLE")
            valid.append(Superblock.from_body(body))
        newest = max(valid, key=lambda copy: copy.sequence, default=None)
        belongs = Belongs.OURS
        if newest is not None and cluster_id is not None and newest.cluster_id != cluster_id:
            belongs = Belongs.OTHER_CLUSTER
        elif newest is not None and group_id is not None and newest.group_id != group_id:
            belongs = Belongs.OTHER_GROUP
        row = OWNER.decide(
            SuperblockFile.THERE,
            Others.SOME,
            FirstCopy[states[0]],
            SecondCopy[states[1]],
            Copies.DIFFERENT if len(set(valid)) > 1 else Copies.EQUAL,
            belongs,
        )
        if row.decision is Decision.REFUSE:
            if newer:
                raise NewerFormat(path, newer, FORMAT_VERSION)
            if newest is None:
                raise SuperblockDamaged(path, tuple(reasons))
            if belongs is Belongs.OTHER_CLUSTER:
                raise ForeignData(path, "cluster", (cluster_id or b"").hex(), newest.cluster_id.hex())
            raise ForeignData(path, "group", str(group_id), str(newest.group_id))
        assert newest is not None, "without a valid copy it is refused"
        return cls(file, newest, repaired=row.decision is Decision.REBUILD)

    def make_durable(self) -> None:
        """Bring both copies to the state that was loaded, where they differ.

        The copy that was read may have been in the page cache only: acting on it before it is durable could let a power
        cut take back what was acted on.
        """
        if self.repaired:
            self._write(self.current)

    def save(
        self,
        *,
        generation_next: int | None = None,
        promised_epoch: int | None = None,
        first_segment: int | None = None,
        last_segment: int | None = None,
        synced_zxid: int | None = None,
        damaged_from: int | None = None,
    ) -> None:
        """Change the given fields, durably in both copies when this returns. Raises PromiseRegression, OSError."""
        with self._saving:
            now = self.current
            if promised_epoch is not None and promised_epoch < now.promised_epoch:
                raise PromiseRegression(now.promised_epoch, promised_epoch)
            self._write(
                replace(
                    now,
                    sequence=now.sequence + 1,
                    generation_next=now.generation_next if generation_next is None else generation_next,
                    promised_epoch=now.promised_epoch if promised_epoch is None else promised_epoch,
                    first_segment=now.first_segment if first_segment is None else first_segment,
                    last_segment=now.last_segment if last_segment is None else last_segment,
                    synced_zxid=now.synced_zxid if synced_zxid is None else synced_zxid,
                    damaged_from=now.damaged_from if damaged_from is None else damaged_from,
                )
            )

    def save_truncation(self, truncation: Truncation | None) -> None:
        """Note the intent to cut the log, or that it was carried out. Durable when this returns. Raises OSError."""
        with self._saving:
            now = self.current
            if truncation is not None:
                synced_zxid = min(now.synced_zxid, truncation.zxid)
                now = replace(now, last_segment=truncation.segment, synced_zxid=synced_zxid)
            self._write(replace(now, sequence=now.sequence + 1, truncation=truncation))

    def save_installation(self, installation: InstallationIntent | None) -> None:
        """Note the intent to go on with a snapshot, or that this was done. Durable when this returns. Raises OSError.

        When it was done, the log begins in the new segment, and nothing else is known of it.
        """
        with self._saving:
            now = self.current
            done = now.installation
            if installation is None and done is not None:
                now = replace(now, first_segment=done.segment, last_segment=done.segment, synced_zxid=done.zxid)
            self._write(replace(now, sequence=now.sequence + 1, installation=installation))

    def save_new_cluster(self, cluster_id: bytes, promised_epoch: int) -> None:
        """Belong to another cluster from now on, with the same files, and promise an epoch. Durable when this returns.

        One save says both: an epoch of the new cluster is never promised in the old one. Raises PromiseRegression,
        OSError.
        """
        with self._saving:
            now = self.current
            if promised_epoch < now.promised_epoch:
                raise PromiseRegression(now.promised_epoch, promised_epoch)
            self._write(replace(now, sequence=now.sequence + 1, renamed_to=cluster_id, promised_epoch=promised_epoch))

    def forget_log(self, cluster_id: bytes | None = None) -> None:
        """Say that no log was begun yet, and of which cluster it will be, if that changes; who and what was promised
        stays. Durable when this returns. Raises OSError."""
        with self._saving:
            now = replace(self.current, first_segment=0, last_segment=0, synced_zxid=0)
            now = now if cluster_id is None else replace(now, cluster_id=cluster_id, renamed_to=_NO_ID)
            self._write(replace(now, sequence=now.sequence + 1, truncation=None, installation=None))

    def _write(self, superblock: Superblock) -> None:
        page = superblock.to_page()
        with naming(SUPERBLOCK_NAME):
            for copy in range(_COPIES):
                self._file.pwritev([page], copy * PAGE_BYTES)
                self._file.sync()
        self.current = superblock

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Generations:
    """Hands out generations, each to one file ever, whatever power cuts happen. From any thread.

    The superblock reserves many at once, so that taking one seldom writes it.
    """

    def __init__(self, store: SuperblockStore, next_generation: int, reserved_at_once: int) -> None:
        self._store = store
        self._next = next_generation
        self._reserved_at_once = reserved_at_once
        self._guard = threading.Lock()

    def take(self) -> int:
        """The next generation. Raises OSError."""
        with self._guard:
            taken = self._next
            if taken >= self._store.current.generation_next:
                self._store.save(generation_next=taken + self._reserved_at_once)
            self._next = taken + 1
            return taken
