"""Order by key: which keys are out, and whose messages wait behind them.

At most so many messages of one key are out at a time, all with one consumer; the others of that key wait, and messages
of other keys pass them. A key that nobody holds goes to the consumer that owns it on the ring, so that a consumer sees
the same keys again; where the owner has no credit, to whom the queue's policy names: a slow consumer holds up only what
it has. So nothing stalls when consumers come, go or pause, and nothing can overtake within a key: what counts is who
holds messages, and the ring only says who is preferred.

A key is out from the pick of its messages until the machine says that their leases ended. A settlement that is not
committed frees no key: else its successor could be delivered, and the settled message once more after a failover.

Messages that are passed over are remembered by key, as ranges of ordinals, so that a key that is freed goes on at
once; there are at most `PASSED_RANGES_MAX` of them, and then the cursor waits. One call looks at `ROUND_RUNS_MAX` runs.

Picks are made in rounds: one round deals messages to all consumers that have room, and then hands their boxes out one
by one. This module must not know sessions' lives, nor what a verdict does.
"""

from __future__ import annotations

from bisect import insort
from collections import deque
from heapq import heappop, heappush
from operator import attrgetter
from typing import TYPE_CHECKING

from sortedcontainers import SortedKeyList

from sluicemq.broker.queues.chunks import AHEAD_RUNS
from sluicemq.broker.queues.dispatching.key_states import KeyState
from sluicemq.broker.queues.dispatching.ring import Ring
from sluicemq.broker.queues.shaping.gates import PLENTY
from sluicemq.broker.queues.tags import range_pairs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.dispatching.consumers import Consumer
    from sluicemq.broker.queues.dispatching.line import Line
    from sluicemq.broker.queues.runs import Run

PASSED_RANGES_MAX = 1_000_000
"""Most ranges of neighbouring runs of one key that are passed over in one queue; 16 bytes each, and a key's record."""
ROUND_RUNS_MAX = 1_024
"""Most runs that one call looks at: 2 ms at most."""
_READ_RUNS = 128

_place_of = attrgetter("place")


class Box:
    """What one round deals to a consumer. It counts against the consumer's credit, and has no tags yet."""

    __slots__ = ("bytes", "consumer", "messages", "runs")

    def __init__(self, consumer: Consumer) -> None:
        self.consumer = consumer
        self.runs: list[Run] = []
        self.messages = 0
        self.bytes = 0


