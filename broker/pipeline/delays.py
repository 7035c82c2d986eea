"""Delayed messages as operators and senders see them: looked at, cancelled, due at another time.

Whoever names a message by its receipt need not know when it is due: its batch says so, or else everything that waits
is looked through. All of that happens here, beside the road; an entry names messages by their place, and the machine
judges whether they still wait there. Must not know sockets: answers are returned.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import trio

from sluicemq.broker.queues.applying.delaying import missing_delayed
from sluicemq.broker.queues.delayed_looking import look_delayed
from sluicemq.broker.queues.delayed_removing import find
from sluicemq.broker.queues.entries_of_queues import Cancel, Reschedule
from sluicemq.broker.queues.outcomes import Cancelled, Outcome
from sluicemq.broker.queues.routing.topic import Topic
from sluicemq.wire.batch import BATCH_MESSAGES_MAX
from sluicemq.wire.errors import InvalidRequest, LimitReached, MessageNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run
    from sluicemq.wire.errors import SluiceError

ENTRY_RUNS_MAX = 256
"""Most runs that one entry takes out of an index: each costs up to 30 µs, where all lie in chunks of their own."""
ENTRIES_UNDER_WAY_MAX = 2
"""Most entries of one request that are not applied yet: the next is written while one is applied. More would let
everybody else's entries wait for milliseconds each."""
LOADED_CHUNKS_MAX = 32
"""Chunks that are read back before an entry is proposed; more of them might push each other out again."""
FOUND_AT_ONCE_MAX = 16
"""Most times at which messages of a batch are looked for in one go: each may need a chunk from its page."""
NAMED_RUNS_MAX = 10_000
"""Most runs that one request may name."""
LOOK_MESSAGES = 2_000
"""Messages that are looked at in one go while one is searched for."""
LOOKED_THROUGH_A_BATCH = 200
"""To look through so many messages that wait costs about as much as to read a batch."""
FOR_EVER_MS = (1 << 63) - 1
"""No message is due later."""


Wanted: TypeAlias = dict[int, set[int]]
"""Messages that are looked for: their indices by batch."""


async def look(
    road: Road, queue: Queue | Topic, from_ms: int, to_ms: int | None, skip: int, count_max: int
) -> list[Run]:
    """Return what waits in the queue, in due order, wherever it lies."""
    return await road.look(lambda: look_delayed(queue.delayed, from_ms, to_ms, skip, count_max))


async def cancel(road: Road, queue: Queue | Topic, flat: list[int]) -> int:
    """Drop delayed messages, named as in CANCEL_DELAYED; return how many of them still waited.

    Raises:
        InvalidRequest: Too many are named, or none can be.

    """
    return await _change(road, queue, flat, None)


async def reschedule(road: Road, queue: Queue | Topic, flat: list[int], due_ms: int) -> int:
    """Let delayed messages be due at *due_ms* instead; return how many of them still waited. Raises as `cancel`."""
    if due_ms > FOR_EVER_MS:
        raise InvalidRequest(f"messages are due {FOR_EVER_MS} ms after 1970 at the latest, not {due_ms}")
    return await _change(road, queue, flat, due_ms)


async def _change(road: Road, queue: Queue | Topic, flat: list[int], due_ms: int | None) -> int:
    if len(flat) // 4 > NAMED_RUNS_MAX:
        raise LimitReached(
            f"{len(flat) // 4} runs in one request; allowed are {NAMED_RUNS_MAX}: send several",
            limit="named_runs_max",
            value=NAMED_RUNS_MAX,
        )
    placed: list[int] = []
    wanted: Wanted = {}
    left = BATCH_MESSAGES_MAX
    for place in _quads(flat):
        due, zxid, first, size = place
        if min(zxid, size) < 1:
            raise InvalidRequest(f"a run begins with a position and holds messages; {place} does not")
        if due:
            placed += place
            continue
        left -= size
        if left < 0:
            raise LimitReached(
                f"more than {BATCH_MESSAGES_MAX} messages are to be looked for in one request: send several",
                limit="looked_for_messages_max",
                value=BATCH_MESSAGES_MAX,
            )
        wanted.setdefault(zxid, set()).update(range(first, first + size))
    if wanted and queue.delayed.messages:
        placed += await _find(road, queue, wanted)
    return await _apply(road, queue, placed, due_ms)


