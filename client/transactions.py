"""Transactions: sends to many queues and topics, and verdicts on messages, that hold as a whole or not at all.

What is said to a transaction stays here until its end and travels in one frame then: so one that a dead process left
open never was. Until the commit is answered its messages count as held, and their leases are renewed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeAlias, Unpack

from sluicemq.client.errors import BatchTooLarge, Conflict, MessageTooLarge, OutcomeUnknown
from sluicemq.client.handling import Reject, Retry
from sluicemq.client.numbered import NumberedRequests
from sluicemq.client.options import Body, Delivery, Duration, owned_body, seconds_of
from sluicemq.client.outgoing import Attributes, OutgoingBatch, Pending, check_message_values, message_size
from sluicemq.client.producer import attributes_of
from sluicemq.client.receipts import Confirmation, Receipt, Receipts
from sluicemq.client.received import ACK, NACK, ReceivedBatch, ReceivedMessage, verdict_on
from sluicemq.client.settlement import Verdict
from sluicemq.client.tag_ranges import FlatRanges, TagRanges, count_tags, pairs
from sluicemq.wire import messages as m
from sluicemq.wire.batch import BATCH_BYTES_DEFAULT, BATCH_MESSAGES_MAX
from sluicemq.wire.fields import Message as WireMessage
from sluicemq.wire.settings import check_name

if TYPE_CHECKING:
    from sluicemq.client.attachment import Attachment

Received: TypeAlias = ReceivedMessage | ReceivedBatch[Any]

_OPEN, _COMMITTED, _ROLLED_BACK, _UNKNOWN = "open", "committed", "rolled back", "of unknown outcome"


class Transaction:
    """Sends and verdicts that hold together; made by `Client.transaction`, used with `async with`.

    Leaving the block commits; an exception rolls back, which takes nothing but forgetting. A rolled back transaction
    gives its messages back to whoever had them: the `async with message` around it then does what it always does.
    Its methods wait for nothing.

    Attributes:
        receipts: The receipts of its sends, in their order, once it is committed; empty before.

    """

    def __init__(self, requests: NumberedRequests, seconds: float) -> None:
        self.receipts: Receipts | list[Receipt] = []
        self._requests = requests
        self._seconds = seconds
        self._state = _OPEN
        self._sends: list[tuple[str, bytes, Attributes]] = []
        self._size_bytes = 0
        self._verdicts: dict[tuple[Attachment, Verdict], TagRanges] = {}
        self._joined: list[Received] = []
        # Messages whose own block ended while they were part of this one.
        self._left: list[Received] = []
        self._request: m.Transaction | None = None
        self._tail: bytes | None = None
        self._order: list[int] = []

    @property
    def committed(self) -> bool:
        """Whether all of it is done."""
        return self._state == _COMMITTED

    # --- what it holds ---------------------------------------------------------------------------------------------

    async def send(
        self,
        destination: str,
        body: Body,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        **delivery: Unpack[Delivery],
    ) -> None:
        """Send one message when the transaction commits; arguments as for `Producer.send`.

        Raises:
            TypeError: An argument has the wrong type.
            MessageTooLarge: The message is larger than the broker takes.
            BatchTooLarge: The transaction would be larger than one batch, which it travels and is stored as: more
                messages or bytes than the error's `messages_max` and `batch_bytes_max` say. What it holds already stays
                in it: commit that, and send the rest in another transaction.
            Conflict: The transaction is over.

        """
        self._check_open()
        check_name(destination, "destination")
        owned = owned_body(body)
        attributes = attributes_of(key, subject, headers, message_id, **delivery)
        if headers is not None:
            check_message_values(attributes)
        size = message_size(owned, attributes)
        self._check_room(len(owned), size)
        self._sends.append((destination, owned, attributes))
        self._size_bytes += size

    async def ack(self, message: Received) -> None:
        """Acknowledge a message, or a batch of them, when the transaction commits.

        Raises:
            LeaseLost: The lease is over: nothing of the transaction can be done any more, if it was to settle that.
            AlreadySettled: It got a verdict before.
            Conflict: The transaction is over, or has messages of another connection.

        """
        self._settle(message, ACK)

    async def nack(self, message: Received, delay: Duration | None = None, reason: str = "") -> None:
        """Let it come again when the transaction commits; arguments as for `Message.nack`, errors as for `ack`."""
        seconds = None if delay is None else seconds_of(delay, "delay")
        self._settle(message, Verdict(m.VERDICT_NACK, seconds, reason) if reason or seconds is not None else NACK)

    async def reject(self, message: Received, reason: str = "") -> None:
        """Let it die when the transaction commits; errors as for `ack`."""
        self._settle(message, Verdict(m.VERDICT_REJECT, None, reason))

    def _settle(self, message: Received, verdict: Verdict) -> None:
        self._check_open()
        if not isinstance(message, ReceivedMessage | ReceivedBatch):
            raise TypeError(f"a transaction settles a message or a batch, not {type(message).__name__}")
        owner, tags = message.join(self, verdict)
        if owner is None:
            return  # an empty batch, or the same verdict once more
        others = next(iter(self._verdicts), None)
        if others is not None and others[0].session_number != owner.session_number:
            message.leave_transaction()
            raise Conflict(
                "the transaction settles messages of a connection that is over: roll it back, they come again"
            )
        ranges = self._verdicts.setdefault((owner, verdict), TagRanges())
        for first, last in pairs(tags):
            ranges.add(first, last)
        self._joined.append(message)

    def left(self, message: Received) -> None:
        """The block of *message* ended before this one: should this be rolled back, it comes again."""
        self._left.append(message)

    def _check_open(self) -> None:
        if self._state != _OPEN:
            raise Conflict(f"the transaction is {self._state}: begin another one")

    def _check_room(self, body_bytes: int, size_bytes: int) -> None:
        session = self._requests.link.session
        messages_max, bytes_max = BATCH_MESSAGES_MAX, BATCH_BYTES_DEFAULT
        if session is not None and session.opened is not None:
            messages_max, bytes_max = session.opened.batch_messages_max, session.opened.batch_bytes_max
            maximum = session.opened.message_bytes_max
            if body_bytes > maximum:
                raise MessageTooLarge(
                    f"a message of {body_bytes} bytes; the broker takes {maximum}",
                    message_bytes=body_bytes,
                    message_bytes_max=maximum,
                )
        if len(self._sends) >= messages_max or self._size_bytes + size_bytes > bytes_max:
            raise BatchTooLarge(
                f"a transaction of {len(self._sends) + 1} messages and {self._size_bytes + size_bytes} bytes; the "
                f"broker takes {messages_max} messages and {bytes_max} bytes in one: commit in smaller steps",
                messages=len(self._sends) + 1,
                messages_max=messages_max,
                batch_bytes=self._size_bytes + size_bytes,
                batch_bytes_max=bytes_max,
            )

    # --- its end ---------------------------------------------------------------------------------------------------

    async def commit(self) -> None:
        """Do all of it, and wait until that is durable. Leaving the block does this too, unless it was done before.

        After `OutcomeUnknown` it may be called again: it is done once, however often it is sent.

        Raises:
            LeaseLost: The lease of a message that it settles is over: nothing was done.
            QueueNotFound, QueueFull, QueuePaused: A destination does not take its messages: nothing was done.
            OutcomeUnknown: No answer in time.
            BatchTooLarge: More than the broker takes in one.
            SluiceError: What else the broker refused it for: nothing was done.

        """
        if self._state == _UNKNOWN:
            assert self._request is not None, "it was sent before"
            await self._finish(self._requests.again(self._request, self._tail, self._seconds))
            return
        self._check_open()
        if not self._sends and not self._verdicts:
            self._state = _COMMITTED
            return
        try:
            self._check_leases()
            batch, destinations, counts = self._packed()
            session, settlements, reasons = self._settlements()
        except Exception as error:
            self._state = _ROLLED_BACK
            self._give_back(error)
            raise
        self._tail = None if batch is None else batch.encode()

        def make(producer: int, sequence: int) -> WireMessage:
            self._request = m.Transaction(
                producer=producer,
                sequence=sequence,
                destinations=destinations,
                counts=counts,
                session=session,
                settlements=settlements,
                reasons=reasons,
            )
            return self._request

        await self._finish(self._sent(make))

    async def _sent(self, make: Any) -> Any:
        answer, _ = await self._requests.ask(make, self._tail, self._seconds)
        return answer

    async def _finish(self, asking: Any) -> None:
        try:
            answer = await asking
        except OutcomeUnknown:
            self._state = _UNKNOWN
            self._give_back(None)
            raise
        except BaseException as error:
            # Cancelled while it is under way, its outcome is unknown too; what it settles is given back then.
            self._state = _ROLLED_BACK if isinstance(error, Exception) else _UNKNOWN
            self._give_back(error)
            raise
        reply = answer.message
        assert isinstance(reply, m.Transacted)
        self._state = _COMMITTED
        for (owner, verdict), ranges in self._verdicts.items():
            owner.settled_together(ranges.flat(), verdict)
        for message in self._joined:
            message.leave_transaction(done=True)
        self._joined.clear()
        self.receipts = self._receipts(reply)

    def _receipts(self, reply: m.Transacted) -> list[Receipt]:
        request, link = self._request, self._requests.link
        assert request is not None, "it was sent"
        if not self._sends:
            return []
        welcome = None if link.session is None else link.session.welcome
        group = 0 if welcome is None else welcome.group_id
        given = [self._sends[number][2].message_id for number in self._order]
        said = reply.zxid, reply.duplicate, request.producer, request.sequence, len(self._sends)
        ids = given if any(given) else None
        confirmation = Confirmation(group, *said, ids, reply.known, reply.known_bits, id_base=reply.id_base)
        places = sorted(range(len(self._order)), key=self._order.__getitem__)
        return [Receipt(confirmation, place) for place in places]

    async def rollback(self) -> None:
        """Forget all of it. Its messages are as they were before; leaving the block does nothing then."""
        self._check_open()
        self._state = _ROLLED_BACK
        self._give_back(None)

    def _give_back(self, error: BaseException | None) -> None:
        """Let go of the messages that it settles; those whose own block is over come again."""
        verdict = NACK if error is None else verdict_on(error)
        for message in self._joined:
            message.leave_transaction()
        for message in self._left:
            message.give_back(verdict)
        self._joined.clear()
        self._left.clear()

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if self._state != _OPEN:
            return False
        if error is None:
            await self.commit()  # noqa: ASYNC102 - only where the block ended well
            return False
        # What a handler says of its message ends there, also where that stands within the transaction.
        signal = isinstance(error, Retry | Reject) and bool(self._left)
        self._state = _ROLLED_BACK
        self._give_back(error)
        return signal

    # --- how it travels --------------------------------------------------------------------------------------------

    def _check_leases(self) -> None:
        for (owner, _), ranges in self._verdicts.items():
            tags = ranges.flat()
            held = count_tags(owner.held_of(tags)[0])
            if held < count_tags(tags):
                raise owner.lease_lost(count_tags(tags) - held, tags)

    def _packed(self) -> tuple[OutgoingBatch | None, list[str], list[int]]:
        """Return the batch, and its parts: destinations with their counts.

        Messages stand as they were sent, so those of one topic keep their order whatever their subjects; only where
        that makes too many parts they are put together by destination.
        """
        if not self._sends:
            return None, [], []
        self._order = list(range(len(self._sends)))
        parts = list(self._parts())
        if len(parts) > m.TRANSACTION_PARTS_MAX:
            first: dict[str, int] = {}
            for destination, _, _ in self._sends:
                first.setdefault(destination, len(first))
            self._order.sort(key=lambda number: first[self._sends[number][0]])
            parts = list(self._parts())
        if len(parts) > m.TRANSACTION_PARTS_MAX:
            raise BatchTooLarge(
                f"a transaction for {len(parts)} destinations; allowed are {m.TRANSACTION_PARTS_MAX}: "
                "commit in smaller steps",
                destinations=len(parts),
                destinations_max=m.TRANSACTION_PARTS_MAX,
            )
        batch = OutgoingBatch(parts[0][0])
        for number in self._order:
            _, body, attributes = self._sends[number]
            if not batch.has_room_for(attributes):
                raise BatchTooLarge(
                    "the messages of the transaction have more keys, headers and other values than one batch takes: "
                    "commit in smaller steps"
                )
            batch.add(body, attributes, Pending(0.0), 0)
        return batch, [destination for destination, _ in parts], [count for _, count in parts]

    def _parts(self) -> Iterator[tuple[str, int]]:
        """Yield neighbouring messages of one destination: its name, and how many."""
        last, count = "", 0
        for number in self._order:
            destination = self._sends[number][0]
            if count and destination != last:
                yield last, count
                count = 0
            last = destination
            count += 1
        yield last, count

    def _settlements(self) -> tuple[int, list[int], list[str]]:
        session, flat, reasons = 0, list[int](), list[str]()
        settled = 0
        for (owner, verdict), ranges in self._verdicts.items():
            tags: FlatRanges = ranges.flat()
            settled += count_tags(tags)
            session = owner.session_number
            delay = 0 if verdict.delay_seconds is None else round(verdict.delay_seconds * 1000) + 1
            flat += (owner.number, verdict.code, delay, len(tags) // 2, *tags)
            reasons.append(verdict.reason)
        if settled > m.TRANSACTION_SETTLED_MAX:
            raise BatchTooLarge(
                f"a transaction that settles {settled} messages; allowed are {m.TRANSACTION_SETTLED_MAX}: commit in "
                "smaller steps",
                settled=settled,
                settled_max=m.TRANSACTION_SETTLED_MAX,
            )
        return session, flat, reasons

    def __repr__(self) -> str:
        settled = sum(ranges.count for ranges in self._verdicts.values())
        return f"<Transaction {self._state}: {len(self._sends)} sends, {settled} verdicts>"
