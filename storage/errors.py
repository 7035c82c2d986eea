"""What can go wrong with the files of a broker, each with the facts and the way on.

Why: the shell decides between "refuse to start", "exit" and "tell the client to retry" by type, never by text, and an
operator who reads only the message must know which file, which place and what to do. All errors survive pickling, for
they cross process borders in tests and tools. This module knows nothing of files, records or clients.
"""

from __future__ import annotations

import os
from errno import errorcode
from typing import NamedTuple

__all__ = [
    "DirectoryLocked",
    "DiskFull",
    "EntryTooLarge",
    "EpochExhausted",
    "FileGap",
    "FileReadFailed",
    "FileWriteFailed",
    "ForeignData",
    "InvalidOption",
    "LogClosed",
    "LogCorrupt",
    "LogReadFailed",
    "LogWriteFailed",
    "MessageLost",
    "NewerFormat",
    "NotInLiveStore",
    "OldFileMissing",
    "PageCorrupt",
    "PromiseRegression",
    "SnapshotContradictsLog",
    "SnapshotDamaged",
    "SnapshotInProgress",
    "SnapshotMisnamed",
    "SnapshotMissing",
    "SnapshotNotNewer",
    "SpareNotPrepared",
    "StorageError",
    "SuperblockDamaged",
    "SuperblockMissing",
    "ZxidGap",
    "ZxidNotFound",
    "format_zxid",
]


def format_zxid(zxid: int) -> str:
    """`epoch.counter`, the form in which every message and tool shows a zxid."""
    return f"{zxid >> 32}.{zxid & 0xFFFFFFFF}"


def _reason(number: int) -> str:
    """An errno as people and search engines know it, and in words."""
    return f"{os.strerror(number)} ({errorcode.get(number, 'unknown')}, errno {number})"


class StorageError(Exception):
    """Root of all errors of the storage layer. Fields are positional arguments, so that every subclass pickles."""

    def _explain(self) -> str:
        """One or two sentences: what was wrong with which value, and what the caller can do."""
        return ", ".join(str(value) for value in self.args)

    def __str__(self) -> str:
        return self._explain()


class InvalidOption(StorageError):
    """A log option has a value that cannot work. Fix the configuration."""

    def __init__(self, option: str, value: object, requirement: str) -> None:
        super().__init__(option, value, requirement)
        self.option = option
        self.value = value
        self.requirement = requirement

    def _explain(self) -> str:
        return f"option {self.option} is {self.value!r}, but {self.requirement}"


class NotAFile(StorageError):
    """Under the name of a file lies a folder, a pipe, a device, or a link that leads nowhere.

    It is not opened: reading a pipe would wait for ever. Move it away and restore the file.

    Attributes:
        path: Where it lies.
        found: What lies there.

    """

    def __init__(self, path: str, found: str) -> None:
        super().__init__(path, found)
        self.path = path
        self.found = found

    def _explain(self) -> str:
        return (
            f"{self.path} is {self.found} and no file; nothing was changed. Move it out of the directory, and put the "
            "file of this name back from a backup; without one, `sluicemq log repair --dry-run` then shows what would "
            "be lost"
        )


class DirectoryLocked(StorageError):
    """Another process serves this data directory. Stop it, or choose another directory. Nothing was changed."""

    def __init__(self, directory: str, pid: int | None) -> None:
        super().__init__(directory, pid)
        self.directory = directory
        self.pid = pid

    def _explain(self) -> str:
        holder = "another process" if self.pid is None else f"process {self.pid}"
        return f"data directory {self.directory} is in use by {holder}; stop it first, or choose another directory"


class ForeignData(StorageError):
    """The directory holds data of another cluster or group. Nothing was changed."""

    def __init__(self, file: str, what: str, expected: str, found: str) -> None:
        super().__init__(file, what, expected, found)
        self.file = file
        self.what = what
        self.expected = expected
        self.found = found

    def _explain(self) -> str:
        return (
            f"{self.file} belongs to {self.what} {self.found}, expected {self.expected}; nothing was changed. "
            "Point the broker at its own data directory, or at an empty one to start anew"
        )


