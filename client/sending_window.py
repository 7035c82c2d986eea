"""What may be sent next and under which number: the rules that make a resend safe. Pure.

The broker takes a producer's batches only in the order of their sequence numbers, without a gap; it answers a number
that it has seen with the old receipt, and a refused batch burns no number. From that follows what happens here:

- *Connection lost.* What was not answered is sent again first, under the same producer and sequence. It is `stale` from
  then on: a copy may be stored, or may still lie in the old connection's buffers.
- *Refused.* The batch fails. Those sent behind it are answered with SequenceGap; once everything is answered they go
  back to the front of the backlog and get the freed numbers.
- *A freed number must never name two batches.* When a copy of a stale batch may still come to life, its number is
  not given to another one: the producer number is retired, a new one is asked for, and what may have happened under
  the old one is reported as unknown.
- *Beyond a limit of publishing.* Collected messages are split where the broker says: what it takes now goes first, the
  rest goes back to the backlog, or fails. Nothing more goes to that destination until its owner says so, while what
  goes elsewhere passes it.

It must not know time, sockets or who waits.
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from sluicemq.client.errors import (
    BrokerStopping,
    NotLeader,
    OutcomeUnknown,
    ProducerNotFound,
    PublishLimited,
    SequenceGap,
    SessionNotFound,
    SluiceError,
    StaleEpoch,
)
from sluicemq.client.outgoing import BATCH_OVERHEAD_BYTES, Attributes, OutgoingBatch, Pending
from sluicemq.wire.messages import ACKS_QUORUM

KEEP_AND_RETRY = (NotLeader, StaleEpoch, BrokerStopping, SessionNotFound)
"""Refusals that another broker, or the same one soon, will not repeat: never shown to the user."""


class WindowLimits(NamedTuple):
    """How much one producer may have on the way.

    Attributes:
        batches: Most batches sent and not answered.
        collected_batches: Most of them while the next one is still collecting single sends: few, so that batches grow
            when the broker is the slower side.
        messages: Most messages that wait or are on the way.
        bytes: Most bytes of them.
        collected_messages: A batch of single sends takes no more messages than this,
        collected_bytes: nor more bytes.

    """

    batches: int = 16
    collected_batches: int = 4
    messages: int = 200_000
    bytes: int = 32 * 1024 * 1024
    collected_messages: int = 10_000
    collected_bytes: int = 1024 * 1024


class Failed(NamedTuple):
    """A batch that is over without success."""

    batch: OutgoingBatch
    error: SluiceError


class SendingWindow:
    """The batches of one producer, from collection to answer.

    Attributes:
        number: The producer's number, 0 while one has to be asked for.
        in_flight: Sent batches without an answer, in the order of sending.
        backlog: Batches that have not been sent, or were refused and changed nothing.
        messages: How many messages are in both.
        bytes: And how many bytes.
        held: Nothing is sent while it is set; the owner sets it after a refusal that asks for patience.
        limited: Destinations to which nothing is sent while they are in it, but what is `admissible`; likewise.
        lost: How many of this producer's batches the broker had confirmed and does not know any more. The owner tells
            the user, and sets it to 0.

    Args:
        waits: Whether what is beyond a limit of publishing is kept until it is not; else it fails.

    """

    def __init__(self, limits: WindowLimits | None = None, *, waits: bool = True) -> None:
        self.limits = limits or WindowLimits()
        self.limited: set[str] = set()
        self._waits = waits
        self._rests: dict[OutgoingBatch, OutgoingBatch] = {}
        self.number = 0
        self.in_flight: list[OutgoingBatch] = []
        self.backlog: deque[OutgoingBatch] = deque()
        self.messages = 0
        self.bytes = 0
        self.held = False
        self.lost = 0
        self._confirmed_sequence = 0
        self._collecting: dict[str, OutgoingBatch] = {}
        self._next_sequence = 1
        self._awaiting = 0
        self._unsent = 0
        # A refusal is being repaired: nothing new is sent until all that is on the way is answered.
        self._repairing = False
        self._refused_sequence = 0
        self._retire = False
        # A copy of the refused batch may still be taken, and after it copies of those that stood behind it.
        self._ghosts = False

    # --- in -------------------------------------------------------------------------------------------------------

    def has_room(self, messages: int, size_bytes: int) -> bool:
        """Whether so much more may wait; an empty window takes anything."""
        limits = self.limits
        return not self.messages or (
            self.messages + messages <= limits.messages and self.bytes + size_bytes <= limits.bytes
        )

    def collect(
        self,
        destination: str,
        body: bytes,
        attributes: Attributes,
        pending: Pending,
        size_bytes: int,
        acks: int = ACKS_QUORUM,
    ) -> None:
        """Put a single message into the batch that is being collected for *destination*."""
        batch = self._collecting.get(destination)
        limits = self.limits
        if batch is None or (
            len(batch.bodies) >= limits.collected_messages
            or (batch.size_bytes + size_bytes > limits.collected_bytes and batch.bodies)
            # The broker refuses a batch with too many values: nobody shall suffer for what others put beside it.
            or not batch.has_room_for(attributes)
            or batch.acks != acks
        ):
            batch = self._collecting[destination] = OutgoingBatch(destination, acks=acks)
            self.backlog.append(batch)
            self.bytes += batch.size_bytes
        batch.add(body, attributes, pending, size_bytes)
        self.messages += 1
        self.bytes += size_bytes

    def add_whole(self, batch: OutgoingBatch) -> None:
        """Queue the batch of a `send_many`, behind everything sent to its destination before."""
        self._collecting.pop(batch.destination, None)
        self.backlog.append(batch)
        self.messages += batch.count
        self.bytes += batch.size_bytes

    def withdraw(self, pending: Pending) -> bool:
        """Take a send back if its batch has not been sent; return whether that was possible."""
        batch = pending.batch
        if batch is None or batch.sequence:
            return False
        self.messages -= batch.count if batch.whole else 1
        self.bytes -= batch.withdraw(pending)
        if not batch.bodies:
            self.backlog.remove(batch)
            if not batch.whole:
                self.bytes -= batch.size_bytes
                if self._collecting.get(batch.destination) is batch:
                    del self._collecting[batch.destination]
        return True

    # --- out ------------------------------------------------------------------------------------------------------

    def next(self) -> OutgoingBatch | None:
        """Return the batch to send now, numbered, or None if none may go."""
        if self.held or self._repairing:
            return None
        if self._unsent:
            for refused in self.in_flight:
                if not refused.awaiting:
                    self._unsent -= 1
                    return self._sent(refused)
        if not self.backlog or not self.number:
            return None
        batch = self._first_unlimited() if self.limited else self.backlog[0]
        under_way = len(self.in_flight)
        if batch is None or under_way >= self.limits.batches:
            return None
        if self._collecting.get(batch.destination) is batch:
            if under_way >= self.limits.collected_batches and len(self.backlog) == 1:
                return None
            del self._collecting[batch.destination]
        self.backlog.remove(batch)
        batch.admissible = False
        batch.producer, batch.sequence = self.number, self._next_sequence
        self._next_sequence += 1
        self.in_flight.append(batch)
        return self._sent(batch)

    def _first_unlimited(self) -> OutgoingBatch | None:
        for batch in self.backlog:
            if batch.admissible or batch.destination not in self.limited:
                return batch
        return None

    def _sent(self, batch: OutgoingBatch) -> OutgoingBatch:
        batch.awaiting = True
        self._awaiting += 1
        return batch

    @property
    def wants_number(self) -> bool:
        """Whether a producer number must be asked for before the backlog can go."""
        return not self.number and bool(self.backlog)

    def numbered(self, number: int) -> None:
        """Use the new producer *number*, whose batches count from 1."""
        self.number = number
        self._next_sequence = 1
        self._confirmed_sequence = 0

    # --- answers --------------------------------------------------------------------------------------------------

    def confirmed(self, batch: OutgoingBatch) -> list[Failed]:
        """Note that *batch* is safe; return what a repair that is complete with this answer gave up."""
        self._answered(batch)
        self._drop(batch)
        if batch.producer == self.number:
            self._confirmed_sequence = max(self._confirmed_sequence, batch.sequence)
        return self._repaired()

    def refused(self, batch: OutgoingBatch, error: SluiceError) -> list[Failed]:
        """Note that *batch* was refused; return which batches fail with which error."""
        self._answered(batch)
        failed: list[Failed] = []
        if self.keeps(batch, error):
            self._unsent += 1
        elif batch.producer != self.number:
            # Left over from a number that was retired meanwhile: nothing stands behind it.
            self._drop(batch)
            failed.append(Failed(batch, outcome_unknown(batch, error) if batch.stale else error))
        elif isinstance(error, SequenceGap):
            self._gap(batch, error)
        elif isinstance(error, PublishLimited) and not batch.stale:
            self._limit(batch, error, failed)
        else:
            self._refuse(batch, error, failed)
        failed.extend(self._repaired())
        return failed

    def keeps(self, batch: OutgoingBatch, error: SluiceError) -> bool:
        """Whether a refusal with *error* is no end: the caller holds the window for a while, then it goes out again."""
        return isinstance(error, KEEP_AND_RETRY) or (error.retryable and batch.stale)

    def _gap(self, batch: OutgoingBatch, error: SequenceGap) -> None:
        self._unsent += 1
        expected = error.fields.get("expected")
        if not self._refused_sequence:
            oldest = min(other.sequence for other in self.in_flight if other.producer == batch.producer)
            if not isinstance(expected, int) or expected < oldest:
                # The broker misses what it once confirmed, or never heard of: the number is of no use any more.
                self._refused_sequence = oldest
                self._retire = self._ghosts = True
            if isinstance(expected, int):
                self.lost = max(0, self._confirmed_sequence + 1 - expected)
        self._repairing = True

    def _refuse(self, batch: OutgoingBatch, error: SluiceError, failed: list[Failed]) -> None:
        unknown_producer = isinstance(error, ProducerNotFound)
        if batch.stale or unknown_producer:
            self._retire = self._ghosts = True
        if not self._refused_sequence or batch.sequence < self._refused_sequence:
            self._refused_sequence = batch.sequence
        self._repairing = True
        if unknown_producer and not batch.stale:
            self._unsent += 1
            return
        self._drop(batch)
        failed.append(Failed(batch, outcome_unknown(batch, error) if batch.stale else error))

    def waits_for(self, batch: OutgoingBatch, error: SluiceError) -> bool:
        """Whether a refusal with *error* is waited out, at least by a part of the batch."""
        return self._waits and isinstance(error, PublishLimited) and (error.retryable or not batch.whole)

    def _limit(self, batch: OutgoingBatch, error: PublishLimited, failed: list[Failed]) -> None:
        """Let go now what the broker would take now, and the rest later, or never."""
        if not batch.whole:
            error.retryable = True  # too many for one batch are not too many, one by one
        waits = self.waits_for(batch, error)
        now = error.fields.get("messages_now")
        is_first = not self._refused_sequence or batch.sequence < self._refused_sequence
        if not batch.whole and is_first and isinstance(now, int) and 0 < now < batch.count:
            rest = batch.split(now)
            self.bytes += BATCH_OVERHEAD_BYTES  # two batches take more room than one
            batch.admissible = True
            if waits:
                self._rests[batch] = rest
                self.backlog.appendleft(rest)  # it finds its place once everything is answered
            else:
                self.messages -= rest.count
                self.bytes -= rest.size_bytes
                failed.append(Failed(rest, error))
        elif not waits:
            self._refuse(batch, error, failed)
            return
        if not self._refused_sequence or is_first:
            self._refused_sequence = batch.sequence
        self._repairing = True
        self._unsent += 1

    def _answered(self, batch: OutgoingBatch) -> None:
        batch.awaiting = False
        self._awaiting -= 1

    def _drop(self, batch: OutgoingBatch) -> None:
        self.in_flight.remove(batch)
        self.messages -= batch.count
        self.bytes -= batch.size_bytes

    def _repaired(self) -> list[Failed]:
        """Once everything is answered, bring the numbers into order and let sending go on."""
        if not self._repairing or self._awaiting:
            return []
        self._repairing = False
        return self._renumber() if self._refused_sequence else []

    def _renumber(self) -> list[Failed]:
        """Send what stood behind a refused batch back to the backlog; it gets new numbers when it is sent."""
        refused, self._refused_sequence = self._refused_sequence, 0
        behind = [batch for batch in self.in_flight if batch.sequence >= refused and batch.producer == self.number]
        self.in_flight = [batch for batch in self.in_flight if batch not in behind]
        self._unsent = sum(not batch.awaiting for batch in self.in_flight)
        failed: list[Failed] = []
        # A stale batch behind the refused one comes to life if the refused number is ever taken: so it must not be.
        retire = self._retire or any(batch.stale for batch in behind)
        for batch in reversed(behind):
            rest = self._rests.pop(batch, None)
            if rest is not None and rest in self.backlog:
                self.backlog.remove(rest)
                self.backlog.appendleft(rest)
            if batch.stale and self._ghosts:
                self.messages -= batch.count
                self.bytes -= batch.size_bytes
                failed.append(Failed(batch, outcome_unknown(batch, None)))
            else:
                batch.producer = batch.sequence = 0
                batch.stale = False
                self.backlog.appendleft(batch)
        self._retire = self._ghosts = False
        if retire:
            self.number = 0
        else:
            self._next_sequence = refused
        failed.reverse()
        return failed

    def connection_lost(self) -> list[Failed]:
        """Prepare to send again what was not answered; return what can no longer be known."""
        failed: list[Failed] = []
        refused = self._refused_sequence
        if refused:
            # The refused number stays unused under this producer: so no copy of what stood behind it can ever be
            # taken, and it may safely go out again under a new producer number. Unless the refused batch has a ghost.
            for batch in self.in_flight:
                if batch.awaiting and batch.sequence > refused and batch.producer == self.number:
                    batch.awaiting = False
                    batch.stale = batch.stale or self._ghosts
            self._retire = True
            failed = self._renumber()
        for batch in self.in_flight:
            if batch.awaiting:
                batch.awaiting = False
                batch.stale = True
        self._awaiting = 0
        self._unsent = len(self.in_flight)
        self._repairing = False
        self.held = False
        return failed

    def holds(self, batch: OutgoingBatch) -> bool:
        """Whether *batch* is not over."""
        return batch in self.in_flight or batch in self.backlog

    def everything(self) -> list[OutgoingBatch]:
        """Return every batch that is not over, in the order of sending."""
        return [*self.in_flight, *self.backlog]

    def give_up(self) -> list[OutgoingBatch]:
        """Forget every batch and return them: the producer ends."""
        batches = self.everything()
        self.in_flight, self.backlog, self._collecting, self._rests = [], deque(), {}, {}
        self.messages = self.bytes = self._awaiting = self._unsent = 0
        return batches


def outcome_unknown(batch: OutgoingBatch, cause: SluiceError | None, index: int = 0) -> OutcomeUnknown:
    """Return the error for a batch that may or may not be stored, with the identity of message *index*."""
    error = OutcomeUnknown(
        f"a send to {batch.destination!r} may or may not have been stored"
        + (f": {cause}" if cause is not None else "")
        + f"; its identity is producer {batch.producer}, sequence {batch.sequence}",
        destination=batch.destination,
        producer=batch.producer,
        sequence=batch.sequence,
        index=index,
    )
    error.__cause__ = cause
    return error
