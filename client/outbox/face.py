"""What users call: `add` in their own transaction, `relay` beside their service, `status` for those who watch it."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Unpack

from sluicemq.client.errors import InvalidRequest
from sluicemq.client.options import Body, Delivery, Duration, count_of, owned_body, seconds_of
from sluicemq.client.outbox.bell import Bell
from sluicemq.client.outbox.database import MISSING, Database, database_of
from sluicemq.client.outbox.relay import ATTEMPTS_MAX, LEASE_SECONDS, POLL_SECONDS, ROWS_MAX, Relay, RelaySettings
from sluicemq.client.outbox.statements import Statements
from sluicemq.client.outgoing import check_message_values
from sluicemq.client.producer import attributes_of
from sluicemq.client.sql.connections import blocking_connection, perform, perform_anywhere, sql_connection
from sluicemq.client.sql.steps import Dialect, Steps, checked_dialect, checked_table
from sluicemq.wire.settings import check_name

if TYPE_CHECKING:
    from sluicemq.client.client import Client

T = TypeVar("T")

TABLE = "sluicemq_outbox"
LEASE_SECONDS_MIN = 1.0
POLL_SECONDS_MIN = 0.01
ROWS_PER_CLAIM_MAX = 10_000
LISTED_MAX = 1_000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class OutboxStatus:
    """What lies in an outbox.

    Attributes:
        waiting: Messages that are to be sent, those that failed before included.
        failing: Those of them that failed, and will be tried again.
        parked: Messages that wait for somebody to call `retry` or `discard`.
        oldest_age_seconds: Since when the oldest one waits that is not parked; None if none waits. The figure to watch.

    """

    waiting: int
    failing: int
    parked: int
    oldest_age_seconds: float | None


@dataclass(frozen=True, slots=True)
class TroubledMessage:
    """A message that could not be sent.

    Attributes:
        id: Its number in the table, for `retry` and `discard`.
        destination: Where it is to go.
        key: Its key, or None.
        message_id: Its id.
        attempts: How often it was tried.
        error: What the last try ended with.
        added_at: When it was added: an aware UTC datetime, by the database's clock.
        parked_at: When it was parked; None if it will be tried again.

    """

    id: int
    destination: str
    key: str | None
    message_id: str
    attempts: int
    error: str
    added_at: datetime
    parked_at: datetime | None


class Outbox:
    """Messages that leave with the SQL transaction in which they were added: all of its effects, or none.

    Args:
        database: Where the tables lie, for everything but `add`: an address ("sqlite:///orders.db",
            "postgresql://..."), a `Path` of an SQLite file, an `Engine` or `AsyncEngine` of SQLAlchemy, or a function
            that opens a `sqlite3.Connection` or `psycopg.Connection`.
        table: Name of the table, with its schema if need be; a second one is called the same with `_lanes` behind it.
        parked_key: Whether the later messages of a parked one's key "wait", so that order is kept, or "go_on".
        notify: On PostgreSQL, let `add` wake relays in other processes when its transaction commits. NOTIFY takes a
            lock of the whole database cluster at commit: with thousands of commits a second, let relays poll.

    Raises:
        InvalidRequest: A value that is not allowed.
        TypeError: The database is nothing that names one.

    """

    def __init__(
        self,
        database: object = None,
        *,
        table: str = TABLE,
        parked_key: Literal["wait", "go_on"] = "wait",
        notify: bool = True,
    ) -> None:
        if parked_key not in ("wait", "go_on"):
            raise InvalidRequest(f"parked_key is {parked_key!r:.80}; it must be 'wait' or 'go_on'")
        self.table = checked_table(table)
        self._statements = Statements(self.table, parked_waits=parked_key == "wait")
        self._database: Database | None = None if database is None else database_of(database)
        self._notify = notify
        self._bells: set[Bell] = set()

    # --- tables ---------------------------------------------------------------------------------------------------

    async def create_tables(self, connection: Any = None) -> None:
        """Make the tables unless they are there: in the transaction of *connection*, or in one of the outbox's own.

        Raises:
            TypeError: The connection is none that `add` takes.

        """
        if connection is None:
            await self._own().transact(self._statements.create)
            return
        found = sql_connection(connection)
        await perform_anywhere(found, self._statements.create(found.dialect), check=False, missing=MISSING)

    def create_tables_blocking(self, connection: Any) -> None:
        """Do the same without an event loop, on a blocking connection."""
        found = blocking_connection(connection, "'await outbox.create_tables(connection)'")
        perform(found, self._statements.create(found.dialect), check=False, missing=MISSING)

    @staticmethod
    def schema(dialect: str, table: str = TABLE) -> list[str]:
        """Return the statements that make the tables, for migrations; *dialect* is "sqlite" or "postgresql"."""
        return list(Statements(checked_table(table), parked_waits=True).schema(checked_dialect(dialect)))

    # --- for those who send ---------------------------------------------------------------------------------------

    def add(
        self,
        connection: Any,
        destination: str,
        body: Body,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        **delivery: Unpack[Delivery],
    ) -> str:
        """Add a message in the transaction of a blocking *connection*; it is sent if and when that commits.

        Needs no event loop and no broker. Messages of one key to one destination are sent in the order in which they
        were added, by transactions of which the later one began to add after the earlier one had committed.

        Args:
            connection: A `sqlite3.Connection`, a `psycopg.Connection`, or SQLAlchemy's `Connection` or `Session`.
            destination: Name of the queue, or a name below a topic.
            body: The payload.
            key: Groups messages that belong together, and keeps their order.
            subject: What the message is about.
            headers: Text to plain value (whatever msgpack can carry).
            message_id: An id of your own; default: a new UUID. Under it the broker recognises a message that a relay
                sends twice, where the destination has a `dedup_window`.
            delivery: `delay`, counted from now by this machine's clock, or `at`; `ttl`, counted from when it is due or
                the broker has it; `priority`; as for `Producer.send`.

        Returns:
            The message's id.

        Raises:
            TransactionRequired: The connection commits every statement by itself.
            TableMissing: `create_tables` was not called.
            TypeError: The connection is asynchronous (use `add_async`) or none of these, or another argument has a
                wrong type.
            InvalidRequest: A value that is not allowed.

        """
        found = blocking_connection(connection, "'await outbox.add_async(...)'")
        message_id, make = self._adding(destination, body, key, subject, headers, message_id, **delivery)
        perform(found, make(found.dialect), missing=MISSING)
        self.wake()
        return message_id

    async def add_async(
        self,
        connection: Any,
        destination: str,
        body: Body,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        **delivery: Unpack[Delivery],
    ) -> str:
        """Do the same as `add`, also on an `AsyncConnection` of either library and on SQLAlchemy's `AsyncSession`.

        A blocking connection is used without holding up the event loop.
        """
        found = sql_connection(connection)
        message_id, make = self._adding(destination, body, key, subject, headers, message_id, **delivery)
        await perform_anywhere(found, make(found.dialect), missing=MISSING)
        self.wake()
        return message_id

    def _adding(
        self,
        destination: str,
        body: Body,
        key: str | None,
        subject: str | None,
        headers: Mapping[str, Any] | None,
        message_id: str | None,
        **delivery: Unpack[Delivery],
    ) -> tuple[str, Any]:
        """Check a message; return its id and what makes the steps that add it."""
        message_id = uuid.uuid4().hex if message_id is None else message_id
        attributes = attributes_of(key, subject, headers, message_id, **delivery)
        check_message_values(attributes)
        if attributes.due is not None and attributes.due < 0:
            # A delay counts from the transaction, not from when a broker can be reached at last.
            attributes = attributes._replace(due=round(time.time() * 1000) - attributes.due)
        owned, name = owned_body(body), check_name(destination, "destination")

        def make(dialect: Dialect) -> Steps[None]:
            return self._statements.add(dialect, name, message_id, owned, attributes, notify=self._notify)

        return message_id, make

    def wake(self) -> None:
        """Let the relays of this outbox in this process look at once; may be called from any thread."""
        for bell in tuple(self._bells):
            bell.ring()

    # --- for those who relay --------------------------------------------------------------------------------------

    def relay(
        self,
        client: Client,
        *,
        poll_interval: Duration = POLL_SECONDS,
        lease: Duration = LEASE_SECONDS,
        batch_messages: int = ROWS_MAX,
        attempts_max: int = ATTEMPTS_MAX,
    ) -> Relay:
        """Return a relay, which sends what was committed: `await` it, or enter it with `async with`.

        Any number may run, in any processes. A message is deleted once the broker has it. While there is no broker, or
        no database, the relay waits. Where a destination takes nothing (a full or paused queue, one that is missing)
        it is left alone for up to 30 seconds at a time, and the others go on. A message that can never be sent is
        parked with its error.

        Args:
            client: An entered client; the relay is one more user of its connection.
            poll_interval: How often to look for messages that nobody announced, in seconds or as a timedelta.
            lease: How long after its death others take over the messages that a relay was sending.
            batch_messages: Most messages to take at a time, up to 10,000.
            attempts_max: After so many failures for an unknown reason a message is parked.

        Raises when run:
            TableMissing: `create_tables` was not called.
            ClientClosed: The client was closed.
            SluiceError: The client has failed for good, for example because the broker does not take its password.

        """
        settings = RelaySettings(
            poll_seconds=seconds_of(poll_interval, "poll_interval", minimum=POLL_SECONDS_MIN),
            lease_seconds=seconds_of(lease, "lease", minimum=LEASE_SECONDS_MIN),
            rows_max=count_of(batch_messages, "batch_messages", maximum=ROWS_PER_CLAIM_MAX),
            attempts_max=count_of(attempts_max, "attempts_max"),
        )
        return Relay(client, self._own(), self._statements, settings, self._bells)

    # --- for those who watch --------------------------------------------------------------------------------------

    async def status(self) -> OutboxStatus:
        """Return how much waits and since when; goes through the whole table."""
        waiting, failing, parked, age = await self._own().transact(self._statements.status)
        return OutboxStatus(waiting, failing, parked, None if age is None else max(0.0, float(age)))

    async def parked(self, count: int = 100) -> list[TroubledMessage]:
        """Return the oldest messages that are parked, at most 1,000."""
        return await self._troubled(count, parked=True)

    async def failing(self, count: int = 100) -> list[TroubledMessage]:
        """Return the oldest messages that failed and will be tried again; the first where all fail."""
        return await self._troubled(count, parked=False)

    async def _troubled(self, count: int, *, parked: bool) -> list[TroubledMessage]:
        count_max = count_of(count, "count", maximum=LISTED_MAX)
        rows = await self._own().transact(lambda _dialect: self._statements.troubles(count_max, parked=parked))
        return [
            TroubledMessage(
                number,
                destination,
                key,
                message_id,
                attempts,
                error or "",
                _time_of(added_at),
                None if parked_at is None else _time_of(parked_at),
            )
            for number, destination, key, message_id, attempts, error, added_at, parked_at in rows
        ]

    async def retry(self, ids: Iterable[int] | None = None) -> int:
        """Let parked messages be tried again: those with these numbers, or all; return how many."""
        chosen = None if ids is None else [count_of(number, "id", maximum=2**63 - 1) for number in ids]
        changed = await self._own().transact(lambda _dialect: self._statements.retry(chosen))
        self.wake()
        return changed

    async def discard(self, ids: Iterable[int] | None = None) -> int:
        """Delete parked messages: those with these numbers, or all; return how many. What waits behind them goes on."""
        chosen = None if ids is None else [count_of(number, "id", maximum=2**63 - 1) for number in ids]
        changed = await self._own().transact(lambda _dialect: self._statements.discard(chosen))
        self.wake()
        return changed

    async def aclose(self) -> None:
        """Close the connections that the outbox opened by itself; it may be used again."""
        if self._database is not None:
            await self._database.aclose()

    def _own(self) -> Database:
        if self._database is None:
            raise InvalidRequest(
                "the outbox knows no database of its own: give Outbox(database) one, see its arguments"
            )
        return self._database


def _time_of(seconds: float) -> datetime:
    return _EPOCH + timedelta(seconds=float(seconds))
