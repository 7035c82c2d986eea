"""Check-backs on the client's side: the broker asks what became of a prepared message, a function of the user says it.

Each question is a task of its own, and what fails, hangs or does not know is simply not answered: the broker asks again
later. So one function that raises holds up no other. Functions are registered anew on every connection.
"""

from __future__ import annotations

import enum
import inspect
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

import anyio
import anyio.to_thread

from sluicemq.client.errors import SluiceError
from sluicemq.client.peeked import PeekedMessage, peeked_messages
from sluicemq.client.reconnect import Link
from sluicemq.client.runtime import Runtime, Slot
from sluicemq.client.session import Session
from sluicemq.wire import messages as m
from sluicemq.wire.fields import Message as WireMessage
from sluicemq.wire.positions import format_position

log = logging.getLogger("sluicemq.client")

AT_ONCE_MAX = 16
"""Most questions that are worked on at a time."""
WAITING_MAX = 10_000
"""Most questions that wait for that; those beyond are dropped, the broker asks again."""
CHECK_SECONDS_MAX = 60.0
"""A function that takes longer does not know."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Decision(enum.Enum):
    """What became of a prepared message."""

    COMMIT = "commit"
    ROLLBACK = "rollback"
    UNKNOWN = "unknown"
    """Not known yet: ask again later."""


@dataclass(frozen=True, slots=True)
class Undecided:
    """A prepared message that the broker asks about.

    Attributes:
        id: Its name: the position of its message.
        destination: The queue, or the name below a topic, that it is for.
        group: The group that is asked.
        checks: How often the group was asked, this time included.
        prepared_at: When it was prepared: an aware UTC datetime.
        message: The message itself.

    """

    id: str
    destination: str
    group: str
    checks: int
    prepared_at: datetime
    message: PeekedMessage

    @property
    def body(self) -> bytes:
        """The payload."""
        return self.message.body

    @property
    def key(self) -> str | None:
        """The key that the sender gave."""
        return self.message.key

    @property
    def headers(self) -> Mapping[str, Any]:
        """The headers that the sender gave."""
        return self.message.headers

    @property
    def message_id(self) -> str:
        """The id of the message."""
        return self.message.message_id


Check: TypeAlias = Callable[[Undecided], "Decision | Awaitable[Decision | None] | None"]
"""Says what became of a prepared message; None is `Decision.UNKNOWN`. Plain functions run in a worker thread."""


@dataclass(slots=True)
class Checker:
    """A registered function and its figures; made by `Client.transaction_checker`.

    Attributes:
        group: The group whose messages it is asked about.
        asked: Questions that came.
        committed: Answers "commit".
        rolled_back: Answers "rollback".
        unknown: Questions that it could not answer.
        failed: Calls that raised, took too long, or returned something else.

    """

    group: str
    function: Check
    asked: int = 0
    committed: int = 0
    rolled_back: int = 0
    unknown: int = 0
    failed: int = 0


class Checkers:
    """The functions of one client."""

    def __init__(self, runtime: Runtime, link: Link, spawn: Callable[[Callable[[], Awaitable[None]]], None]) -> None:
        self._runtime = runtime
        self._link = link
        self._spawn = spawn
        self._checkers: dict[str, Checker] = {}
        self._waiting: deque[tuple[Checker, m.Check, bytes]] = deque()
        self._slot: Slot | None = None
        self._running = False

    def add(self, group: str, function: Check) -> Checker:
        """Register *function* for *group*, in the place of one that was registered before."""
        checker = Checker(group, function)
        self._checkers[group] = checker
        if not self._running:
            self._running = True
            self._spawn(self._run)
            self._link.add(self)
        elif self._link.session is not None:
            self._register(self._link.session, group)
        return checker

    # --- as a resident of the link ---------------------------------------------------------------------------------

    def session_opened(self, session: Session) -> None:
        """Register all groups on the new connection."""
        for group in self._checkers:
            self._register(session, group)

    def session_lost(self, error: SluiceError) -> None:
        """Nothing: answers do not depend on the connection."""

    def failed(self, error: SluiceError) -> None:
        """Likewise; the client stops the task."""

    def forked(self, error: SluiceError) -> None:
        """This is the child of a fork: nothing is asked here."""
        self._waiting.clear()

    def _register(self, session: Session, group: str) -> None:
        def on_reply(reply: WireMessage | None, _tail: memoryview | None, error: SluiceError | None) -> None:
            if error is not None and session.error is None:
                log.warning("nobody is asked about prepared messages of group %r here: %s", group, error)

        session.request(m.RegisterChecker(group=group), on_reply)

    def asked(self, message: m.Check, tail: memoryview) -> None:
        """The broker asks."""
        checker = self._checkers.get(message.group)
        if checker is None or len(self._waiting) >= WAITING_MAX:
            return
        checker.asked += 1
        self._waiting.append((checker, message, bytes(tail)))
        if self._slot is not None:
            slot, self._slot = self._slot, None
            self._runtime.wake(slot)

    # --- answers ---------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        limiter = anyio.Semaphore(AT_ONCE_MAX)
        async with anyio.create_task_group() as tasks:
            while True:
                while not self._waiting:
                    self._slot = Slot()
                    await self._runtime.park(self._slot)
                await limiter.acquire()
                tasks.start_soon(self._answer, limiter, *self._waiting.popleft())

    async def _answer(self, limiter: anyio.Semaphore, checker: Checker, message: m.Check, data: bytes) -> None:
        try:
            decision = await self._decision(checker, message, data)
            if decision is Decision.UNKNOWN:
                checker.unknown += 1
            else:
                commit = decision is Decision.COMMIT
                await self._link.request(m.Resolve(transaction=message.transaction, commit=commit), timeout=30.0)
                if commit:
                    checker.committed += 1
                else:
                    checker.rolled_back += 1
        except Exception as error:  # noqa: BLE001 - one that fails must not end the others
            checker.failed += 1
            log.warning(
                "the check for group %r did not answer about %s: %s: %s",
                checker.group,
                format_position(0, message.transaction, 0),
                type(error).__name__,
                error,
            )
        finally:
            limiter.release()

    async def _decision(self, checker: Checker, message: m.Check, data: bytes) -> Decision:
        numbers = [message.transaction, 0, message.messages, len(data), message.prepared_ms]
        numbers += [message.producer, message.sequence, 0, 0]
        found = peeked_messages(numbers, memoryview(data), 0)
        undecided = Undecided(
            found[0].position,
            message.destination,
            message.group,
            message.checks,
            _EPOCH + timedelta(milliseconds=message.prepared_ms),
            found[0],
        )
        function = checker.function
        with anyio.fail_after(CHECK_SECONDS_MAX):
            if _is_async(function):
                answer: Any = function(undecided)
            else:
                answer = await anyio.to_thread.run_sync(function, undecided, abandon_on_cancel=True)
            if inspect.isawaitable(answer):
                answer = await answer
        if answer is None:
            return Decision.UNKNOWN
        if not isinstance(answer, Decision):
            raise TypeError(f"it returned {answer!r:.80} instead of a Decision: COMMIT, ROLLBACK or UNKNOWN")
        return answer


def _is_async(function: Check) -> bool:
    """Whether calling it only makes a coroutine; a plain function may block, and runs in a thread."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)
