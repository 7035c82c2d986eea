"""The inbox: every message takes effect once, because its id is stored in the same SQL transaction as the effect.

A broker delivers at least once: a worker may die after its commit and before its acknowledgement. Then the message
comes again, and the table says that it was dealt with. The key is (consumer, message id): two workers with the same
message cannot both commit, and of a transaction that is rolled back nothing is left. It knows no loop but through
`sql.connections`, and no broker: only the id of a message.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import anyio

from sluicemq.client.errors import InvalidRequest
from sluicemq.client.options import Duration, count_of, seconds_of
from sluicemq.client.received import ReceivedMessage
from sluicemq.client.sql.connections import (
    AsyncSqlConnection,
    SqlConnection,
    blocking_connection,
    perform,
    perform_anywhere,
    sql_connection,
)
from sluicemq.client.sql.steps import (
    Dialect,
    Execute,
    Mark,
    Steps,
    checked_dialect,
    checked_table,
    index_name,
    now_in,
)
from sluicemq.wire.batch import MESSAGE_ID_BYTES_MAX
from sluicemq.wire.settings import check_name

log = logging.getLogger("sluicemq.client")

TABLE = "sluicemq_inbox"
CLEAN_ROWS = 1_000
"""How many rows one call of `clean` deletes at most, unless it is told otherwise."""
CLEAN_ROWS_MAX = 100_000
UNDO_SECONDS = 5.0
"""How long a cancelled block may take to give its id back."""


class Inbox:
    """The table of ids that a consumer has dealt with, in the user's own database.

    Args:
        consumer: Whose ids these are: services that share a database and get the same messages need names of their own.
        table: Name of the table, with its schema if need be.

    Raises:
        InvalidRequest: A name that is not allowed.

    """

    def __init__(self, consumer: str, *, table: str = TABLE) -> None:
        self.consumer = check_name(consumer, "consumer")
        self.table = checked_table(table)
        self._missing = (
            "call 'await inbox.create_table(connection)' once, or add the statements of "
            f"Inbox.schema(dialect, {self.table!r}) to your migrations"
        )

    def once(self, message: ReceivedMessage | str, connection: Any) -> Once:
        """Return a block that stores the message's id in the transaction of *connection* and says whether it is new.

        `async with inbox.once(message, connection) as fresh:` works with every connection, `with inbox.once(...)`
        with blocking ones and without an event loop. Whoever opened the transaction commits it, after the block. If
        the block raises, what was done in it is undone, and the id is free again. While another transaction that has
        stored the same id is open, entering waits for its end; on PostgreSQL as long as `lock_timeout` allows, on
        SQLite as long as the connection's `timeout`.

        Args:
            message: The message; or a text of at most 256 bytes that stands for what must be done once.
            connection: A `sqlite3.Connection`, a `psycopg.Connection` or `AsyncConnection`, SQLAlchemy's `Connection`,
                `Session`, `AsyncConnection` or `AsyncSession`.

        Returns:
            What gives True if this transaction is the one that deals with the message, False if another has committed.

        Raises on entering:
            TransactionRequired: The connection commits every statement by itself.
            TableMissing: `create_table` was not called.
            TypeError: The connection is none of these.

        """
        return Once(self, _id_of(message), connection)

    async def create_table(self, connection: Any) -> None:
        """Make the table and its index in the transaction of *connection*, unless they are there.

        Raises:
            TypeError: As for `once`.

        """
        found = sql_connection(connection)
        await perform_anywhere(found, self._create(found.dialect), check=False, missing=self._missing)

    def create_table_blocking(self, connection: Any) -> None:
        """Do the same as `create_table` without an event loop, on a blocking connection."""
        found = blocking_connection(connection, "'await inbox.create_table(connection)'")
        perform(found, self._create(found.dialect), check=False, missing=self._missing)

    @staticmethod
    def schema(dialect: str, table: str = TABLE) -> list[str]:
        """Return the statements that make the table, for migrations.

        Args:
            dialect: "sqlite" or "postgresql".
            table: Its name.

        """
        return list(_schema(checked_dialect(dialect), checked_table(table)))

    async def clean(self, connection: Any, older_than: Duration, rows_max: int = CLEAN_ROWS) -> int:
        """Delete ids that were stored longer ago than that, of all consumers: a piece of them.

        In the transaction of *connection*: commit, and call it again while it returns *rows_max*.

        Args:
            connection: As for `once`; may commit every statement by itself.
            older_than: Seconds or timedelta. A message that comes again after so long takes effect again: longer than
                any message waits, dead letters that somebody may redrive included.
            rows_max: Most rows to delete now, 1 to 100,000.

        Returns:
            How many were deleted.

        Raises:
            TableMissing: `create_table` was not called.

        """
        seconds = seconds_of(older_than, "older_than")
        rows = count_of(rows_max, "rows_max", maximum=CLEAN_ROWS_MAX)
        found = sql_connection(connection)
        return await perform_anywhere(
            found, self._clean(found.dialect, seconds, rows), check=False, missing=self._missing
        )

    # --- steps ----------------------------------------------------------------------------------------------------

    def _create(self, dialect: Dialect) -> Steps[None]:
        for statement in _schema(dialect, self.table):
            yield Execute(statement)

    def _clean(self, dialect: Dialect, seconds: float, rows: int) -> Steps[int]:
        row = "rowid" if dialect == "sqlite" else "ctid"
        # Two that clean at a time shall not wait for each other.
        lock = "" if dialect == "sqlite" else " FOR UPDATE SKIP LOCKED"
        oldest = (
            f"SELECT {row} FROM {self.table} WHERE stored_at < {now_in(dialect)} - ? ORDER BY stored_at LIMIT ?{lock}"  # noqa: S608
        )
        among = f"IN ({oldest})" if dialect == "sqlite" else f"= ANY(ARRAY({oldest}))"
        deleted = yield Execute(f"DELETE FROM {self.table} WHERE {row} {among}", (seconds, rows))  # noqa: S608
        return deleted.changed

    def enter(self, message_id: str) -> Steps[bool]:
        """Store the id; return whether it was not there."""
        stored = yield Execute(
            f"INSERT INTO {self.table} (consumer, message_id) VALUES (?, ?) ON CONFLICT DO NOTHING",  # noqa: S608
            (self.consumer, message_id),
        )
        if stored.changed != 1:
            return False
        # Behind the INSERT: sqlite3 begins its transaction with that; else the savepoint's end would be a commit.
        yield Mark.SAVEPOINT
        return True

    def leave(self, message_id: str, *, undo: bool) -> Steps[None]:
        """End the block; with *undo*, as if it had never been."""
        if not undo:
            yield Mark.RELEASE
            return
        undone = yield Mark.UNDO
        if not undone.changed:
            return  # the user ended the transaction inside the block: what was committed is committed
        yield Execute(
            f"DELETE FROM {self.table} WHERE consumer = ? AND message_id = ?",  # noqa: S608
            (self.consumer, message_id),
        )

    @property
    def missing(self) -> str:
        """What to call where the table is missing; stands in the error."""
        return self._missing


class Once:
    """One message's block; made by `Inbox.once`, entered once."""

    __slots__ = ("_connection", "_face", "_fresh", "_inbox", "_message_id")

    def __init__(self, inbox: Inbox, message_id: str, connection: Any) -> None:
        self._inbox = inbox
        self._message_id = message_id
        self._connection = connection
        self._face: SqlConnection | AsyncSqlConnection | None = None
        self._fresh = False

    async def __aenter__(self) -> bool:
        self._face = sql_connection(self._connection)
        inbox = self._inbox
        # Not left half way: somebody might swallow the cancellation inside the transaction, and commit the id alone.
        with anyio.CancelScope(shield=True):
            self._fresh = await perform_anywhere(self._face, inbox.enter(self._message_id), missing=inbox.missing)
        return self._fresh

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        face, inbox = self._face, self._inbox
        if not self._fresh or face is None:
            return
        if error is None:
            steps = inbox.leave(self._message_id, undo=False)
            await perform_anywhere(face, steps, check=False, missing=inbox.missing)  # noqa: ASYNC102 - not after an error
            return
        # Also when it was cancelled: somebody may swallow that inside the transaction, and commit.
        with anyio.move_on_after(UNDO_SECONDS, shield=True):
            try:
                steps = inbox.leave(self._message_id, undo=True)
                await perform_anywhere(face, steps, check=False, missing=inbox.missing)
            except Exception as problem:  # noqa: BLE001 - the block's own error matters; this transaction cannot commit
                self._not_undone(problem)

    def __enter__(self) -> bool:
        inbox = self._inbox
        self._face = face = blocking_connection(self._connection, "'async with inbox.once(...)'")
        self._fresh = perform(face, inbox.enter(self._message_id), missing=inbox.missing)
        return self._fresh

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        face, inbox = self._face, self._inbox
        if not self._fresh or not isinstance(face, SqlConnection):
            return
        steps = inbox.leave(self._message_id, undo=error is not None)
        if error is None:
            perform(face, steps, check=False, missing=inbox.missing)
            return
        try:
            perform(face, steps, check=False, missing=inbox.missing)
        except Exception as problem:  # noqa: BLE001 - as above
            self._not_undone(problem)

    def _not_undone(self, problem: Exception) -> None:
        log.warning(
            "what was done for message %s could not be undone: roll the transaction back: %s", self._message_id, problem
        )


def _id_of(message: ReceivedMessage | str) -> str:
    if isinstance(message, ReceivedMessage):
        return message.message_id
    if not isinstance(message, str):
        raise TypeError(f"message must be a Message or a str, not {type(message).__name__}")
    size = len(message.encode())
    if not 0 < size <= MESSAGE_ID_BYTES_MAX:
        raise InvalidRequest(f"the id has {size} bytes; allowed are 1 to {MESSAGE_ID_BYTES_MAX}")
    return message


def _schema(dialect: Dialect, table: str) -> Iterator[str]:
    real = "REAL" if dialect == "sqlite" else "DOUBLE PRECISION"
    yield (
        f"CREATE TABLE IF NOT EXISTS {table} (consumer TEXT NOT NULL, message_id TEXT NOT NULL, "
        f"stored_at {real} NOT NULL DEFAULT ({now_in(dialect)}), PRIMARY KEY (consumer, message_id))"
    )
    yield f"CREATE INDEX IF NOT EXISTS {index_name(table, 'age')} ON {table} (stored_at)"
