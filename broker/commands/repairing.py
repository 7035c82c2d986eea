"""What `sluicemq log repair` finds, plans and does: the ways on when there is neither a backup nor another broker.

The rules: whatever is damaged is kept aside under `damaged/` first; what can be read stays; what is lost is known
before anything is done. Two ways past damage in the log: where a good snapshot lies behind it, the log begins anew from
that snapshot, and only what cannot be read is lost; otherwise the log is cut in front of the damage. Messages whose
bytes are gone are then settled by entries of the log (`forgetting`), so that every broker agrees that they are.

This module must not know the command line. The directory is locked by whoever calls.
"""

from __future__ import annotations

from collections import defaultdict
from itertools import starmap
from pathlib import Path
from typing import TYPE_CHECKING

from sluicemq.broker.commands.keeping_aside import copy_durably, free_bytes, make_folder, sync_folders, write_whole
from sluicemq.broker.commands.log_files import LogFiles, ReadOnlyDirectory
from sluicemq.broker.commands.log_others import OtherFiles, read_page
from sluicemq.broker.commands.log_repair_plan import (
    CannotRepair,
    Damaged,
    NoRoomToRepair,
    Plan,
    SnapshotBase,
    Span,
    is_lost,
)
from sluicemq.broker.commands.log_repair_view import OrderedDirectory
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.coverage import SEEN_BATCHES_MAX, Coverage
from sluicemq.broker.queues.entries_with_batches import BATCH_KINDS, BatchEntry, targets_of
from sluicemq.broker.queues.halves import HALVES_ID, PREPARED
from sluicemq.broker.queues.image import live_runs, pages_named
from sluicemq.broker.queues.sections import QUEUES, TOPICS, decode
from sluicemq.storage.errors import LogCorrupt, SnapshotDamaged, StorageError, SuperblockDamaged, format_zxid
from sluicemq.storage.files import RealDirectory
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.record import HEAD_BYTES, Record
from sluicemq.storage.salvage import (
    anything_behind,
    guess_superblock,
    missing_between,
    opened,
    put_segment,
    put_sparse,
    put_superblock,
    readable_records,
    record_of,
)
from sluicemq.storage.scan import Walk
from sluicemq.storage.segment import SegmentHeader, segment_name, segment_sequence
from sluicemq.storage.segment_files import open_segment, segment_sequences
from sluicemq.storage.snapshot_file import SectionWalk, snapshot_name, snapshot_zxid
from sluicemq.storage.sparse import SparseHeader, sparse_range
from sluicemq.storage.superblock import SUPERBLOCK_NAME, Superblock, SuperblockStore, Truncation
from sluicemq.wire.errors import SluiceError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluicemq.broker.queues.chunks import Page
    from sluicemq.broker.queues.image import LiveRuns
    from sluicemq.storage.scan import Found

DAMAGED_FOLDER = "damaged"
PENDING_NAME = "lost-and-not-settled"
"""Note of what is lost, until the log says so: an interrupted repair can be run again."""
ROOM_BYTES = 1 << 20
"""For what a repair writes beside copies of files: notes, a superblock, FORGET entries."""
_STRIDE_BYTES = 1 << 30