class NewerFormat(StorageError):
    """The file was written by a newer version of the software. Nothing was changed."""

    def __init__(self, file: str, found: int, supported: int) -> None:
        super().__init__(file, found, supported)
        self.file = file
        self.found = found
        self.supported = supported

    def _explain(self) -> str:
        return (
            f"{self.file} has format version {self.found}, this version reads up to {self.supported}; nothing was "
            "changed. Run the version that wrote it, or a newer one"
        )


class SuperblockDamaged(StorageError):
    """Neither copy of the superblock can be read. Nothing was changed."""

    def __init__(self, file: str, reasons: tuple[str, ...]) -> None:
        super().__init__(file, reasons)
        self.file = file
        self.reasons = reasons

    def _explain(self) -> str:
        return (
            f"both copies in {self.file} are damaged ({'; '.join(self.reasons)}); nothing was changed. Restore the "
            "directory from a backup; in a cluster, start with an empty directory: the broker then joins as a learner; "
            "`sluicemq log repair --dry-run` shows what the segments tell"
        )


class SuperblockMissing(StorageError):
    """There are log files but no superblock. A missing part is never taken for an empty log. Nothing was changed."""

    def __init__(self, file: str, segments: tuple[str, ...]) -> None:
        super().__init__(file, segments)
        self.file = file
        self.segments = segments

    def _explain(self) -> str:
        return (
            f"{self.file} is missing, yet {len(self.segments)} log segment(s) exist ({self.segments[0]}, ...); nothing "
            "was changed. Restore all files from one backup; without one, `sluicemq log repair --dry-run` shows what "
            "the segments tell. Or move the directory away to start with an empty one"
        )


class LogCorrupt(StorageError):
    """A place in the log that was durable once cannot be read any more. Never cut silently: nothing was changed.

    Fields: `file` and byte `offset` of the damage, `reason`, `last_good_zxid` (the last entry before the damage) and
    `synced_zxid` (entries up to this one are known to have been durable; None where that follows from the files alone).
    """

    def __init__(
        self, file: str, offset: int, reason: str, last_good_zxid: int, synced_zxid: int | None = None
    ) -> None:
        super().__init__(file, offset, reason, last_good_zxid, synced_zxid)
        self.file = file
        self.offset = offset
        self.reason = reason
        self.last_good_zxid = last_good_zxid
        self.synced_zxid = synced_zxid

    def _explain(self) -> str:
        known = (
            "" if self.synced_zxid is None else f"; entries up to {format_zxid(self.synced_zxid)} had been made durable"
        )
        return (
            f"the log is damaged in {self.file} at offset {self.offset}: {self.reason}; last good entry "
            f"{format_zxid(self.last_good_zxid)}{known}. Nothing was changed. Restore this file from a backup; in a "
            "cluster, start with an empty directory and the broker fetches its data from the others; "
            "`sluicemq log repair --dry-run` shows what would be lost without it"
        )


class FileReadFailed(StorageError):
    """The operating system refused to read a part of a file. The data may still be there; nothing was changed."""

    def __init__(self, file: str, offset: int, errno: int) -> None:
        super().__init__(file, offset, errno)
        self.file = file
        self.offset = offset
        self.errno = errno

    def _explain(self) -> str:
        return f"reading {self.file} at offset {self.offset} failed: {_reason(self.errno)}; check the disk"


class LogReadFailed(FileReadFailed):
    """The operating system refused to read a part of the log. The data may still be there; nothing was changed."""


class FileWriteFailed(StorageError):
    """A write, sync or change of names failed. Fatal: the process must exit, and must not retry.

    After a failed sync the kernel may have dropped the data and call the next sync a success, so what is durable is
    known only after a restart has read the files again.
    """

    def __init__(self, file: str, operation: str, errno: int) -> None:
        super().__init__(file, operation, errno)
        self.file = file
        self.operation = operation
        self.errno = errno

    def _explain(self) -> str:
        return (
            f"{self.operation} on {self.file} failed: {_reason(self.errno)}. Exit, mend the disk (hardware, "
            "mount), and start again: everything that was confirmed is in the log"
        )


