"""Dispatch: which consumer gets which ready messages next. Only a leader has a dispatcher; no broker's state needs it.

A pick is a plan: it becomes true when its GRANT entry is applied. Between the two the machine still shows the messages
as ready, so each queue has a cursor that is ahead of the machine: what lies before it was picked already. The cursor
counts runs since the beginning of the queue, so whatever is consumed or purged in front of it moves nothing. Runs that
came back to their former places wait in a list of their own and are offered first.

Rules for the caller, without which messages would wait until the next leader:

- every pick is appended as a GRANT, in the order of the picks;
- `on_effects` gets the effects of every entry, right after its apply and before the next pick;
- a new leader builds a new dispatcher from the machine, once it has applied the log.

The cost of a pick depends on what it takes, not on how many queues, consumers or messages there are. This module must
not know time, connections or the log.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from sortedcontainers import SortedDict

from sluicemq.broker.queues.chunks import AHEAD_RUNS
from sluicemq.broker.queues.outcomes import LeasesGone, QueueCut, QueueGone, QueuePurged, Ready, Returned, SessionGone
from sluicemq.broker.queues.tags import Span, TagLedger, range_pairs

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Sequence

    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Effect
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run

GRANT_MESSAGES_MAX = 4_096
"""Most messages of one pick."""
GRANT_BYTES_MAX = 1024 * 1024
"""Most bytes of one pick, about; one message is always taken."""
WHOLE_RUN_BYTES_MAX = 4 * 1024 * 1024
"""A run of no more bytes is not cut for the sake of one pick's limits."""
_READ_RUNS_MIN = 4
_READ_RUNS_MAX = 512


class Pick(NamedTuple):
    """Messages for a consumer.

    Attributes:
        queue_id: Number of the queue.
        session: Number of the session.
        consumer: Number of the consumer within it.
        first_tag: Tag of the first message; the others count on.
        runs: The messages; `deliveries` and `attempts` are those before this grant.
        messages: How many messages.
        bytes: About how many bytes.

    """

    queue_id: int
    session: int
    consumer: int
    first_tag: int
    runs: list[Run]
    messages: int
    bytes: int


class _Consumer:
    """A consumer's credit, and what it holds."""

    __slots__ = (
        "credit_bytes",
        "credit_messages",
        "gone",
        "held",
        "held_bytes",
        "held_messages",
        "line",
        "listed",
        "next_tag",
        "number",
        "session",
    )

    def __init__(self, session: int, number: int, line: _Line, credit_messages: int, credit_bytes: int) -> None:
        self.session = session
        self.number = number
        self.line = line
        self.credit_messages = credit_messages
        self.credit_bytes = credit_bytes
        self.held = TagLedger()
        self.held_messages = 0
        self.held_bytes = 0
        self.next_tag = 1
        self.listed = False  # whether it stands in the line's `able`
        self.gone = False

    @property
    def able(self) -> bool:
        """Whether it may get another message: one that holds nothing gets one however many bytes it has."""
        return self.held_messages < self.credit_messages and (
            self.held_bytes < self.credit_bytes or not self.held_messages
        )

    def hold(self, messages: int, bytes_: int) -> int:
        """Note a pick; return its first tag."""
        first = self.next_tag
        self.next_tag += messages
        self.held_messages += messages
        self.held_bytes += bytes_
        last = self.held.last
        if last is not None and last.last + 1 == first and len(last) < GRANT_MESSAGES_MAX:
            # Small picks share a span, so that the ledger stays short; bytes inside a span are a mean anyway.
            last.last += messages
            last.bytes += bytes_
        else:
            self.held.append(Span(first, first + messages - 1, bytes_))
        return first

    def let_go(self, tags: Sequence[int]) -> None:
        """Restore the credit of these tags; those that it does not hold are passed over."""
        for first, last in range_pairs(tags):
            for span in self.held.cut(first, last)[0]:
                self.held_messages -= len(span)
                self.held_bytes -= span.bytes


