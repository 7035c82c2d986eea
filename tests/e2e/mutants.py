"""Brokers that are wrong on purpose: `python -m tests.e2e.mutants NAME serve ...`.

Why: a test that kills brokers and finds nothing proves something only if it would have found something. Each mutant is
the real broker with one promise taken out, in the process that the tests start; they must find every one of them.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from typing import TYPE_CHECKING, Any

from sluicemq.broker.commands.program import command
from sluicemq.storage import RealFile, SegmentLog

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sluicemq.storage.record import Record

FORGOTTEN_ENTRIES = 64


def confirm_before_write() -> None:
    """Holds entries back and tells the road that they are durable: what a kill finds in memory is lost."""
    held: list[Record] = []
    append, sync = SegmentLog.append, SegmentLog.sync

    def append_late(log: SegmentLog, records: Sequence[Record]) -> None:
        held.extend(records)
        if len(held) > FORGOTTEN_ENTRIES:
            ready = held[:-FORGOTTEN_ENTRIES]
            del held[:-FORGOTTEN_ENTRIES]
            append(log, ready)

    def sync_and_lie(log: SegmentLog) -> int:
        durable = sync(log)
        return held[-1].zxid if held else durable

    # A held entry cannot be marked: its file does not know it.
    _replace(SegmentLog, "mark_idle", lambda _log: None)
    _replace(SegmentLog, "append", append_late)
    _replace(SegmentLog, "sync", sync_and_lie)


def sync_every_other_time() -> None:
    """Announces every second write without a sync of its own: only a power cut, or a trace, can tell."""
    sync, turns = SegmentLog.sync, itertools.count()
    _replace(SegmentLog, "sync", lambda log: log.last_zxid if next(turns) % 2 else sync(log))


def never_sync() -> None:
    """Skips fdatasync."""
    _replace(RealFile, "sync", lambda _file: None)


def ignore_failed_sync() -> None:
    """Goes on when fdatasync fails, as if the next one could make it good."""
    sync = RealFile.sync

    def sync_somehow(file: RealFile) -> None:
        with contextlib.suppress(OSError):
            sync(file)

    _replace(RealFile, "sync", sync_somehow)


def _replace(owner: type, name: str, function: Callable[..., Any]) -> None:
    setattr(owner, name, function)


MUTANTS = {
    "confirm-before-write": confirm_before_write,
    "sync-every-other-time": sync_every_other_time,
    "never-sync": never_sync,
    "ignore-failed-sync": ignore_failed_sync,
}


def program_of(name: str) -> tuple[str, ...]:
    """Return what `BrokerProcess` has to run."""
    assert name in MUTANTS
    return ("-m", "tests.e2e.mutants", name)


if __name__ == "__main__":
    MUTANTS[sys.argv.pop(1)]()
    command.main(prog_name="sluicemq")
