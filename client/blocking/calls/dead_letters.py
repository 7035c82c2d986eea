"""Calls as DeadLetterCalls has them.

Made by a test from `sluicemq.client.dead_letters`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from sluicemq.client.blocking.calls._base import Base
from sluicemq.client.dead_letters import DeadLetter, Wanted, everything


class DeadLetterCalls(Base):
    """These calls of the client."""

    def dead_letters(
        self, queue: str, count: int = 100, skip: int = 0, *, wanted: Wanted = everything
    ) -> list[DeadLetter]:
        """Look at dead letters, in the order of dying, without changing anything.

        They lie aside in the queue in which they died, or in the queue that its setting `dead_letter` names: ask for
        that one then. There they are ready messages too, and can be consumed; `message.dead_letter` says whence.

        Args:
            queue: The queue.
            count: Most dead letters to return.
            skip: How many messages to pass over.
            wanted: Says of each whether it is to be returned.

        Raises:
            QueueNotFound: No queue of that name.
        """
        return self._io.call(self._inner.dead_letters, queue, count, skip, wanted=wanted)

    def redrive(
        self,
        queue: str,
        to: str | None = None,
        *,
        count: int | None = None,
        rate: float | None = None,
        wanted: Wanted = everything,
    ) -> int:
        """Let dead letters be tried again, as new messages behind all others.

        Those that die again meanwhile are not taken a second time. A call that fails half-way has moved what it had
        moved: none is lost, and none is there twice.

        Args:
            queue: Where they are, see `dead_letters`.
            to: The queue that they shall go to; default: each where it died.
            count: Most to move; default: all that are there now.
            rate: Most messages a second; default: as fast as it goes.
            wanted: Says of each whether it is to go.

        Returns:
            How many went.

        Raises:
            QueueNotFound: No queue of that name.
            Conflict: Some came from queues that are gone: say where they shall go.
            QueueFull: They do not fit the queue that they are to go to.
            OutcomeUnknown: The connection broke before the answer; look whether they are still there.
        """
        return self._io.call(self._inner.redrive, queue, to, count=count, rate=rate, wanted=wanted)

    def discard(self, queue: str, *, count: int | None = None, wanted: Wanted = everything) -> int:
        """Drop dead letters for good; arguments and errors as for `redrive`. Returns how many went."""
        return self._io.call(self._inner.discard, queue, count=count, wanted=wanted)
