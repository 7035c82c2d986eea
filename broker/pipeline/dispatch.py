"""Stage 6, dispatch: ready messages go to consumers within their credit.

The pure `Dispatcher` decides who gets what; this stage finds the bodies, appends the GRANT that records the decision
and hands the frames to the consumer's session. It sends at once and does not wait for the GRANT's commit: what the
grant is based on is committed, and a verdict on it stands behind it in the log (design section 3). But it must have its
place in the log: where none is given for a moment, because the lead is being handed over, nothing is sent, or the next
leader would send the same to somebody else.
"""

from __future__ import annotations

import random
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import trio

from sluicemq.broker.pipeline.cargo import FRAME_OVERHEAD_BYTES, Cargo
from sluicemq.broker.pipeline.ground import BLOCKED_SECONDS
from sluicemq.broker.pipeline.loading import Load
from sluicemq.broker.pipeline.settled_before import screen
from sluicemq.broker.pipeline.telling import note_frames, notes_room
from sluicemq.broker.queues.chunks import ChunksMissing
from sluicemq.broker.queues.dispatching.dispatcher import Dispatcher
from sluicemq.broker.queues.outcomes import Granted
from sluicemq.storage.errors import MessageLost, ZxidNotFound
from sluicemq.wire.errors import ConsumerConflict, MessageNotFound, MessageTooLarge, QueueNotFound
from sluicemq.wire.frames import FRAME_BYTES_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluicemq.broker.pipeline.bodies import Stored
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.dispatching.dispatcher import Pick
    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run
    from sluicemq.broker.queues.tags import Span
    from sluicemq.broker.queues.window import IdWindow
    from sluicemq.wire.errors import SluiceError

LOAD_BYTES_MAX = 16 * 1024 * 1024
"""Most bytes of whole batches in memory for one cold pick, which may want one message of each of a thousand batches."""


HOLDER_AWAY_SECONDS = 0.5
"""When to ask again for an exclusive queue whose consumer has lost its connection."""


class Recipient(Protocol):
    """What dispatch needs of a consumer's session."""

    def deliver(
        self,
        consumer: int,
        first_tag: int,
        runs: list[int],
        parts: Sequence[bytes | memoryview],
        destinations: list[str] = ...,
        notes: list[dict[str, Any]] = ...,
    ) -> None:
        """Send the messages; called only while `takes_more` is true, or for the rest of the same pick."""

    def takes_more(self) -> bool:
        """Whether the session's outgoing buffer has room."""

    def consumer_ended(self, consumer: int, error: SluiceError) -> None:
        """Tell the client that the consumer is over, and why."""


class ConsumerOptions(NamedTuple):
    """What a consumer asks for.

    Attributes:
        credit_messages: Most messages that it may hold.
        credit_bytes: Most bytes that it may hold, about.
        lease_seconds: How long a message is its own.
        frame_bytes_max: Largest frame that it takes.
        weight: Its share, or its rank.

    """

    credit_messages: int
    credit_bytes: int
    lease_seconds: float
    frame_bytes_max: int = FRAME_BYTES_DEFAULT
    weight: int = 1


@dataclass(slots=True)
class _Consumer:
    """A consumer; without *recipient* its client is away, and it keeps its place.

    Its client knows nothing of tags below *first_tag* that were not delivered before it came back.
    """

    recipient: Recipient | None
    lease_seconds: float
    frame_bytes_max: int
    credit_messages: int
    credit_bytes: int
    first_tag: int = 1


