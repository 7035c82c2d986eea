"""The relay's own connections: from an address, SQLAlchemy's engine, or a function that opens one.

Each transaction of the relay is a piece of pure steps; with a blocking library all of it runs in one worker thread. It
must not know what the steps mean.
"""

from __future__ import annotations

import abc
import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from sluicemq.client.errors import InvalidRequest
from sluicemq.client.sql.connections import SqlConnection, blocking_connection, perform
from sluicemq.client.sql.steps import Dialect, Steps

log = logging.getLogger("sluicemq.client")

T = TypeVar("T")
MakeSteps = Callable[[Dialect], Steps[T]]
CONNECTIONS_MAX = 2
"""Threads, and so connections, that one outbox uses at a time: a renewal shall not wait for a long statement."""
BUSY_SECONDS = 10.0
"""How long a transaction waits for SQLite's lock."""
SQLITE_SCHEME = "sqlite:///"
POSTGRES_SCHEMES = ("postgresql://", "postgres://")
MISSING = (
    "call 'await outbox.create_tables(connection)' once, or add the statements of Outbox.schema to your migrations"
)


class Database(abc.ABC):
    """Where an outbox lies, for those who relay it."""

    @abc.abstractmethod
    async def transact(self, make_steps: MakeSteps[T]) -> T:
        """Run the steps in a transaction of their own and commit it.

        Raises:
            TableMissing: The tables are not there.
            Exception: What the library raises.

        """

    @abc.abstractmethod
    def listener(self) -> Callable[[], Any] | None:
        """Return what opens a psycopg connection for LISTEN, or None if there can be none."""

    @abc.abstractmethod
    async def aclose(self) -> None:
        """Close the connections that were opened here."""


def database_of(where: object) -> Database:
    """Return the database that a user names.

    Raises:
        TypeError: It is nothing that names one.
        InvalidRequest: An address of another kind.

    """
    if isinstance(where, Path):
        return _Opened(partial(_open_sqlite, str(where)), keeps=True)
    if isinstance(where, str):
        if where.startswith(SQLITE_SCHEME) and len(where) > len(SQLITE_SCHEME):
            return _Opened(partial(_open_sqlite, where[len(SQLITE_SCHEME) :]), keeps=True)
        if where.startswith(POSTGRES_SCHEMES):
            return _Opened(partial(_open_postgres, where), keeps=True)
        raise InvalidRequest(
            f"the outbox's address begins with {where[:12]!r}; it must be {SQLITE_SCHEME}PATH or postgresql://..."
        )
    if type(where).__module__.partition(".")[0] == "sqlalchemy":
        from sluicemq.client.outbox.engines import engine_database

        found = engine_database(where)
        if found is not None:
            return found
    if callable(where):
        return _Opened(where, keeps=False)
    raise TypeError(
        "database must be an address (sqlite:///PATH, postgresql://...), a Path of an SQLite file, an Engine or "
        f"AsyncEngine of SQLAlchemy, or a function that opens a connection; not {type(where).__name__}"
    )


def _open_sqlite(path: str) -> Any:
    import sqlite3

    return sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)


def _open_postgres(conninfo: str) -> Any:
    import psycopg

    return psycopg.connect(conninfo, autocommit=True)


class _Opened(Database):
    """Connections of a function, at most `CONNECTIONS_MAX` at a time.

    Args:
        opens: Opens a blocking connection.
        keeps: Whether its connections may be used in other threads than the one that opened them: SQLite's need not.

    """

    def __init__(self, opens: Callable[[], Any], *, keeps: bool) -> None:
        self._opens = opens
        self._keeps = keeps
        self._idle: list[Any] = []
        self._limiter: anyio.CapacityLimiter | None = None

    async def transact(self, make_steps: MakeSteps[T]) -> T:
        """Run the steps in a transaction of their own, in a worker thread."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(CONNECTIONS_MAX)
        return await anyio.to_thread.run_sync(partial(self._transact, make_steps), limiter=self._limiter)

    def _transact(self, make_steps: MakeSteps[T]) -> T:
        connection = self._idle.pop() if self._idle else self._opens()
        try:
            face = blocking_connection(connection, "an AsyncEngine of SQLAlchemy instead of a function")
            with _Transaction(connection, face):
                outcome = perform(face, make_steps(face.dialect), check=False, missing=MISSING)
        except BaseException:
            with suppress(Exception):  # the first error matters
                connection.close()
            raise
        if self._keeps or face.waits_elsewhere:
            self._idle.append(connection)
        else:
            connection.close()
        return outcome

    def listener(self) -> Callable[[], Any] | None:
        """Return what opens one."""
        if isinstance(self._opens, partial) and self._opens.func is _open_sqlite:
            return None
        return self._opens

    async def aclose(self) -> None:
        """Close what is idle."""
        idle, self._idle = self._idle, []
        for connection in idle:
            with suppress(Exception):  # it is of no use any more
                connection.close()


class _Transaction:
    """Begin, and commit or roll back, whatever the connection does by itself."""

    def __init__(self, connection: Any, face: SqlConnection) -> None:
        self._connection = connection
        self._inner = (
            connection.transaction() if face.dialect == "postgresql" and hasattr(connection, "transaction") else None
        )
        self._is_sqlite = face.dialect == "sqlite"

    def __enter__(self) -> None:
        if self._inner is not None:
            self._inner.__enter__()
        elif self._is_sqlite and not self._connection.in_transaction:
            # A deferred one that reads first could not write when somebody else has written meanwhile.
            self._connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, *exception: object) -> None:
        if self._inner is not None:
            self._inner.__exit__(*exception)
        elif not self._is_sqlite or self._connection.in_transaction:
            if exception[0] is None:
                self._end("commit")
            else:
                self._end("rollback")

    def _end(self, how: str) -> None:
        if self._is_sqlite:
            self._connection.execute(how)  # also where the connection leaves transactions to its user
        else:
            getattr(self._connection, how)()
