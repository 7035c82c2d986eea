"""From what a power cut left to a log again: finish what was begun, read everything, judge the end.

What is found, and what is done about it, stands in the tables of `decisions`; this module observes and acts.

The rule for the end: the records of one unsynced write may reach the disk in any order, so behind a bad place there may
be good ones. A record says what was durable when it was written (`synced up to`). If any record behind the bad place
says that something beyond the last good entry was durable, then durable data was damaged: LogCorrupt, and nothing is
cut. Otherwise all of it belongs to a write that was never confirmed: a torn tail, cut by intent. Only the last segment
can be torn, for a segment is synced before the next one gets its header.

The superblock bears witness too: it says what was durable when it was last saved, for one at every orderly stop.

Recovery may be interrupted anywhere and run again: it acts only on state that it made durable first. What it does for
the live store stands in `live_recovery`.
"""

from __future__ import annotations

import contextlib
import errno
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.storage.decisions import Decision
from sluicemq.storage.decisions_log import (
    END,
    JOINT,
    PRESENCE,
    BadPlace,
    Behind,
    Chain,
    Place,
    Presence,
    Proof,
    Reach,
)
from sluicemq.storage.decisions_superblock import INTENT, Intent, IntentSegment
from sluicemq.storage.errors import LogCorrupt, LogWriteFailed
from sluicemq.storage.files import naming
from sluicemq.storage.live_recovery import finish_replacements, open_live
from sluicemq.storage.options import Cut, LogOptions, RecoveryReport
from sluicemq.storage.pages import PAGE_BYTES
from sluicemq.storage.record import MARK
from sluicemq.storage.scan import Trace, Walk, find_traces
from sluicemq.storage.segment import Segment, segment_name
from sluicemq.storage.segment_files import open_segment, segment_sequences
from sluicemq.storage.spares import Spare, SparePool, zero_range
from sluicemq.storage.superblock import Superblock, SuperblockStore, Truncation

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from sluicemq.storage.files import Directory, File
    from sluicemq.storage.live import LiveFile, OpenFiles

__all__ = ["LogEnd", "Recovered", "Verdict", "carry_out", "judge_end", "recover"]


class Verdict(Enum):
    """What stands behind the last good record."""

    CLEAN = "nothing: the log simply ends"
    TORN = "traces of a write that was never confirmed"
    DAMAGED = "proof that durable data was lost"


class LogEnd(NamedTuple):
    """The judgement; `synced_zxid` is the proof for DAMAGED (None if the record itself is the proof)."""

    verdict: Verdict
    end_offset: int
    synced_zxid: int | None


def judge_end(
    last_good_zxid: int, end_offset: int, reason: str, traces: Iterable[Trace], synced_zxid: int = 0
) -> LogEnd:
    """Judge the log's end: pure, from the last good entry, why the walk ended, and the heads found behind it.

    `synced_zxid` is what the superblock knows to have been durable.
    """
    synced = synced_zxid
    furthest = end_offset
    for trace in traces:
        synced = max(synced, trace.head.synced_up_to)
        furthest = max(furthest, trace.end_offset)
    proof = Proof.BEYOND if synced > last_good_zxid else Proof.NONE
    behind = Behind.TRACES if furthest > end_offset else Behind.NOTHING
    row = END.decide(BadPlace(reason), proof, behind)
    return LogEnd(_VERDICTS[row.decision], furthest, synced if proof is Proof.BEYOND else None)


_VERDICTS = {Decision.START: Verdict.CLEAN, Decision.CUT: Verdict.TORN, Decision.REFUSE: Verdict.DAMAGED}


@dataclass(slots=True)
class Recovered:
    """The log as recovery hands it over; all of it is durable.

    `proven_zxid`: the highest `synced up to` that lies in the log. `entries_end`: where the last segment's last entry
    ends; only marks stand behind it.
    """

    segments: list[Segment]
    proven_zxid: int
    entries: int = 0
    entries_end: int = PAGE_BYTES
    scanned_bytes: int = 0
    cut: Cut | None = None
    truncation_finished: bool = False
    replacements_finished: int = 0
    live: tuple[LiveFile, ...] = ()

    def report(self, *, created: bool, superblock_repaired: bool) -> RecoveryReport:
        """The figures of it."""
        return RecoveryReport(
            created=created,
            segments=len(self.segments),
            entries=self.entries,
            scanned_bytes=self.scanned_bytes,
            cut=self.cut,
            truncation_finished=self.truncation_finished,
            superblock_repaired=superblock_repaired,
            live_files=len(self.live),
            replacements_finished=self.replacements_finished,
        )


