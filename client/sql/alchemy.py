"""Either database through SQLAlchemy 2, Core and ORM, blocking. Imported only when it is there.

It must not import SQLAlchemy's asynchronous half, which fails where its library `greenlet` is not installed: see
`alchemy_async`.
"""

from __future__ import annotations

import sqlite3
import sys
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, NestedTransaction, TextClause, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.orm import Session, SessionTransaction, scoped_session

from sluicemq.client.errors import InvalidRequest, TransactionRequired
from sluicemq.client.sql.connections import Patience, SqlConnection
from sluicemq.client.sql.sqlite import BusyPatience
from sluicemq.client.sql.steps import DIALECTS, Dialect, Mark, Result

if TYPE_CHECKING:
    from sluicemq.client.sql.connections import AsyncSqlConnection

ASYNCHRONOUS_HALF = "sqlalchemy.ext.asyncio"
"""Loaded before we are called, where anybody has one of its objects."""
STATEMENTS_KEPT_MAX = 500


def alchemy_connection(connection: object) -> SqlConnection | AsyncSqlConnection | None:
    """Return the face of *connection*, or None if it is neither connection nor session of SQLAlchemy."""
    if isinstance(connection, scoped_session):
        connection = connection()  # the session of this thread
    if isinstance(connection, (Connection, Session)):
        return AlchemyConnection(connection)
    if ASYNCHRONOUS_HALF not in sys.modules:
        return None
    from sluicemq.client.sql.alchemy_async import alchemy_async_connection

    return alchemy_async_connection(connection)


def dialect_of(name: str) -> Dialect:
    """Return the dialect that SQLAlchemy calls *name*.

    Raises:
        InvalidRequest: It is none of ours.

    """
    for known in DIALECTS:
        if name == known:
            return known
    raise InvalidRequest(f"the SQLAlchemy connection is to {name}; inbox and outbox know {' and '.join(DIALECTS)}")


@lru_cache(maxsize=STATEMENTS_KEPT_MAX)
def _clause(statement: str) -> TextClause:
    """Return the statement with names for its values, which every driver takes."""
    first, *rest = statement.split("?")
    return text(first + "".join(f":v{number}{piece}" for number, piece in enumerate(rest)))


class AlchemyConnection(SqlConnection):
    """A `Connection` or an ORM `Session`."""

    def __init__(self, connection: Connection | Session) -> None:
        self._owner = connection
        bind = connection.get_bind() if isinstance(connection, Session) else connection
        self.dialect = dialect_of(bind.dialect.name)
        # SQLite's connections may not leave their thread, and a session of asyncio runs in a greenlet of this one.
        self.waits_elsewhere = self.dialect == "postgresql"
        self._nested: list[NestedTransaction | SessionTransaction] = []

    def _core(self) -> Connection:
        return self._owner.connection() if isinstance(self._owner, Session) else self._owner

    def check_transaction(self) -> None:
        """Refuse a connection that would commit the next statement by itself."""
        connection = self._core()
        if not connection.in_transaction():
            connection.begin()  # what the first statement would do anyway
        # An engine with isolation_level="AUTOCOMMIT" sets psycopg to autocommit, and sqlite3 to no isolation level;
        # with the latter, an event of the user's may have sent BEGIN.
        dbapi: Any = connection.connection.dbapi_connection
        autocommit = (
            connection.get_execution_options().get("isolation_level") == "AUTOCOMMIT"
            or getattr(dbapi, "autocommit", False) is True
        )
        if self.dialect == "sqlite" and getattr(dbapi, "isolation_level", "") is None:
            driver: Any = connection.connection.driver_connection
            autocommit = not driver.in_transaction
        if autocommit:
            raise TransactionRequired(
                "the SQLAlchemy connection commits every statement by itself: make it without "
                "isolation_level='AUTOCOMMIT'"
            )

    def execute(self, text: str, values: tuple[Any, ...]) -> Result:
        """Run one statement."""
        result = self._core().execute(_clause(text), {f"v{number}": value for number, value in enumerate(values)})
        if result.returns_rows:
            return Result([tuple(row) for row in result], result.rowcount)
        return Result([], result.rowcount)

    def mark(self, mark: Mark) -> bool:
        """Set, drop or go back to the savepoint, so that a session's objects go back with it; False if it is gone."""
        if mark is Mark.SAVEPOINT:
            self._nested.append(self._owner.begin_nested())
            return True
        nested = self._nested.pop()
        try:
            if mark is Mark.UNDO:
                nested.rollback()
            elif nested.is_active:
                nested.commit()
        except InvalidRequestError:
            return False  # it is closed: the user ended the transaction inside the block
        return True

    def patience(self) -> Patience | None:
        """Return how to wait for a lock of SQLite in pieces."""
        driver = self._core().connection.driver_connection
        return BusyPatience(driver) if isinstance(driver, sqlite3.Connection) else None