class Repair:
    """Repairs one locked directory: `examine`, show the plan, `carry_out`; then `forgetting.forget_lost`, unlocked."""

    def __init__(self, path: Path) -> None:
        self.directory = RealDirectory(path)
        self._path = path
        self._reader = OrderedDirectory(path)
        self._superblock = Superblock(bytes(16), bytes(16))
        self._base: SnapshotBase | None = None
        self._names: dict[int, str] = {}
        self.plan = Plan()
        self._seen: defaultdict[int, Coverage] = defaultdict(lambda: Coverage(SEEN_BATCHES_MAX))

    # --- finding --------------------------------------------------------------------------------------------------

    def examine(self) -> Plan:
        """Return what is damaged and what to do. Nothing is changed.

        Raises:
            CannotRepair: There is not enough to go on from.
            StorageError: A newer version or another cluster wrote something.

        """
        self._plan_order()
        self._examine_superblock()
        base = self._examine_snapshots()
        start = self._start_zxid()
        if base is None and start:
            raise CannotRepair(
                f"the log begins behind entry {format_zxid(start)}, and no snapshot of what was before can be used"
            )
        self._base = base
        self._examine_live()
        self._examine_log(base)
        if self.plan.lost:
            self._count_lost(base)
        plan = self.plan
        if not (plan.lost or plan.rewrite or plan.aside or plan.superblock or plan.rebase or plan.cut):
            self._examine_missing()
        return self.plan

    def _plan_order(self) -> None:
        """Plan to give files their own names and their length; all that follows looks as if they had them."""
        for name, own_name in self._reader.misnamed:
            reason = f"its first page says that it is {own_name}: a file under a wrong name"
            self.plan.damaged.append(Damaged(name, 0, reason, f"renamed to {own_name}; nothing in it is lost"))
        for short in self._reader.shortened.values():
            reason = f"it has {short.file_bytes} bytes, and had {short.made_bytes} when it was made: it was shortened"
            remedy = "lengthened again with zeros; every entry that can be read stays"
            self.plan.damaged.append(Damaged(short.lies_at, short.file_bytes, reason, remedy))

    def _examine_superblock(self) -> None:
        plan = self.plan
        try:
            store = SuperblockStore.load(self._reader)
        except (FileNotFoundError, SuperblockDamaged) as error:
            guessed = guess_superblock(self._reader)
            if guessed is None:
                raise CannotRepair(f"the superblock cannot be read ({error}), nor any segment's first page") from None
            reason = "it is missing" if isinstance(error, FileNotFoundError) else "; ".join(error.reasons)
            remedy = f"made anew from the segments: the log is files {guessed.first_segment} to {guessed.last_segment}"
            plan.damaged.append(Damaged(SUPERBLOCK_NAME, 0, reason, remedy))
            plan.notes.append("what was promised to other brokers is not known any more: this counts as a new broker")
            plan.notes.append(
                f"the files bear the id of cluster {guessed.cluster_id.hex()}: "
                "if `sluicemq cluster force-new` was used since they were made, use it again before the start"
            )
            plan.superblock = self._superblock = guessed
        else:
            self._superblock = store.current
            store.close()

    def _examine_snapshots(self) -> SnapshotBase | None:
        """Plan to set damaged snapshots aside; return the newest good one."""
        base: SnapshotBase | None = None
        names = [name for name in self._reader.names() if snapshot_zxid(name) is not None]
        for name in sorted(names, reverse=True):
            try:
                found = self._check_snapshot(name)
            except (SnapshotDamaged, SluiceError) as error:
                offset = error.offset if isinstance(error, SnapshotDamaged) else 0
                reason = error.reason if isinstance(error, SnapshotDamaged) else str(error)
                self.plan.damaged.append(Damaged(name, offset, reason, "set aside; an older one or the log serves"))
                self.plan.aside.append(name)
            else:
                base = base or found
        return base

    def _check_snapshot(self, name: str) -> SnapshotBase:
        file = self._reader.open(name)
        path = self._reader.path_of(name)
        try:
            walk = SectionWalk(file, path)
            zxid, chain, _ = walk.accept_page(self._superblock.cluster_id, self._superblock.group_id)
            if snapshot_name(zxid) != name:
                raise SnapshotDamaged(path, 0, f"it was written as {snapshot_name(zxid)}")
            for _ in live_runs(walk.sections()):
                pass
            walk = SectionWalk(file, path)
            walk.take_page()
            for page in pages_named(walk.sections()):
                self._read_page(page)
        finally:
            file.close()
        return SnapshotBase(name, zxid, chain)

    def _examine_live(self) -> None:
        first = self._superblock.first_segment
        for name in self._reader.names():
            sequence, span = segment_sequence(name), sparse_range(name)
            if (sequence is not None and sequence < first) or span is not None:
                problem = self._problem_of_live(name) or self._beyond(name)
                if problem is not None:
                    remedy = "rewritten with the entries that can be read; the file is kept aside"
                    if not self._can_be_opened(name):
                        remedy = "set aside: without its first page none of its entries can be told"
                    self.plan.damaged.append(Damaged(name, *problem, remedy))
                    self._plan_file(name)
                    self.plan.lost += self._gaps(name)

    def _examine_missing(self) -> None:
        """Plan to give up what old files held that are missing; only where all else is whole can that be told."""
        others = OtherFiles(LogFiles(self._reader), self._superblock)
        for _ in others.live_entries():
            pass
        for each in others.missing(others.newest()):
            self.plan.damaged.append(Damaged(each.file, 0, each.reason, "this file stays; those messages are given up"))
            self.plan.lost.append(Span(each.first_zxid, each.last_zxid))
            self.plan.lost_messages[each.queue] += each.messages

    def _plan_file(self, name: str) -> None:
        """Plan to rewrite a damaged file; one that cannot even be opened goes, for no start would accept it."""
        (self.plan.rewrite if self._can_be_opened(name) else self.plan.aside).append(name)

    def _can_be_opened(self, name: str) -> bool:
        try:
            with opened(self._reader, self._superblock, name):
                return True
        except LogCorrupt:
            return False

    def _problem_of_live(self, name: str) -> tuple[int, str] | None:
        try:
            with opened(self._reader, self._superblock, name) as live:
                walk = Walk(live.file, live.seed, PAGE_BYTES, live.end_offset, live.previous, live.chain, 1 << 22)
                for _ in walk:
                    pass
                if isinstance(live.header, SparseHeader):
                    if walk.offset == live.end_offset and name in self._reader.shortened:
                        return walk.offset, "its index was cut off"
                    reason = self._reader.why(name, walk.offset, walk.reason)
                    return None if walk.offset == live.end_offset else (walk.offset, reason)
                end = self._end_of_dense(name)
                short = end is not None and (walk.last_zxid or 0) < end
                if short or anything_behind(live, walk):
                    return walk.offset, self._reader.why(name, walk.offset, walk.reason)
                if end is None and (gap := self._reader.gap_behind(name, walk.offset)) is not None:
                    return gap.start, str(gap)
                return None
        except LogCorrupt as error:
            return error.offset, error.reason

    def _beyond(self, name: str) -> tuple[int, str] | None:
        """Where an old file holds what the log holds: a repair that was interrupted had let the log begin anew."""
        start = self._start_zxid()
        with opened(self._reader, self._superblock, name) as live:
            for found in readable_records(live.file, live.seed, live.end_offset):
                if start and found.zxid > start:
                    return found.offset, f"the log begins behind {format_zxid(start)} and holds what follows here"
        return None

    def _gaps(self, name: str) -> list[Span]:
        """Return which entries of a file cannot be read; what the log holds is not its business."""
        start = self._start_zxid()
        spans = self._gaps_to_its_end(name)
        return [Span(first, min(last, start)) for first, last in spans if first <= start] if start else spans

    def _gaps_to_its_end(self, name: str) -> list[Span]:
        try:
            with opened(self._reader, self._superblock, name) as live:
                end = live.header.last_zxid if isinstance(live.header, SparseHeader) else self._end_of_dense(name)
                records = readable_records(live.file, live.seed, live.end_offset)
                return list(starmap(Span, missing_between(records, live.previous, end)))
        except LogCorrupt:
            return self._between_neighbours(name)

    def _between_neighbours(self, name: str) -> list[Span]:
        """Return what a file that cannot be opened may have held, by the files around it."""
        sequences = {each: _first_sequence(each) for each in self._reader.names()}
        here, last_before, first_behind = sequences[name], 0, None
        for each, sequence in sorted(sequences.items(), key=lambda item: item[1]):
            if sequence and each != name and self._can_be_opened(each):
                with opened(self._reader, self._superblock, each) as other:
                    if sequence > here:
                        first_behind = other.previous
                        break
                    found = readable_records(other.file, other.seed, other.end_offset)
                    last_before = max(last_before, *(one.zxid for one in found), 0)
        end = self._superblock.synced_zxid if first_behind is None else first_behind
        return [Span(last_before + 1, end)] if end > last_before else []

    def _end_of_dense(self, name: str) -> int | None:
        sequence = segment_sequence(name)
        assert sequence is not None
        following = {segment_name(sequence + 1)}
        following |= {each for each in self._reader.names() if (sparse_range(each) or (0, 0))[0] == sequence + 1}
        for each in sorted(following):
            try:
                with opened(self._reader, self._superblock, each) as newer:
                    return newer.previous
            except (FileNotFoundError, StorageError):
                continue
        return None

    def _examine_log(self, base: SnapshotBase | None) -> None:
        files = LogFiles(self._reader)
        files.superblock = self._superblock
        for _ in files.entries():
            if files.problems:
                break
        if not files.problems:
            self._examine_end(files.last_zxid, base)
            return
        problem = files.problems[0]
        name, plan = Path(problem.file).name, self.plan
        good = problem.last_good_zxid or self._start_zxid()
        if base is not None and base.zxid > good:
            self._plan_rebase(name, problem.offset, problem.reason, base)
            return
        sequence = segment_sequence(name)
        assert sequence is not None
        if problem.offset < PAGE_BYTES:
            sequence -= 1  # the file's first page is gone: the log ends with the one before
        if sequence < self._superblock.first_segment:
            raise CannotRepair(f"the log's first file {name} cannot be read ({problem.reason}), and no snapshot helps")
        plan.cut = Truncation(good, sequence, self._end_after(sequence, good))
        plan.damaged.append(
            Damaged(name, problem.offset, problem.reason, f"the log is cut after entry {format_zxid(good)}")
        )
        last = max(good, self._superblock.synced_zxid)
        for each in self._readable_behind(good):
            last = max(last, each.zxid)
            self._count_entry(each)
        plan.lost.append(Span(good + 1, max(last, good + 1)))
        plan.aside += [segment_name(each) for each in segment_sequences(self._reader) if each > sequence]
        plan.aside += [
            each for each in self._reader.names() if (found := snapshot_zxid(each)) is not None and found > good
        ]

    def _examine_end(self, last_zxid: int, base: SnapshotBase | None) -> None:
        """Look whether more was cut off the log's last file than can be told from the log itself."""
        sequence = self._last_sequence()
        short = self._reader.shortened.get(segment_name(sequence))
        if short is None:
            return
        if base is not None and base.zxid > last_zxid:
            self._plan_rebase(short.name, short.file_bytes, "entries that a snapshot was made of are cut off", base)
            return
        with opened(self._reader, self._superblock, short.name) as live:
            end = self._end_after(sequence, last_zxid)
            head = live.file.pread(HEAD_BYTES, end)
        if end + HEAD_BYTES > short.file_bytes or any(head):
            behind = format_zxid(last_zxid)
            self.plan.notes.append(f"nothing tells whether entries behind {behind} were cut off {short.name}")

    def _start_zxid(self) -> int:
        try:
            first = open_segment(self._reader, self._superblock, self._superblock.first_segment, _STRIDE_BYTES, 0)
        except (FileNotFoundError, StorageError):
            return 0
        first.file.close()
        return first.first_previous_zxid

    def _end_after(self, sequence: int, zxid: int) -> int:
        with opened(self._reader, self._superblock, segment_name(sequence)) as live:
            end = PAGE_BYTES
            for found in Walk(live.file, live.seed, PAGE_BYTES, live.end_offset, live.previous, live.chain, 1 << 22):
                if found.zxid <= zxid:
                    end = found.end_offset
            return end

    def _readable_behind(self, zxid: int) -> Iterator[Found]:
        """Yield what can be read of the log behind an entry, wherever it lies."""
        for sequence in segment_sequences(self._reader):
            if sequence >= self._superblock.first_segment:
                try:
                    with opened(self._reader, self._superblock, segment_name(sequence)) as live:
                        for found in readable_records(live.file, live.seed, live.end_offset):
                            if found.zxid > zxid:
                                yield found
                except StorageError:
                    continue

    def _plan_rebase(self, name: str, offset: int, reason: str, base: SnapshotBase) -> None:
        plan = self.plan
        remedy = f"the log begins anew from the snapshot at {format_zxid(base.zxid)}; what can be read is kept"
        plan.damaged.append(Damaged(name, offset, reason, remedy))
        plan.rebase = base
        for sequence in range(self._superblock.first_segment, self._last_sequence() + 1):
            each = segment_name(sequence)
            whole = each in self._reader.names() and self._problem_of_live(each) is None
            if each in self._reader.names() and not (
                whole and (self._end_of_dense(each) or base.zxid + 1) <= base.zxid
            ):
                self._plan_file(each)
        # Up to the snapshot gaps are lost and the rest is kept; behind it, the first gap ends the log.
        reached = self._start_zxid()
        for found in self._readable_behind(reached):
            if found.zxid > base.zxid and reached < base.zxid:
                plan.lost.append(Span(reached + 1, base.zxid))
                reached = base.zxid
            if found.previous_zxid > reached:
                if found.zxid > base.zxid:
                    break
                plan.lost.append(Span(reached + 1, found.previous_zxid))
            reached = found.zxid
        if reached < base.zxid:
            plan.lost.append(Span(reached + 1, base.zxid))
            reached = base.zxid
        furthest = self._superblock.synced_zxid
        for found in self._readable_behind(reached):
            furthest = max(furthest, found.zxid)
            self._count_entry(found)
        if furthest > reached:
            plan.lost.append(Span(reached + 1, furthest))

    def _last_sequence(self) -> int:
        return max(*segment_sequences(self._reader), self._superblock.last_segment)

    # --- what is lost ---------------------------------------------------------------------------------------------

    def _count_entry(self, found: Found) -> None:
        if found.kind in BATCH_KINDS:
            try:
                entry = e.decode_entry(found.kind, found.kind_version, found.header, found.payload)
            except SluiceError:
                return
            assert isinstance(entry, BatchEntry), "its kind says so"
            for queue, messages in targets_of(entry):
                self.plan.lost_messages[self._queue_name(queue)] += messages

    def _queue_name(self, queue: int) -> str:
        if not self._names:
            self._names = self._learn_names(self._base)
        return self._names.get(queue) or f"queue {format_zxid(queue)}"

    def _learn_names(self, base: SnapshotBase | None) -> dict[int, str]:
        names: dict[int, str] = {0: "", HALVES_ID: PREPARED}
        if base is not None:
            file = self._reader.open(base.name)
            try:
                walk = SectionWalk(file, self._reader.path_of(base.name))
                walk.take_page()
                for kind, data in walk.sections():
                    if kind in (QUEUES, TOPICS):
                        columns = decode(kind, data)
                        names.update(zip(columns["id"], columns["name"], strict=True))
            finally:
                file.close()
        for found in self._readable_behind(-1):
            if found.kind == e.Declare.KIND:
                entry = e.decode_entry(found.kind, found.kind_version, found.header)
                assert isinstance(entry, e.Declare)
                names.setdefault(found.zxid, entry.name)
        return names

    def _count_lost(self, base: SnapshotBase | None) -> None:
        """Count the messages that the snapshot keeps alive and whose entries are lost."""
        if base is None or self.plan.cut is not None:
            return
        file = self._reader.open(base.name)
        try:
            walk = SectionWalk(file, self._reader.path_of(base.name))
            walk.take_page()
            for part in live_runs(walk.sections()):
                self._count_part(part)
        finally:
            file.close()

    def _count_part(self, part: LiveRuns) -> None:
        low, high = part.summary.lowest_zxid, part.summary.highest_zxid
        if any(span.first_zxid <= high and low <= span.last_zxid for span in self.plan.lost):
            for run in part.runs(self._read_page):
                if is_lost(run.zxid, self.plan.lost):
                    shared = part.shared  # it may lie in several places of the queue
                    size = self._seen[part.queue].add(run.zxid, run.first, run.size) if shared else run.size
                    self.plan.lost_messages[self._queue_name(part.queue)] += size

    def _read_page(self, page: Page) -> bytes:
        return read_page(self._reader, self._superblock, page, "it")

    # --- doing ----------------------------------------------------------------------------------------------------

    def carry_out(self) -> Path:
        """Do what the plan says; return the folder with the damaged files. May be interrupted and run again.

        Raises:
            NoRoomToRepair: Nothing was changed.
            OSError: A file cannot be read or written.

        """
        plan, directory = self.plan, self.directory
        named = {each.name for each in plan.damaged} | set(plan.rewrite) | set(plan.aside)
        kept = sorted(named & set(directory.names()))
        sizes = {name: (self._path / name).stat().st_size for name in kept}
        needed = sum(sizes.values()) + sum(sizes.get(name, 0) for name in plan.rewrite) + ROOM_BYTES
        free = free_bytes(self._path)
        if free < needed:
            raise NoRoomToRepair(str(self._path), needed, free)
        folder = make_folder(self._path / DAMAGED_FOLDER)
        for name in kept:
            self._keep(name, folder)
        self._note_lost([*self.pending_lost(), *plan.lost])
        sync_folders(folder)
        self._reader.mend(directory)
        if plan.superblock is not None:
            put_superblock(directory, plan.superblock)
        for name in dict.fromkeys(plan.aside):  # a snapshot may be damaged and lie behind a cut too
            directory.unlink(name)
        directory.sync()
        store = SuperblockStore.load(directory)
        try:
            store.make_durable()
            if plan.rebase is not None:
                self._rebase(store, plan.rebase)
            for name in plan.rewrite:
                self._rewrite(store, name)
            if plan.cut is not None:
                store.save_truncation(plan.cut)  # the next start carries it out
        finally:
            store.close()
        return folder

    def _keep(self, name: str, folder: Path) -> None:
        file = ReadOnlyDirectory(self._path).open(name)
        try:
            copy_durably(self._path / name, folder / name, file)
        finally:
            file.close()

    def pending_lost(self) -> list[Span]:
        """Return what an earlier repair lost, if it was interrupted before the log said so."""
        try:
            noted = (self._path / DAMAGED_FOLDER / PENDING_NAME).read_text()
        except FileNotFoundError:
            return []
        return [Span(*map(int, line.split())) for line in noted.splitlines()]

    def _note_lost(self, lost: Sequence[Span]) -> None:
        lines = (f"{span.first_zxid} {span.last_zxid}\n" for span in lost)
        write_whole(self._path / DAMAGED_FOLDER / PENDING_NAME, "".join(lines))

    def lost_is_settled(self) -> None:
        """Forget the note of what was lost: the log says it now."""
        (self._path / DAMAGED_FOLDER / PENDING_NAME).unlink(missing_ok=True)

    def _take_generation(self, store: SuperblockStore) -> int:
        generation = store.current.generation_next
        store.save(generation_next=generation + 1)
        return generation

    def _rebase(self, store: SuperblockStore, base: SnapshotBase) -> None:
        tail: list[Record] = []
        reached = base.zxid
        for found in self._readable_behind(base.zxid):
            if found.previous_zxid != reached:
                break
            tail.append(record_of(found))
            reached = found.zxid
        sequence = self._last_sequence() + 1
        now = store.current
        header = SegmentHeader(
            now.cluster_id, now.group_id, sequence, self._take_generation(store), base.zxid, base.chain
        )
        put_segment(self.directory, header, tail, 2 * PAGE_BYTES)
        store.save_truncation(None)
        store.save(first_segment=sequence, last_segment=sequence, synced_zxid=reached)
        self._superblock = store.current

    def _rewrite(self, store: SuperblockStore, name: str) -> None:
        generation = self._take_generation(store)
        now = store.current
        end = None if sparse_range(name) is not None else self._end_of_dense(name)
        with opened(self._reader, now, name) as live:
            if isinstance(live.header, SparseHeader):
                first, last, end = live.header.first_sequence, live.header.last_sequence, live.header.last_zxid
            else:
                first = last = live.header.sequence
            if end is None:
                end = max((found.zxid for found in readable_records(live.file, live.seed, live.end_offset)), default=0)
            end = min(end, self._start_zxid() or end)  # what comes behind that, the log holds
            records = (
                record_of(found)
                for found in readable_records(live.file, live.seed, live.end_offset)
                if live.previous < found.zxid <= end
            )
            header = SparseHeader(
                now.cluster_id, now.group_id, first, last, generation, live.previous, end, 0, b"", 0, 0, 0
            )
            if live.previous < end:
                put_sparse(self.directory, header, records)
        if sparse_range(name) is None:
            self.directory.unlink(name)
            self.directory.sync()


def _first_sequence(name: str) -> int:
    """Return the first segment that a file is or stands for; 0 for other files."""
    span = sparse_range(name)
    return (segment_sequence(name) or 0) if span is None else span[0]