async def _apply(road: Road, queue: Queue | Topic, placed: list[int], due_ms: int | None) -> int:
    """Propose entries that change what is named by its place; return how many messages they found once all of them
    are committed and applied."""
    found = _Found()
    for start in range(0, len(placed), 4 * ENTRY_RUNS_MAX):
        runs = placed[start : start + 4 * ENTRY_RUNS_MAX]
        await found.may_go_on()
        missing = missing_delayed(queue, runs)
        if missing and road.pager is not None:
            # Here nobody waits for the pages but who asked; when the entry is applied, all that follows would.
            await road.pager.load(missing[:LOADED_CHUNKS_MAX])
        now_ms = road.clock.now_ms()
        entry = Cancel(now_ms, queue.id, runs) if due_ms is None else Reschedule(now_ms, queue.id, runs, due_ms)
        found.under_way += 1
        road.propose(entry, on_applied=found)
    await found.may_go_on(0)
    return found.messages


class _Found:
    """Adds up what the entries of one request find.

    Attributes:
        under_way: Entries that are not applied yet.
        messages: What the others have found.

    """

    def __init__(self) -> None:
        self.under_way = 0
        self.messages = 0
        self._error: SluiceError | None = None
        self._applied = trio.Event()

    def __call__(self, outcome: Outcome) -> None:
        self.under_way -= 1
        if outcome.error is not None:
            self._error = outcome.error
        elif isinstance(outcome.value, Cancelled):
            self.messages += outcome.value.messages
        self._applied.set()

    async def may_go_on(self, under_way_max: int = ENTRIES_UNDER_WAY_MAX - 1) -> None:
        """Wait until no more than so many are under way.

        Raises:
            SluiceError: One was refused.

        """
        while self.under_way > under_way_max:
            self._applied = trio.Event()
            await self._applied.wait()
        if self._error is not None:
            raise self._error


async def _find(road: Road, queue: Queue | Topic, wanted: Wanted) -> list[int]:
    """Return where messages wait, as CANCEL names them: by what their batches say, or by looking for all of them.

    To look through what waits costs as much however many are looked for; to read a batch costs as much as some hundred
    messages.
    """
    found: list[int] = []
    if queue.delayed.messages > LOOKED_THROUGH_A_BATCH * len(wanted):
        for zxid, indices in list(wanted.items()):
            times = await _said_by_batch(road, zxid, min(indices), max(indices) - min(indices) + 1)
            for start in range(0, len(times), FOUND_AT_ONCE_MAX):
                named = times[start : start + FOUND_AT_ONCE_MAX]
                for run in await road.look(partial(find, queue.delayed, named, zxid)):
                    _note(run, indices, found)
            if not indices:
                del wanted[zxid]
    if wanted:
        await _look_through(road, queue, (0, None), wanted, found)
    return found


async def _said_by_batch(road: Road, zxid: int, first: int, size: int) -> list[int]:
    """Return when messages of a batch were due as they were published; nothing where the batch cannot be read."""
    with road.bodies.reading():
        try:
            stored = (await road.bodies.load_to_show([zxid])).get(zxid)
        except MessageNotFound:
            return []
    # Of an entry that holds no messages nothing is found; of a rewritten one other indices are left.
    due_times = None if stored is None or stored.kept is not None else stored.batch.due_times
    if stored is None or due_times is None:
        return []
    times = [due for due in due_times[first : first + size] if due is not None]
    return sorted({stored.published_ms - due if due < 0 else due for due in times})


async def _look_through(
    road: Road, queue: Queue | Topic, span: tuple[int, int | None], wanted: Wanted, found: list[int]
) -> None:
    """Move those of the *wanted* messages that wait in a span of time to *found*, as CANCEL names them."""
    from_ms, to_ms = span
    skip = 0
    left = sum(map(len, wanted.values()))
    while left:
        began = time.perf_counter()
        runs = await look(road, queue, from_ms, to_ms, skip, LOOK_MESSAGES)
        if not runs:
            return
        for run in runs:
            left -= _note(run, wanted.get(run.zxid), found)
        last_ms = runs[-1].ready
        if last_ms != from_ms:
            skip = 0
        skip += sum(run.size for run in runs if run.ready == last_ms)
        from_ms = last_ms
        if time.perf_counter() - began > 0.001:
            await trio.lowlevel.checkpoint()


def _note(run: Run, indices: set[int] | None, found: list[int]) -> int:
    """Move those of the *indices* that are in *run* to *found*, as CANCEL names them; return how many they are."""
    here = indices.intersection(range(run.first, run.first + run.size)) if indices else None
    if not indices or not here:
        return 0
    for index in sorted(here):
        found += (run.ready, run.zxid, index, 1)
    indices.difference_update(here)
    return len(here)


def _quads(flat: list[int]) -> Iterator[list[int]]:
    return (flat[start : start + 4] for start in range(0, len(flat), 4))
