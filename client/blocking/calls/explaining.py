"""Calls as ExplainCalls has them.

Made by a test from `sluicemq.client.explaining`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from sluicemq.client.blocking.calls._base import Base
from sluicemq.client.explaining import Explanation, Named


class ExplainCalls(Base):
    """These calls of the client."""

    def explain(
        self,
        message: Named | None = None,
        *,
        message_id: str | None = None,
        queue: str | None = None,
        key: str | None = None,
    ) -> Explanation:
        """Return the life of one message from the broker's log: accepted, each delivery, each verdict, and where it is.

        Args:
            message: Its position, or what has one: a receipt, a message.
            message_id: Its id instead: one that the broker gave, or one of a sender's own, which needs *queue*.
            queue: The queue or topic that it was published to.
            key: Its key, where the queue has `dedup_scope="key"`.

        Raises:
            MessageNotFound: No message is known by that name, or its batch is not in the log any more, or it was not
                published to *queue*.
            QueueNotFound: No queue of that name.
        """
        return self._io.call(self._inner.explain, message, message_id=message_id, queue=queue, key=key)
