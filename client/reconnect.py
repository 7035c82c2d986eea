"""One session after the other, wherever the broker is that leads, and requests that outlive a connection.

The link owns which session is current. Producers and consumers register as residents and are told when a session
opens, so that they can restore themselves, and when it ends.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from math import inf
from typing import NamedTuple, Protocol

import anyio

from sluicemq.client.errors import (
    AuthenticationFailed,
    ConnectionFailed,
    HeartbeatLost,
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
from sluicemq.client.retrying import Retrying
from sluicemq.client.runtime import Runtime, Slot, Stream
from sluicemq.client.searching import Openings, Place, Places
from sluicemq.client.session import Former, Identity, Session
from sluicemq.client.timers import Timers
from sluicemq.client.url import Address, show_address
from sluicemq.wire.fields import Message
from sluicemq.wire.messages import Brokers, Resumed

log = logging.getLogger("sluicemq.client")

HOPELESS = (AuthenticationFailed, NotAuthorized, VersionMismatch, InternalError)
"""Errors that another attempt would only repeat: the client fails with them."""
MOVE_ON = (NotLeader, StaleEpoch)
"""Answers that say: ask another broker. The request is repeated for the user."""


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
        retrying: How long to wait before a repeat, and whether there may be one.

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
        self.retrying = Retrying(runtime.now)
        self._runtime = runtime
        self._timers = timers
        self._identity = identity
        self._connect_stream = connect_stream
        self._residents: dict[Resident, None] = {}
        self._on_unasked: Callable[[Message, memoryview], None] = lambda _message, _tail: None
        self._waiters: dict[Slot, None] = {}
        self._places = Places(addresses)
        self._openings = Openings()
        self._look_again = Slot()
        self._is_silent = False
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
        before = self.session
        if before is not None:
            before.end(HeartbeatLost("the broker was silent, and another one leads"))
        self.session = session
        opened = session.opened
        assert opened is not None
        if not opened.resumed:
            self._former = Former(opened.session, opened.resume_token, 0) if opened.resume_token else None
        self._stop_looking()
        if len(self._places) > 1:
            session.watch()
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
            self._is_silent = False
            self._runtime.wake(self._look_again)
            for resident in list(self._residents):
                resident.session_lost(error)

    def unasked(self, session: Session, message: Message, tail: memoryview) -> None:
        """Pass on what the broker sent unasked."""
        if session is not self.session:
            return
        if isinstance(message, Brokers):
            self._places.told(message.addresses)
            if len(self._places) > 1:
                session.watch()
        else:
            self._on_unasked(message, tail)

    # --- the supervisor -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a session until cancelled or hopeless."""
        async with anyio.create_task_group() as tasks:
            while self.failure is None:
                now = self._runtime.now()
                wake_at = inf
                if self.session is None or self._is_silent:
                    place, wake_at = self._places.next(now)
                    if place is not None:
                        place.scope = anyio.CancelScope()
                        tasks.start_soon(self._attempt, place, place.scope)
                    opening = self._openings.next(now)
                    if opening is not None:
                        opening.open(self._former)
                    wake_at = min(wake_at, self._openings.waits_until())
                with anyio.move_on_after(max(0.0, wake_at - now)):
                    await self._runtime.park(self._look_again)
            tasks.cancel_scope.cancel()

    async def _attempt(self, place: Place, scope: anyio.CancelScope) -> None:
        """Connect to a place, and stay until the session ends."""
        begun = self._runtime.now()
        problem: SluiceError | None = None
        try:
            with scope:
                problem = await self._serve(place, place.patience(len(self._places)))
        finally:
            place.scope = place.session = None
        now = self._runtime.now()
        place.ended(now, problem, now - begun)
        if isinstance(problem, NotLeader):
            self._places.leader_is(problem.fields.get("address"))
        self._places.failed()
        if isinstance(problem, HOPELESS):
            self.fail(problem)
        self._runtime.wake(self._look_again)

    async def _serve(self, place: Place, seconds: float) -> SluiceError:
        """Connect to *place* within *seconds* and stay until the session ends; return why it did."""
        deadline = self._runtime.now() + seconds
        try:
            with anyio.fail_after(seconds):
                stream = await self._connect_stream(place.address)
        except TimeoutError:
            return ConnectionFailed(f"no connection within {seconds:g} seconds")
        except (OSError, SluiceError) as error:
            problem = error if isinstance(error, SluiceError) else ConnectionFailed(str(error) or repr(error))
            problem.__cause__ = error if problem is not error else problem.__cause__
            return problem
        session = place.session = Session(self._runtime, self._timers, stream, self._identity, self)
        reason = await session.run(deadline)
        if session.opened is not None:
            log.info("the connection to %s ended: %s", show_address(place.address), reason)
        return reason

    def session_ready(self, session: Session) -> None:
        """*session* could be opened."""
        self._openings.ready(session)
        self._runtime.wake(self._look_again)

    def session_silent(self, session: Session) -> None:
        """Look whether another broker leads, while the one that we have may come to itself."""
        if session is self.session:
            self._is_silent = True
            self._runtime.wake(self._look_again)

    def session_heard(self, session: Session) -> None:
        """The broker that we have lives."""
        if session is self.session:
            self._stop_looking()

    def _stop_looking(self) -> None:
        self._is_silent = False
        self._openings.clear()
        self._places.give_up_all_but(self.session)

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
        self._runtime.wake(self._look_again)
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
        places = self._places.all()
        parts = [
            f"{show_address(place.address)}: {'no answer yet' if place.problem is None else place.problem}"
            for place in places
        ]
        error = ConnectionFailed("no broker could be reached: " + "; ".join(parts))
        error.__cause__ = next((place.problem for place in places if place.problem is not None), None)
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
            RetriesExhausted: It would have had to be repeated, and the client has repeated too much lately.
            OutcomeUnknown: It was sent, no answer came, and it is not *repeatable*.
            SluiceError: The broker's answer.

        """
        sent = False
        what = type(message).__name__
        with anyio.move_on_after(timeout):
            while True:
                session = await self.connected()
                sent = not repeatable
                try:
                    answer = await self._ask(session, message, tail)
                except MOVE_ON as error:
                    sent = False
                    self.retrying.spend(what, error)
                    continue
                if answer is not None:
                    self.retrying.succeeded()
                    return answer
                if self.failure is not None:
                    raise another(self.failure)
                if sent:
                    raise OutcomeUnknown(
                        f"the connection ended before {what} was answered: {session.error}"
                    ) from session.error
                assert session.error is not None
                self.retrying.spend(what, session.error)
        if sent:
            raise OutcomeUnknown(f"no answer to {what} within {timeout:g} seconds")
        if self.session is None:
            raise self.unreachable()
        raise RequestTimeout(f"no answer to {what} within {timeout:g} seconds")

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