class _Line:
    """A queue with its consumers."""

    __slots__ = (
        "able",
        "consumers",
        "first",
        "gone",
        "gone_listed",
        "ordinal",
        "queue",
        "returned",
        "stalled",
        "waiting",
    )

    def __init__(self, queue: Queue) -> None:
        self.queue = queue
        self.consumers: dict[tuple[int, int], _Consumer] = {}
        # In turn; one that lost its ability is dropped when it is met, those gone once they are the larger half.
        self.able: deque[_Consumer] = deque()
        self.gone_listed = 0
        self.returned: SortedDict[tuple[int, int, int], Run] = SortedDict((run.place, run) for run in queue.returned)
        self.ordinal = queue.main.head  # the cursor: run of main,
        self.first = 0  # and index within its batch of the first message that was not picked yet
        self.waiting = False  # whether it stands in the dispatcher's `waiting`
        self.stalled = False  # whether its last look met a run that is not in memory
        self.gone = False  # whether its queue was deleted

    @property
    def offers(self) -> bool:
        """Whether anything is there to be picked."""
        return bool(self.returned) or self.ordinal < self.queue.main.tail

    def next_consumer(self) -> _Consumer | None:
        """Return the consumer whose turn it is, taken out of `able`."""
        able = self.able
        while able:
            consumer = able.popleft()
            consumer.listed = False
            if consumer.gone:
                self.gone_listed -= 1
            elif consumer.able:
                return consumer
        return None

    def drop_consumer(self, consumer: _Consumer) -> None:
        """Give *consumer* no turn any more."""
        consumer.gone = True
        del self.consumers[consumer.session, consumer.number]
        if consumer.listed:
            self.gone_listed += 1
            # Each sweep halves the list at least, so that a consumer that comes and goes costs the same every time.
            if 2 * self.gone_listed > len(self.able):
                self.able = deque(listed for listed in self.able if not listed.gone)
                self.gone_listed = 0

    def list_consumer(self, consumer: _Consumer) -> None:
        """Give *consumer* a turn if it has credit."""
        if not consumer.listed and consumer.able:
            consumer.listed = True
            self.able.append(consumer)

    def take(
        self, messages_max: int, bytes_max: int, spare_messages: int = 0, spare_bytes: int = 0
    ) -> tuple[list[Run], int, int]:
        """Take runs: at most so many messages and about so many bytes, but one message if there is any.

        The maxima bound one pick; *spare_messages* and *spare_bytes* are what credit allows beyond them, for the next.
        So a run that only this pick has no room for is left whole.

        Returns:
            The runs, their messages and about their bytes.

        """
        basket = _Basket(messages_max, bytes_max, spare_messages, spare_bytes)
        returned = self.returned
        while returned and basket.open:
            _place, run = returned.popitem(0)
            rest = basket.add(run)
            if rest is not None:
                returned[rest.place] = rest
        main = self.queue.main
        if self.ordinal < main.head:  # granted or purged, as it lies behind the cursor or is gone
            self.ordinal, self.first = main.head, 0
        read_max = _READ_RUNS_MIN
        while basket.open and self.ordinal < main.tail:
            found = main.read(self.ordinal, read_max)
            if not found:
                self.stalled = True
                break
            self.ordinal = main.read_ordinal - len(found)  # it may have been led on
            for run in found:
                if run.first < self.first:
                    run = run.split(self.first - run.first)[1]
                rest = basket.add(run)
                if rest is not None:
                    self.first = rest.first
                    break
                self.ordinal += 1
                self.first = 0
                if not basket.open:
                    break
            read_max = min(2 * read_max, _READ_RUNS_MAX)
        return basket.runs, basket.messages, basket.bytes


class _Basket:
    """Collects runs up to a number of messages and bytes."""

    __slots__ = ("bytes", "bytes_left", "messages", "messages_left", "open", "runs", "spare_bytes", "spare_messages")

    def __init__(self, messages_max: int, bytes_max: int, spare_messages: int, spare_bytes: int) -> None:
        self.runs: list[Run] = []
        self.messages = 0
        self.bytes = 0
        self.messages_left = messages_max
        self.bytes_left = bytes_max
        self.spare_messages = spare_messages
        self.spare_bytes = spare_bytes
        self.open = messages_max > 0

    def add(self, run: Run) -> Run | None:
        """Add as much of *run* as has room; return the rest, all of it at worst."""
        size = run[3]
        cost = run[5] if size == run[4] else run.bytes_of(size)
        if size <= self.messages_left and cost <= self.bytes_left:
            rest = None
        elif (
            self.runs
            and size <= self.messages_left + self.spare_messages
            and cost <= self.bytes_left + self.spare_bytes
        ):
            # Credit has room for all of it, only this pick has not: cutting a batch costs decoding and packing it.
            self.open = False
            return run
        elif size <= self.messages_left and cost <= min(self.bytes_left + self.spare_bytes, WHOLE_RUN_BYTES_MAX):
            rest = None
        else:
            count = min(size, self.messages_left)
            if run.bytes_of(count) > self.bytes_left:
                count = max(self.bytes_left, 0) * run.batch_count // run.batch_bytes
                if count == 0:
                    if self.runs:
                        self.open = False
                        return run
                    count = 1
            if count < size:
                run, rest = run.split(count)
                size = count
                self.open = False
            else:
                rest = None
            cost = run.bytes_of(size)
        self.runs.append(run)
        self.messages += size
        self.bytes += cost
        self.messages_left -= size
        self.bytes_left -= cost
        if self.messages_left <= 0 or self.bytes_left <= 0:
            self.open = False
        return rest