class DispatchStage:
    """Who consumes what on this leader, and the work of sending it."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self.dispatcher = Dispatcher(road.machine, chance=random.Random().randrange, gates=road.shaping.gates)
        self._consumers: dict[tuple[int, int], _Consumer] = {}
        # Consumers that met a message too large for them: they get nothing more, and end once they hold nothing.
        self._ending: dict[tuple[int, int], tuple[Recipient, SluiceError]] = {}
        # Messages by queue that are sent and whose GRANT is not applied: the machine still counts them as ready.
        self._unapplied_messages: dict[int, int] = {}
        # Also those that were cancelled, as long as they hold leases: a nack asks for the queue's retry delay.
        self._queues_of_session: dict[int, dict[int, int]] = {}
        # Sessions whose outgoing buffer is full: their consumers have no credit for the time being.
        self._held_back: set[int] = set()
        self._loading: set[int] = set()
        self._cold_picks: list[tuple[Pick, object]] = []  # with the reader that `Bodies` knows
        self._cold = trio.Event()
        self.paused = False
        self.delivered_messages_total = 0

    # --- consumers --------------------------------------------------------------------------------------------

    def add_consumer(
        self,
        recipient: Recipient,
        session: int,
        consumer: int,
        queue_id: int,
        *,
        credit_messages: int,
        credit_bytes: int,
        lease_seconds: float,
        frame_bytes_max: int = FRAME_BYTES_DEFAULT,
        weight: int = 1,
    ) -> None:
        """Start delivering messages of the queue to *recipient*, in frames of at most *frame_bytes_max*."""
        held_back = session in self._held_back
        self.dispatcher.add_consumer(
            session, consumer, queue_id, 0 if held_back else credit_messages, 0 if held_back else credit_bytes, weight
        )
        self._consumers[session, consumer] = _Consumer(
            recipient, lease_seconds, frame_bytes_max, credit_messages, credit_bytes
        )
        self._queues_of_session.setdefault(session, {})[consumer] = queue_id
        self._road.unused.came_or_left(queue_id)
        self._road.again()

    def restore(self, session: int, consumer: int, queue_id: int, held: list[Span]) -> None:
        """Keep the place of a consumer of another leader that holds messages, until its client comes back."""
        self.dispatcher.add_consumer(session, consumer, queue_id, 0, 0, held=held)
        self._consumers[session, consumer] = _Consumer(None, 0.0, FRAME_BYTES_DEFAULT, 0, 0)
        self._queues_of_session.setdefault(session, {})[consumer] = queue_id

    def detach(self, session: int) -> None:
        """The client of a session is away: its consumers get nothing, and keep their places."""
        for consumer in list(self._queues_of_session.get(session, ())):
            found = self._consumers.get((session, consumer))
            if found is not None:
                found.recipient = None
                self.dispatcher.set_credit(session, consumer, 0, 0)
        for key in [key for key in self._ending if key[0] == session]:
            del self._ending[key]
        self._held_back.discard(session)

    def reattach(
        self, recipient: Recipient, session: int, consumer: int, queue: Queue, options: ConsumerOptions, last_tag: int
    ) -> int:
        """Deliver to a consumer that has come back; its tags go on behind *last_tag*, or where they were before.

        Returns:
            The tag with which what it gets begins.

        Raises:
            ConsumerConflict: Its place is another's.

        """
        found = self._consumers.get((session, consumer))
        if found is None:
            self.refuse_second(queue)
            self.dispatcher.add_consumer(session, consumer, queue.id, 0, 0, options.weight)
        else:
            self.dispatcher.set_weight(session, consumer, options.weight)
        first_tag = self.dispatcher.tags_go_on(session, consumer, last_tag)
        self._consumers[session, consumer] = _Consumer(
            recipient,
            options.lease_seconds,
            options.frame_bytes_max,
            options.credit_messages,
            options.credit_bytes,
            first_tag,
        )
        self._queues_of_session.setdefault(session, {})[consumer] = queue.id
        if session not in self._held_back:
            self.dispatcher.set_credit(session, consumer, options.credit_messages, options.credit_bytes)
        self._road.again()
        return first_tag

    def numbers_of(self, session: int) -> list[int]:
        """Return the numbers of a session's consumers, those that were cancelled and hold leases among them."""
        return list(self._queues_of_session.get(session, ()))

    def remove_consumer(self, session: int, consumer: int) -> None:
        """Deliver nothing more to the consumer; its leases stay."""
        self._ending.pop((session, consumer), None)
        if self._consumers.pop((session, consumer), None) is None:
            return
        self.dispatcher.remove_consumer(session, consumer)
        queue_id = self.queue_of(session, consumer)
        if queue_id is not None:
            self._road.unused.came_or_left(queue_id)
        if not self._road.settle.holds(session, consumer):
            self.leases_over(session, consumer)

    def _end_consumer(self, session: int, consumer: int, error: SluiceError) -> None:
        """Deliver nothing more to the consumer, and tell it so once all that it holds is settled: a client that must
        stop at a large message has handled what came before it."""
        recipient = self._consumers[session, consumer].recipient
        assert recipient is not None, "who is away gets nothing that could be too large"
        del self._consumers[session, consumer]
        self.dispatcher.remove_consumer(session, consumer)
        self._ending[session, consumer] = recipient, error
        if not self._road.settle.holds(session, consumer):
            self.leases_over(session, consumer)

    def _tell_end(self, session: int, consumer: int) -> None:
        found = self._ending.pop((session, consumer), None)
        if found is not None:
            recipient, error = found
            recipient.consumer_ended(consumer, error)

    def leases_over(self, session: int, consumer: int) -> None:
        """The consumer holds no lease any more: if it was cancelled, nothing will ever be asked about it."""
        if (session, consumer) in self._ending:
            # The verdict on this entry stands behind those on the consumer's last settlements: SETTLED goes out first.
            road = self._road
            road.propose(road.settle.clock_entry(), on_applied=lambda _outcome: self._tell_end(session, consumer))
        if (session, consumer) not in self._consumers:
            queues = self._queues_of_session.get(session)
            if queues is not None:
                queues.pop(consumer, None)
                if not queues:
                    del self._queues_of_session[session]

    def set_credit(self, session: int, consumer: int, credit_messages: int, credit_bytes: int) -> None:
        """Replace the consumer's limits."""
        found = self._consumers.get((session, consumer))
        if found is None:
            return
        found.credit_messages, found.credit_bytes = credit_messages, credit_bytes
        if session not in self._held_back:
            self.dispatcher.set_credit(session, consumer, credit_messages, credit_bytes)
            self._road.again()

    def is_active(self, session: int, consumer: int) -> bool:
        """Whether the consumer gets messages, and does not wait for another one to go."""
        return self.dispatcher.is_active(session, consumer)

    def refuse_second(self, queue: Queue) -> None:
        """Refuse another consumer of a queue that has its only one.

        Raises:
            ConsumerConflict: It has; the error names it.

        """
        holder = self.dispatcher.holder_against(queue.id)
        if holder is None:
            return
        session = self._road.machine.sessions.get(holder[0])
        client = "" if session is None else session.client_name
        away = self._road.sessions.is_away(holder[0])
        raise ConsumerConflict(
            f"queue {queue.name!r:.300} is exclusive, and consumer {holder[1]} of session {holder[0]} "
            f'(client {client!r:.100}) consumes it: wait until it goes, or declare the queue with mode="failover", '
            "where others may wait beside the active one",
            retry_after=HOLDER_AWAY_SECONDS if away else None,  # who does not come back in time is gone
            queue=queue.name,
            session=holder[0],
            consumer=holder[1],
            client_name=client,
        )

    def consumer_count(self, queue_id: int) -> int:
        """Return how many consumers the queue has on this leader."""
        return self.dispatcher.consumer_count(queue_id)

    def unapplied_messages(self, queue: Queue) -> int:
        """Return how many messages that *queue* counts as ready have been sent under a lease already."""
        # A purge that is applied before the grants takes their messages away.
        return min(self._unapplied_messages.get(queue.id, 0), queue.ready)

    def has_unapplied_grants(self, queue_id: int) -> bool:
        """Whether messages of the queue were sent to consumers that the machine still shows as ready."""
        return queue_id in self._unapplied_messages

    def queue_of(self, session: int, consumer: int) -> int | None:
        """Return the queue that the consumer consumes, or consumed until it was cancelled, if it holds leases."""
        return self._queues_of_session.get(session, {}).get(consumer)

    def retry_delay(self, session: int, consumer: int) -> float:
        """Return the seconds that a nack without a delay means for the consumer's queue."""
        queue_id = self.queue_of(session, consumer)
        queue = None if queue_id is None else self._road.machine.queue(queue_id)
        return 0.0 if queue is None else float(queue.settings["retry_delay"])

    def has_retry_policy(self, session: int, consumer: int) -> bool:
        """Whether the machine finds when a nacked message of the consumer's queue comes again."""
        queue_id = self.queue_of(session, consumer)
        queue = None if queue_id is None else self._road.machine.queue(queue_id)
        return queue is not None and queue.settings["retry"] is not None

    # --- what makes work --------------------------------------------------------------------------------------

    def settled(self, session: int, consumer: int, tags: list[int]) -> None:
        """Credit came back."""
        self.dispatcher.settled(session, consumer, tags)
        self._road.again()

    def session_has_room(self, session: int) -> None:
        """The session's outgoing buffer has room again: its consumers get their credit back."""
        if session not in self._held_back:
            return
        self._held_back.discard(session)
        for consumer in self._queues_of_session.get(session, ()):
            found = self._consumers.get((session, consumer))
            if found is not None:
                self.dispatcher.set_credit(session, consumer, found.credit_messages, found.credit_bytes)
        self._road.again()

    def _hold_back(self, session: int) -> None:
        """Take the credit of all consumers of the session away until it has room: each would send one pick more."""
        if session not in self._held_back:
            self._held_back.add(session)
            for consumer in self._queues_of_session.get(session, ()):
                if (session, consumer) in self._consumers:
                    self.dispatcher.set_credit(session, consumer, 0, 0)

    def queue_gone(self, queue_id: int, name: str) -> None:
        """The queue was deleted: its consumers end. Called before the dispatcher hears of it: it knows who they are."""
        self._road.shaping.queue_gone(queue_id)
        self._road.metering.queue_gone(queue_id)
        for session, consumer in sorted(self.dispatcher.consumers_of(queue_id)):
            recipient = self._consumers[session, consumer].recipient
            self.remove_consumer(session, consumer)
            if recipient is not None:
                recipient.consumer_ended(consumer, QueueNotFound(f"queue {name!r:.300} was deleted", queue=name))

    def session_gone(self, session: int) -> None:
        """The session ended: nothing more is delivered to its consumers."""
        for consumer in list(self._queues_of_session.get(session, ())):
            self.remove_consumer(session, consumer)
        for key in [key for key in self._ending if key[0] == session]:
            del self._ending[key]
        self._queues_of_session.pop(session, None)
        self._held_back.discard(session)

    def end(self) -> None:
        """The leadership is over: nobody reads what was chosen and not sent."""
        picks, self._cold_picks = self._cold_picks, []
        for _pick, reader in picks:
            self._road.bodies.end_reading(reader)

    # --- the work ---------------------------------------------------------------------------------------------

    def run(self, deadline: float) -> bool:
        """Send what may be sent until *deadline* (`time.perf_counter`); return whether some is left."""
        if self.paused:
            return False
        shaping = self._road.shaping
        shaping.look()
        more = self._send_picks(deadline)
        shaping.looked()
        missing = self.dispatcher.take_missing()
        if missing:
            self._road.want(missing)
        return more

    def _send_picks(self, deadline: float) -> bool:
        bodies = self._road.bodies
        if not self._road.takes_proposals:
            return False
        while (pick := self.dispatcher.next_pick(self._loading)) is not None:
            stored = {run.zxid: found for run in pick.runs if (found := bodies.get(run.zxid)) is not None}
            if not all(run.zxid in stored for run in pick.runs) or not self._send_stored(pick, stored):
                # The pick keeps its place: nothing else of this queue is picked until it was sent.
                self._loading.add(pick.queue_id)
                self._cold_picks.append((pick, bodies.begin_reading()))
                self._cold.set()
            if time.perf_counter() >= deadline:
                return True
            if not self._road.takes_proposals:
                return False
        return self.dispatcher.unfinished

    def _send_stored(self, pick: Pick, stored: dict[int, Stored]) -> bool:
        """Send a pick whose batches are *stored*; return whether that could be done without waiting for a page."""
        window = self._settled_window_of(pick)
        load = Load(partial(self._cargo_for, pick), pick.first_tag, self._road.bodies.forget_decoded)
        if window is not None:
            try:
                load.add_screened(screen(pick.runs, pick.first_tag, stored, window, self._road.clock.now_ms()), stored)
            except ChunksMissing:
                return False
        else:
            load.add(pick.runs, stored)
        self._send(pick, load)
        return True

    def _settled_window_of(self, pick: Pick) -> IdWindow | None:
        queue = self._road.machine.queue(pick.queue_id)
        return None if queue is None else queue.settled_window

    def _cargo_for(self, pick: Pick) -> Cargo:
        found = self._consumers.get((pick.session, pick.consumer))
        topic = self._road.machine.sources.topic_of(pick.queue_id)
        name = None if topic is None else topic.name
        frame_bytes_max = FRAME_BYTES_DEFAULT if found is None else found.frame_bytes_max
        queue = self._road.machine.queue(pick.queue_id)
        return Cargo(frame_bytes_max, name, notes_room(frame_bytes_max) if queue is not None and queue.notes else 0)

    def _send(self, pick: Pick, load: Load) -> None:
        road = self._road
        session, consumer, first_tag = pick.session, pick.consumer, pick.first_tag
        last_tag = first_tag + pick.messages - 1
        # The GRANT is appended even when the consumer has left meanwhile: the dispatcher has gone past these messages,
        # and the machine's verdict on the grant is what brings them back.
        entry = load.grant(pick, road.clock.now_ms())
        unapplied = self._unapplied_messages
        unapplied[pick.queue_id] = unapplied.get(pick.queue_id, 0) + pick.messages
        road.propose(entry, lazy=True, on_applied=lambda outcome: self._grant_applied(pick, outcome))
        found = self._consumers.get((session, consumer))
        if found is None or found.recipient is None or first_tag < found.first_tag:
            # Where the session lives on, the machine gives the lease to a consumer that will never hear of it.
            road.settle.give_back(session, consumer, [first_tag, last_tag])
            self.dispatcher.settled(session, consumer, [first_tag, last_tag])
            return
        for tag, cargo in load.parts:
            self._deliver(pick, tag, cargo, found, found.recipient)
        if load.known:
            road.settle.settle_known(session, consumer, load.known)
        unsent = load.unsent(last_tag)
        if unsent:
            road.settle.give_back(session, consumer, unsent)
            self._end_consumer(session, consumer, self._too_large(pick, load.parts[-1].cargo, found))
        if not found.recipient.takes_more():
            self._hold_back(session)

    def _deliver(self, pick: Pick, tag: int, cargo: Cargo, found: _Consumer, recipient: Recipient) -> None:
        """Send what the frames of *cargo* hold, from *tag* on."""
        road, messages = self._road, cargo.messages
        if not messages:
            return
        bytes_ = pick.bytes if messages == pick.messages else pick.bytes * messages // pick.messages
        last_tag = tag + messages - 1
        road.settle.granted(pick.session, pick.consumer, tag, last_tag, bytes_, found.lease_seconds)
        road.metering.delivered(pick.queue_id, messages)
        if road.shaping.gates:
            road.shaping.delivered(pick.queue_id, pick.session, pick.consumer, tag, last_tag)
        queue = road.machine.queue(pick.queue_id)
        if queue is not None and queue.notes:
            note_frames(cargo.frames, pick.runs, queue.notes, notes_room(found.frame_bytes_max))
        for frame in cargo.frames:
            if frame.destinations or frame.notes:
                recipient.deliver(pick.consumer, tag, frame.numbers, frame.parts, frame.destinations, frame.notes)
            else:
                recipient.deliver(pick.consumer, tag, frame.numbers, frame.parts)
            tag += frame.messages
        self.delivered_messages_total += messages

    def _grant_applied(self, pick: Pick, outcome: Outcome) -> None:
        """The machine shows the pick's messages as leased from here on."""
        assert isinstance(outcome.value, Granted), "a grant is always judged"
        self.dispatcher.granted(pick, outcome.value.void)
        left = self._unapplied_messages[pick.queue_id] - pick.messages
        if left:
            self._unapplied_messages[pick.queue_id] = left
        else:
            del self._unapplied_messages[pick.queue_id]

    def _too_large(self, pick: Pick, cargo: Cargo, consumer: _Consumer) -> MessageTooLarge:
        queue = self._road.machine.queue(pick.queue_id)
        name = "" if queue is None else queue.name
        limit = consumer.frame_bytes_max
        return MessageTooLarge(
            f"the next message of queue {name!r:.300} takes {cargo.too_large_bytes} bytes, but this connection takes "
            f"frames of {limit}; the message stays in the queue for others: connect with a larger frame_bytes_max",
            message_bytes=cargo.too_large_bytes,
            message_bytes_max=limit - FRAME_OVERHEAD_BYTES,
            frame_bytes_max=limit,
        )

    def _lost(self, pick: Pick, error: MessageNotFound) -> MessageLost:
        queue = self._road.machine.queue(pick.queue_id)
        cause = error.__cause__
        zxid = cause.zxid if isinstance(cause, ZxidNotFound) else pick.runs[0].zxid
        return MessageLost("" if queue is None else queue.name, zxid)

    async def send_cold_picks(self) -> None:
        """Read the bodies of picks that are not in memory, and send them, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._cold.wait()
                self._cold = trio.Event()
                picks, self._cold_picks = self._cold_picks, []
                for pick, reader in picks:
                    nursery.start_soon(self._load_and_send, pick, reader)

    async def _load_and_send(self, pick: Pick, reader: object) -> None:
        bodies = self._road.bodies
        try:
            load = Load(partial(self._cargo_for, pick), pick.first_tag, bodies.forget_decoded)
            window = self._settled_window_of(pick)
            tag = pick.first_tag
            for runs in _in_loads(pick.runs):
                stored = await bodies.load(run.zxid for run in runs)
                if window is None:
                    load.add(runs, stored)
                else:
                    look = partial(screen, runs, tag, stored, window, self._road.clock.now_ms())
                    load.add_screened(await self._road.look(look), stored)
                tag += sum(run.size for run in runs)
            while not (self._road.takes_proposals or self._road.over):  # noqa: ASYNC110 - milliseconds, and rare
                await trio.sleep(BLOCKED_SECONDS)
            self._send(pick, load)
        except MessageNotFound as error:
            lost = self._lost(pick, error)
            lost.__cause__ = error
            self._road.fail(lost)
            return
        except Exception as error:  # noqa: BLE001 - a log that cannot be read ends the broker, with its reason
            self._road.fail(error)
            return
        finally:
            bodies.end_reading(reader)
        self._loading.discard(pick.queue_id)
        self.dispatcher.ready(pick.queue_id)
        self._road.advance()


def _in_loads(runs: Sequence[Run]) -> Iterator[Sequence[Run]]:
    """Cut *runs* where their batches would take more than `LOAD_BYTES_MAX` together; one batch is always taken."""
    start = size = 0
    for position, run in enumerate(runs):
        if size and size + run.batch_bytes > LOAD_BYTES_MAX:
            yield runs[start:position]
            start, size = position, 0
        size += run.batch_bytes
    yield runs[start:]
