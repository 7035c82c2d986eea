"""The dispatcher: picks messages for consumers, one queue after the other.

A pick is a plan: it becomes true when its GRANT entry is applied. Rules for the caller, without which messages would
wait until the next leader:

- every pick is appended as a GRANT, in the order of the picks (`grant_of`);
- `on_effects` gets the effects of every entry, right after its apply and before the next pick;
- `granted` is called for each pick once its GRANT is applied;
- a new leader builds a new dispatcher from the machine, once it has applied the log.

The cost of a pick depends on what it takes, not on how many queues, consumers or messages there are. This module must
not know time, connections or the log.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from sluicemq.broker.queues.dispatching.consumers import Consumer
from sluicemq.broker.queues.dispatching.line import Line
from sluicemq.broker.queues.dispatching.modes import holder_against
from sluicemq.broker.queues.entries import Grant, GrantPlaced
from sluicemq.broker.queues.outcomes import (
    LeasesGone,
    LeasesOver,
    QueueGone,
    QueuePurged,
    Ready,
    Removed,
    Returned,
    SessionGone,
)
from sluicemq.broker.queues.pauses import PAUSED_DELIVER
from sluicemq.broker.queues.runs import flat_runs
from sluicemq.broker.queues.shaping.gates import CLOSED, OPEN

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable, Sequence

    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.dispatching.key_order import KeyOrder
    from sluicemq.broker.queues.dispatching.policies import Chance
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Effect
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run
    from sluicemq.broker.queues.shaping.gates import Gates, Room
    from sluicemq.broker.queues.tags import Span

GRANT_MESSAGES_MAX = 4_096
"""Most messages of one pick."""
GRANT_BYTES_MAX = 1024 * 1024
"""Most bytes of one pick, about; one message is always taken."""


def _no_chance(below: int) -> int:
    raise AssertionError(f"a policy asks for chance, and the dispatcher has none: {below}")


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
        placed: Whether the messages may lie anywhere in the queue, so that the GRANT has to name their places.

    """

    queue_id: int
    session: int
    consumer: int
    first_tag: int
    runs: list[Run]
    messages: int
    bytes: int
    placed: bool = False


def grant_of(pick: Pick, log_time_ms: int) -> Grant:
    """Return the entry that makes *pick* true."""
    if not pick.placed:
        return Grant(log_time_ms, pick.queue_id, pick.session, pick.consumer, pick.first_tag, flat_runs(pick.runs))
    places: list[int] = []
    for run in pick.runs:
        places += (run.ready, run.zxid, run.first, run.size)
    return GrantPlaced(log_time_ms, pick.queue_id, pick.session, pick.consumer, pick.first_tag, places)


class Attached(NamedTuple):
    """How a consumer of a queue stands.

    Attributes:
        session: Number of the session.
        consumer: Number of the consumer within it.
        weight: Its weight.
        active: Whether it takes part; with one active consumer, the others wait for it to go.
        held_messages: Messages that it has and has not settled.
        held_bytes: About their bytes.
        credit_messages: Most messages that it may hold.

    """

    session: int
    consumer: int
    weight: int
    active: bool
    held_messages: int
    held_bytes: int
    credit_messages: int


