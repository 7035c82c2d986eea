"""The users' connections under one face: which library made this one, and how steps run on it.

Steps run on the user's own connection, in the user's own transaction; nothing here commits or rolls back. It must not
know what the statements mean.
"""

from __future__ import annotations

import abc
import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread

from sluicemq.client.errors import TableMissing
from sluicemq.client.sql.steps import MARKED, NOTHING, Dialect, Execute, Mark, Request, Result, Steps

T = TypeVar("T")

SUPPORTED = (
    "a sqlite3.Connection, a psycopg.Connection or AsyncConnection (psycopg 3), or SQLAlchemy's Connection, Session, "
    "AsyncConnection or AsyncSession on either database"
)
UNDEFINED_TABLE = "42P01"
"""PostgreSQL's code for a table that is not there; SQLite says it in words."""
SQLITE_BUSY = 5
SQLITE_BUSY_RECOVERY = 261
BUSY_PAUSE_SECONDS_MIN = 0.001
BUSY_PAUSE_SECONDS_MAX = 0.05


class SqlConnection(abc.ABC):
    """A blocking connection.

    Attributes:
        dialect: Which SQL it speaks.
        waits_elsewhere: Whether a statement may wait for another transaction and may run in another thread: then it
            must, because the other transaction may be one of this very loop.

    """

    dialect: Dialect
    waits_elsewhere: bool

    @abc.abstractmethod
    def check_transaction(self) -> None:
        """Refuse a connection whose next statement would be committed at once.

        Raises:
            TransactionRequired: It commits each statement by itself, or its transaction has failed.

        """

    @abc.abstractmethod
    def execute(self, text: str, values: tuple[Any, ...]) -> Result:
        """Run one statement."""

    @abc.abstractmethod
    def mark(self, mark: Mark) -> bool:
        """Set, drop or go back to the savepoint; return False if the end of its transaction has taken it along."""

    @abc.abstractmethod
    def patience(self) -> Patience | None:
        """Return how to wait without holding the thread, where it can be neither left nor held."""


class Patience(abc.ABC):
    """Waits for a locked SQLite database in pieces, so that the event loop runs meanwhile."""

    @abc.abstractmethod
    def __enter__(self) -> float:
        """Let statements fail at once instead of waiting; return how many seconds they would have waited."""

    @abc.abstractmethod
    def __exit__(self, *_exception: object) -> None:
        """Let them wait again."""


class AsyncSqlConnection(abc.ABC):
    """A connection whose library is asynchronous."""

    dialect: Dialect

    @abc.abstractmethod
    async def perform(self, steps: Steps[T], *, check: bool, missing: str) -> T:
        """Run *steps*; arguments and errors as for `perform`."""


def sql_connection(connection: object) -> SqlConnection | AsyncSqlConnection:
    """Return the face of what a user passes as connection.

    Raises:
        TypeError: It is none that we know.

    """
    for cls in type(connection).__mro__:
        library = cls.__module__.partition(".")[0]
        found: SqlConnection | AsyncSqlConnection | None
        if library == "sqlite3":
            from sluicemq.client.sql.sqlite import sqlite_connection

            found = sqlite_connection(connection)
        elif library == "psycopg":
            from sluicemq.client.sql.postgres import psycopg_connection

            found = psycopg_connection(connection)
        elif library == "sqlalchemy":
            from sluicemq.client.sql.alchemy import alchemy_connection

            found = alchemy_connection(connection)
        else:
            continue
        if found is not None:
            return found
    raise TypeError(f"connection must be {SUPPORTED}; not {type(connection).__module__}.{type(connection).__name__}")


def blocking_connection(connection: object, instead: str) -> SqlConnection:
    """Return the face of a connection that must be a blocking one.

    Args:
        connection: What the user passes.
        instead: What to call with an asynchronous one; for the error.

    Raises:
        TypeError: It is asynchronous, or none that we know.

    """
    found = sql_connection(connection)
    if isinstance(found, AsyncSqlConnection):
        raise TypeError(f"{type(connection).__name__} is asynchronous: use {instead}")
    return found