class KeyOrder:
    """The keys of one queue.

    Args:
        line: The queue's line, which is asked for consumers, policy and settings.

    Attributes:
        unfinished: Whether the last call gave up looking, so that asking again makes sense.
        wanted: Chunks that were met and are not in memory; whoever takes them brings each back through `filled`.

    """

    __slots__ = (
        "_boxes",
        "_bytes_max",
        "_dealt",
        "_free",
        "_full",
        "_held_up",
        "_left",
        "_limit",
        "_line",
        "_listings",
        "_messages_max",
        "_ordinal",
        "_passed_ranges",
        "_ring",
        "_runs_left",
        "_states",
        "_unkeyed",
        "_waiting_for_chunk",
        "unfinished",
        "wanted",
    )

    def __init__(self, line: Line) -> None:
        self._line = line
        self._limit: int = line.settings["key_in_flight_max"]
        self._states: dict[int, KeyState] = {}
        # Keys that may go on, a heap: those first whose messages have waited longest, so that neighbours go together.
        # Each is judged again when it is met.
        self._free: list[tuple[int, int, KeyState]] = []
        self._listings = 0
        # Keys of which more could be out, but the consumer that holds them has no credit.
        self._held_up: dict[tuple[int, int], dict[KeyState, None]] = {}
        self._waiting_for_chunk: dict[Chunk, list[KeyState]] = {}
        # What came back and has no key, by place; one message that died in two subscriptions may be there twice.
        self._unkeyed: SortedKeyList[Run] = SortedKeyList(key=_place_of)
        self._passed_ranges = 0
        self._ordinal = line.queue.main.head  # the cursor: the first run of main that was not looked at
        self._boxes: deque[Box] = deque()
        self._ring = Ring()
        self.unfinished = False
        self.wanted: list[Chunk] = []
        # Of the round under way: what is dealt, what bounds it, and whether it is over.
        self._dealt: dict[tuple[int, int], Box] = {}
        self._messages_max = 0
        self._bytes_max = 0
        self._left = 0
        self._runs_left = 0
        self._full = False
        self.consumers_changed()
        for (session, consumer), table in line.queue.leases.items():
            for _, run, _ in table.pieces():
                if run.key:
                    state = self._state(run.key)
                    state.in_flight += run.size
                    state.holder = (session, consumer)
        line.returned.clear()  # they are known here
        self.take_back(line.queue.returned)

    @property
    def offers(self) -> bool:
        """Whether anything may be there to be picked."""
        return bool(self._boxes or self._free or self._unkeyed) or (
            self._ordinal < self._line.queue.main.tail and self._passed_ranges < PASSED_RANGES_MAX
        )

    def in_flight(self) -> dict[int, tuple[tuple[int, int], int]]:
        """Return the holder and the messages of each key that is out, for audits."""
        return {key: (state.holder, state.in_flight) for key, state in self._states.items() if state.holder is not None}

    # --- consumers and settings ----------------------------------------------------------------------------------

    def consumers_changed(self) -> None:
        """Follow who takes part now; what was dealt to others and not handed out waits again."""
        self._unpack(lambda box: not box.consumer.eligible)
        self._ring = Ring()
        for consumer in self._line.consumers.values():
            if consumer.eligible:
                self._ring.add(consumer)

    def joined(self, consumer: Consumer) -> None:
        """Let *consumer*, which takes part, own keys."""
        self._ring.add(consumer)

    def left(self, consumer: Consumer) -> None:
        """Take back what was dealt to *consumer* and not handed out; what it has stays with it until it is settled."""
        if consumer.eligible:
            self._ring.remove(consumer)
        self._held_up.pop(consumer.identity, None)
        self._unpack(lambda box: box.consumer is consumer)

    def can_take_more(self, consumer: Consumer) -> None:
        """Let keys go on that waited for *consumer*'s credit."""
        if self._held_up:
            for state in self._held_up.pop(consumer.identity, ()):
                self._look_at(state)

    def settings_changed(self) -> None:
        """Follow how many messages of a key may be out."""
        if self._limit != self._line.settings["key_in_flight_max"]:
            self._limit = self._line.settings["key_in_flight_max"]
            self._unpack(lambda _box: True)
            for state in list(self._states.values()):
                self._look_at(state)

    # --- what the machine did ------------------------------------------------------------------------------------

    def take_back(self, runs: Iterable[Run]) -> None:
        """Note that *runs* went back to their places."""
        for run in runs:
            if run.key:
                state = self._state(run.key)
                insort(state.returned, run, key=_place_of)
                self._look_at(state)
            else:
                self._unkeyed.add(run)

    def removed(self, run: Run) -> None:
        """Note that *run*, or what is left of it, is not there any more."""
        if not run.key:
            self._remove_unkeyed(run)
            return
        state = self._states.get(run.key)
        if state is not None:
            state.returned = [part for other in state.returned for part in other.outside(run)]
            self._look_at(state)

    def _remove_unkeyed(self, run: Run) -> None:
        unkeyed = self._unkeyed
        if run in unkeyed:
            unkeyed.remove(run)  # one of those that are alike
            return
        before = unkeyed[max(unkeyed.bisect_right(run) - 1, 0)].place if unkeyed else run.place
        end = (*run.place[:3], run.first + run.size - 1)
        for other in list(unkeyed.irange_key(min(before, run.place), end)):
            unkeyed.remove(other)
            unkeyed.update(other.outside(run))

    def freed(self, keys: Sequence[int]) -> None:
        """Note that leases ended: `[key, messages, ...]`; no messages: the key was blocked and is not any more."""
        for key, messages in range_pairs(keys):
            state = self._states.get(key)
            if state is not None:
                self._release(state, messages)

    def void(self, runs: Iterable[Run], first_tag: int, tags: Sequence[int]) -> None:
        """Note that of *runs*, picked with tags from *first_tag* on, the ranges *tags* were not to be had."""
        tag = first_tag
        for run in runs:
            last = tag + run.size - 1
            lost = sum(max(0, min(last, end) - max(tag, start) + 1) for start, end in range_pairs(tags))
            state = self._states.get(run.key)
            if lost and state is not None:
                self._release(state, lost)
            tag = last + 1

    def purged(self) -> None:
        """Forget all that waits."""
        self._unpack(lambda _box: True)
        self._free.clear()
        self._held_up.clear()
        self._unkeyed.clear()
        self._passed_ranges = 0
        for state in list(self._states.values()):
            state.listed = False
            state.forget_waiting()
            self._look_at(state)

    def filled(self, chunk: Chunk) -> None:
        """Note that *chunk* is in memory, or has left its queue."""
        for state in self._waiting_for_chunk.pop(chunk, ()):
            self._look_at(state)

    # --- picking -------------------------------------------------------------------------------------------------

    def next_box(self, messages_max: int, bytes_max: int, all_max: int = PLENTY) -> Box | None:
        """Return what a consumer gets next; None where nobody can get anything now.

        Args:
            messages_max: Most messages of one box.
            bytes_max: Most bytes of one box, about; one message is always taken.
            all_max: Most messages of all boxes that are not handed out.

        """
        while True:
            if not self._boxes:
                self._left = all_max
                self._deal(messages_max, bytes_max)
            box = self._boxes.popleft() if self._boxes else None
            if box is None or self._limit == 1 or self._is_in_order(box):
                return box
            self._boxes.appendleft(box)
            self._unpack(lambda _box: True)

    def _is_in_order(self, box: Box) -> bool:
        """Whether nothing came back, or waits for another attempt, since *box* was dealt that goes before its messages.

        Where one message of a key is out at a time, nothing can.
        """
        for run in box.runs:
            if run.key:
                returned = self._states[run.key].returned
                if not self._is_open(run.key) or (returned and returned[0].place < run.place):
                    return False
        return True

    def _deal(self, messages_max: int, bytes_max: int) -> None:
        """Deal messages to everybody who has room."""
        self._messages_max, self._bytes_max = messages_max, bytes_max
        self._runs_left = ROUND_RUNS_MAX
        self._full = False
        while self._deal_unkeyed() and self._deal_freed() and self._deal_behind():
            pass
        self._boxes.extend(self._dealt.values())
        self._dealt = {}
        self.unfinished = not self._boxes and self._runs_left <= 0

    @property
    def _over(self) -> bool:
        return self._full or self._runs_left <= 0

    # Each of these returns whether the round goes on.

    def _deal_unkeyed(self) -> bool:
        """Deal what came back and has no key."""
        unkeyed = self._unkeyed
        while unkeyed:
            consumer = None if self._over else self._line.policy.next()
            if consumer is None:
                return False
            self._runs_left -= 1
            self._put(consumer, unkeyed.pop(0))
        return True

    def _deal_freed(self) -> bool:
        """Deal messages of keys that may go on."""
        free = self._free
        while free:
            if self._over:
                return False
            state = heappop(free)[2]
            state.listed = False
            if not self._serve(state):
                self._list(state)
                return False
        return True

    def _deal_behind(self) -> bool:
        """Deal what the cursor meets, some runs at a time, and pass over what must wait."""
        main = self._line.queue.main
        if self._ordinal >= main.tail or self._passed_ranges >= PASSED_RANGES_MAX:
            return False
        ordinals, runs = main.read_with_ordinals(self._ordinal, _READ_RUNS)
        behind = main.read_ordinal
        for ordinal, run in zip(ordinals, runs, strict=True):
            if self._passed_ranges >= PASSED_RANGES_MAX:
                self._ordinal = ordinal
                return bool(self._free)  # those just passed over may still go on
            if self._over or not self._meet(ordinal, run):
                self._ordinal = ordinal
                return False
            self._runs_left -= 1
        self._ordinal = behind
        if not runs:
            self.wanted += main.missing(behind, AHEAD_RUNS)
        return bool(runs)

    def _meet(self, ordinal: int, run: Run) -> bool:
        """Deal a run, or pass it over; return whether anybody had room."""
        key = run.key
        if not key:
            consumer = self._line.policy.next()
            if consumer is not None:
                self._put(consumer, run)
            return consumer is not None
        state = self._states.get(key)
        if state is None and self._is_open(key):
            consumer = self._preferred(key)
            if consumer is not None:
                state = self._states[key] = KeyState(key)
                self._put(consumer, run, state)
            return consumer is not None
        state = self._state(key)
        self._passed_ranges += state.pass_over(ordinal)
        self._look_at(state)
        return True

    def _serve(self, state: KeyState) -> bool:
        """Deal what a key may have out; return whether anybody had room."""
        while state.in_flight < self._limit and self._is_open(state.key):
            run = self._first_waiting(state)
            if run is None:
                break
            consumer = self._preferred(state.key) if state.holder is None else self._holder(state)
            if consumer is None:
                # Where somebody holds the key, it waits for him; else nobody has room.
                return state.holder is not None
            if state.returned:
                del state.returned[0]
            else:
                self._passed_ranges -= state.drop_passed()
            self._put(consumer, run, state)
            if self._over:
                self._look_at(state)
                break
        return True

    def _preferred(self, key: int) -> Consumer | None:
        """Return who gets the messages of a key that nobody holds; None where nobody has room."""
        owner = self._ring.owner(key)
        if owner is None or owner.able:
            return owner
        return self._line.policy.next()

    def _holder(self, state: KeyState) -> Consumer | None:
        """Return who holds the key, if he can have more of it."""
        assert state.holder is not None, "somebody holds the key"
        consumer = self._line.consumers.get(state.holder)
        if consumer is None or not consumer.eligible:
            return None  # what he has must be settled first
        if consumer.able:
            return consumer
        self._held_up.setdefault(state.holder, {})[state] = None
        return None

    def _first_waiting(self, state: KeyState) -> Run | None:
        """Return the first run of the key that waits; None where none does, or where its chunk is not in memory."""
        if state.returned:
            return state.returned[0]
        main = self._line.queue.main
        while (ordinal := state.first_passed()) is not None:
            self._runs_left -= 1
            if ordinal >= main.head:
                ordinals, runs = main.read_with_ordinals(ordinal, 1)
                if runs and ordinals[0] == ordinal:
                    return runs[0]
                missing = main.missing(ordinal, 1)
                if missing and not runs:
                    self._waiting_for_chunk.setdefault(missing[0], []).append(state)
                    self.wanted.append(missing[0])
                    return None
            self._passed_ranges -= state.drop_passed()  # it expired, or was dropped
        self._look_at(state)
        return None

    def _put(self, consumer: Consumer, run: Run, state: KeyState | None = None) -> None:
        """Put as much of *run* as may be into the consumer's box; the rest waits in its place."""
        box = self._dealt.get(consumer.identity)
        if box is None:
            box = self._dealt[consumer.identity] = Box(consumer)
        count = min(run.size, consumer.credit_messages - consumer.held_messages, self._messages_max - box.messages)
        count = min(count, self._left)
        if state is not None:
            count = min(count, self._limit - state.in_flight)
        bytes_left = min(consumer.credit_bytes - consumer.held_bytes, self._bytes_max - box.bytes)
        if count > 1 and run.bytes_of(count) > bytes_left:
            count = min(count, max(1, bytes_left * run.batch_count // run.batch_bytes))
        if count < run.size:
            run, rest = run.split(count)
            if state is None:
                self._unkeyed.add(rest)
            else:
                state.returned.insert(0, rest)
        bytes_ = run.bytes_of(count)
        box.runs.append(run)
        box.messages += count
        box.bytes += bytes_
        consumer.held_messages += count
        consumer.held_bytes += bytes_
        self._left -= count
        if box.messages >= self._messages_max or box.bytes >= self._bytes_max or not self._left:
            self._full = True
        if state is not None:
            state.in_flight += count
            state.holder = consumer.identity
            self._look_at(state)
        self._line.credit_changed(consumer)

    def _unpack(self, which: Callable[[Box], bool]) -> None:
        """Take boxes back that were not handed out; what is in them waits again."""
        boxes = [box for box in self._boxes if which(box)]
        self._boxes = deque(box for box in self._boxes if not which(box))
        for box in boxes:
            consumer = box.consumer
            consumer.held_messages -= box.messages
            consumer.held_bytes -= box.bytes
            self.take_back(box.runs)
            for run in box.runs:
                if run.key:
                    self._release(self._states[run.key], run.size)
            if not consumer.gone:
                self._line.credit_changed(consumer)

    # --- keys ----------------------------------------------------------------------------------------------------

    def _state(self, key: int) -> KeyState:
        state = self._states.get(key)
        if state is None:
            state = self._states[key] = KeyState(key)
        return state

    def _is_open(self, key: int) -> bool:
        states = self._line.queue.keys
        return states is None or states.is_open(key)

    def _release(self, state: KeyState, messages: int) -> None:
        state.in_flight -= messages
        assert state.in_flight >= 0, "no more messages of a key come back than were out"
        if not state.in_flight:
            state.holder = None
        self._look_at(state)

    def _look_at(self, state: KeyState) -> None:
        """List a key that may go on, and forget one that nobody holds and nothing waits for."""
        if state.listed:
            return
        if state.waits:
            if state.in_flight < self._limit:
                self._list(state)
        elif not state.in_flight and self._states.get(state.key) is state:
            del self._states[state.key]

    def _list(self, state: KeyState) -> None:
        """List a key that may go on, at the place of the first of its messages that waits."""
        state.listed = True
        self._listings += 1
        ordinal = None if state.returned else state.first_passed()
        heappush(self._free, (-1 if ordinal is None else ordinal, self._listings, state))
