"""One session after the other: addresses in turn, backoff with jitter, and requests that outlive a connection.

The link owns which session is current. Producers and consumers register as residents and are told when a session
opens, so that they can restore themselves, and when it ends.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Awaitable, Callable
from typing import NamedTuple, Protocol

import anyio

from sluicemq.client.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    InternalError,
    NotAuthorized,
    NotLeader,
    OutcomeUnknown,
    RequestTimeout,
    SluiceError,
    StaleEpoch,
    VersionMismatch,
    another,
)
from sluicemq.client.runtime import Runtime, Slot, Stream
from sluicemq.client.session import Former, Identity, Session
from sluicemq.client.timers import Timers
from sluicemq.client.url import Address, show_address
from sluicemq.wire.fields import Message
from sluicemq.wire.messages import Resumed

log = logging.getLogger("sluicemq.client")

ATTEMPT_SECONDS_MAX = 5.0
"""Longest time that one address gets to take the connection and finish the handshake."""
ATTEMPT_SECONDS_FIRST = 1.0
"""Where there are several addresses, each gets this long in the first round, and twice as long in the next one."""
BACKOFF_SECONDS_FIRST = 0.05
BACKOFF_SECONDS_MAX = 2.0
STABLE_SECONDS = 5.0
"""A session that lived so long resets the backoff."""

HOPELESS = (AuthenticationFailed, NotAuthorized, VersionMismatch, InternalError)
"""Errors that another attempt would only repeat: the client fails with them."""
MOVE_ON = (NotLeader, StaleEpoch)
"""Answers that say: ask another broker. The request is repeated for the user."""
RETRY_SECONDS = 0.1


class Resident(Protocol):
    """Something that lives across sessions."""

    def session_opened(self, session: Session) -> None:
        """A session is there: restore what you had, sending at once."""

    def session_lost(self, error: SluiceError) -> None:
        """The session is over; another may come."""

    def failed(self, error: SluiceError) -> None:
        """No session will come any more: fail everything that waits."""

    def forked(self, error: SluiceError) -> None:
        """This is the child of a fork: every further call fails; touch no loop and no socket."""


class Answer(NamedTuple):
    """A reply with its raw tail."""

    message: Message
    tail: memoryview


ConnectStream = Callable[[Address], Awaitable[Stream]]
"""Returns a stream to an address; OSError or SluiceError if there is none."""


class Link:
    """The client's connection, seen over reconnects.

    Attributes:
        session: The current session, or None while there is none.
        failure: Why there will never be one again; None while there is hope.

    """

    def __init__(
        self,
        runtime: Runtime,
        timers: Timers,
        addresses: tuple[Address, ...],
        identity: Identity,
        connect_stream: ConnectStream,
    ) -> None:
        self.session: Session | None = None
        self.failure: SluiceError | None = None
        self._runtime = runtime
        self._timers = timers
        self._addresses = addresses
        self._identity = identity
        self._connect_stream = connect_stream
        self._residents: dict[Resident, None] = {}
        self._on_unasked: Callable[[Message, memoryview], None] = lambda _message, _tail: None
        self._waiters: dict[Slot, None] = {}
        self._problems: dict[Address, SluiceError] = {}
        self._former: Former | None = None

    def listen(self, on_unasked: Callable[[Message, memoryview], None]) -> None:
        """Say who gets what the broker sends unasked."""
        self._on_unasked = on_unasked

    def add(self, resident: Resident) -> None:
        """Tell *resident* of sessions from now on, and of the current one at once."""
        self._residents[resident] = None
        if self.session is not None:
            resident.session_opened(self.session)

    def remove(self, resident: Resident) -> None:
        """Tell *resident* nothing more."""
        self._residents.pop(resident, None)

    @property
    def can_resume(self) -> bool:
        """Whether the broker keeps our session for a while when its connection is lost."""
        return self._former is not None and self.failure is None

    def attached(self, consumer: int) -> None:
        """Note the number of a consumer, so that no other one gets it when the session is resumed."""
        former = self._former
        if former is not None and consumer > former.consumer_max:
            self._former = former._replace(consumer_max=consumer)

    def residents(self) -> list[Resident]:
        """Return those who are told."""
        return list(self._residents)

    # --- called by the session ------------------------------------------------------------------------------------

    def session_opened(self, session: Session) -> None:
        """The handshake of *session* is through: it is the current one."""
        self.session = session
        opened = session.opened
        assert opened is not None
        if not opened.resumed:
            self._former = Former(opened.session, opened.resume_token, 0) if opened.resume_token else None
        self._problems.clear()
        for resident in list(self._residents):
            try:
                resident.session_opened(session)
            except SluiceError as error:  # a message of its own that cannot travel: the others live on
                log.exception("a producer or consumer could not be restored")
                self.remove(resident)
                resident.failed(error)
        if opened.resumed:
            session.post(Resumed())
        self._wake_all()

    def session_ended(self, session: Session, error: SluiceError) -> None:
        """*session* is over: there is none until the next one opens."""
        if session is self.session:
            self.session = None
            for resident in list(self._residents):
                resident.session_lost(error)

    def unasked(self, session: Session, message: Message, tail: memoryview) -> None:
        """Pass on what the broker sent unasked."""
        if session is self.session:
            self._on_unasked(message, tail)

    # --- the supervisor -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a session until cancelled or hopeless."""
        round_number = 0
        start = 0
        while self.failure is None:
            seconds = ATTEMPT_SECONDS_MAX
            if len(self._addresses) > 1:
                seconds = min(seconds, ATTEMPT_SECONDS_FIRST * 2 ** min(round_number, 10))
            for offset in range(len(self._addresses)):
                index = (start + offset) % len(self._addresses)
                begun = self._runtime.now()
                opened = await self._serve(self._addresses[index], seconds)
                if self.failure is not None:
                    return
                if opened:
                    start = (index + 1) % len(self._addresses)
                    if self._runtime.now() - begun > STABLE_SECONDS:
                        round_number = 0
                    break
            pause = min(BACKOFF_SECONDS_MAX, BACKOFF_SECONDS_FIRST * 2 ** min(round_number, 10))
            round_number += 1
            await anyio.sleep(pause * random.uniform(0.5, 1.0))

    async def _serve(self, address: Address, seconds: float) -> bool:
        """Connect to *address* within *seconds* and stay until the session ends; return whether there was one."""
        deadline = self._runtime.now() + seconds
        try:
            with anyio.fail_after(seconds):
                stream = await self._connect_stream(address)
        except TimeoutError:
            self._problems[address] = ConnectionFailed(f"no connection within {seconds:g} seconds")
            return False
        except (OSError, SluiceError) as error:
            problem = error if isinstance(error, SluiceError) else ConnectionFailed(str(error) or repr(error))
            problem.__cause__ = error if problem is not error else problem.__cause__
            self._problems[address] = problem
            return False
        session = Session(self._runtime, self._timers, stream, self._identity, self, self._former)
        reason = await session.run(deadline)
        opened = session.opened is not None
        self._problems[address] = reason
        if opened:
            log.info("the connection to %s ended: %s", show_address(address), reason)
        if isinstance(reason, HOPELESS):
            self.fail(reason)
        return opened

    def fail(self, error: SluiceError) -> None:
        """Give up for good: everything that waits, and every later call, raises *error*."""
        if self.failure is not None:
            return
        self.failure = error
        session, self.session = self.session, None
        for resident in list(self._residents):
            resident.failed(error)
        if session is not None:
            session.close()
        self._wake_all()

    def forked(self, error: SluiceError) -> None:
        """This is the child of a fork: every further call raises *error*, and nothing is sent."""
        self.failure = error
        session, self.session = self.session, None
        if session is not None:
            session.error = error
        for resident in self._residents:
            resident.forked(error)

    def _wake_all(self) -> None:
        waiters, self._waiters = self._waiters, {}
        for waiter in waiters:
            self._runtime.wake(waiter)

    # --- for callers ----------------------------------------------------------------------------------------------

    def unreachable(self) -> ConnectionFailed:
        """Return the error that lists each address with its cause."""
        parts = [
            f"{show_address(address)}: {self._problems[address]}" if address in self._problems
            else f"{show_address(address)}: no answer yet"
            for address in self._addresses
        ]  # fmt: skip
        error = ConnectionFailed("no broker could be reached: " + "; ".join(parts))
        error.__cause__ = next(iter(self._problems.values()), None)
        return error

    async def connected(self) -> Session:
        """Return the current session, waiting for it if there is none.

        Raises:
            SluiceError: The link has failed for good.

        """
        while self.session is None:
            if self.failure is not None:
                raise another(self.failure)
            waiter = Slot()
            self._waiters[waiter] = None
            try:
                await self._runtime.park(waiter)
            finally:
                self._waiters.pop(waiter, None)
        return self.session

    async def request(
        self, message: Message, *, timeout: float, repeatable: bool = True, tail: bytes | None = None
    ) -> Answer:
        """Send *message* and return its answer, over as many sessions as it takes.

        Args:
            message: What to ask.
            timeout: Seconds for everything.
            repeatable: Whether asking twice does no harm. Otherwise a connection that breaks in between leaves the
                outcome unknown.
            tail: What travels behind the message.

        Raises:
            RequestTimeout: No answer in time.
            ConnectionFailed: No broker within that time.
            OutcomeUnknown: It was sent, no answer came, and it is not *repeatable*.
            SluiceError: The broker's answer.

        """
        sent = False
        with anyio.move_on_after(timeout):
            while True:
                session = await self.connected()
                sent = not repeatable
                try:
                    answer = await self._ask(session, message, tail)
                except MOVE_ON as error:
                    sent = False
                    session.end(error)
                    await anyio.sleep(error.retry_after or RETRY_SECONDS)
                    continue
                if answer is not None:
                    return answer
                if self.failure is not None:
                    raise another(self.failure)
                if sent:
                    raise OutcomeUnknown(
                        f"the connection ended before {type(message).__name__} was answered: {session.error}"
                    ) from session.error
        if sent:
            raise OutcomeUnknown(f"no answer to {type(message).__name__} within {timeout:g} seconds")
        if self.session is None:
            raise self.unreachable()
        raise RequestTimeout(f"no answer to {type(message).__name__} within {timeout:g} seconds")

    async def _ask(self, session: Session, message: Message, data: bytes | None) -> Answer | None:
        """Return the answer to *message*, or None if the session ended before it came."""
        slot = Slot()
        answers: list[Answer] = []
        errors: list[SluiceError] = []

        def on_reply(reply: Message | None, tail: memoryview | None, error: SluiceError | None) -> None:
            if error is not None:
                errors.append(error)
            else:
                assert reply is not None
                assert tail is not None
                answers.append(Answer(reply, tail))
            self._runtime.wake(slot)

        session.request(message, on_reply, data)
        if not answers and not errors:
            await self._runtime.park(slot)
        if answers:
            return answers[0]
        if errors[0] is session.error:
            return None
        raise another(errors[0])
