"""Keys of a queue that is ordered by key: which of them must wait, whoever could take their messages.

A key waits while one of its messages waits for another attempt, and while it is parked. Which messages of a key are out
is not known here: leases say that. This module must not know leases, entries or the leader's plans.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.runs import Run, size_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PLACES_MAX = 100_000
"""Most messages of one queue whose places are kept while they wait for another attempt; about 25 MB. One more comes
back at once instead, unless only one message of a key may be out."""
KEYS_PARKED_MAX = 1_000_000
"""Most keys of one queue that can be parked; a message that would park one more dies as others do."""


class KeyStates:
    """The keys of one queue that wait.

    Args:
        parked: Keys that are parked.
        image: What `flat_waiting` returned.

    Attributes:
        waiting: Messages in `delayed` after a lease, by key.
        parked: Keys that wait until somebody lets them go on.
        places: When those of the waiting messages became ready that did not when they were published, by zxid and
            index in the batch: in `delayed` there is no room for it.

    """

    __slots__ = ("parked", "places", "waiting")

    def __init__(self, parked: Iterable[int] = (), image: Sequence[int] = ()) -> None:
        self.parked: dict[int, None] = dict.fromkeys(parked)
        end = 1 + 2 * image[0] if image else 0
        self.waiting: dict[int, int] = dict(zip(image[1:end:2], image[2:end:2], strict=True))
        places = zip(image[end::3], image[end + 1 :: 3], image[end + 2 :: 3], strict=True)
        self.places: dict[tuple[int, int], int] = {(zxid, index): ready for zxid, index, ready in places}

    def is_open(self, key: int) -> bool:
        """Whether messages of *key* may be delivered, as far as nobody has one."""
        return key not in self.waiting and key not in self.parked

    def wait(self, runs: Iterable[Run]) -> None:
        """Note that *runs*, which were leased, go to `delayed` now; they still have their places."""
        waiting = self.waiting
        for run in runs:
            if run.key and run.deliveries:
                waiting[run.key] = waiting.get(run.key, 0) + run.size
                if run.ready != run.zxid and len(self.places) + run.size <= PLACES_MAX:
                    for index in range(run.first, run.first + run.size):
                        self.places[run.zxid, index] = run.ready

    def may_wait(self, run: Run, key_in_flight_max: int) -> bool:
        """Whether *run*, which was leased, keeps its turn among its key's if it goes to `delayed` now.

        Where one message of a key is out at a time, the one that waits is the first of its key, whatever its place.
        """
        if not run.key or run.ready == run.zxid or key_in_flight_max == 1:
            return True
        return len(self.places) + run.size <= PLACES_MAX

    def go_on(self, runs: Iterable[Run]) -> tuple[list[int], list[Run]]:
        """Note that *runs* left `delayed`.

        Returns:
            The keys that need not wait any more, as `[key, 0, ...]`; and the runs in their order, with their places
            again where they had been leased.

        """
        waiting = self.waiting
        freed: list[int] = []
        placed: list[Run] = []
        for run in runs:
            if not run.key or not run.deliveries:
                placed.append(run)
                continue
            left = waiting[run.key] - run.size
            if left:
                waiting[run.key] = left
            else:
                del waiting[run.key]
                freed += (run.key, 0)
            placed += self._in_place(run)
        return freed, placed

    def _in_place(self, run: Run) -> list[Run]:
        if not self.places:
            return [run._replace(ready=run.zxid)]
        indices = range(run.first, run.first + run.size)
        return [
            run._replace(ready=self.places.pop((run.zxid, index), run.zxid), first=index, size=1) for index in indices
        ]

    def purged(self) -> None:
        """Note that nothing is in `delayed` any more."""
        self.waiting.clear()
        self.places.clear()

    def flat_waiting(self) -> list[int]:
        """Return what waits, as an image holds it: how many keys, `key, messages` and then `zxid, index, ready` each.

        Nothing where nothing waits.
        """
        if not self.waiting:
            return []
        flat = [len(self.waiting)]
        for item in self.waiting.items():
            flat += item
        for (zxid, index), ready in self.places.items():
            flat += (zxid, index, ready)
        return flat


def keys_in(runs: Iterable[Run]) -> list[int]:
    """Return `[key, messages, ...]` of those of *runs* that have a key, each key once."""
    counts: dict[int, int] = {}
    for run in runs:
        if run.key:
            counts[run.key] = counts.get(run.key, 0) + size_of(run)
    return [number for item in counts.items() for number in item]