def perform(connection: SqlConnection, steps: Steps[T], *, check: bool = True, missing: str) -> T:
    """Run *steps* on a blocking connection and return their outcome.

    Args:
        connection: Where.
        steps: What.
        check: Whether it must be in a transaction, or begin one by itself.
        missing: What to call when a table is not there; for the error.

    Raises:
        TransactionRequired: *check*, and each statement would be committed by itself.
        TableMissing: A table is not there.
        Exception: Whatever else the library raises, as it is.

    """
    if check:
        connection.check_transaction()
    try:
        request = next(steps)
        while True:
            request = _advance(steps, partial(_answer, connection, request))
    except StopIteration as end:
        return cast("T", end.value)
    except Exception as error:
        raise_if_missing(error, missing)
        raise


def _answer(connection: SqlConnection, request: Request) -> Result:
    if isinstance(request, Execute):
        return connection.execute(request.text, request.values)
    return MARKED if connection.mark(request) else NOTHING


def _advance(steps: Steps[T], answer: Callable[[], Result]) -> Request:
    try:
        result = answer()
    except Exception as error:  # noqa: BLE001 - the steps may know better; else it comes out of them again
        return steps.throw(error)
    return steps.send(result)


async def perform_anywhere(
    connection: SqlConnection | AsyncSqlConnection, steps: Steps[T], *, check: bool = True, missing: str
) -> T:
    """Run *steps* on any connection without holding up the event loop for longer than a statement takes.

    On PostgreSQL a statement may wait for another transaction, so a blocking connection is used from a worker thread.
    SQLite's belongs to the thread that opened it: it is used here, and waited for in pieces while it is locked.
    Arguments and errors as for `perform`.
    """
    if isinstance(connection, AsyncSqlConnection):
        return await connection.perform(steps, check=check, missing=missing)
    run = partial(perform, connection, steps, check=check, missing=missing)
    if connection.waits_elsewhere:
        return await anyio.to_thread.run_sync(run)
    patience = connection.patience()
    if patience is None:
        return run()
    if check:
        connection.check_transaction()
    try:
        return await _perform_patiently(connection, patience, steps)
    except Exception as error:
        raise_if_missing(error, missing)
        raise


async def _perform_patiently(connection: SqlConnection, patience: Patience, steps: Steps[T]) -> T:
    with patience as seconds:
        deadline = time.monotonic() + seconds
        try:
            request = next(steps)
            while True:
                result = await _patient_answer(partial(_answer, connection, request), deadline)
                request = steps.send(result) if isinstance(result, Result) else steps.throw(result)
        except StopIteration as end:
            return cast("T", end.value)


async def _patient_answer(answer: Callable[[], Result], deadline: float) -> Result | Exception:
    pause = BUSY_PAUSE_SECONDS_MIN
    while True:
        try:
            return answer()
        except Exception as error:  # noqa: BLE001 - returned to the steps
            if not is_locked(error) or time.monotonic() + pause > deadline:
                return error
        await anyio.sleep(pause)
        pause = min(pause * 2, BUSY_PAUSE_SECONDS_MAX)


# --- what errors of the libraries mean -------------------------------------------------------------------------------


def driver_error(error: BaseException) -> BaseException:
    """Return what the driver raised; SQLAlchemy wraps it."""
    original = getattr(error, "orig", None)
    return original if isinstance(original, BaseException) else error


def is_locked(error: BaseException) -> bool:
    """Whether another connection holds SQLite's lock, and waiting may help.

    It does not where this connection reads from before the other's commit: only a new transaction does then.
    """
    code = getattr(driver_error(error), "sqlite_errorcode", None)
    return code in (SQLITE_BUSY, SQLITE_BUSY_RECOVERY)


def raise_if_missing(error: Exception, missing: str) -> None:
    """Raise `TableMissing` if that is what *error* says."""
    cause = driver_error(error)
    state = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
    if state == UNDEFINED_TABLE or str(cause).startswith("no such table"):
        raise TableMissing(f"{str(cause).splitlines()[0]}: {missing}") from error


_LIBRARIES = ("sqlite3", "psycopg", "psycopg2", "psycopg_pool", "sqlalchemy", "asyncpg", "aiosqlite")


def is_database_error(error: BaseException) -> bool:
    """Whether a database library says that something failed, which another try may not meet."""
    return isinstance(error, OSError) or any(
        cls.__module__.partition(".")[0] in _LIBRARIES for cls in type(error).__mro__
    )
