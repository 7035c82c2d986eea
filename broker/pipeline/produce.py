"""Stage 1, produce: a request is validated once and becomes an entry.

What can be refused on the applied state is refused here, early and typed; the machine judges again at apply. Must not
know sockets: replies leave through callbacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sluicemq.broker.pipeline.acknowledging import AtLeader
from sluicemq.broker.pipeline.grouping import groups_of
from sluicemq.broker.pipeline.identities import identities_of
from sluicemq.broker.pipeline.message_ids import MessageIds
from sluicemq.broker.pipeline.shaping import refuse_unknown_zone
from sluicemq.broker.queues.applying.limiting import refuse_overflow
from sluicemq.broker.queues.entries import (
    Declare,
    Delete,
    ProducerClose,
    ProducerOpen,
    Publish,
    PublishGrouped,
    PublishIdentified,
    Purge,
    SessionClose,
    SessionOpen,
)
from sluicemq.broker.queues.outcomes import Outcome, Published
from sluicemq.broker.queues.pauses import refuse_paused
from sluicemq.broker.queues.routing.topic import Topic
from sluicemq.broker.queues.shaping.admission import NOT_LIMITED
from sluicemq.wire.batch import (
    BATCH_BYTES_DEFAULT,
    BATCH_MESSAGES_MAX,
    DELIVERY_COLUMNS,
    MESSAGE_BYTES_DEFAULT,
    Batch,
    Column,
)
from sluicemq.wire.errors import BatchTooLarge, BrokerStopping, ProducerNotFound, QueueNotFound
from sluicemq.wire.messages import ACKS_ALL, ACKS_LEADER, ACKS_QUORUM
from sluicemq.wire.settings import check_name, check_own_dead_letter, check_queue_settings, compare_settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.sequences import Producer

_Common = tuple[int, int, int, int, int, int, None, bytes]
"""The first fields of a `Publish`."""
OnOutcome = Callable[[Any], None]
QUEUE = "queue"


class ProduceStage:
    """Makes entries of requests.

    Attributes:
        message_bytes_max: Largest message taken.
        batch_bytes_max: Largest batch taken.
        batch_messages_max: Most messages in a batch.
        stopping: Set when the broker takes no new work.

    """

    def __init__(self, road: Road) -> None:
        self._road = road
        self.message_bytes_max = MESSAGE_BYTES_DEFAULT
        self.batch_bytes_max = BATCH_BYTES_DEFAULT
        self.batch_messages_max = BATCH_MESSAGES_MAX
        self.stopping = False
        self.published_messages_total = 0
        self._ids: MessageIds | None = None
        self._ids_epoch = 0

    def refuse_when_stopping(self) -> None:
        """Raise `BrokerStopping` once the broker takes no new work."""
        if self.stopping:
            raise BrokerStopping("the broker is shutting down; the client tries again elsewhere or later")

    def find_queue(self, vhost: str, name: str) -> Queue:
        """Return the queue.

        Raises:
            QueueNotFound: None of that name.

        """
        queue = self._road.machine.find_queue(vhost, name)
        if queue is None:
            raise self.queue_not_found(name)
        return queue

    def find_destination(self, vhost: str, destination: str) -> Queue | Topic:
        """Return what is published to by this name: a queue, or the topic that owns it.

        Raises:
            QueueNotFound: Neither exists.

        """
        machine = self._road.machine
        target = machine.find_queue(vhost, destination) or machine.sources.owner_of(vhost, destination)
        if target is None:
            raise QueueNotFound(
                f"there is no queue {destination!r:.300}, and no topic that owns it; declare one first",
                queue=destination,
            )
        return target

    def queue_not_found(self, name: str) -> QueueNotFound:
        """Return the refusal for a queue that does not exist."""
        return QueueNotFound(f"there is no queue {name!r:.300}; declare it first", queue=name)

    def publish(
        self,
        vhost: str,
        identity: str,
        destination: str,
        producer: int,
        sequence: int,
        data: memoryview,
        on_outcome: OnOutcome,
        acks: int = ACKS_QUORUM,
    ) -> None:
        """Check the batch once and put it on the road; *on_outcome* hears the verdict when it is safe.

        Raises:
            ProtocolError: The batch is malformed.
            InvalidRequest: A value in it is wrong or too large.
            QueueNotFound: No such destination.
            ProducerNotFound: No such producer of this identity in this vhost.
            ProducerFenced: A newer producer of its name has taken over.
            BrokerStopping: The broker is shutting down.
            ResourceLow: The disk has no room for more.
            QueueFull: The queue's limit is reached, and it refuses what is beyond.
            QueuePaused: Publishing to it is paused.
            PublishLimited: More is published than it takes for now.

        """
        self.refuse_when_stopping()
        known = self.find_producer(vhost, identity, producer)
        machine = self._road.machine
        found = machine.find_queue(vhost, destination) or machine.sources.owner_of(vhost, destination)
        if 0 < sequence <= known.last and (found is None or found.window is None):
            # Sent again, and long since applied: nothing of it needs to enter the log a second time. Where ids count,
            # where each message lies may be on a page, and the road finds it there.
            on_outcome(Outcome(Published(known.receipt(sequence), 0, True, id_base=known.id_base(sequence))))
            return
        target = found or self.find_destination(vhost, destination)
        judges_ids = target.window is not None
        paused = None if judges_ids else refuse_paused(target)
        if paused is not None:
            raise paused
        self._road.space.refuse_publish()
        batch = self.checked_batch(data, [target])
        road = self._road
        admission = NOT_LIMITED
        if target.settings["publish_limit"] is not None and not 0 < sequence <= known.last:
            # What is sent again where ids count comes this far, and was counted when it was stored.
            admission = road.shaping.admission([(target, batch.count)])
        payload = bytes(batch.data)  # the same object
        now_ms = road.clock.now_ms()
        common = (now_ms, target.id, producer, sequence, batch.count, batch.body_bytes, None, payload)
        entry = self._entry_of(common, target, destination, batch)
        at_leader: AtLeader | None = None
        if acks == ACKS_ALL:
            on_outcome = road.acknowledging.for_all(on_outcome)
        elif acks == ACKS_LEADER and not judges_ids:  # what ids say of it, only apply knows
            on_outcome = at_leader = AtLeader(batch.count, on_outcome, entry.id_base)
        zxid = road.propose(entry, payload, on_applied=on_outcome)
        admission.use()
        road.bodies.add(zxid, entry)
        if at_leader is not None and zxid:
            road.acknowledging.at_leader(zxid, at_leader)

    def _entry_of(
        self, common: _Common, target: Queue | Topic, destination: str, batch: Batch
    ) -> Publish | PublishGrouped | PublishIdentified:
        """Return the entry of a checked batch, with *common* as its first fields, and as much as *target* needs of it.

        Raises:
            InvalidRequest: It says something that the target cannot do.
            QueueFull: The target has no room for it, and judges no ids.

        """
        groups: list[int] = []
        routes: list[str] = []
        identified = target.window is not None and batch.columns & Column.MESSAGE_IDS
        if isinstance(target, Topic):
            groups, routes = self._road.topics.groups_of(target, destination, batch, common[0])
        else:
            if not identified:  # else only what is new counts, and only apply knows
                _refuse_when_full(target, batch)
            keyed = target.settings["ordering"] == "key"
            if batch.columns & DELIVERY_COLUMNS or (keyed and batch.columns & Column.KEYS):
                groups = groups_of(batch, common[0], keyed=keyed)
        # As late as can be: what is refused before needs none.
        id_base = self.message_ids(batch.count, common[0])
        if identified:
            assert target.window is not None, "who judges ids has a window"
            scope = target.window.scope
            ids = identities_of(batch, scope)
            return PublishIdentified(*common, groups, routes, scope, ids, id_base=id_base)
        return PublishGrouped(*common, groups, routes, id_base=id_base) if groups else Publish(*common, id_base=id_base)

    def checked_batch(self, data: memoryview, targets: Sequence[Queue | Topic]) -> Batch:
        """Return the batch in *data*, which is for *targets*, as an object of its own; every value of it is checked.

        Raises:
            ProtocolError: It is malformed.
            InvalidRequest: A value in it is wrong or too large.
            BatchTooLarge: It has too many messages or bytes.

        """
        if len(data) > self.batch_bytes_max:
            raise BatchTooLarge(
                f"a batch of {len(data)} bytes; allowed are {self.batch_bytes_max}: send it in parts",
                batch_bytes=len(data),
                batch_bytes_max=self.batch_bytes_max,
            )
        batch = Batch(_own(data))
        if batch.count > self.batch_messages_max:
            raise BatchTooLarge(
                f"a batch of {batch.count} messages; allowed are {self.batch_messages_max}: send it in parts",
                messages=batch.count,
                messages_max=self.batch_messages_max,
            )
        message_bytes_max = self.message_bytes_max
        for target in targets:
            message_bytes_max = min(message_bytes_max, target.settings["message_bytes_max"] or message_bytes_max)
        batch.check(message_bytes_max=message_bytes_max)
        return batch

    def message_ids(self, count: int, now_ms: int) -> int:
        """Return the id of the first of *count* messages that are about to be published."""
        road = self._road
        if self._ids is None or self._ids_epoch != road.epoch:
            # All that stands before this epoch is applied before anybody publishes in it.
            self._ids, self._ids_epoch = MessageIds(road.node_id, road.machine.id_moment), road.epoch
        return self._ids.take(count, now_ms)

    def find_producer(self, vhost: str, identity: str, number: int) -> Producer:
        """Return the producer, as far as it is applied.

        Raises:
            ProducerNotFound: Unknown, forgotten, or not of this identity in this vhost.
            ProducerFenced: A newer producer of its name has taken over.

        """
        producers = self._road.machine.producers
        known = producers.get(number)
        if known is None:
            raise producers.unknown(number)
        if known.vhost != vhost or known.identity != identity:
            raise ProducerNotFound(f"producer {number} belongs to somebody else; open one of your own", producer=number)
        return known

    def open_session(
        self, vhost: str, identity: str, client_name: str, resume_token: bytes, on_outcome: OnOutcome
    ) -> None:
        """Make a session."""
        self.refuse_when_stopping()
        now_ms = self._road.clock.now_ms()
        self._road.propose(SessionOpen(now_ms, vhost, identity, client_name, resume_token), on_applied=on_outcome)

    def close_session(self, session: int, reason: str) -> None:
        """End a session; its leases return."""
        self._road.propose(SessionClose(self._road.clock.now_ms(), session, reason))

    def open_producer(self, vhost: str, name: str, identity: str, on_outcome: OnOutcome) -> None:
        """Make a producer; a name fences the older one.

        Raises:
            ResourceLow: The reserve of the disk is in use.

        """
        self.refuse_when_stopping()
        self._road.space.refuse_growth("opening a producer")
        if name:
            check_name(name, "producer")
        now_ms = self._road.clock.now_ms()
        self._road.propose(ProducerOpen(now_ms, vhost, name, identity), on_applied=on_outcome)

    def close_producer(self, vhost: str, identity: str, producer: int, on_outcome: OnOutcome) -> None:
        """Forget a producer. Raises as `find_producer`."""
        self.find_producer(vhost, identity, producer)
        self._road.propose(ProducerClose(self._road.clock.now_ms(), producer), on_applied=on_outcome)

    def declare_queue(self, vhost: str, name: str, settings: dict[str, Any], on_outcome: OnOutcome) -> None:
        """Make a queue or converge it.

        Raises:
            InvalidRequest: A bad name or setting.
            ResourceLow: The reserve of the disk is in use, and there is no such queue yet.

        """
        self.refuse_when_stopping()
        check_name(name)
        checked = check_queue_settings(settings)
        check_own_dead_letter(name, checked)
        refuse_unknown_zone(checked)
        entry = Declare(self._road.clock.now_ms(), vhost, QUEUE, name, checked)
        if self._road.machine.find_queue(vhost, name) is None:
            self._road.space.refuse_growth("making a queue")
        self._road.topics.note_order(vhost, name, checked)
        self._road.propose(entry, on_applied=on_outcome)

    def plan_queue(self, vhost: str, name: str, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return what `declare_queue` would do: the outcome, and each change as name -> [before, after].

        Raises:
            InvalidRequest: A bad name or setting.
            QueueConflict: It cannot be done while the queue holds messages; the error names what to do instead.

        """
        check_name(name)
        wanted = check_queue_settings(settings)
        check_own_dead_letter(name, wanted)
        refuse_unknown_zone(wanted)
        queue = self._road.machine.find_queue(vhost, name)
        if queue is None:
            return compare_settings(None, wanted)[:2]
        plan = compare_settings(queue.settings, wanted, name=name, messages=queue.messages)
        if plan.refusal is not None:
            raise plan.refusal
        return plan[:2]

    def delete_queue(self, vhost: str, name: str, if_empty: bool, on_outcome: OnOutcome) -> None:
        """Delete a queue with everything in it."""
        queue = self.find_queue(vhost, name)
        entry = Delete(self._road.clock.now_ms(), vhost, QUEUE, name, if_empty, queue.id)
        self._road.propose(entry, on_applied=on_outcome)

    def purge_queue(self, vhost: str, name: str, on_outcome: OnOutcome) -> None:
        """Drop what is ready or delayed in a queue."""
        queue = self.find_queue(vhost, name)
        self._road.propose(Purge(self._road.clock.now_ms(), queue.id), on_applied=on_outcome)


def _refuse_when_full(queue: Queue, batch: Batch) -> None:
    """Raise `QueueFull` where the batch does not fit as things stand; apply judges what is under way as well."""
    if queue.is_limited:
        refusal = refuse_overflow(queue, batch.count, len(batch.data))
        if refusal is not None:
            raise refusal


def _own(data: memoryview) -> bytes:
    """Return *data* as an object of its own, for the log and the cache: a view may point into a receive buffer.

    A large batch has been received into such an object already, and is not copied.
    """
    whole = data.obj
    return whole if type(whole) is bytes and len(whole) == len(data) else bytes(data)
