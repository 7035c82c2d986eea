"""Calls that wait for their answer, as TransactionCalls has them.

Made by a test from `sluicemq.client.transaction_calls`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from typing import Any

from sluicemq.client.blocking.calls._base import Base
from sluicemq.client.peeked import PeekedMessage


class TransactionCalls(Base):
    """These calls of the client."""

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
