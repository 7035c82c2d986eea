"""Letting the log say that messages are lost: the last step of `sluicemq log repair`.

Why through the log: a message whose bytes are gone is still alive in the machine, and a broker that came to deliver it
would have to stop. So FORGET entries give it up wherever it is (`queues/applying/forgetting.py`), and every broker that
reads the log agrees. They stand in an epoch of their own, begun like that of a broker: what a repair cut off the
log is never written again under the same zxids.

May be interrupted and run again: what is given up already is not alive any more. This module must not know how files
are repaired.
"""

from __future__ import annotations

from array import array
from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from sluicemq.broker.commands.log_repair_plan import Span
from sluicemq.broker.commands.replayed import replayed
from sluicemq.broker.pipeline.epochs import EPOCH_BITS, promise_epoch
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.coverage import SEEN_BATCHES_MAX, Coverage
from sluicemq.broker.queues.halves import HALVES_ID, PREPARED
from sluicemq.broker.queues.image import live_runs
from sluicemq.broker.queues.lost import LostEntries
from sluicemq.storage.errors import LogCorrupt, ZxidNotFound
from sluicemq.storage.files import RealDirectory
from sluicemq.storage.record import Record

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from sluicemq.broker.commands.replayed import PageReader
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.storage.log import SegmentLog

FORGET_ENTRIES_MAX = 100_000
"""So many lost entries of which something is alive are named by one FORGET at most: it needs their rows in memory."""
FORGET_RANGES_MAX = 4_096
"""And so many ranges of them, 18 bytes each: the smallest segments take entries of 64 KiB and more."""
NOBODY = 0
"""Number of the broker that begins an epoch of a repair: none of those that serve."""
_REASON = "lost: log repair"


def forget_lost(path: Path, lost: Sequence[Span]) -> Counter[str]:
    """Give up the messages of *lost* entries that are alive and cannot be read; return how many by queue.

    The start that this makes carries out what the repair has noted, as a broker's would.

    Raises:
        StorageError: The directory cannot be opened as a broker would open it.

    """
    with replayed(RealDirectory(path)) as (log, machine, reader):
        return _Forgetting(log, machine, reader, lost).run()


class _Forgetting:
    """Writes and applies the entries."""

    def __init__(self, log: SegmentLog, machine: Machine, pages: PageReader, lost: Sequence[Span]) -> None:
        self._log = log
        self._machine = machine
        self._pages = pages
        self._lost = _joined(lost)
        self._gone: dict[int, bool] = {}
        self._counts: Counter[str] = Counter()

    def run(self) -> Counter[str]:
        """Do it."""
        alive = self._alive()
        found = {queue: ranges for queue, zxids in alive.items() if (ranges := self._ranges(zxids))}
        if not found:
            return self._counts
        zxid = promise_epoch(self._log) << EPOCH_BITS
        self._write(zxid, e.Epoch(self._machine.log_time_ms, NOBODY))
        for queue, ranges in found.items():
            for piece in ranges:
                zxid += 1
                self._write(zxid, e.Forget(self._machine.log_time_ms, queue, piece, _REASON))
        self._log.sync()
        return self._counts

    def _alive(self) -> dict[int, array[int]]:
        """Return the lost entries of which each queue or topic has anything alive; count what is gone."""
        found: dict[int, array[int]] = {}
        seen: defaultdict[int, Coverage] = defaultdict(lambda: Coverage(SEEN_BATCHES_MAX))
        for part in live_runs(self._machine.freeze().pack(lambda: True)):
            if not self._lost.meet(part.summary.lowest_zxid, part.summary.highest_zxid):
                continue
            for run in part.runs(self._pages.read):
                if run.zxid in self._lost:
                    found.setdefault(part.queue, array("Q")).append(run.zxid)
                    if self._is_gone(run.zxid):
                        shared = part.shared  # it may lie in several places of the queue
                        size = seen[part.queue].add(run.zxid, run.first, run.size) if shared else run.size
                        self._counts[self._name_of(part.queue)] += size
        return found

    def _name_of(self, queue: int) -> str:
        if queue == HALVES_ID:
            return PREPARED
        owner = self._machine.queue(queue) or self._machine.sources.get(queue)
        assert owner is not None, "what is alive is in a queue or a topic, or prepared"
        return owner.name

    def _is_gone(self, zxid: int) -> bool:
        if zxid not in self._gone:
            try:
                self._log.read(zxid)
            except (ZxidNotFound, LogCorrupt):
                self._gone[zxid] = True
            else:
                self._gone[zxid] = False
        return self._gone[zxid]

    def _ranges(self, alive: array[int]) -> list[list[int]]:
        """Return the ranges of entries to forget, as many lists as there are to be FORGET entries.

        A range may reach over entries that have nothing alive in this queue, but over none that can be read.
        """
        pieces: list[list[int]] = []
        entries = 0
        joins = False
        for zxid in sorted(set(alive)):
            if not self._is_gone(zxid):
                joins = False
                continue
            if not pieces or entries >= FORGET_ENTRIES_MAX or len(pieces[-1]) >= 2 * FORGET_RANGES_MAX:
                pieces.append([])
                entries, joins = 0, False
            entries += 1
            piece = pieces[-1]
            if joins and self._lost.range_of(piece[-1]) == self._lost.range_of(zxid):
                piece[-1] = zxid
            else:
                piece += (zxid, zxid)
            joins = True
        return pieces

    def _write(self, zxid: int, entry: e.Entry) -> None:
        self._log.append([Record(zxid, entry.KIND, entry.VERSION, 0, entry.header(), b"")])
        while missing := self._machine.prefetch(entry):
            self._pages.fill_now(missing)
        outcome = self._machine.apply(zxid, entry)
        assert outcome.error is None, f"what the machine says of its own messages holds: {outcome.error}"


def _joined(lost: Sequence[Span]) -> LostEntries:
    """Return the spans in order, with those made one that overlap."""
    ranges: list[int] = []
    for first, last in sorted(lost):
        if ranges and first <= ranges[-1]:
            ranges[-1] = max(ranges[-1], last)
        else:
            ranges += (first, last)
    return LostEntries(ranges)
