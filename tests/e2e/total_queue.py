"""The judge of a run: what was sent, confirmed, delivered and acknowledged, and which promise that breaks.

Why: a test that kills brokers is worth as much as its checker. This one is pure: it gets the facts that the clients
wrote down and returns violations as text, each with the ids concerned. It must not know processes or sockets, so that
it can be shown faulty histories and has to find each of them (see `test_total_queue`).

A message's id is (producer, counter); counters of a producer ascend in the order in which it sent. Promises:

- **lost**: every confirmed message was delivered, and acknowledged by somebody, before the queue was empty.
- **unexpected**: nothing is delivered that nobody sent, or with another body.
- **duplicate**: a delivery whose acknowledgement was confirmed is the last one. What "later" means is told by the
  grants themselves, `(epoch, deliveries)`, where the client knows them, and by the clock otherwise.
- **double grant**: no two deliveries of a message are the same grant.
- **position**: a message has one position for ever; it is the one that its receipt named.
- **order**: positions ascend with the counters of a producer, and so do the first grants within one consumer's session.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import NamedTuple

MessageId = tuple[int, int]
EXAMPLES_MAX = 5


@dataclass(frozen=True, slots=True)
class Run:
    """Consecutive messages of one producer in one batch.

    Attributes:
        producer: Who sent them.
        first: Counter of the first.
        count: How many.
        zxid: Entry of the batch.
        first_index: Index of the first within it.
        deliveries: Which grant of the message this is, counted by the broker; 0 where the client is not told.

    """

    producer: int
    first: int
    count: int
    zxid: int
    first_index: int
    deliveries: int


@dataclass
class _Batch:
    first: int
    count: int
    sent_at: float
    confirmed_at: float | None = None
    zxid: int = 0


@dataclass
class _Delivery:
    consumer: int
    session: int
    epoch: int
    at: float
    runs: list[Run]
    verdict: str = ""
    confirmed_at: float | None = None
    lost: set[int] = field(default_factory=set)


class _Given(NamedTuple):
    """One delivery of one message."""

    delivery: _Delivery
    place: int
    run: Run

    @property
    def confirmed_at(self) -> float | None:
        """When the acknowledgement of this message was confirmed, if it was."""
        delivery = self.delivery
        if delivery.verdict != "ack" or self.place in delivery.lost:
            return None
        return delivery.confirmed_at

    def is_later_than(self, other: _Given) -> bool:
        """Whether this is a grant that came after *other* and after the verdict on it."""
        if self.delivery.epoch and other.delivery.epoch:
            return (self.delivery.epoch, self.run.deliveries) > (other.delivery.epoch, other.run.deliveries)
        assert other.confirmed_at is not None
        return self.delivery.at > other.confirmed_at


class Ledger:
    """Everything that the clients of one run wrote down."""

    def __init__(self) -> None:
        self._batches: dict[tuple[int, int], _Batch] = {}
        self._deliveries: dict[tuple[int, int], _Delivery] = {}
        self._strangers: list[str] = []

    # --- facts ------------------------------------------------------------------------------------------------

    def sent(self, producer: int, batch: int, first: int, count: int, at: float) -> None:
        """A producer is about to send a batch for the first time."""
        self._batches[producer, batch] = _Batch(first, count, at)

    def confirmed(self, producer: int, batch: int, zxid: int, at: float) -> None:
        """The batch was confirmed at this position."""
        entry = self._batches[producer, batch]
        entry.confirmed_at, entry.zxid = at, zxid

    def delivered(self, consumer: int, delivery: int, session: int, epoch: int, at: float, runs: list[Run]) -> None:
        """A consumer got a frame of messages. Epoch 0: the client is not told."""
        self._deliveries[consumer, delivery] = _Delivery(consumer, session, epoch, at, runs)

    def stranger(self, text: str) -> None:
        """A consumer got a body that no producer makes."""
        self._strangers.append(text)

    def verdict(self, consumer: int, delivery: int, verdict: str) -> None:
        """A consumer sends `ack`, `nack` or `release` for all messages of a delivery."""
        self._deliveries[consumer, delivery].verdict = verdict

    def settled(self, consumer: int, delivery: int, at: float, lost: set[int]) -> None:
        """The verdict was confirmed, but for the messages at the places in *lost*."""
        entry = self._deliveries[consumer, delivery]
        entry.confirmed_at, entry.lost = at, lost

    # --- figures ----------------------------------------------------------------------------------------------

    @property
    def sent_messages(self) -> int:
        """How many messages were sent at all."""
        return sum(batch.count for batch in self._batches.values())

    @property
    def confirmed_messages(self) -> int:
        """How many messages were confirmed."""
        return sum(batch.count for batch in self._batches.values() if batch.confirmed_at is not None)

    @property
    def delivered_messages(self) -> int:
        """How many messages were delivered, duplicates included."""
        return sum(run.count for delivery in self._deliveries.values() for run in delivery.runs)

    @property
    def redelivered_messages(self) -> int:
        """How many deliveries were not the first of their message."""
        ids = {
            (run.producer, counter)
            for delivery in self._deliveries.values()
            for run in delivery.runs
            for counter in range(run.first, run.first + run.count)
        }
        return self.delivered_messages - len(ids)

    def in_flight(self, at: float) -> tuple[int, int]:
        """Return (batches sent and unconfirmed, deliveries whose verdict was unconfirmed) at that instant.

        Deliveries of earlier epochs do not count: their verdicts died with their broker. Of a consumer that is not told
        the epoch only the last delivery counts.
        """
        batches = sum(
            batch.sent_at <= at and (batch.confirmed_at is None or batch.confirmed_at > at)
            for batch in self._batches.values()
        )
        before = {key: delivery for key, delivery in self._deliveries.items() if delivery.at <= at}
        epoch = max((delivery.epoch for delivery in before.values()), default=0)
        if not epoch:
            before = {(key[0], 0): delivery for key, delivery in sorted(before.items())}
        deliveries = sum(
            delivery.epoch == epoch and (delivery.confirmed_at is None or delivery.confirmed_at > at)
            for delivery in before.values()
        )
        return batches, deliveries

    # --- judgement --------------------------------------------------------------------------------------------

    def violations(self) -> list[str]:
        """Return what is wrong, one line a promise; the queue must have been drained."""
        given: dict[MessageId, list[_Given]] = defaultdict(list)
        for delivery in self._deliveries.values():
            place = 0
            for run in delivery.runs:
                for counter in range(run.first, run.first + run.count):
                    given[run.producer, counter].append(_Given(delivery, place, run))
                    place += 1
        found: list[str] = []
        _report(found, "unexpected (a body that nobody sends)", self._strangers)
        _report(found, "unexpected (nobody sent it)", self._unexpected(given))
        _report(found, "lost (confirmed, but acknowledged by nobody)", self._lost(given))
        _report(found, "duplicate (delivered again after a confirmed acknowledgement)", _duplicates(given))
        _report(found, "double grant (two deliveries are the same grant)", _double_grants(given))
        _report(found, "position (a message moved, or is not where its receipt says)", self._moved(given))
        _report(found, "order (positions against the producer's order)", _disorder(given))
        _report(found, "order (first grants of one session against their positions)", self._session_disorder())
        return found

    def _unexpected(self, given: dict[MessageId, list[_Given]]) -> list[str]:
        sent = {
            (producer, counter)
            for (producer, _), batch in self._batches.items()
            for counter in range(batch.first, batch.first + batch.count)
        }
        return [_name(message) for message in given if message not in sent]

    def _lost(self, given: dict[MessageId, list[_Given]]) -> list[str]:
        lost = []
        for (producer, number), batch in self._batches.items():
            if batch.confirmed_at is None:
                continue
            for counter in range(batch.first, batch.first + batch.count):
                deliveries = given.get((producer, counter), [])
                if not any(one.delivery.verdict == "ack" and one.place not in one.delivery.lost for one in deliveries):
                    lost.append(f"{_name((producer, counter))} of batch {number}, delivered {len(deliveries)} times")
        return lost

    def _moved(self, given: dict[MessageId, list[_Given]]) -> list[str]:
        receipts = {
            (producer, batch.first + index): (batch.zxid, index)
            for (producer, _), batch in self._batches.items()
            if batch.confirmed_at is not None and batch.zxid
            for index in range(batch.count)
        }
        moved = []
        for message, deliveries in given.items():
            places = {_position(message, one) for one in deliveries}
            if message in receipts:
                places.add(receipts[message])
            if len(places) > 1:
                moved.append(f"{_name(message)} at {sorted(places)}")
        return moved

    def _session_disorder(self) -> list[str]:
        wrong = []
        last: dict[tuple[int, int], tuple[int, int]] = {}
        for (consumer, _), delivery in sorted(self._deliveries.items()):
            for run in delivery.runs:
                if run.deliveries != 1:
                    continue
                key = (consumer, delivery.session)
                if last.get(key, (0, 0)) >= (run.zxid, run.first_index):
                    wrong.append(f"{_name((run.producer, run.first))} at ({run.zxid:#x}, {run.first_index})")
                last[key] = (run.zxid, run.first_index + run.count - 1)
        return wrong


def _name(message: MessageId) -> str:
    return f"message {message[1]} of producer {message[0]}"


def _position(message: MessageId, one: _Given) -> tuple[int, int]:
    return one.run.zxid, one.run.first_index + message[1] - one.run.first


def _duplicates(given: dict[MessageId, list[_Given]]) -> list[str]:
    wrong = []
    for message, deliveries in given.items():
        if len(deliveries) == 1:
            continue
        for earlier in deliveries:
            if earlier.confirmed_at is not None:
                wrong += [
                    f"{_name(message)}: consumer {earlier.delivery.consumer} acknowledged it in epoch "
                    f"{earlier.delivery.epoch} (grant {earlier.run.deliveries}), then consumer "
                    f"{later.delivery.consumer} got it in epoch {later.delivery.epoch} (grant {later.run.deliveries})"
                    for later in deliveries
                    if later is not earlier and later.is_later_than(earlier)
                ]
    return wrong


def _double_grants(given: dict[MessageId, list[_Given]]) -> list[str]:
    wrong = []
    for message, deliveries in given.items():
        grants = [(one.delivery.epoch, one.run.deliveries) for one in deliveries if one.delivery.epoch]
        if len(set(grants)) != len(grants):
            wrong.append(f"{_name(message)}: grants {sorted(grants)}")
    return wrong


def _disorder(given: dict[MessageId, list[_Given]]) -> list[str]:
    wrong = []
    last: dict[int, tuple[int, tuple[int, int]]] = {}
    for message in sorted(given):
        producer, counter = message
        position = _position(message, given[message][0])
        before = last.get(producer)
        if before is not None and before[1] >= position:
            wrong.append(f"{_name(message)} at {position} behind message {before[0]} at {before[1]}")
        last[producer] = (counter, position)
    return wrong


def _report(found: list[str], promise: str, examples: list[str]) -> None:
    if examples:
        shown = "; ".join(examples[:EXAMPLES_MAX])
        more = f"; and {len(examples) - EXAMPLES_MAX} more" if len(examples) > EXAMPLES_MAX else ""
        found.append(f"{promise}: {shown}{more}")


def body_of(producer: int, counter: int) -> bytes:
    """Return the one body that this message may have; sizes vary, and every byte of it is known."""
    return b"%d:%d;" % (producer, counter) * (1 + counter * 7919 % 16)


def id_of(body: bytes) -> MessageId | None:
    """Return the id of a body, or None when no producer makes such a body."""
    head = body.partition(b";")[0].split(b":")
    if len(head) != 2 or not (head[0].isdigit() and head[1].isdigit()):
        return None
    producer, counter = int(head[0]), int(head[1])
    return (producer, counter) if body_of(producer, counter) == body else None