class DiskFull(StorageError):
    """No space for something that is not the log itself: a snapshot or a page. Nothing is lost; try again later.

    What was begun is undone or unused. Refuse publishes until there is space.
    """

    def __init__(self, file: str, operation: str, errno: int) -> None:
        super().__init__(file, operation, errno)
        self.file = file
        self.operation = operation
        self.errno = errno

    def _explain(self) -> str:
        return (
            f"{self.operation} on {self.file} found no space: {_reason(self.errno)}; nothing was lost. Free space "
            "on this disk; it is tried again by itself"
        )


class LogWriteFailed(FileWriteFailed):
    """A write or sync on the log failed. Fatal: the process must exit, and must not retry.

    After a failed sync the kernel may have dropped the data and call the next sync a success, so what is durable is
    known only after a restart has read the files again. Every later call on the log raises this error.
    """

    def _explain(self) -> str:
        return (
            f"{self.operation} on {self.file} failed: {_reason(self.errno)}. The log takes no more calls; exit, "
            "mend the disk (space, hardware, mount), and start again: recovery keeps every entry that was confirmed"
        )


class LogClosed(StorageError):
    """The log was closed; open it again. A mistake of the calling program."""

    def _explain(self) -> str:
        return "the log is closed"


class NotInLiveStore(StorageError):
    """These segments cannot be removed or rewritten as asked. A mistake of the calling program; nothing was changed."""

    def __init__(self, first_sequence: int, last_sequence: int, reason: str) -> None:
        super().__init__(first_sequence, last_sequence, reason)
        self.first_sequence = first_sequence
        self.last_sequence = last_sequence
        self.reason = reason

    def _explain(self) -> str:
        return (
            f"segments {self.first_sequence} to {self.last_sequence} cannot be removed or rewritten: {self.reason}; "
            "take whole files as `live_files` lists them"
        )


class EntryTooLarge(StorageError):
    """An entry exceeds half a segment. Nothing of the group was written."""

    def __init__(self, zxid: int, entry_bytes: int, entry_bytes_max: int) -> None:
        super().__init__(zxid, entry_bytes, entry_bytes_max)
        self.zxid = zxid
        self.entry_bytes = entry_bytes
        self.entry_bytes_max = entry_bytes_max

    def _explain(self) -> str:
        return (
            f"entry {format_zxid(self.zxid)} takes {self.entry_bytes} bytes, the most is {self.entry_bytes_max}: split "
            "the batch, or raise segment_bytes (an entry may fill half a segment)"
        )


class ZxidGap(StorageError):
    """An entry does not follow the one before it. Nothing of the group was written."""

    def __init__(self, previous_zxid: int, zxid: int) -> None:
        super().__init__(previous_zxid, zxid)
        self.previous_zxid = previous_zxid
        self.zxid = zxid

    def _explain(self) -> str:
        return (
            f"entry {format_zxid(self.zxid)} cannot follow {format_zxid(self.previous_zxid)}: the next is "
            f"{format_zxid(self.previous_zxid + 1)}, or counter 0 of a higher epoch"
        )


class EpochExhausted(ZxidGap):
    """An epoch has used up its counters. Nothing of the group was written.

    The last counter of an epoch is 0xFFFF_FFFE, so that counter 0 of a higher epoch always means a new epoch, never an
    entry too many of the one before.
    """

    def _explain(self) -> str:
        return (
            f"entry {format_zxid(self.zxid)} cannot follow {format_zxid(self.previous_zxid)}: the epoch has no number "
            "left; a leader begins a new epoch, so restart the broker"
        )


