"""The calls of a client that are about transactions and prepared messages."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any, NamedTuple, Unpack

from sluicemq.client.asking import Asking
from sluicemq.client.checkers import Check, Checker, Checkers
from sluicemq.client.half import Half
from sluicemq.client.numbered import NumberedRequests
from sluicemq.client.options import Body, Delivery, Duration, owned_body, seconds_of
from sluicemq.client.outgoing import OutgoingBatch, Pending, check_message_values, message_size
from sluicemq.client.peeked import PeekedMessage, peeked_messages
from sluicemq.client.producer import SEND_SECONDS, attributes_of
from sluicemq.client.reconnect import Link
from sluicemq.client.runtime import Runtime
from sluicemq.client.transactions import Transaction
from sluicemq.wire import messages as m
from sluicemq.wire.batch import Batch
from sluicemq.wire.positions import parse_position
from sluicemq.wire.settings import check_name

PAGE_ROWS = 200


class TransactionParts(NamedTuple):
    """What of a client serves these calls."""

    requests: NumberedRequests
    checkers: Checkers

    @classmethod
    def made(
        cls, runtime: Runtime, link: Link, spawn: Callable[[Callable[[], Awaitable[None]]], None]
    ) -> TransactionParts:
        """Return those of a new client; *spawn* runs a task as long as the client lives."""
        return cls(NumberedRequests(runtime, link), Checkers(runtime, link, spawn))


class TransactionCalls(Asking):
    """The calls of a client that are about transactions and prepared messages."""

    @abstractmethod
    def _transaction_parts(self) -> TransactionParts:
        """Return what serves these calls. Raises ClientClosed as `_link`."""

    def transaction(self, *, timeout: Duration = SEND_SECONDS) -> Transaction:
        """Return a transaction, to be used with `async with`: sends and verdicts that hold as a whole or not at all.

            async for message in consumer:
                async with message, client.transaction() as tx:
                    await tx.send("billing", transformed(message.body))
                    await tx.ack(message)

        Args:
            timeout: How long the commit may take in all, reconnecting included.

        """
        return Transaction(self._transaction_parts().requests, seconds_of(timeout, "timeout"))

    def prepare(
        self,
        destination: str,
        body: Body,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        *,
        check: str,
        check_after: Duration = m.CHECK_AFTER_SECONDS_DEFAULT,
        timeout: Duration = SEND_SECONDS,
        **delivery: Unpack[Delivery],
    ) -> Half:
        """Return a prepared message, to be used with `async with`; entering stores it, and nobody sees it before the
        commit.

            async with client.prepare("orders", body, check="order-service") as half:
                await database.execute(...)
                await database.commit()

        Args:
            destination: Queue, topic, or name below a topic.
            body: The payload.
            key: As for `send`.
            subject: Likewise.
            headers: Likewise.
            message_id: Likewise.
            check: Name of the group whose members know what became of it, see `transaction_checker`.
            check_after: Seconds or timedelta, at least 0.1, after which the group is asked for the first time. The
                intervals double, up to a minute; after 15 questions it is parked for operators.
            timeout: How long storing it, and deciding it, may take.
            delivery: As for `send`. A delay counts from when it is prepared.

        Raises on entering:
            QueueNotFound, QueueFull, QueuePaused: It cannot be sent there.
            OutcomeUnknown: No answer in time; if it was stored, the check-back decides.
            LimitReached: There are too many undecided ones.

        """
        check_name(destination, "destination")
        check_name(check, "group")
        owned = owned_body(body)
        attributes = attributes_of(key, subject, headers, message_id, **delivery)
        if headers is not None:
            check_message_values(attributes)
        batch = OutgoingBatch(destination)
        batch.add(owned, attributes, Pending(0.0), message_size(owned, attributes))
        after = seconds_of(check_after, "check_after", minimum=0.1, maximum=m.CHECK_AFTER_SECONDS_MAX)

        def request(producer: int, sequence: int) -> m.Prepare:
            return m.Prepare(
                destination=destination, producer=producer, sequence=sequence, group=check, check_after_seconds=after
            )

        requests = self._transaction_parts().requests
        return Half(requests, request, batch.encode(), message_id, seconds_of(timeout, "timeout"))

    def transaction_checker(self, group: str, function: Check) -> Checker:
        """Let *function* be asked, as long as this client lives, what became of prepared messages of *group*.

        Args:
            group: What `prepare` names as `check`.
            function: Gets an `Undecided` and returns a `Decision`, or None where it does not know yet. A plain function
                runs in a worker thread. One that raises does not know; others are asked meanwhile.

        Returns:
            Its figures.

        """
        if not callable(function):
            raise TypeError(f"function must be callable, not {type(function).__name__}")
        return self._transaction_parts().checkers.add(check_name(group, "group"), function)

    # --- for operators ---------------------------------------------------------------------------------------------

    async def transactions(self, group: str = "") -> AsyncIterator[dict[str, Any]]:
        """Yield the prepared messages that are undecided, oldest first; *group* "" means all.

        Their keys: `transaction` (its name), `state` ("prepared" or "parked"), `destination`, `group`, `members` (how
        many could be asked now), `checks`, `next_check_at` and `prepared_at` (milliseconds since 1970), `messages`,
        `bytes`, `destination_exists`, `producer`, `sequence`.
        """
        after = 0
        while True:
            reply = await self._ask(m.ListTransactions(group=group, after=after, count_max=PAGE_ROWS))
            assert isinstance(reply, m.Transactions)
            for row in reply.rows:
                yield row
            if not reply.more or not reply.rows:
                return
            after = reply.last

    async def show_transaction(self, transaction: str) -> tuple[dict[str, Any], list[PeekedMessage]]:
        """Return what is known of a prepared message, as `transactions` shows it, and its messages.

        Of one that is decided, only `state` ("committed" or "rolled_back") and `decided_at`, for a day.

        Raises:
            TransactionNotFound: None of that name.
            InvalidRequest: That is no name of one.

        """
        number = _number(transaction)
        answer = await self._link().request(m.ShowTransaction(transaction=number), timeout=self._request_seconds)
        assert isinstance(answer.message, m.TransactionShown)
        row = answer.message.row
        if not answer.tail:
            return row, []
        data = bytes(answer.tail)
        facts = [row.get("prepared_at", 0), row.get("producer", 0), row.get("sequence", 0), 0, 0]
        numbers = [number, 0, Batch(data).count, len(data), *facts]
        return row, peeked_messages(numbers, memoryview(data), 0)

    async def resolve_transaction(self, transaction: str, *, commit: bool) -> bool:
        """Decide a prepared message instead of its sender; return whether it was decided like that before.

        Raises:
            TransactionNotFound: None of that name.
            TransactionDecided: It was decided before, the other way round.
            QueueNotFound: Its queue or topic does not exist any more, so it cannot be committed.

        """
        reply = await self._ask(m.Resolve(transaction=_number(transaction), commit=commit))
        assert isinstance(reply, m.Resolved)
        return reply.again


def _number(transaction: str) -> int:
    return parse_position(transaction)[1]
