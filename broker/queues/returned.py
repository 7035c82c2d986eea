"""Runs that went back to their former places: in front of everything that was never taken.

What a consumer gives back lay in front of the queue once, so it comes before all of its priority that was never taken;
among each other such runs are ordered by place. So is what is left of a run that lost a part from its middle. A GRANT
names runs by address, so they are found by that too. There are never many more of them than there were leases. One
message may be here twice, where it died in two subscriptions: the first by place is meant then, and of several at one
place the least. This module must not know sessions.
"""

from __future__ import annotations

from bisect import insort
from itertools import chain, islice
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from sluicemq.broker.queues.runs import PRIORITY_MAX

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.lost import LostEntries
    from sluicemq.broker.queues.runs import Place, Run

# What every queue without returned runs refers to, never changed: an index of one's own takes 1,600 bytes.
_NOTHING: SortedDict[Place, Run] = SortedDict()


class ReturnedRuns:
    """The returned runs of one queue.

    Attributes:
        messages: Messages in all of them.

    """

    __slots__ = ("_by_place", "_copies", "_places", "messages")

    def __init__(self) -> None:
        self.messages = 0
        # By address; a list, in order, where one message is at several places.
        self._places: dict[tuple[int, int], Place | list[Place]] = {}
        self._by_place = _NOTHING
        # Other runs at the same place than the one in `_by_place`, none of them less than that, in order.
        self._copies: dict[Place, list[Run]] = {}

    def __bool__(self) -> bool:
        return bool(self._by_place)

    def __len__(self) -> int:
        return len(self._by_place) + sum(map(len, self._copies.values()))

    def __contains__(self, address: object) -> bool:
        """Whether a run is here that begins with the message of this (zxid, index)."""
        return address in self._places

    def __iter__(self) -> Iterator[Run]:
        """Yield all runs by place."""
        if not self._copies:
            return iter(self._by_place.values())
        copies = self._copies
        return chain.from_iterable((run, *copies.get(place, ())) for place, run in self._by_place.items())

    def first(self) -> Run | None:
        """Return the run in front."""
        return self._by_place.peekitem(0)[1] if self._by_place else None

    def first_of(self, priority: int) -> Run | None:
        """Return the run in front of a priority."""
        key = next(self._by_place.irange((PRIORITY_MAX - priority,)), None) if self._by_place else None
        return self._by_place[key] if key is not None and key[0] == PRIORITY_MAX - priority else None

    def some_of(self, priority: int, ready: int, zxid: int, first: int, count_max: int) -> list[Run]:
        """Return at most *count_max* runs of a priority, by place, from this message on, which may lie within one."""
        rank = PRIORITY_MAX - priority
        places = self._by_place.irange((rank, ready, zxid, first), (rank + 1,), (True, False))
        before = next(self._by_place.irange((rank, ready, zxid), (rank, ready, zxid, first), (True, False), True), None)
        runs = chain.from_iterable(
            (self._by_place[place], *self._copies.get(place, ()))
            for place in (places if before is None else chain((before,), places))
        )
        here = ready, zxid, first
        rest = (
            run if run.place[1:] >= here else run.split(first - run.first)[1]
            for run in runs
            if run.place[1:] >= here or run.first + run.size > first
        )
        return list(islice(rest, count_max))

    def add(self, run: Run) -> None:
        """Put *run* at its place."""
        if self._by_place is _NOTHING:
            self._by_place = SortedDict()
        place = run.place
        self.messages += run.size
        known = self._places.setdefault((run.zxid, run.first), place)
        if known is not place:
            if place in self._by_place:
                copies = self._copies.setdefault(place, [])
                insort(copies, run)
                insort(copies, self._by_place[place])
                self._by_place[place] = copies.pop(0)
                return
            places = known if isinstance(known, list) else [known]
            insort(places, place)
            self._places[run.zxid, run.first] = places
        self._by_place[place] = run

    def take(self, zxid: int, first: int, count: int) -> Run | None:
        """Take *count* messages from *first* of the batch *zxid* out; None unless they are the front of one run."""
        place = self._places.get((zxid, first))
        if place is None:
            return None
        if isinstance(place, list):
            place = place[0]
        run: Run = self._by_place[place]
        if not 0 < count <= run.size:
            return None
        self._drop(place)
        if count < run.size:
            run, rest = run.split(count)
            self.add(rest)
        return run

    def take_within(self, ready: int, zxid: int, first: int, count: int) -> Run | None:
        """Take likewise, but from anywhere within one run; what is left of it stays, in up to two parts."""
        front = self.take(zxid, first, count)
        if front is not None or not self._places or count <= 0:
            return front
        for rank in range(PRIORITY_MAX + 1):
            index = self._by_place.bisect_left((rank, ready, zxid, first)) - 1
            if index >= 0 and self._by_place.keys()[index][:3] == (rank, ready, zxid):
                place: Place = self._by_place.keys()[index]
                run: Run = self._by_place[place]
                if first + count > run.first + run.size:
                    continue  # neighbours in their batch may differ in priority
                self._drop(place)
                before, run = run.split(first - run.first)
                self.add(before)
                if count < run.size:
                    run, rest = run.split(count)
                    self.add(rest)
                return run
        return None

    def holds(self, run: Run) -> bool:
        """Whether exactly this run is here."""
        return bool(self._by_place.get(run.place) == run) or run in self._copies.get(run.place, ())

    def find(self, ready: int, zxid: int, first: int) -> Run | None:
        """Return the run that holds the message *first* of the batch *zxid* and became ready with *ready*."""
        for rank in range(PRIORITY_MAX + 1) if self._places else ():
            index = self._by_place.bisect_right((rank, ready, zxid, first)) - 1
            if index >= 0 and self._by_place.keys()[index][:3] == (rank, ready, zxid):
                run: Run = self._by_place.peekitem(index)[1]
                if first < run.first + run.size:  # else the rest of its batch has another priority
                    return run
        return None

    def within(self, ready: int, zxid: int, first: int, end: int) -> list[Run]:
        """Return the runs that became ready with *ready* and hold messages of the batch *zxid*, *first* to *end*."""
        runs: list[Run] = []
        for rank in range(PRIORITY_MAX + 1) if self._places else ():
            begin = self._by_place.bisect_right((rank, ready, zxid, first)) - 1
            runs += self._by_place.values()[max(begin, 0) : self._by_place.bisect_left((rank, ready, zxid, end))]
        return [
            run for run in runs if run.place[1:3] == (ready, zxid) and run.first < end and first < run.first + run.size
        ]

    def take_parts(self, run: Run) -> list[Run]:
        """Take out what is here of *run*, whole or in parts: all runs that begin where it had messages."""
        if not self._places:
            return []
        end = (*run.place[:3], run.first + run.size)
        places = list(self._by_place.irange(run.place, end, (True, False)))
        return [self._drop(place) for place in places]

    def _drop(self, place: Place) -> Run:
        run: Run = self._by_place[place]
        self.messages -= run.size
        copies = self._copies.get(place)
        if copies:
            self._by_place[place] = copies.pop(0)
            if not copies:
                del self._copies[place]
            return run
        del self._by_place[place]
        places = self._places.pop((run.zxid, run.first))
        if isinstance(places, list):
            places.remove(place)
            self._places[run.zxid, run.first] = places if len(places) > 1 else places[0]
        return run

    def forget(self, lost: LostEntries) -> list[Run]:
        """Take out all runs of *lost* entries and return them, by place."""
        return [self._drop(run.place) for run in list(self) if run.zxid in lost]

    def clear(self) -> None:
        """Drop everything."""
        self._places.clear()
        self._copies.clear()
        self._by_place = _NOTHING
        self.messages = 0

    def frozen(self) -> list[Run]:
        """Return the runs as they are now, in any order: 20 times faster than by place."""
        return [*dict.values(self._by_place), *chain.from_iterable(self._copies.values())]