class ZxidNotFound(StorageError):
    """The log holds no entry with this zxid (any more). `start_zxid` itself is the position before the first entry."""

    def __init__(self, zxid: int, start_zxid: int, last_zxid: int) -> None:
        super().__init__(zxid, start_zxid, last_zxid)
        self.zxid = zxid
        self.start_zxid = start_zxid
        self.last_zxid = last_zxid

    def _explain(self) -> str:
        return (
            f"no entry {format_zxid(self.zxid)} in the log, which reaches from after {format_zxid(self.start_zxid)} to "
            f"{format_zxid(self.last_zxid)}"
        )


class FileGap(NamedTuple):
    """Where a file of the live store is missing: messages are alive in entries that no file holds.

    Attributes:
        after: Name of the file in front of the gap; empty where there is none.
        before: Path of the file behind the gap.
        first_zxid: The first entry that is needed and missing.
        last_zxid: The last one.
        messages: How many messages are alive in such entries.
        queues: Names of queues and how many of the messages are theirs, the most first; not all of them.
        queue_count: Of how many queues.

    """

    after: str
    before: str
    first_zxid: int
    last_zxid: int
    messages: int
    queues: tuple[tuple[str, int], ...]
    queue_count: int

    def __str__(self) -> str:
        """As the error says it."""
        place = f"between {self.after} and {self.before}" if self.after else f"in front of {self.before}"
        named = ", ".join(f"{count} of queue {name!r:.300}" for name, count in self.queues)
        others = self.queue_count - len(self.queues)
        more = f", and others of {others} more queues" if others else ""
        return (
            f"{place}, entries {format_zxid(self.first_zxid)} to {format_zxid(self.last_zxid)}: {self.messages} "
            f"messages ({named}{more})"
        )


class OldFileMissing(StorageError):
    """Messages are alive, and the old file that held them is not there. Nothing was changed; refuse to start.

    Fields: `gaps` (`FileGap`, the first ones), and `gap_count`, how many there are.
    """

    def __init__(self, gaps: tuple[FileGap, ...], gap_count: int) -> None:
        super().__init__(gaps, gap_count)
        self.gaps = gaps
        self.gap_count = gap_count

    def _explain(self) -> str:
        found = "; ".join(map(str, self.gaps))
        others = self.gap_count - len(self.gaps)
        more = f"; and {others} more gaps" if others else ""
        return (
            f"old files are missing, and messages that they held are not settled: {found}{more}. "
            "Nothing was changed. Bring the files back (`segment-N` or `sparse-N-M`, with the numbers in between); "
            "without them, `sluicemq log repair` shows what is lost, and goes on without it when told to"
        )


class MessageLost(StorageError):
    """A message that is to be delivered is in no file, though it is alive. Fatal: the queue cannot go on.

    Fields: `queue` (its name), `zxid` (the entry that published it).
    """

    def __init__(self, queue: str, zxid: int) -> None:
        super().__init__(queue, zxid)
        self.queue = queue
        self.zxid = zxid

    def _explain(self) -> str:
        return (
            f"a message of queue {self.queue!r:.300} is to be delivered, but no file holds entry "
            f"{format_zxid(self.zxid)}, which published it: an old file, or a record in one, is gone. To go on would "
            "pass it over in silence. Bring the file back from a backup; or run `sluicemq log repair --dry-run`, which "
            "shows every such message, and `sluicemq log repair`, which gives up exactly these; then start again"
        )


class PromiseRegression(StorageError):
    """The promised epoch never decreases. A mistake of the calling program."""

    def __init__(self, promised_epoch: int, asked_epoch: int) -> None:
        super().__init__(promised_epoch, asked_epoch)
        self.promised_epoch = promised_epoch
        self.asked_epoch = asked_epoch

    def _explain(self) -> str:
        return f"epoch {self.promised_epoch} was promised already, cannot promise {self.asked_epoch}"


class SpareNotPrepared(StorageError):
    """No spare segment could be made.

    Not fatal: the log goes on in a growing file; refuse publishes while the disk is full.
    """

    def __init__(self, file: str, errno: int, bytes_needed: int) -> None:
        super().__init__(file, errno, bytes_needed)
        self.file = file
        self.errno = errno
        self.bytes_needed = bytes_needed

    def _explain(self) -> str:
        why = _reason(self.errno)
        return f"cannot prepare {self.bytes_needed} bytes in {self.file}: {why}; free space on this disk"


