"""The relay: claims rows, has them sent, and deletes what the broker has. Runs until it is cancelled.

Any number may run, in one process or many. While the database or the broker is away it waits and tries again, for hours
if need be; what it can never send is parked with the reason. It must not know statements or batches.
"""

from __future__ import annotations

import logging
import random
import uuid
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import anyio
import anyio.to_thread

from sluicemq.client.backoff import Backoff
from sluicemq.client.errors import InvalidRequest, SluiceError
from sluicemq.client.handling import error_text
from sluicemq.client.outbox.bell import Bell
from sluicemq.client.outbox.database import Database
from sluicemq.client.outbox.sending import Outcomes, Sender
from sluicemq.client.outbox.statements import Claim, Failure, Peeked, Statements
from sluicemq.client.sql.connections import is_database_error

if TYPE_CHECKING:
    from sluicemq.client.client import Client

log = logging.getLogger("sluicemq.client")

T = TypeVar("T")

POLL_SECONDS = 1.0
LEASE_SECONDS = 30.0
ROWS_MAX = 500
BYTES_MAX = 4 * 1024 * 1024
"""Most bytes of bodies that one relay holds at a time, unless a single message has more."""
ATTEMPTS_MAX = 8
EAGER_SECONDS_FIRST = 0.002
"""After `add` in this process the row appears with its transaction's commit, and nobody says when: so look again soon,
then later and later."""
CLOSE_SECONDS = 2.0
"""How long a cancelled relay waits for the answers that are under way, and as long to note them."""
HELD_DESTINATIONS_MAX = 200
"""More destinations that take nothing than that, and the relay rests as a whole."""
ROW_BACKOFF = Backoff(1.0, 300.0)
HOLD_BACKOFF = Backoff(0.5, 30.0, floor_share=0.5)
BROKER_BACKOFF = Backoff(0.1, 5.0, floor_share=0.1)
DATABASE_BACKOFF = Backoff(0.1, 10.0, floor_share=0.1)


@dataclass(frozen=True, slots=True)
class RelayStatistics:
    """What a relay has done so far.

    Attributes:
        sent: Messages that the broker has.
        claims: How often it took rows.
        failures: Sends of rows that failed for a reason of their own.
        parked: Rows that it parked.
        claims_lost: Claims that ended before it was done: another relay has gone on.
        broker_failures: How often the broker could not be reached or gave no answer.
        database_failures: The same for the database.

    """

    sent: int = 0
    claims: int = 0
    failures: int = 0
    parked: int = 0
    claims_lost: int = 0
    broker_failures: int = 0
    database_failures: int = 0


@dataclass(frozen=True, slots=True)
class RelaySettings:
    """How a relay works; see `Outbox.relay`."""

    poll_seconds: float = POLL_SECONDS
    lease_seconds: float = LEASE_SECONDS
    rows_max: int = ROWS_MAX
    bytes_max: int = BYTES_MAX
    attempts_max: int = ATTEMPTS_MAX
    chance: Callable[[], float] = random.random


