"""Calls as TransactionCalls has them.

Made by a test from `sluicemq.client.transaction_calls`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Unpack

from sluicemq.client.blocking.calls._base import Base
from sluicemq.client.blocking.reading import Listing
from sluicemq.client.blocking.transaction import Half, Transaction
from sluicemq.client.checkers import Check, Checker
from sluicemq.client.options import Body, Delivery, Duration
from sluicemq.client.peeked import PeekedMessage
from sluicemq.client.producer import SEND_SECONDS
from sluicemq.wire import messages as m


class TransactionCalls(Base):
    """These calls of the client."""

    def transaction(self, *, timeout: Duration = SEND_SECONDS) -> Transaction:
        """Return a transaction, to be used with `with`: sends and verdicts that hold as a whole or not at all.

            for message in consumer:
                with message, client.transaction() as tx:
                    tx.send("billing", transformed(message.body))
                    tx.ack(message)

        Args:
            timeout: How long the commit may take in all, reconnecting included.
        """
        return Transaction(self._io, self._io.run(self._inner.transaction, timeout=timeout))

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
        """Return a prepared message, to be used with `with`; entering stores it, and nobody sees it before the
        commit.

            with client.prepare("orders", body, check="order-service") as half:
                database.execute(...)
                database.commit()

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
        return Half(
            self._io,
            self._io.run(
                self._inner.prepare,
                destination,
                body,
                key,
                subject,
                headers,
                message_id,
                check=check,
                check_after=check_after,
                timeout=timeout,
                **delivery,
            ),
        )

    def transaction_checker(self, group: str, function: Check) -> Checker:
        """Let *function* be asked, as long as this client lives, what became of prepared messages of *group*.

        Args:
            group: What `prepare` names as `check`.
            function: Gets an `Undecided` and returns a `Decision`, or None where it does not know yet. A plain function
                runs in a worker thread. One that raises does not know; others are asked meanwhile.

        Returns:
            Its figures.
        """
        return self._io.run(self._inner.transaction_checker, group, function)

    def transactions(self, group: str = "") -> Iterator[dict[str, Any]]:
        """Yield the prepared messages that are undecided, oldest first; *group* "" means all.

        Their keys: `transaction` (its name), `state` ("prepared" or "parked"), `destination`, `group`, `members` (how
        many could be asked now), `checks`, `next_check_at` and `prepared_at` (milliseconds since 1970), `messages`,
        `bytes`, `destination_exists`, `producer`, `sequence`.
        """
        return Listing(self._io, lambda: self._inner.transactions(group))

    def show_transaction(self, transaction: str) -> tuple[dict[str, Any], list[PeekedMessage]]:
        """Return what is known of a prepared message, as `transactions` shows it, and its messages.

        Of one that is decided, only `state` ("committed" or "rolled_back") and `decided_at`, for a day.

        Raises:
            TransactionNotFound: None of that name.
            InvalidRequest: That is no name of one.
        """
        return self._io.call(self._inner.show_transaction, transaction)

    def resolve_transaction(self, transaction: str, *, commit: bool) -> bool:
        """Decide a prepared message instead of its sender; return whether it was decided like that before.

        Raises:
            TransactionNotFound: None of that name.
            TransactionDecided: It was decided before, the other way round.
            QueueNotFound: Its queue or topic does not exist any more, so it cannot be committed.
        """
        return self._io.call(self._inner.resolve_transaction, transaction, commit=commit)