class Dispatcher:
    """Hands ready messages to consumers, in turn, within their credit.

    Args:
        machine: The machine whose queues it serves; read, never changed.
        grant_messages_max: Most messages of one pick.
        grant_bytes_max: Most bytes of one pick, about; one message is always taken.

    """

    def __init__(
        self,
        machine: Machine,
        *,
        grant_messages_max: int = GRANT_MESSAGES_MAX,
        grant_bytes_max: int = GRANT_BYTES_MAX,
    ) -> None:
        self._machine = machine
        self._messages_max = grant_messages_max
        self._bytes_max = grant_bytes_max
        # A line stays when its last consumer goes: its cursor knows what is in flight.
        self._lines: dict[int, _Line] = {}
        self._sessions: dict[int, dict[int, _Consumer]] = {}
        # In turn; lines of deleted queues are dropped when they are met, or once they are the larger half.
        self._waiting: deque[_Line] = deque()
        self._lines_gone_waiting = 0
        self._stalled: dict[Chunk, _Line] = {}
        self._missing: list[Chunk] = []

    # --- consumers -----------------------------------------------------------------------------------------------

    def add_consumer(self, session: int, consumer: int, queue_id: int, credit_messages: int, credit_bytes: int) -> None:
        """Let a consumer take part, with a credit of unsettled messages and bytes.

        The queue must exist, and the consumer's number must be new in its session: its tags begin at 1.
        """
        line = self._lines.get(queue_id)
        if line is None:
            queue = self._machine.queue(queue_id)
            assert queue is not None, "a consumer reads a queue that exists"
            line = self._lines[queue_id] = _Line(queue)
        numbers = self._sessions.setdefault(session, {})
        assert consumer not in numbers, "a consumer's number is used once in a session"
        added = numbers[consumer] = _Consumer(session, consumer, line, credit_messages, credit_bytes)
        line.consumers[session, consumer] = added
        self._enlist(added)

    def remove_consumer(self, session: int, consumer: int) -> None:
        """Give the consumer nothing more; what it holds stays with it until it is settled. Unknown ones are fine."""
        numbers = self._sessions.get(session, {})
        removed = numbers.pop(consumer, None)
        if removed is not None:
            removed.line.drop_consumer(removed)
            if not numbers:
                del self._sessions[session]

    def set_credit(self, session: int, consumer: int, credit_messages: int, credit_bytes: int) -> None:
        """Replace a consumer's credit; zero messages pause it. Unknown consumers are passed over."""
        found = self._find(session, consumer)
        if found is not None:
            found.credit_messages = credit_messages
            found.credit_bytes = credit_bytes
            self._enlist(found)

    def settled(self, session: int, consumer: int, tags: Sequence[int]) -> None:
        """Restore the credit of these tags. Tags that are free already, and unknown consumers, are passed over."""
        found = self._find(session, consumer)
        if found is not None:
            found.let_go(tags)
            self._enlist(found)

    def consumers_of(self, queue_id: int) -> list[tuple[int, int]]:
        """Return (session, consumer) of all consumers of a queue."""
        line = self._lines.get(queue_id)
        return [] if line is None else list(line.consumers)

    def consumer_count(self, queue_id: int) -> int:
        """Return how many consumers a queue has."""
        line = self._lines.get(queue_id)
        return 0 if line is None else len(line.consumers)

    def held(self, session: int, consumer: int) -> tuple[int, int]:
        """Return how many messages, and about how many bytes, count against a consumer's credit."""
        found = self._find(session, consumer)
        return (0, 0) if found is None else (found.held_messages, found.held_bytes)

    # --- what the machine did ------------------------------------------------------------------------------------

    def on_effects(self, effects: Iterable[Effect]) -> None:
        """Follow what an entry did. LeasesGone restores credit, so no `settled` is needed for it."""
        for effect in effects:
            if isinstance(effect, Ready):
                self.ready(effect.queue_id)
            elif isinstance(effect, Returned):
                self.returned(effect.queue_id, effect.runs)
            elif isinstance(effect, LeasesGone):
                self.settled(effect.session, effect.consumer, effect.tags)
            elif isinstance(effect, QueuePurged):
                self._purged(effect.queue_id)
            elif isinstance(effect, QueueCut):
                self._cut(effect.queue_id)
            elif isinstance(effect, QueueGone):
                self._queue_gone(effect.queue_id)
            elif isinstance(effect, SessionGone):
                for consumer in list(self._sessions.get(effect.session, ())):
                    self.remove_consumer(effect.session, consumer)

    def ready(self, queue_id: int) -> None:
        """Note that messages came in behind the tail of a queue."""
        line = self._lines.get(queue_id)
        if line is not None and not line.waiting:
            line.waiting = True
            self._waiting.append(line)

    def returned(self, queue_id: int, runs: Iterable[Run]) -> None:
        """Note that runs went back to their former places: they are offered first."""
        line = self._lines.get(queue_id)
        if line is not None:
            line.returned.update((run.place, run) for run in runs)
            self.ready(queue_id)

    def _purged(self, queue_id: int) -> None:
        line = self._lines.get(queue_id)
        if line is not None:
            line.returned.clear()

    def _cut(self, queue_id: int) -> None:
        """Begin at the front again. What is picked and not granted yet is picked twice; the second grant is void."""
        line = self._lines.get(queue_id)
        if line is not None:
            line.returned = SortedDict((run.place, run) for run in line.queue.returned)
            line.ordinal, line.first = line.queue.main.head, 0
            self.ready(queue_id)

    def _queue_gone(self, queue_id: int) -> None:
        for session, consumer in self.consumers_of(queue_id):
            self.remove_consumer(session, consumer)
        line = self._lines.pop(queue_id, None)
        if line is not None and line.waiting:
            self._lines_gone_waiting += 1
            line.gone = True
            if 2 * self._lines_gone_waiting > len(self._waiting):
                self._waiting = deque(waiting for waiting in self._waiting if not waiting.gone)
                self._lines_gone_waiting = 0

    # --- picking -------------------------------------------------------------------------------------------------

    def next_pick(self, blocked: Container[int] = ()) -> Pick | None:
        """Return the next pick over all queues, one queue after the other; None when nothing can be dispatched.

        Queues in *blocked* are passed over; call `ready` for each of them when it is blocked no longer.
        """
        waiting = self._waiting
        while waiting:
            line = waiting.popleft()
            if line.gone:
                self._lines_gone_waiting -= 1
                continue
            if line.queue.id in blocked:
                line.waiting = False
                continue
            pick = self._pick(line)
            if pick is not None:
                waiting.append(line)
                return pick
            line.waiting = False
        return None

    def next_grant(self, queue_id: int) -> Pick | None:
        """Return the next pick of one queue; None when it has no messages left, or no consumer with credit."""
        line = self._lines.get(queue_id)
        return None if line is None else self._pick(line)

    def _pick(self, line: _Line) -> Pick | None:
        if not line.offers:
            return None
        consumer = line.next_consumer()
        if consumer is None:
            return None
        credit_messages = consumer.credit_messages - consumer.held_messages
        credit_bytes = consumer.credit_bytes - consumer.held_bytes
        messages_max, bytes_max = min(credit_messages, self._messages_max), min(credit_bytes, self._bytes_max)
        runs, messages, bytes_ = line.take(
            messages_max, bytes_max, credit_messages - messages_max, credit_bytes - bytes_max
        )
        if line.stalled:
            self._stall(line)
        if not runs:
            consumer.listed = True
            line.able.appendleft(consumer)
            return None
        first_tag = consumer.hold(messages, bytes_)
        line.list_consumer(consumer)
        return Pick(line.queue.id, consumer.session, consumer.number, first_tag, runs, messages, bytes_)

    # --- what is not in memory -----------------------------------------------------------------------------------

    def take_missing(self) -> list[Chunk]:
        """Return the chunks that picks wait for, and some that follow them; each must come back through `filled`."""
        missing = self._missing
        if missing:
            self._missing = []
        return missing

    def filled(self, chunks: Iterable[Chunk]) -> None:
        """Note that *chunks* are in memory, or have left their queues."""
        for chunk in chunks:
            line = self._stalled.pop(chunk, None)
            if line is not None:
                self.ready(line.queue.id)

    def _stall(self, line: _Line) -> None:
        line.stalled = False
        missing = line.queue.main.missing(line.ordinal, AHEAD_RUNS)
        self._stalled[missing[0]] = line
        self._missing += missing

    def _find(self, session: int, consumer: int) -> _Consumer | None:
        numbers = self._sessions.get(session)
        return None if numbers is None else numbers.get(consumer)

    def _enlist(self, consumer: _Consumer) -> None:
        consumer.line.list_consumer(consumer)
        if consumer.listed:
            self.ready(consumer.line.queue.id)