class Dispatcher:
    """Hands ready messages to consumers, in turn, within their credit.

    Args:
        machine: The machine whose queues it serves; read, never changed.
        chance: Returns an integer from 0 to below its argument, for policies that need one; it may come from anywhere,
            as no broker's state depends on it.
        grant_messages_max: Most messages of one pick.
        grant_bytes_max: Most bytes of one pick, about; one message is always taken.
        gates: How much of which queue may go now; None: no queue has a limit. Whoever keeps it calls `ready` for a
            queue whose gate is due.

    Attributes:
        unfinished: Whether the last `next_pick` gave up looking, so that asking again makes sense.

    """

    def __init__(
        self,
        machine: Machine,
        *,
        chance: Chance = _no_chance,
        grant_messages_max: int = GRANT_MESSAGES_MAX,
        grant_bytes_max: int = GRANT_BYTES_MAX,
        gates: Gates | None = None,
    ) -> None:
        self._machine = machine
        self._chance = chance
        self._messages_max = grant_messages_max
        self._bytes_max = grant_bytes_max
        self._gates = gates
        # A line stays when its last consumer goes: its cursor knows what is in flight.
        self._lines: dict[int, Line] = {}
        self._sessions: dict[int, dict[int, Consumer]] = {}
        # In turn; lines of deleted queues are dropped when they are met, or once they are the larger half.
        self._waiting: deque[Line] = deque()
        self._lines_gone_waiting = 0
        self._stalled: dict[Chunk, Line] = {}
        self._missing: list[Chunk] = []
        self.unfinished = False

    # --- consumers -----------------------------------------------------------------------------------------------

    def add_consumer(
        self,
        session: int,
        consumer: int,
        queue_id: int,
        credit_messages: int,
        credit_bytes: int,
        weight: int = 1,
        *,
        held: Sequence[Span] = (),
    ) -> None:
        """Let a consumer take part, with a credit of unsettled messages and bytes.

        It holds the messages of the spans *held* already, ascending: those that another leader gave it.

        The queue must exist, and the consumer's number must be new in its session: its tags begin at 1, or behind
        those that it holds. In a queue of mode `exclusive`, `holder_against` tells before whether it may come.
        """
        line = self._line(queue_id)
        self._follow_settings(line)
        numbers = self._sessions.setdefault(session, {})
        assert consumer not in numbers, "a consumer's number is used once in a session"
        added = numbers[consumer] = Consumer(session, consumer, credit_messages, credit_bytes, weight)
        for span in held:
            added.hold_again(span)
        line.add_consumer(added)
        self._enlist(added)

    def holder_against(self, queue_id: int) -> tuple[int, int] | None:
        """Return (session, consumer) of the one because of which no other may consume the queue; None: one may."""
        line = self._lines.get(queue_id)
        queue = self._machine.queue(queue_id)
        if line is None or queue is None:
            return None
        holder = holder_against(queue.settings["mode"], line.consumers.values())
        return None if holder is None else holder.identity

    def _line(self, queue_id: int) -> Line:
        line = self._lines.get(queue_id)
        if line is None:
            queue = self._machine.queue(queue_id)
            assert queue is not None, "a consumer reads a queue that exists"
            line = self._lines[queue_id] = Line(queue, self._chance)
            line.gate = None if self._gates is None else self._gates.of(queue)
        return line

    def _follow_settings(self, line: Line) -> None:
        line.follow_settings()
        if self._gates is not None:
            line.gate = self._gates.of(line.queue)

    def remove_consumer(self, session: int, consumer: int) -> None:
        """Give the consumer nothing more; what it holds stays with it until it is settled. Unknown ones are fine."""
        numbers = self._sessions.get(session, {})
        removed = numbers.pop(consumer, None)
        if removed is not None:
            line = removed.line
            line.drop_consumer(removed)
            if not numbers:
                del self._sessions[session]
            if line.single or line.keys is not None:
                self.ready(line.queue.id)

    def set_credit(self, session: int, consumer: int, credit_messages: int, credit_bytes: int) -> None:
        """Replace a consumer's credit; zero messages pause it. Unknown consumers are passed over."""
        found = self._find(session, consumer)
        if found is not None:
            found.credit_messages = credit_messages
            found.credit_bytes = credit_bytes
            self._enlist(found)

    def set_weight(self, session: int, consumer: int, weight: int) -> None:
        """Replace a consumer's weight: where that is another one, it comes to its queue anew, behind the others."""
        found = self._find(session, consumer)
        if found is not None and found.weight != weight:
            line = found.line
            line.drop_consumer(found)
            found.weight = weight
            found.gone = found.listed = False
            found.eligible = True
            line.add_consumer(found)
            self._enlist(found)
            if line.single or line.keys is not None:
                self.ready(line.queue.id)

    def tags_go_on(self, session: int, consumer: int, last_tag: int) -> int:
        """Let a consumer's tags go on behind *last_tag*, unless they are beyond it; return the next one."""
        found = self._find(session, consumer)
        assert found is not None, "a consumer whose tags go on is there"
        found.next_tag = max(found.next_tag, last_tag + 1)
        return found.next_tag

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

    def attached(self, queue_id: int) -> list[Attached]:
        """Return how each consumer of a queue stands, in the order in which they came."""
        line = self._lines.get(queue_id)
        if line is None:
            return []
        self._follow_settings(line)
        return [
            Attached(
                consumer.session,
                consumer.number,
                consumer.weight,
                line.active is None or consumer is line.active,
                consumer.held_messages,
                consumer.held_bytes,
                consumer.credit_messages,
            )
            for consumer in line.consumers.values()
        ]

    def held(self, session: int, consumer: int) -> tuple[int, int]:
        """Return how many messages, and about how many bytes, count against a consumer's credit."""
        found = self._find(session, consumer)
        return (0, 0) if found is None else (found.held_messages, found.held_bytes)

    def is_active(self, session: int, consumer: int) -> bool:
        """Return whether a consumer takes part, and does not wait for another one to go."""
        found = self._find(session, consumer)
        return found is not None and found.eligible

    def planned_messages(self, queue_id: int) -> int:
        """Return how many messages of a queue are picked while the machine still shows them as ready."""
        line = self._lines.get(queue_id)
        return 0 if line is None else line.planned

    # --- what the machine did ------------------------------------------------------------------------------------

    def on_effects(self, effects: Iterable[Effect]) -> None:
        """Follow what an entry did. LeasesGone restores credit, so no `settled` is needed for it."""
        for effect in effects:
            follow = _FOLLOW.get(type(effect))
            if follow is not None:
                follow(self, effect)

    def _session_gone(self, effect: SessionGone) -> None:
        for consumer in list(self._sessions.get(effect.session, ())):
            self.remove_consumer(effect.session, consumer)

    def granted(self, pick: Pick, void: Sequence[int] = ()) -> None:
        """Note that the GRANT of *pick* was applied, but for the tags in the ranges *void*."""
        line = self._lines.get(pick.queue_id)
        if line is None:
            return
        line.planned -= pick.messages
        consumer = line.consumers.get((pick.session, pick.consumer))
        if consumer is not None:
            consumer.planned -= pick.messages
        if void and line.keys is not None:
            line.keys.void(pick.runs, pick.first_tag, void)
        elif void:
            line.is_astray = True
        if void or line.single or line.is_astray:
            self.ready(pick.queue_id)

    def ready(self, queue_id: int) -> None:
        """Note that there may be something to pick from a queue: messages, or somebody who may take them."""
        line = self._lines.get(queue_id)
        if line is not None and not line.waiting:
            line.waiting = True
            self._waiting.append(line)

    def returned(self, queue_id: int, runs: Iterable[Run]) -> None:
        """Note that runs went back to their former places: they are offered first."""
        line = self._lines.get(queue_id)
        if line is not None:
            line.returned_to_places(runs)
            self.ready(queue_id)

    def removed(self, queue_id: int, runs: Iterable[Run]) -> None:
        """Note that runs which had gone back to their places are not there any more."""
        line = self._lines.get(queue_id)
        if line is not None:
            line.removed(runs)

    def leases_over(self, queue_id: int, keys: Sequence[int]) -> None:
        """Note that leases of a queue ended whose messages had *keys*, `[key, messages, ...]`."""
        line = self._lines.get(queue_id)
        if line is not None:
            if line.keys is not None:
                line.keys.freed(keys)
            self.ready(queue_id)

    def _purged(self, queue_id: int) -> None:
        line = self._lines.get(queue_id)
        if line is not None:
            line.purged()

    def _queue_gone(self, queue_id: int) -> None:
        for session, consumer in self.consumers_of(queue_id):
            self.remove_consumer(session, consumer)
        line = self._lines.pop(queue_id, None)
        if self._gates is not None:
            self._gates.forget(queue_id)
        if line is not None and line.waiting:
            self._lines_gone_waiting += 1
            line.gone = True
            if 2 * self._lines_gone_waiting > len(self._waiting):
                self._waiting = deque(waiting for waiting in self._waiting if not waiting.gone)
                self._lines_gone_waiting = 0

    # --- picking -------------------------------------------------------------------------------------------------

    def next_pick(self, blocked: Container[int] = ()) -> Pick | None:
        """Return the next pick over all queues, one queue after the other; None when nothing can be dispatched.

        None while `unfinished` says that there may be more: a queue of which only few messages may go is looked
        through in steps. Queues in *blocked* are passed over; call `ready` for each of them when it is blocked no
        longer.
        """
        waiting = self._waiting
        self.unfinished = False
        while waiting:
            line = waiting.popleft()
            if line.gone:
                self._lines_gone_waiting -= 1
                continue
            if line.queue.id in blocked or self._is_paused(line.queue):
                line.waiting = False
                continue
            pick = self._pick(line)
            if pick is not None:
                waiting.append(line)
                return pick
            if line.unfinished:
                waiting.append(line)
                self.unfinished = True
                return None
            line.waiting = False
            if line.gate is not None:
                line.gate.rests()
        return None

    def next_grant(self, queue_id: int) -> Pick | None:
        """Return the next pick of one queue; None when it has no messages left, or no consumer with credit."""
        line = self._lines.get(queue_id)
        return None if line is None or self._is_paused(line.queue) else self._pick(line)

    def _is_paused(self, queue: Queue) -> bool:
        """Return whether nothing is delivered from a queue: it is paused, or the topic that it is a subscription of."""
        return bool(queue.paused & PAUSED_DELIVER) or self._machine.sources.holds_back(queue.id)

    def _pick(self, line: Line) -> Pick | None:
        if line.settings is not line.queue.settings:
            self._follow_settings(line)
        if line.keys is not None:
            return self._pick_by_key(line, line.keys)
        if line.is_astray:
            if line.planned:
                return None  # what is under way is judged first
            line.begin_again()
        if not line.offers or (line.single and line.closed):
            return None
        consumer = line.policy.next()
        if consumer is None:
            return None
        gate = line.gate
        pick = self._pick_for(line, consumer, OPEN if gate is None else gate.room(line.planned, line.takers))
        if pick is None:
            line.policy.undo(consumer)
        elif gate is not None:
            gate.took(pick.messages, pick.bytes)
        return pick

    def _pick_for(self, line: Line, consumer: Consumer, room: Room) -> Pick | None:
        """Pick for a consumer within its credit and what may go."""
        if room is CLOSED:
            return None
        credit_messages = min(consumer.credit_messages - consumer.held_messages, room.messages)
        credit_bytes = min(consumer.credit_bytes - consumer.held_bytes, room.bytes)
        messages_max, bytes_max = min(credit_messages, self._messages_max), min(credit_bytes, self._bytes_max)
        runs, messages, bytes_ = line.take(
            messages_max, bytes_max, credit_messages - messages_max, credit_bytes - bytes_max
        )
        if line.stalled:
            self._stall(line)
        if not runs:
            return None
        first_tag = consumer.hold(messages, bytes_)
        line.planned += messages
        if consumer.able:
            line.policy.add(consumer)
        return Pick(line.queue.id, consumer.session, consumer.number, first_tag, runs, messages, bytes_)

    def _pick_by_key(self, line: Line, keys: KeyOrder) -> Pick | None:
        keys.unfinished = False
        if not keys.offers or (line.single and line.closed):
            return None
        gate = line.gate
        if gate is None:
            box = keys.next_box(self._messages_max, self._bytes_max)
        else:
            room = gate.room(line.planned, line.takers)
            if room is CLOSED:
                return None
            box = keys.next_box(
                min(room.messages, self._messages_max), min(room.bytes, self._bytes_max), room.all_messages
            )
        if keys.wanted:
            self._stall(line)
        if box is None:
            return None
        if gate is not None:
            gate.took(box.messages, box.bytes)
        consumer = box.consumer
        first_tag = consumer.tag(box.messages, box.bytes)
        line.planned += box.messages
        return Pick(
            line.queue.id, consumer.session, consumer.number, first_tag, box.runs, box.messages, box.bytes, placed=True
        )

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
                if line.keys is not None:
                    line.keys.filled(chunk)
                self.ready(line.queue.id)

    def _stall(self, line: Line) -> None:
        missing = [chunk for chunk in line.missing() if chunk not in self._stalled]
        self._stalled.update(dict.fromkeys(missing, line))
        self._missing += missing

    def _find(self, session: int, consumer: int) -> Consumer | None:
        numbers = self._sessions.get(session)
        return None if numbers is None else numbers.get(consumer)

    def _enlist(self, consumer: Consumer) -> None:
        line = consumer.line
        if line.credit_changed(consumer):
            self.ready(line.queue.id)


_FOLLOW: dict[type[Effect], Callable[[Dispatcher, Any], None]] = {
    Ready: lambda dispatcher, effect: dispatcher.ready(effect.queue_id),
    Returned: lambda dispatcher, effect: dispatcher.returned(effect.queue_id, effect.runs),
    Removed: lambda dispatcher, effect: dispatcher.removed(effect.queue_id, effect.runs),
    LeasesOver: lambda dispatcher, effect: dispatcher.leases_over(effect.queue_id, effect.keys),
    LeasesGone: lambda dispatcher, effect: dispatcher.settled(effect.session, effect.consumer, effect.tags),
    QueuePurged: lambda dispatcher, effect: dispatcher._purged(effect.queue_id),
    QueueGone: lambda dispatcher, effect: dispatcher._queue_gone(effect.queue_id),
    SessionGone: Dispatcher._session_gone,
}
