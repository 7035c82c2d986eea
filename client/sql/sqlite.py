"""SQLite through the standard library's `sqlite3`."""

from __future__ import annotations

import sqlite3
from typing import Any

from sluicemq.client.errors import TransactionRequired
from sluicemq.client.sql.connections import Patience, SqlConnection
from sluicemq.client.sql.steps import Dialect, Mark, Result

SAVEPOINT = "sluicemq"


def sqlite_connection(connection: object) -> SqliteConnection | None:
    """Return the face of *connection*, or None if it is no connection of sqlite3."""
    return SqliteConnection(connection) if isinstance(connection, sqlite3.Connection) else None


class SqliteConnection(SqlConnection):
    """A `sqlite3.Connection`."""

    dialect: Dialect = "sqlite"
    waits_elsewhere = False

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def check_transaction(self) -> None:
        """Refuse a connection that would commit the next statement by itself."""
        connection = self._connection
        # Since Python 3.12 `autocommit` says it; False means that a transaction is always open.
        if not connection.in_transaction and (
            connection.isolation_level is None or getattr(connection, "autocommit", None) is True
        ):
            raise TransactionRequired(
                "the SQLite connection commits every statement by itself: execute 'BEGIN IMMEDIATE' first and 'COMMIT' "
                "at the end, or open it without isolation_level=None and autocommit=True"
            )

    def execute(self, text: str, values: tuple[Any, ...]) -> Result:
        """Run one statement."""
        return run(self._connection, text, values)

    def mark(self, mark: Mark) -> bool:
        """Set, drop or go back to the savepoint; return False if it is gone."""
        connection = self._connection
        if mark is Mark.SAVEPOINT:
            run(connection, f"SAVEPOINT {SAVEPOINT}", ())
            return True
        if not connection.in_transaction:
            return False
        try:
            if mark is Mark.UNDO:
                run(connection, f"ROLLBACK TO {SAVEPOINT}", ())
            run(connection, f"RELEASE {SAVEPOINT}", ())
        except sqlite3.OperationalError as error:
            # The user ended the transaction inside the block, and the connection began another.
            if "no such savepoint" not in str(error):
                raise
            return False
        return True

    def patience(self) -> Patience:
        """Return how to wait for a lock in pieces."""
        return BusyPatience(self._connection)


class BusyPatience(Patience):
    """Sets the time that SQLite waits for a lock to nothing, as long as it is entered."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._before_ms = 0

    def __enter__(self) -> float:
        self._before_ms = int(run(self._connection, "PRAGMA busy_timeout", ()).rows[0][0])
        run(self._connection, "PRAGMA busy_timeout = 0", ())
        return self._before_ms / 1000

    def __exit__(self, *_exception: object) -> None:
        run(self._connection, f"PRAGMA busy_timeout = {self._before_ms}", ())


def run(connection: sqlite3.Connection, text: str, values: tuple[Any, ...]) -> Result:
    """Run one statement and return all that it says, whatever rows the user wants from the connection."""
    cursor = connection.cursor(sqlite3.Cursor)
    cursor.row_factory = None
    try:
        cursor.execute(text, values)
        return Result(cursor.fetchall(), cursor.rowcount)
    finally:
        cursor.close()
