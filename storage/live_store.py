"""Changing the live store: what leaves the log proper comes here, what died is removed, what is sparse is rewritten.

The order of every change: first the new file is whole and durable, then readers get to see it, then its name is made
durable, and only then what it replaces is removed. A start that finds both finishes the removal (`live_recovery`). So
at each moment every living entry lies in at least one file that the next start will find.

Threads: `take_over` is the log thread's; `reclaim` and `install` belong to one background thread; readers are never
stopped. This module knows no kinds and not what is alive: whoever calls decides that from a durable snapshot.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.storage.errors import DiskFull, NotInLiveStore
from sluicemq.storage.files import NO_SPACE
from sluicemq.storage.live import LiveFile, LiveKind, OpenFiles
from sluicemq.storage.segment_index import SealedIndex
from sluicemq.storage.spares import Spare, SparePool
from sluicemq.storage.sparse import SPARSE_NEW_NAME, SparseHeader, sparse_name, write_sparse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sluicemq.storage.files import Directory, File
    from sluicemq.storage.options import LogOptions
    from sluicemq.storage.reading import LogReader
    from sluicemq.storage.record import Record
    from sluicemq.storage.segment import Segment
    from sluicemq.storage.superblock import Generations, SuperblockStore

__all__ = ["LiveStore"]


class LiveStore:
    """The changing side of one directory's live store; `files` is what readers use."""

    def __init__(
        self,
        directory: Directory,
        store: SuperblockStore,
        pool: SparePool,
        generations: Generations,
        options: LogOptions,
        reader: LogReader,
        files: OpenFiles,
    ) -> None:
        self.files = files
        self._directory = directory
        self._store = store
        self._pool = pool
        self._generations = generations
        self._options = options
        self._reader = reader

    def take_over(self, segments: Sequence[Segment]) -> None:
        """Let the log proper begin behind its oldest segments, which these are; durable when this returns.

        Raises OSError.
        """
        moved = []
        for segment in segments:
            sealed = SealedIndex(segment.index, segment.end_offset, segment.last_zxid, segment.chain)
            live = LiveFile(
                self.files,
                segment.header,
                segment.allocated_bytes,
                last_zxid=segment.last_zxid,
                file=segment.file,
                sealed=sealed,
            )
            self.files.write_index(live, sealed)
            moved.append(live)
        self._store.save(first_segment=segments[-1].header.sequence + 1)
        self._reader.change(lambda live, proper: ((*live, *moved), proper[len(moved) :]))
        # Only now may any of them be closed: readers of the new view open them again.
        for live in moved:
            self.files.enter(live)

    def reclaim(self, first_sequence: int, last_sequence: int) -> int:
        """Remove the files of these segments; returns how many. Durable when this returns.

        Raises NotInLiveStore, OSError.
        """
        dead = self._choose(first_sequence, last_sequence)
        gone = set(dead)
        self._reader.change(lambda live, proper: (tuple(each for each in live if each not in gone), proper))
        self._remove(dead)
        return len(dead)

    def install(self, first_sequence: int, last_sequence: int, records: Iterable[Record]) -> LiveFile:
        """Put one new file of these records in the place of the files of these segments. Durable when this returns.

        Raises NotInLiveStore, ValueError, DiskFull (nothing changed), OSError, and whatever `records` raises (nothing
        changed).
        """
        replaced = self._choose(first_sequence, last_sequence)
        if not replaced:
            raise NotInLiveStore(first_sequence, last_sequence, "there is no file to rewrite")
        live = self._write(replaced, records)
        gone = set(replaced)
        position = replaced[0]
        # Readers get to see it before its name exists: the name may be that of one that it replaces.
        self._reader.change(
            lambda files, proper: (
                tuple(live if each is position else each for each in files if each is position or each not in gone),
                proper,
            )
        )
        self._directory.rename(SPARSE_NEW_NAME, live.name)
        self._directory.sync()
        self._remove([each for each in replaced if each.name != live.name])
        for each in replaced:
            if each.name == live.name:
                self.files.take_out(each).close()
        self.files.enter(live)
        return live

    # --- Inside
    # ----------------------------------------------------------------------------------------------------------

    def _choose(self, first_sequence: int, last_sequence: int) -> list[LiveFile]:
        """The files within a range, which must not end in the middle of one, nor reach into the log proper."""
        view = self._reader.view
        begin = view.segments[0].header.sequence
        if not 0 < first_sequence <= last_sequence < begin:
            raise NotInLiveStore(first_sequence, last_sequence, f"the live store ends before segment {begin}")
        chosen = [
            each for each in view.live if each.first_sequence <= last_sequence and each.last_sequence >= first_sequence
        ]
        for each in chosen:
            if each.first_sequence < first_sequence or each.last_sequence > last_sequence:
                raise NotInLiveStore(first_sequence, last_sequence, f"{each.name} would be cut in two")
        return chosen

    def _write(self, replaced: Sequence[LiveFile], records: Iterable[Record]) -> LiveFile:
        first, last = replaced[0], replaced[-1]
        superblock = self._store.current
        header = SparseHeader(
            superblock.cluster_id,
            superblock.group_id,
            first.first_sequence,
            last.last_sequence,
            self._generations.take(),
            first.first_previous_zxid,
            last.last_zxid,
            end_offset=0,
            chain=b"",
            records=0,
            places=0,
            table_checksum=0,
        )
        if SPARSE_NEW_NAME in self._directory.names():
            self._directory.unlink(SPARSE_NEW_NAME)
        file: File | None = None
        try:
            file = self._directory.open(SPARSE_NEW_NAME, create=True)
            whole, index = write_sparse(
                file, header, records, self._options.zero_piece_bytes, self._options.index_stride_bytes
            )
        except BaseException as error:
            self._drop_unfinished(file)
            if isinstance(error, OSError) and error.errno in NO_SPACE:
                path = self._directory.path_of(sparse_name(header.first_sequence, header.last_sequence))
                raise DiskFull(path, "rewriting old segments", error.errno or 0) from error
            raise
        sealed = SealedIndex(index, whole.end_offset, whole.last_zxid, whole.chain)
        return LiveFile(self.files, whole, whole.file_bytes, last_zxid=whole.last_zxid, file=file, sealed=sealed)

    def _drop_unfinished(self, file: File | None) -> None:
        if file is not None:
            file.close()
        try:
            self._directory.unlink(SPARSE_NEW_NAME)
        except OSError:
            pass  # the next rewriting or start removes it

    def _remove(self, dead: Sequence[LiveFile]) -> None:
        # Also the names that are not handed on are durable after this.
        self._pool.retire(self._taken_out(dead))

    def _taken_out(self, dead: Sequence[LiveFile]) -> Iterator[Spare]:
        """Take the files out one by one, for they may be more than can be open; the dense ones are handed on."""
        for each in dead:
            file = self.files.take_out(each)
            if each.kind is LiveKind.DENSE:
                yield Spare(each.name, file)
            else:
                self._directory.unlink(each.name)
                file.close()
