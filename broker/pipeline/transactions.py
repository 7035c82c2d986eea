"""Transactions and half messages on the leader: a request is checked once and becomes an entry.

What can be refused on the applied state is refused here, early and typed; the machine judges again at apply. Must not
know sockets: replies leave through callbacks. Who is asked about half messages is `checks`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.pipeline.grouping import groups_of
from sluicemq.broker.pipeline.identities import identities_of
from sluicemq.broker.pipeline.settle import check_ranges
from sluicemq.broker.queues.applying.halves import judge_decided
from sluicemq.broker.queues.applying.transactions import VERDICTS
from sluicemq.broker.queues.entries_of_transactions import (
    BY_SUBJECT,
    ID_BYTES,
    Prepare,
    Resolve,
    Settlement,
    Transaction,
)
from sluicemq.broker.queues.entry import GROUP_NUMBERS
from sluicemq.broker.queues.notes import TEXT_CHARACTERS_MAX
from sluicemq.broker.queues.outcomes import Outcome
from sluicemq.broker.queues.outcomes_of_transactions import Prepared, Transacted
from sluicemq.broker.queues.routing.topic import Topic
from sluicemq.broker.queues.shaping.admission import NOT_LIMITED
from sluicemq.broker.queues.tags import count_tags
from sluicemq.wire.batch import DELIVERY_COLUMNS, Batch, Column
from sluicemq.wire.errors import BatchTooLarge, InvalidRequest, TransactionNotFound
from sluicemq.wire.messages import TRANSACTION_PARTS_MAX, TRANSACTION_SETTLED_MAX, VERDICT_NACK
from sluicemq.wire.positions import format_position
from sluicemq.wire.routes import below
from sluicemq.wire.settings import DEDUP_SCOPES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.shaping.admission import Admission

OnOutcome = Callable[[Outcome], None]


class Wanted(NamedTuple):
    """A verdict that a transaction shall hold.

    Attributes:
        consumer: Number of the consumer within the session.
        verdict: One of the wire's `VERDICT_*`.
        delay_seconds: When a nacked message comes again; None: as the queue's retry policy says.
        tags: Ranges of tags.
        reason: Why.

    """

    consumer: int
    verdict: int
    delay_seconds: float | None
    tags: list[int]
    reason: str


class Sender(NamedTuple):
    """Who sends: vhost, identity, producer and the sequence that this has among all that the producer sends."""

    vhost: str
    identity: str
    producer: int
    sequence: int


class _Part(NamedTuple):
    """A part of a batch as entries hold it: target, number of its route, groups, texts of the routes, scope and ids."""

    target: Queue | Topic
    route: int
    groups: list[int]
    routes: list[str]
    scope: int = 0
    ids: bytes = b""


_TELLING = DELIVERY_COLUMNS | Column.KEYS | Column.SUBJECTS | Column.MESSAGE_IDS
"""Columns that say something about single messages."""


class TransactionStage:
    """Makes entries of requests that are about transactions."""

    def __init__(self, road: Road) -> None:
        self._road = road

    # --- transactions ----------------------------------------------------------------------------------------------

    def transact(
        self,
        sender: Sender,
        parts: Sequence[tuple[str, int]],
        data: memoryview,
        session: int,
        wanted: Sequence[Wanted],
        on_outcome: OnOutcome,
    ) -> None:
        """Put a transaction on the road; *on_outcome* hears the verdict when it is safe.

        Args:
            sender: Who sends it.
            parts: How many messages of the batch go to which destination, in order.
            data: The batch; empty where there are no parts.
            session: The session that holds what is settled.
            wanted: The verdicts.
            on_outcome: As above.

        Raises:
            ProtocolError: The batch is malformed.
            InvalidRequest: A value is wrong or too large, or parts and batch do not add up.
            QueueNotFound: No such destination.
            ProducerNotFound, ProducerFenced: As for a publish.
            BrokerStopping: The broker is shutting down.
            ResourceLow: The disk has no room for more.
            BatchTooLarge: More messages, bytes, destinations or verdicts than allowed.
            PublishLimited: A destination takes no more for now; none of it is counted.

        """
        produce = self._road.produce
        produce.refuse_when_stopping()
        known = produce.find_producer(sender.vhost, sender.identity, sender.producer)
        if 0 < sender.sequence <= known.last and not any(self._judges_ids(sender.vhost, name) for name, _ in parts):
            # Sent again, and long since applied: nothing of it needs to enter the log a second time. Where ids count,
            # where each message lies may be on a page, and the road finds it there.
            count, id_base = sum(size for _, size in parts), known.id_base(sender.sequence)
            on_outcome(Outcome(Transacted(known.receipt(sender.sequence), count, True, id_base=id_base)))
            return
        road = self._road
        now_ms = road.clock.now_ms()
        settlements = [self._settlement(session, each) for each in wanted]
        _check_size(len(parts), sum(count_tags(each.tags) for each in settlements))
        batch = None
        made: list[_Part] = []
        admission = NOT_LIMITED
        if parts:
            batch, made = self._parts(sender.vhost, parts, data, now_ms)
            if not 0 < sender.sequence <= known.last:  # what is sent again was counted when it was stored
                admission = self._admission([part.target for part in made], [count for _, count in parts])
        flat: list[int] = []
        groups: list[int] = []
        routes: list[str] = []
        ids: list[bytes] = []
        judged = any(part.scope for part in made)
        for (_, count), part in zip(parts, made, strict=True):
            offset = len(routes)
            route = part.route if part.route in (0, BY_SUBJECT) else part.route + offset
            flat += (part.target.id, count, route, part.scope)
            if judged:
                ids.append(part.ids or bytes(ID_BYTES * count))
            groups += _moved(part.groups, offset)
            routes += part.routes
        entry = Transaction(
            now_ms,
            sender.producer,
            sender.sequence,
            0 if batch is None else batch.count,
            0 if batch is None else batch.body_bytes,
            flat,
            groups,
            routes,
            session if settlements else 0,
            [number for each in settlements for number in _flat(each)],
            [each.reason for each in settlements],
            b"".join(ids),
            b"" if batch is None else batch.data,
            id_base=0 if batch is None else road.produce.message_ids(batch.count, now_ms),
        )

        def on_applied(outcome: Outcome) -> None:
            if isinstance(outcome.value, Transacted) and not outcome.value.duplicate:
                road.produce.published_messages_total += outcome.value.count
                for each in settlements:
                    road.settle.settled_elsewhere(session, each.consumer, each.tags, each.verdict)
            on_outcome(outcome)

        zxid = road.propose(entry, bytes(entry.payload), on_applied=on_applied)
        admission.use()
        if batch is not None:
            road.bodies.add(zxid, entry)

    def _admission(self, targets: Sequence[Queue | Topic], counts: Sequence[int]) -> Admission:
        """Return the right to publish to each target that is limited. Raises `PublishLimited`."""
        wanted: dict[int, tuple[Queue | Topic, int]] = {}
        for target, count in zip(targets, counts, strict=True):
            if target.settings["publish_limit"] is not None:
                wanted[target.id] = target, count + wanted.get(target.id, (target, 0))[1]
        return self._road.shaping.admission(list(wanted.values())) if wanted else NOT_LIMITED

    def _judges_ids(self, vhost: str, destination: str) -> bool:
        machine = self._road.machine
        target = machine.find_queue(vhost, destination) or machine.sources.owner_of(vhost, destination)
        return target is not None and target.window is not None

    def _settlement(self, session: int, wanted: Wanted) -> Settlement:
        if wanted.verdict not in VERDICTS:
            raise InvalidRequest(
                f"verdict {wanted.verdict} has no place in a transaction; known are {sorted(VERDICTS)}",
                verdict=wanted.verdict,
            )
        check_ranges(wanted.tags)
        due_ms = 0
        if wanted.verdict == VERDICT_NACK:
            due_ms = self._road.settle.due_ms(session, wanted.consumer, wanted.delay_seconds)
        return Settlement(wanted.consumer, wanted.verdict, due_ms, wanted.tags, wanted.reason[:TEXT_CHARACTERS_MAX])

    def _parts(
        self, vhost: str, parts: Sequence[tuple[str, int]], data: memoryview, now_ms: int
    ) -> tuple[Batch, list[_Part]]:
        """Return the checked batch, and what each part of it says about delivery."""
        road = self._road
        targets = [road.produce.find_destination(vhost, destination) for destination, _ in parts]
        road.space.refuse_publish()
        batch = road.produce.checked_batch(data, targets)
        if sum(count for _, count in parts) != batch.count or not all(count for _, count in parts):
            raise InvalidRequest(f"a batch of {batch.count} messages in parts of {[count for _, count in parts][:20]}")
        made: list[_Part] = []
        first = 0
        for (destination, count), target in zip(parts, targets, strict=True):
            alone = batch
            if len(parts) > 1 and batch.columns & _TELLING:
                alone = Batch(batch.part(first, count))
            part = self._part(target, destination, alone, count, now_ms)
            if target.window is not None and alone.columns & Column.MESSAGE_IDS:
                scope = target.window.scope
                part = part._replace(scope=scope + 1, ids=identities_of(alone, scope))
            made.append(part)
            first += count
        return batch, made

    def _part(self, target: Queue | Topic, destination: str, batch: Batch, count: int, now_ms: int) -> _Part:
        """Return what a part says about delivery; *batch* has at least the columns that tell."""
        if isinstance(target, Topic):
            groups, routes = self._road.topics.groups_of(target, destination, batch, now_ms)
            if batch.count != count and groups:  # it says nothing but where all of it goes
                groups = [count, *groups[1:GROUP_NUMBERS]]
            numbers = set(groups[GROUP_NUMBERS - 1 :: GROUP_NUMBERS])
            shared = BY_SUBJECT if len(numbers) > 1 else next(iter(numbers), 0)
            if shared and shared != BY_SUBJECT and not below(target.name, destination):
                shared = BY_SUBJECT
            return _Part(target, shared, groups or [count, 0, 0, 0, 0, 0], routes)
        keyed = target.settings["ordering"] == "key"
        groups = []
        if batch.columns & DELIVERY_COLUMNS or (keyed and batch.columns & Column.KEYS):
            groups = groups_of(batch, now_ms, keyed=keyed)
        return _Part(target, 0, groups or [count, 0, 0, 0, 0, 0], [])

    # --- half messages ---------------------------------------------------------------------------------------------

    def prepare(
        self,
        sender: Sender,
        destination: str,
        group: str,
        check_after_seconds: float,
        data: memoryview,
        on_outcome: OnOutcome,
    ) -> None:
        """Put a batch on the road that nobody sees until it is decided. Raises as `transact`."""
        road = self._road
        road.produce.refuse_when_stopping()
        known = road.produce.find_producer(sender.vhost, sender.identity, sender.producer)
        if 0 < sender.sequence <= known.last:
            on_outcome(Outcome(Prepared(known.receipt(sender.sequence), 0, True, known.id_base(sender.sequence))))
            return
        now_ms = road.clock.now_ms()
        target = road.produce.find_destination(sender.vhost, destination)
        road.space.refuse_publish()
        batch = road.produce.checked_batch(data, [target])
        part = self._part(target, destination, batch, batch.count, now_ms)
        admission = self._admission([target], [batch.count])
        # Whether a window judges them shows when it is committed: one may begin meanwhile.
        scope = DEDUP_SCOPES.index(target.settings["dedup_scope"])
        entry = Prepare(
            now_ms,
            target.id,
            sender.producer,
            sender.sequence,
            batch.count,
            batch.body_bytes,
            destination,
            group,
            round(check_after_seconds * 1000),
            part.route,
            part.groups,
            part.routes,
            batch.data,
            id_base=road.produce.message_ids(batch.count, now_ms),
            scope=scope + 1,
            ids=identities_of(batch, scope),
        )

        def on_applied(outcome: Outcome) -> None:
            road.checks.look()
            on_outcome(outcome)

        zxid = road.propose(entry, bytes(entry.payload), on_applied=on_applied)
        admission.use()
        road.bodies.add(zxid, entry)

    def resolve(self, vhost: str, number: int, commit: bool, on_outcome: OnOutcome) -> None:
        """Put a decision on the road; one that was made before is answered at once.

        Raises:
            TransactionNotFound: None of this number in this vhost.

        """
        road = self._road
        halves = road.machine.halves
        known = halves.get(number) or halves.decision(number)
        if known is not None and known.vhost != vhost:
            name = format_position(0, number, 0)
            raise TransactionNotFound(f"there is no prepared message {name} in this vhost", transaction=name)
        if halves.get(number) is None:
            on_outcome(judge_decided(road.machine, number, commit))
            return
        road.propose(Resolve(road.clock.now_ms(), number, commit), on_applied=on_outcome)


def _moved(groups: list[int], offset: int) -> list[int]:
    """Return groups whose routes are numbered *offset* further."""
    if not offset:
        return groups
    moved = list(groups)
    routes = groups[GROUP_NUMBERS - 1 :: GROUP_NUMBERS]
    moved[GROUP_NUMBERS - 1 :: GROUP_NUMBERS] = [route + offset if route else 0 for route in routes]
    return moved


def _flat(settlement: Settlement) -> list[int]:
    consumer, verdict, due_ms, tags, _ = settlement
    return [consumer, verdict, due_ms, len(tags) // 2, *tags]


def _check_size(parts: int, settled: int) -> None:
    if parts > TRANSACTION_PARTS_MAX:
        raise BatchTooLarge(
            f"a transaction for {parts} destinations; allowed are {TRANSACTION_PARTS_MAX}: commit in smaller steps",
            destinations=parts,
            destinations_max=TRANSACTION_PARTS_MAX,
        )
    if settled > TRANSACTION_SETTLED_MAX:
        raise BatchTooLarge(
            f"a transaction that settles {settled} messages; allowed are {TRANSACTION_SETTLED_MAX}: "
            "commit in smaller steps",
            settled=settled,
            settled_max=TRANSACTION_SETTLED_MAX,
        )
