"""A prepared ("half") message: stored by the broker before the user's own database decides, seen by nobody until then.

Prepare, commit in the database, commit here: should the process die in between, the broker asks its group what the
database says (`checkers`). So the message is sent exactly when the database has committed. This module must not know
how a group answers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from types import TracebackType
from typing import Self

from sluicemq.client.errors import ConnectionFailed, OutcomeUnknown, RequestTimeout, SluiceError, TransactionDecided
from sluicemq.client.numbered import NumberedRequests
from sluicemq.client.receipts import Confirmation, Receipt
from sluicemq.wire import messages as m

log = logging.getLogger("sluicemq.client")


class Half:
    """A prepared message; made by `Client.prepare`, used with `async with`.

    Entering stores it. Leaving commits it; an exception of the block rolls it back. On cancellation, KeyboardInterrupt
    and the like it stays undecided, and so it does after `leave_undecided`: then the check-back decides.
    """

    def __init__(
        self,
        requests: NumberedRequests,
        request: Callable[[int, int], m.Prepare],
        data: bytes,
        message_id: str | None,
        seconds: float,
    ) -> None:
        self._requests = requests
        self._request = request
        self._data = data
        self._message_id = message_id
        self._seconds = seconds
        self._number = 0
        self._decided: bool | None = None
        self._left_undecided = False
        self._receipt: Receipt | None = None

    @property
    def id(self) -> str:
        """By which operators and tools name it: the position at which its message was stored. Raises as `receipt`."""
        return self.receipt.stored_at

    @property
    def receipt(self) -> Receipt:
        """Position and id of its message; from the commit on also whether it is a `duplicate`.

        One whose id was sent before, within the `dedup_window` of its queue or topic, is delivered to nobody, and its
        position is that of the first one. Ids count at the commit: what is rolled back is no duplicate of anything.

        Raises:
            RuntimeError: It was not prepared yet: enter it first.

        """
        if self._receipt is None:
            raise RuntimeError("the message is not prepared yet: enter it with 'async with'")
        return self._receipt

    async def commit(self) -> None:
        """Let its consumers have it. The same decision again does no harm.

        Raises:
            TransactionDecided: It was rolled back before, by a check-back or an operator.
            TransactionNotFound: It was decided more than a day ago.
            QueueNotFound: Its queue or topic was deleted meanwhile; it stays prepared.
            OutcomeUnknown: No answer in time: call this again, or leave it to the check-back.

        """
        await self._resolve(True)

    async def rollback(self) -> None:
        """Let nobody ever have it; raises as `commit`, with the decisions the other way round."""
        await self._resolve(False)

    def leave_undecided(self) -> None:
        """Decide nothing when the block ends: for whoever does not know what the database did. The group is asked."""
        self._left_undecided = True

    async def _resolve(self, commit: bool) -> None:
        assert self.receipt is not None, "it is prepared"
        request = m.Resolve(transaction=self._number, commit=commit)
        try:
            answer = await self._requests.link.request(request, timeout=self._seconds)
        except (RequestTimeout, ConnectionFailed) as error:
            raise OutcomeUnknown(
                f"whether the prepared message {self.id} is {'committed' if commit else 'rolled back'} is not known "
                f"yet ({error.text}): decide it again, or leave it to the check-back",
                transaction=self.id,
            ) from error
        self._decided = commit
        reply = answer.message
        if isinstance(reply, m.Resolved) and (reply.known or reply.known_bits):
            self._receipt = self.receipt.known(reply.known, reply.known_bits)

    async def __aenter__(self) -> Self:
        if self._receipt is not None:
            raise RuntimeError("a message is prepared once: call prepare() again")
        answer, request = await self._requests.ask(self._request, self._data, self._seconds)
        reply = answer.message
        assert isinstance(reply, m.Prepared)
        assert isinstance(request, m.Prepare)
        self._number = reply.transaction
        welcome = None if self._requests.link.session is None else self._requests.link.session.welcome
        group = 0 if welcome is None else welcome.group_id
        ids = None if self._message_id is None else [self._message_id]
        said = reply.transaction, reply.duplicate, request.producer, request.sequence, 1
        self._receipt = Receipt(Confirmation(group, *said, ids, id_base=reply.id_base), 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._decided is not None or self._left_undecided:
            return
        if error is None:
            await self.commit()  # noqa: ASYNC102 - only where the block ended well
        elif isinstance(error, Exception):
            try:
                await self.rollback()  # noqa: ASYNC102 - bounded by its timeout
            except TransactionDecided:
                log.exception("%s failed after the prepared message %s was committed", type(error).__name__, self.id)
            except SluiceError as problem:
                # The user's error is what matters; the check-back decides.
                log.warning("the prepared message %s is not rolled back yet: %s", self.id, problem)