class Relay:
    """The loop; made by `Outbox.relay`.

    `await relay` runs it until it is cancelled. `async with relay:` runs it beside the block, and ends it with that.
    """

    def __init__(
        self, client: Client, database: Database, statements: Statements, settings: RelaySettings, bells: set[Bell]
    ) -> None:
        self._database = database
        self._statements = statements
        self._settings = settings
        self._bells = bells
        self._sender = Sender(client, self._still_mine)
        self._name = uuid.uuid4().hex
        self._counts = dict.fromkeys(RelayStatistics.__slots__, 0)
        self._held: dict[str, tuple[int, float]] = {}
        self._held_until = 0.0
        self._broker_failures = 0
        self._database_failures = 0
        self._eager_seconds = POLL_SECONDS
        self._started = False
        self._error: BaseException | None = None
        self._group: Any = None

    def statistics(self) -> RelayStatistics:
        """Return what it has done so far."""
        return RelayStatistics(**self._counts)

    # --- life -----------------------------------------------------------------------------------------------------

    def __await__(self) -> Generator[Any, Any, None]:
        return self.run().__await__()

    async def run(self) -> None:
        """Relay until cancelled; see `Outbox.relay` for what it raises."""
        if self._started:
            raise InvalidRequest("this relay was started before: make a new one")
        self._started = True
        bell = Bell()
        self._bells.add(bell)
        problem: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self._listen, bell)
                try:
                    await self._work(bell)
                except Exception as error:  # noqa: BLE001 - raised below, and not inside a group
                    problem = error
                tasks.cancel_scope.cancel()
        finally:
            self._bells.discard(bell)
            bell.close()
            self._sender.close()
        if problem is not None:
            raise problem

    async def __aenter__(self) -> Self:
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._run_beside)
        return self

    async def _run_beside(self) -> None:
        try:
            await self.run()
        except Exception as error:
            log.exception("the relay of the outbox has ended")
            self._error = error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the relay; it waits for what is under way as `run` does when it is cancelled.

        Raises:
            Exception: What the relay itself ended with, if the block raised nothing.

        """
        self._group.cancel_scope.cancel()
        await self._group.__aexit__(None, None, None)  # noqa: ASYNC102 - bounded by CLOSE_SECONDS
        if error is None and self._error is not None:
            raise self._error

    # --- the loop -------------------------------------------------------------------------------------------------

    async def _work(self, bell: Bell) -> None:
        while True:
            await self._sender.connected()
            peeked = await self._try_database(partial(self._statements.peek, held=self._holds()))
            if peeked is None:
                await anyio.sleep(DATABASE_BACKOFF.delay(self._database_failures, self._settings.chance))
                continue
            if peeked.lanes and len(self._held) < HELD_DESTINATIONS_MAX:
                self._eager_seconds = EAGER_SECONDS_FIRST
                await self._relay_from(peeked.lanes)
                if self._broker_failures:
                    await anyio.sleep(BROKER_BACKOFF.delay(self._broker_failures, self._settings.chance))
            elif await bell.heard(self._rest_seconds(peeked)):
                self._eager_seconds = EAGER_SECONDS_FIRST

    def _rest_seconds(self, peeked: Peeked) -> float:
        """Return how long there is nothing to do, unless the bell rings."""
        poll = self._settings.poll_seconds
        seconds = min(poll, self._eager_seconds)
        self._eager_seconds = min(self._eager_seconds * 2, poll)
        if peeked.due_seconds is not None:
            seconds = min(seconds, max(peeked.due_seconds, EAGER_SECONDS_FIRST))
        now = anyio.current_time()
        for _, until in self._held.values():
            seconds = min(seconds, max(until - now, EAGER_SECONDS_FIRST))
        return seconds

    def _holds(self) -> tuple[str, ...]:
        """Return the destinations that take nothing now."""
        now = anyio.current_time()
        return tuple(destination for destination, (_, until) in self._held.items() if until > now)

    async def _try_database(self, make_steps: Callable[..., Any]) -> Any:
        """Run steps in the database; return None if it does not work now.

        Raises:
            TableMissing: The tables were never made.

        """
        try:
            outcome = await self._database.transact(make_steps)
        except SluiceError:
            raise
        except Exception as error:
            if not is_database_error(error):
                raise
            self._database_failures += 1
            self._counts["database_failures"] += 1
            log.warning("the outbox's database failed, the relay will try again: %s", error)
            return None
        self._database_failures = 0
        return outcome

    async def _relay_from(self, lanes: list[int]) -> None:
        """Claim rows of *lanes*, have them sent, and note what became of them."""
        settings = self._settings
        self._counts["claims"] += 1
        owner = f"{self._name}/{self._counts['claims']}"
        make_claim = partial(
            self._statements.claim,
            owner=owner,
            lanes=lanes,
            held=self._holds(),
            lease_seconds=settings.lease_seconds,
            rows_max=settings.rows_max,
            bytes_max=settings.bytes_max,
        )
        # From before, because the database's clock runs meanwhile.
        self._held_until = anyio.current_time() + settings.lease_seconds
        outcomes = Outcomes()
        claim: Claim | None = None
        with anyio.CancelScope(shield=True):  # a claim that was made is never left behind
            claim = await self._try_database(make_claim)
        if claim is None or not claim.lanes:
            return
        seconds = CLOSE_SECONDS
        try:
            await self._send(claim, outcomes)
            seconds = settings.lease_seconds
        finally:
            with anyio.move_on_after(seconds, shield=True):
                await self._finish(claim, outcomes)

    async def _send(self, claim: Claim, outcomes: Outcomes) -> None:
        """Send the rows of *claim*, renewing it meanwhile; when cancelled, wait a little for answers under way."""
        problem: Exception | None = None
        sending = anyio.CancelScope(shield=True)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self._renew, claim)
            tasks.start_soon(_end_soon_after_cancellation, sending)
            with sending:
                try:
                    await self._sender.send(claim.rows, outcomes)
                except Exception as error:  # noqa: BLE001 - raised below, and not inside a group
                    problem = error
            tasks.cancel_scope.cancel()
        if problem is not None:
            raise problem

    async def _renew(self, claim: Claim) -> None:
        lease = self._settings.lease_seconds
        while True:
            await anyio.sleep(lease / 3)
            begun = anyio.current_time()
            held = await self._try_database(partial(self._statements.renew, owner=claim.owner, lease_seconds=lease))
            if held == claim.lanes:
                self._held_until = begun + lease
            elif held is not None:
                self._held_until = 0.0

    def _still_mine(self) -> bool:
        return anyio.current_time() < self._held_until

    # --- what became of it ----------------------------------------------------------------------------------------

    async def _finish(self, claim: Claim, outcomes: Outcomes) -> None:
        """Note the outcomes, trying until the caller's time is over; then the rows are sent again by the next claim."""
        if outcomes.broker_error is not None:
            self._broker_failures += 1
            self._counts["broker_failures"] += 1
            log.info("the outbox could not be relayed: %s", outcomes.broker_error)
        elif outcomes.sent:
            self._broker_failures = 0
        failures = [*self._failures_of(outcomes), *self._hold(outcomes)]
        note = partial(self._statements.finish, claim=claim, sent=outcomes.sent, failures=failures)
        while (held := await self._try_database(note)) is None:  # noqa: ASYNC110 - it tells nobody when it works again
            await anyio.sleep(DATABASE_BACKOFF.delay(self._database_failures, self._settings.chance))
        self._counts["sent"] += len(outcomes.sent)
        if held < claim.lanes:
            self._counts["claims_lost"] += 1
            log.warning("another relay has taken over rows of the outbox that were being sent: its lease was over")

    def _failures_of(self, outcomes: Outcomes) -> list[Failure]:
        failures = [Failure(row, error_text(error), None) for row, error in outcomes.refused]
        for row, error in outcomes.failed:
            attempts = row.attempts + 1
            delay = None
            if attempts < self._settings.attempts_max:
                delay = ROW_BACKOFF.delay(attempts, self._settings.chance)
            failures.append(Failure(row, error_text(error), delay))
        self._counts["failures"] += len(failures)
        for row, text, delay, _ in failures:
            if delay is None:
                self._counts["parked"] += 1
                log.error("message %s for %r is parked in the outbox: %s", row.message_id, row.destination, text)
        return failures

    def _hold(self, outcomes: Outcomes) -> list[Failure]:
        """Leave destinations alone that take nothing; their first rows tell operators why."""
        now = anyio.current_time()
        sent_to = {destination for destination in self._held if destination not in outcomes.held}
        for destination in sent_to:
            if self._held[destination][1] <= now - self._settings.poll_seconds:
                del self._held[destination]
        failures = []
        for destination, (row, error) in outcomes.held.items():
            count = self._held.get(destination, (0, 0.0))[0] + 1
            retry_after = getattr(error, "retry_after", None) or 0.0
            delay = max(HOLD_BACKOFF.delay(count, self._settings.chance), min(retry_after, HOLD_BACKOFF.seconds_max))
            self._held[destination] = (count, now + delay)
            log.warning("%r takes no messages from the outbox for now: %s", destination, error)
            failures.append(Failure(row, error_text(error), delay, counts=False))
        return failures

    # --- being woken ----------------------------------------------------------------------------------------------

    async def _listen(self, bell: Bell) -> None:
        """Ring the bell when PostgreSQL says that messages were committed; polling does the rest where it cannot."""
        opens = self._database.listener()
        failures = 0
        while opens is not None:
            try:
                connection = await anyio.to_thread.run_sync(_that_listens, opens)
            except Exception as error:  # noqa: BLE001 - polling goes on
                failures += 1
                log.info("no LISTEN for the outbox, it is polled: %s", error)
            else:
                if connection is None:
                    return
                failures = 1 if await self._hear(connection, bell) else failures + 1
            await anyio.sleep(DATABASE_BACKOFF.delay(failures, self._settings.chance))

    async def _hear(self, connection: Any, bell: Bell) -> bool:
        """Serve notifications until the connection breaks; return whether it had worked."""
        worked = False
        try:
            connection.autocommit = True
            await anyio.to_thread.run_sync(connection.execute, f"LISTEN {self._statements.channel}")
            worked = True
            bell.ring()  # what was committed before is there
            while True:
                await anyio.wait_readable(connection.fileno())
                if await anyio.to_thread.run_sync(_notified, connection):
                    bell.ring()
        except Exception as error:  # noqa: BLE001 - polling goes on
            log.info("the LISTEN for the outbox ended: %s", error)
            return worked
        finally:
            connection.close()


def _that_listens(opens: Callable[[], Any]) -> Any:
    """Return an open connection of psycopg, or None if *opens* opens others; in one thread, as SQLite wants it."""
    connection = opens()
    if hasattr(connection, "notifies"):
        return connection
    connection.close()
    return None


def _notified(connection: Any) -> bool:
    """Take in what the server sent; return whether a notification was among it."""
    return any(True for _ in list(connection.notifies(timeout=0)))


async def _end_soon_after_cancellation(scope: anyio.CancelScope) -> None:
    try:
        await anyio.sleep_forever()
    finally:
        scope.deadline = anyio.current_time() + CLOSE_SECONDS