class SnapshotDamaged(StorageError):
    """A snapshot is not whole or not what was written. Nothing was changed; an older snapshot serves instead.

    Without an older one the log must reach back to its first entry, or the data is incomplete.
    """

    def __init__(self, file: str, offset: int, reason: str) -> None:
        super().__init__(file, offset, reason)
        self.file = file
        self.offset = offset
        self.reason = reason

    def _explain(self) -> str:
        return (
            f"snapshot {self.file} is damaged at offset {self.offset}: {self.reason}; nothing was changed. The newest "
            "whole snapshot serves instead, with the log behind it"
        )


class SnapshotContradictsLog(StorageError):
    """A whole snapshot belongs to another log than the one beside it. Nothing was changed; refuse to start."""

    def __init__(self, file: str, zxid: int, reason: str) -> None:
        super().__init__(file, zxid, reason)
        self.file = file
        self.zxid = zxid
        self.reason = reason

    def _explain(self) -> str:
        return (
            f"snapshot {self.file} was taken at {format_zxid(self.zxid)} of another log than the one beside it: "
            f"{self.reason}. Nothing was changed. Put the files of one backup together, all of them; without one, move "
            "this snapshot away: the older one serves then, if it fits"
        )


class SnapshotMissing(StorageError):
    """No snapshot is good, and the log does not reach back to its first entry. Nothing was changed; refuse to start.

    Fields: `start_zxid` of the log, and `reasons`, one for each snapshot that does not count.
    """

    def __init__(self, start_zxid: int, reasons: tuple[str, ...]) -> None:
        super().__init__(start_zxid, reasons)
        self.start_zxid = start_zxid
        self.reasons = reasons

    def _explain(self) -> str:
        found = "; ".join(self.reasons) or "there is none"
        return (
            f"the log begins behind {format_zxid(self.start_zxid)}, and no snapshot of what was before can be used: "
            f"{found}. Nothing was changed. Put the snapshots back that were moved away, or all files of one backup; "
            "`sluicemq log verify` shows what is there"
        )


class SnapshotMisnamed(SnapshotDamaged):
    """A snapshot lies under the name of another. Nothing was changed; an older snapshot serves instead."""


class SnapshotNotNewer(StorageError):
    """A snapshot must be newer than the newest good one. A mistake of the calling program; nothing was changed."""

    def __init__(self, zxid: int, newest_zxid: int) -> None:
        super().__init__(zxid, newest_zxid)
        self.zxid = zxid
        self.newest_zxid = newest_zxid

    def _explain(self) -> str:
        return (
            f"a snapshot at {format_zxid(self.zxid)} would replace the good one at {format_zxid(self.newest_zxid)}: "
            "take the next one after an entry was applied"
        )


class SnapshotInProgress(StorageError):
    """One snapshot is written at a time: finish or abandon it first. A mistake of the calling program."""

    def __init__(self, zxid: int) -> None:
        super().__init__(zxid)
        self.zxid = zxid

    def _explain(self) -> str:
        return f"the snapshot at {format_zxid(self.zxid)} is still being written; finish or abandon it first"


class PageCorrupt(StorageError):
    """A page does not hold what was written to it. Never served; nothing was changed.

    Fields: `file`, byte `offset` and `slot` of the page, `reason`.
    """

    def __init__(self, file: str, offset: int, slot: int, reason: str) -> None:
        super().__init__(file, offset, slot, reason)
        self.file = file
        self.offset = offset
        self.slot = slot
        self.reason = reason

    def _explain(self) -> str:
        return (
            f"page {self.slot} in {self.file} at offset {self.offset} is damaged: {self.reason}; nothing was changed. "
            "Start again from an older snapshot, or restore this file from a backup together with the snapshots; in a "
            "cluster, start with an empty directory and the broker fetches its data from the others"
        )