def recover(
    directory: Directory, store: SuperblockStore, pool: SparePool, options: LogOptions, files: OpenFiles
) -> Recovered:
    """Recover the log of a directory whose superblock was accepted and that has a first segment.

    `files` will open those of the live store.

    Raises LogCorrupt, ForeignData, NewerFormat, LogWriteFailed, OSError.
    """
    finished = _finish_truncation(directory, store, pool)
    replaced = finish_replacements(directory, store.current, pool, options)
    recovered = Recovered([], 0, truncation_finished=finished, replacements_finished=replaced)
    try:
        _read_segments(directory, store.current, options, recovered)
        last = recovered.segments[-1]
        with _writing(directory.path_of(last.name)):
            _settle_end(directory, store, pool, options, recovered)
            proven_zxid = max(recovered.proven_zxid, store.current.synced_zxid)
            sync_end(last, proven_zxid, recovered.entries_end, options.read_bytes)
        last_segment = last.header.sequence
        if last_segment > store.current.last_segment:
            store.save(last_segment=last_segment)
        recovered.live = open_live(directory, store.current, files, options, recovered.segments[0].header)
    except BaseException:
        for segment in recovered.segments:
            segment.file.close()
        raise
    return recovered


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    """An OSError of what a start writes to the log leaves as LogWriteFailed: who reads it must know what to do."""
    try:
        yield
    except OSError as error:
        operation = "making the end of the log durable at the start"
        raise LogWriteFailed(error.filename or path, operation, error.errno or errno.EIO) from error


def sync_end(segment: Segment, proven_zxid: int, entries_end: int, piece_bytes: int) -> None:
    """Make durable what was read: after kill -9 it may lie in the page cache only. Earlier segments were synced.

    What nobody proves to have been durable is written once more. After a failed sync the kernel still shows it to
    readers but takes it for written, so a sync alone would claim success for data that is nowhere. A mark proves what
    stands before it, not itself: left out, it would be a hole that the log goes on behind.
    """
    file, offset = segment.file, entries_end
    if segment.last_zxid > proven_zxid:
        offset, _ = segment.index.span_of(proven_zxid, segment.end_offset)
    while offset < segment.end_offset:
        data = file.pread(min(piece_bytes, segment.end_offset - offset), offset)
        # The file may end within the last record's padding: a power cut can take that alone.
        data = data or bytes(segment.end_offset - offset)
        file.pwritev([data], offset)
        offset += len(data)
    # Its length may be in the memory alone likewise, and what is left over of it becomes a spare that is relied upon.
    last_page = max(offset, segment.allocated_bytes - PAGE_BYTES)
    tail = file.pread(segment.allocated_bytes - last_page, last_page)
    if tail:
        file.pwritev([tail], last_page)
    file.sync()


def carry_out(
    store: SuperblockStore, pool: SparePool, truncation: Truncation, later: Sequence[Spare], file: File
) -> None:
    """Carry out a truncation whose intent is durable: retire the later segments (newest first), zero the rest, clear
    the intent.

    Raises OSError.
    """
    if later:
        pool.retire(later)
    zero_range(file, truncation.offset, file.size(), _ZERO_PIECE_BYTES)
    store.save_truncation(None)


_ZERO_PIECE_BYTES = 64 * 1024 * 1024  # nobody else syncs meanwhile, so one piece


def _finish_truncation(directory: Directory, store: SuperblockStore, pool: SparePool) -> bool:
    truncation = store.current.truncation
    sequences = segment_sequences(directory)
    missing = truncation is not None and truncation.segment not in sequences
    row = INTENT.decide(
        Intent.NONE if truncation is None else Intent.NOTED, IntentSegment.MISSING if missing else IntentSegment.THERE
    )
    if row.decision is Decision.START:
        return False
    assert truncation is not None, "only a truncation that is noted is carried out"
    name = segment_name(truncation.segment)
    if row.decision is Decision.REFUSE:
        raise LogCorrupt(directory.path_of(name), 0, "this segment is missing", truncation.zxid)
    later = [sequence for sequence in reversed(sequences) if sequence > truncation.segment]
    file = directory.open(name)
    try:
        spares = [Spare(segment_name(sequence), directory.open(segment_name(sequence))) for sequence in later]
        carry_out(store, pool, truncation, spares, file)
    finally:
        file.close()
    return True


