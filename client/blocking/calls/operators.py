"""Calls as OperatorCalls has them.

Made by a test from `sluicemq.client.operators`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from typing import Unpack

from sluicemq.client.blocking.calls._base import Base
from sluicemq.client.operators import FoundMessage, Wanted
from sluicemq.wire import messages as m


class OperatorCalls(Base):
    """These calls of the client."""

    def search(
        self, queue: str, *, state: str = m.FOUND_READY, count: int = 100, **wanted: Unpack[Wanted]
    ) -> list[FoundMessage]:
        """Look for messages of a queue without changing anything, in the order in which they lie there.

        Args:
            queue: The queue.
            state: Among those that are "ready", "leased", "delayed" or "dead" (and lie aside).
            count: Most messages to return.
            wanted: Which ones; see `Wanted`. All but the times reads what stands beside bodies.

        Raises:
            QueueNotFound: No queue of that name.
        """
        return self._io.call(self._inner.search, queue, state=state, count=count, **wanted)

    def move(
        self, queue: str, to: str, *, state: str = m.FOUND_READY, count: int | None = None, **wanted: Unpack[Wanted]
    ) -> int:
        """Move messages to another queue, behind all others there, as if nobody had tried them; their bodies stay put.

        What is in the queue when this begins is moved, not what comes later. A message keeps its position, its id and
        its key, and its lifetime if it is ready. Of a batch that loses some messages from its middle, the rest goes to
        the front of its queue.

        Args:
            queue: Where they are.
            to: Where they shall go.
            state: "ready", or "dead" for those that lie aside.
            count: Most to move; default: all.
            wanted: Which ones; see `Wanted`.

        Returns:
            How many went, exactly, also where the connection broke meanwhile.

        Raises:
            QueueNotFound: No queue of one of these names.
            QueueFull: The rest does not fit the queue that they are to go to.
            Conflict: The other queue keeps an order by key, and this one does not.
            OutcomeUnknown: No answer in time; its field `messages` says how many had gone before that page.
        """
        return self._io.call(self._inner.move, queue, to, state=state, count=count, **wanted)

    def copy(
        self, queue: str, to: str, *, state: str = m.FOUND_READY, count: int | None = None, **wanted: Unpack[Wanted]
    ) -> int:
        """Copy messages to another queue; arguments and errors as for `move`. Both share one stored body."""
        return self._io.call(self._inner.copy, queue, to, state=state, count=count, **wanted)

    def purge(
        self,
        queue: str,
        *,
        state: str = m.FOUND_READY,
        count: int | None = None,
        dry_run: bool = False,
        **wanted: Unpack[Wanted],
    ) -> int:
        """Drop messages for good; arguments and errors as for `move`, and state "delayed" is allowed too.

        To empty a queue without a look, `purge_queue` is faster.

        Args:
            queue: Where they are.
            state: "ready", "delayed" or "dead".
            count: Most to drop.
            dry_run: Drop nothing; return how many would go.
            wanted: Which ones; see `Wanted`.
        """
        return self._io.call(self._inner.purge, queue, state=state, count=count, dry_run=dry_run, **wanted)
