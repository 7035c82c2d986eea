"""Keys of a queue that is ordered by key: which of them must wait, whoever could take their messages.

A key waits while one of its messages waits for another attempt, and while it is parked. Which messages of a key are out
is not known here: leases say that. This module must not know leases, entries or the leader's plans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.runs import Run, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

KEYS_PARKED_MAX = 1_000_000
"""Most keys of one queue that can be parked; a message that would park one more dies as others do."""


class KeyStates:
    """The keys of one queue that wait.

    Attributes:
        waiting: Messages in `delayed` after a lease, by key.
        parked: Keys that wait until somebody lets them go on.

    """

    __slots__ = ("parked", "waiting")

    def __init__(self, parked: Iterable[int] = (), waiting: Sequence[int] = ()) -> None:
        self.parked: dict[int, None] = dict.fromkeys(parked)
        self.waiting: dict[int, int] = dict(zip(waiting[::2], waiting[1::2], strict=True))

    def is_open(self, key: int) -> bool:
        """Whether messages of *key* may be delivered, as far as nobody has one."""
        return key not in self.waiting and key not in self.parked

    def wait(self, runs: Iterable[Run]) -> None:
        """Note that *runs*, which were leased, wait in `delayed` now."""
        waiting = self.waiting
        for run in runs:
            if run.key and run.deliveries:
                waiting[run.key] = waiting.get(run.key, 0) + run.size

    def go_on(self, runs: Iterable[Run]) -> list[int]:
        """Note that *runs* left `delayed`; return the keys that need not wait any more, as `[key, 0, ...]`."""
        waiting = self.waiting
        freed: list[int] = []
        for run in runs:
            if run.key and run.deliveries:
                left = waiting[run.key] - run.size
                if left:
                    waiting[run.key] = left
                else:
                    del waiting[run.key]
                    freed += (run.key, 0)
        return freed

    def flat_waiting(self) -> list[int]:
        """Return `waiting` as an image holds it: `[key, messages, ...]`."""
        return [number for item in self.waiting.items() for number in item]


def keys_in(runs: Iterable[Run]) -> list[int]:
    """Return `[key, messages, ...]` of those of *runs* that have a key, each key once."""
    counts: dict[int, int] = {}
    for run in runs:
        if run.key:
            counts[run.key] = counts.get(run.key, 0) + size_of(run)
    return [number for item in counts.items() for number in item]
