"""Where a message is now, in one queue: ready, leased, delayed or dead.

The machine knows messages by the place at which they lie, and the log names most of those places; so a few looks find
nearly all. Where the log does not reach back far enough, the rest of the queue is looked through, a bounded part of it.
Looks only. Must not know the log.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from sluicemq.broker.queues import dead_letters as letters
from sluicemq.broker.queues.browsing import ordinal_from, read_leases, read_rows
from sluicemq.broker.queues.delayed_looking import look_delayed
from sluicemq.wire.batch import PRIORITY_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.fifo import RunFifo
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run

LOOKED_RUNS_MAX = 200_000
"""Most runs of one queue that are looked through for one message."""
STEP_RUNS = 2_000
"""So many of them before others have their turn."""
SAME_TIME_MESSAGES_MAX = 20_000
"""Most delayed messages that are due at one time among which one is looked for."""


class Found(NamedTuple):
    """Where a message is.

    Attributes:
        state: "ready", "leased", "delayed" or "dead".
        run: The run that holds it.
        facts: More about it, as plain values.

    """

    state: str
    run: Run
    facts: dict[str, Any]


class Whereabouts:
    """Looks for one message.

    Args:
        road: The leadership, whose machine is looked into.
        zxid: The entry that published the message.
        index: Its index there.

    Attributes:
        complete: Whether everything that had to be looked through was.

    """

    def __init__(self, road: Road, zxid: int, index: int) -> None:
        self._road = road
        self._zxid = zxid
        self._index = index
        self._began = time.perf_counter()
        self.complete = True

    async def find(self, queue: Queue, ready: Iterable[int], due: Iterable[int], *, thorough: bool) -> Found | None:
        """Return where the message is in *queue*; None: it is not there, as far as was looked.

        Args:
            queue: The queue.
            ready: Entries that may have made it ready, or dead.
            due: Times at which it may be due.
            thorough: Look through the queue where these do not find it.

        """
        leased = await self._leased(queue)
        if leased is not None:
            return leased
        for place in ready:
            found = await self._road.look(partial(self._at, queue, place))
            if found is not None:
                return found
        for due_ms in due:
            runs = await self._road.look(
                partial(look_delayed, queue.delayed, due_ms, due_ms + 1, 0, SAME_TIME_MESSAGES_MAX)
            )
            delayed = self._delayed(runs)
            if delayed is not None:
                return delayed
        return await self._look_through(queue) if thorough else None

    def _at(self, queue: Queue, ready: int) -> Found | None:
        waiting = letters.find_ready(queue, ready, self._zxid, self._index)
        if waiting is not None:
            return self._found("ready", queue, waiting)
        if queue.dead.messages:
            ordinal = queue.dead.find_place((ready, self._zxid, self._index))
            if ordinal is not None:
                run = queue.dead.run_at(ordinal)
                if self._is_in(run):
                    return self._found("dead", queue, run)
        return None

    async def _leased(self, queue: Queue) -> Found | None:
        following: tuple[int, int, int] | None = (0, 0, 0)
        while following is not None:
            leased, following = read_leases(queue, following, STEP_RUNS)
            for (session, consumer, first_tag), run in leased:
                if self._is_in(run):
                    facts = {"session": session, "consumer": consumer, "tag": first_tag + self._index - run.first}
                    found = self._found("leased", queue, run)
                    return found._replace(facts={**found.facts, **facts})
            await self._others_turn()
        return None

    def _delayed(self, runs: Iterable[Run]) -> Found | None:
        for run in runs:
            if self._is_in(run):
                return Found("delayed", run, {"due_ms": run.ready})
        return None

    def _found(self, state: str, queue: Queue, run: Run) -> Found:
        facts: dict[str, Any] = {"deliveries": run.deliveries, "attempts": run.attempts}
        if run.expires_ms:
            facts["expires_ms"] = run.expires_ms
        note = queue.notes.get(run.note) if run.note else None
        if note is not None:
            facts["note"] = {"kind": note.kind, "origin": note.origin, "text": note.text, "at_ms": note.at_ms}
        return Found(state, run, facts)

    def _is_in(self, run: Run) -> bool:
        return run.zxid == self._zxid and run.first <= self._index < run.first + run.size

    # --- where the log does not say it ------------------------------------------------------------------------------

    async def _look_through(self, queue: Queue) -> Found | None:
        back = await self._in_returned(queue)
        if back is not None:
            return self._found("ready", queue, back)
        left = LOOKED_RUNS_MAX
        for state, fifos in (("ready", list(queue.lanes)), ("dead", [queue.dead])):
            for fifo in fifos:
                run, left = await self._in_fifo(fifo, left)
                if run is not None:
                    return self._found(state, queue, run)
        skip = 0
        while left > 0:
            runs = await self._road.look(partial(look_delayed, queue.delayed, 0, None, skip, STEP_RUNS))
            delayed = self._delayed(runs)
            if delayed is not None or not runs:
                return delayed
            skip += sum(run.size for run in runs)
            left -= len(runs)
            await self._others_turn()
        self.complete = False
        return None

    async def _in_returned(self, queue: Queue) -> Run | None:
        """Look for it among what came back, some at a time: all may have."""
        for priority in range(PRIORITY_MAX + 1):
            ready = zxid = first = 0
            while runs := queue.returned.some_of(priority, ready, zxid, first, STEP_RUNS):
                for run in runs:
                    if self._is_in(run):
                        return run
                last = runs[-1]
                ready, zxid, first = last.ready, last.zxid, last.first + last.size
                await self._others_turn()
        return None

    async def _in_fifo(self, fifo: RunFifo, left: int) -> tuple[Run | None, int]:
        """Look for it in one index, from the first place on at which it can be; return also how many runs are left."""
        if not fifo.messages:
            return None, left
        ordinal = await self._road.look(partial(ordinal_from, fifo, self._zxid))
        for _ in range(LOOKED_RUNS_MAX):
            if left <= 0:
                self.complete = False
                return None, 0
            runs, following, _ = await self._road.look(partial(read_rows, fifo, ordinal, STEP_RUNS))
            for run in runs:
                if self._is_in(run):
                    return run, left
            left -= max(len(runs), 1)
            if following <= ordinal:
                return None, left
            ordinal = following
            await self._others_turn()
        return None, left

    async def _others_turn(self) -> None:
        now = time.perf_counter()
        if now - self._began > 0.002:
            await trio.lowlevel.checkpoint()
            self._began = time.perf_counter()