def _read_segments(directory: Directory, superblock: Superblock, options: LogOptions, recovered: Recovered) -> None:
    sequences = segment_sequences(directory)
    first, last = superblock.first_segment, max(*sequences[-1:], superblock.last_segment, 0)
    for expected in range(first, last + 1):
        last_zxid = recovered.segments[-1].last_zxid if recovered.segments else 0
        place = Place.FIRST if expected == first else Place.LAST if expected == last else Place.MIDDLE
        presence = Presence.THERE if expected in sequences else Presence.MISSING
        if PRESENCE.decide(place, presence).decision is Decision.REFUSE:
            raise LogCorrupt(directory.path_of(segment_name(expected)), 0, "this segment is missing", last_zxid)
        segment = open_segment(directory, superblock, expected, options.index_stride_bytes, last_zxid)
        if recovered.segments:
            try:
                _check_joint(directory, recovered.segments[-1], segment)
            except BaseException:
                segment.file.close()
                raise
        recovered.segments.append(segment)
        with naming(directory.path_of(segment.name)):
            _read_segment(segment, options, recovered)


def _read_segment(segment: Segment, options: LogOptions, recovered: Recovered) -> None:
    header = segment.header
    walk = Walk(
        segment.file,
        segment.seed,
        PAGE_BYTES,
        segment.allocated_bytes,
        header.first_previous_zxid,
        header.chain,
        options.read_bytes,
        bodies=False,
    )
    entries, synced_up_to, note = 0, header.first_previous_zxid, segment.index.note
    entries_end = PAGE_BYTES
    for found in walk:
        if found.kind != MARK:
            note(found.zxid, found.offset)
            entries += 1
            entries_end = found.end_offset
        synced_up_to = found.synced_up_to
    recovered.entries += entries
    recovered.entries_end = entries_end
    recovered.proven_zxid = synced_up_to
    assert walk.last_zxid is not None
    assert walk.chain is not None
    segment.end_offset = walk.offset
    segment.last_zxid = walk.last_zxid
    segment.chain = walk.chain
    segment.end_reason = walk.reason
    recovered.scanned_bytes += walk.offset


def _check_joint(directory: Directory, older: Segment, newer: Segment) -> None:
    """The newer segment's header proves how far the older one was durable."""
    expected = newer.header.first_previous_zxid
    if older.last_zxid == expected:
        reach = Reach.EXACT
    else:
        reach = Reach.SHORT if older.last_zxid < expected else Reach.LONG
    chain = Chain.SAME if older.chain == newer.header.chain else Chain.OTHER
    row = JOINT.decide(reach, chain, BadPlace(older.end_reason))
    if row.decision is Decision.START:
        return
    assert row.decision is Decision.REFUSE, "the middle of the log is never cut"
    if reach is not Reach.SHORT:
        reason = f"the header continues another history than that of {older.name}"
        raise LogCorrupt(directory.path_of(newer.name), 0, reason, older.last_zxid)
    raise LogCorrupt(directory.path_of(older.name), older.end_offset, older.end_reason, older.last_zxid, expected)


def _settle_end(
    directory: Directory, store: SuperblockStore, pool: SparePool, options: LogOptions, recovered: Recovered
) -> None:
    segment = recovered.segments[-1]
    offset = segment.end_offset
    traces = find_traces(segment.file, segment.seed, offset, segment.allocated_bytes, options.read_bytes)
    end = judge_end(segment.last_zxid, offset, segment.end_reason, traces, store.current.synced_zxid)
    path = directory.path_of(segment.name)
    if end.verdict is Verdict.DAMAGED:
        raise LogCorrupt(path, offset, segment.end_reason, segment.last_zxid, end.synced_zxid)
    if end.verdict is Verdict.TORN:
        truncation = Truncation(segment.last_zxid, segment.header.sequence, offset)
        store.save_truncation(truncation)
        carry_out(store, pool, truncation, (), segment.file)
        recovered.cut = Cut(path, offset, end.end_offset - offset, segment.last_zxid)
