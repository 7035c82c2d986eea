"""PostgreSQL through psycopg 3, blocking and asynchronous. Imported only when such a connection is there."""

from __future__ import annotations

from typing import Any, TypeVar, cast

import psycopg
from psycopg.pq import TransactionStatus
from psycopg.rows import tuple_row

from sluicemq.client.errors import TransactionRequired
from sluicemq.client.sql.connections import AsyncSqlConnection, SqlConnection, raise_if_missing
from sluicemq.client.sql.steps import MARKED, NOTHING, Dialect, Execute, Mark, Request, Result, Steps

T = TypeVar("T")

SAVEPOINT = "sluicemq"
_MARKS = {
    Mark.SAVEPOINT: (f"SAVEPOINT {SAVEPOINT}",),
    Mark.RELEASE: (f"RELEASE SAVEPOINT {SAVEPOINT}",),
    Mark.UNDO: (f"ROLLBACK TO SAVEPOINT {SAVEPOINT}", f"RELEASE SAVEPOINT {SAVEPOINT}"),
}


def psycopg_connection(connection: object) -> SqlConnection | AsyncSqlConnection | None:
    """Return the face of *connection*, or None if it is no connection of psycopg."""
    if isinstance(connection, psycopg.Connection):
        return PsycopgConnection(connection)
    if isinstance(connection, psycopg.AsyncConnection):
        return PsycopgAsyncConnection(connection)
    return None


def _check(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    status = connection.info.transaction_status
    if status == TransactionStatus.INERROR:
        raise TransactionRequired("the PostgreSQL connection's transaction has failed: roll it back first")
    if connection.autocommit and status == TransactionStatus.IDLE:
        raise TransactionRequired(
            "the PostgreSQL connection commits every statement by itself: use it inside "
            "'with connection.transaction():', or open it without autocommit=True"
        )


def _texts(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], mark: Mark) -> tuple[str, ...]:
    """Return the statements for *mark*; none where the user ended the transaction, and the savepoint with it."""
    if mark is not Mark.SAVEPOINT and connection.info.transaction_status == TransactionStatus.IDLE:
        return ()
    return _MARKS[mark]


def driver_text(text: str) -> str:
    """Return *text* with the driver's marks for values."""
    return text.replace("?", "%s")


class PsycopgConnection(SqlConnection):
    """A `psycopg.Connection`."""

    dialect: Dialect = "postgresql"
    waits_elsewhere = True

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def check_transaction(self) -> None:
        """Refuse a connection that would commit the next statement by itself."""
        _check(self._connection)

    def execute(self, text: str, values: tuple[Any, ...]) -> Result:
        """Run one statement."""
        with self._connection.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(cast("Any", driver_text(text)), values)
            return Result(cursor.fetchall() if cursor.description else [], cursor.rowcount)

    def mark(self, mark: Mark) -> bool:
        """Set, drop or go back to the savepoint; return False if it is gone."""
        texts = _texts(self._connection, mark)
        for text in texts:
            self.execute(text, ())
        return bool(texts)

    def patience(self) -> None:
        """Nothing of the kind: it waits in a worker thread."""


class PsycopgAsyncConnection(AsyncSqlConnection):
    """A `psycopg.AsyncConnection`, which works under asyncio only."""

    dialect: Dialect = "postgresql"

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self._connection = connection

    async def perform(self, steps: Steps[T], *, check: bool, missing: str) -> T:
        """Run *steps*; arguments and errors as for `perform`."""
        if check:
            _check(self._connection)
        try:
            request = next(steps)
            while True:
                try:
                    result = await self._answer(request)
                except Exception as error:  # noqa: BLE001 - the steps may know better
                    request = steps.throw(error)
                else:
                    request = steps.send(result)
        except StopIteration as end:
            return cast("T", end.value)
        except Exception as error:
            raise_if_missing(error, missing)
            raise

    async def _answer(self, request: Request) -> Result:
        if isinstance(request, Execute):
            return await self._execute(request.text, request.values)
        texts = _texts(self._connection, request)
        for text in texts:
            await self._execute(text, ())
        return MARKED if texts else NOTHING

    async def _execute(self, text: str, values: tuple[Any, ...]) -> Result:
        async with self._connection.cursor(row_factory=tuple_row) as cursor:
            await cursor.execute(cast("Any", driver_text(text)), values)
            return Result(await cursor.fetchall() if cursor.description else [], cursor.rowcount)
