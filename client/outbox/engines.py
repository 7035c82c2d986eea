"""SQLAlchemy's engines as the relay's database. Imported only when one is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine
from sqlalchemy.ext.asyncio import AsyncEngine

from sluicemq.client.outbox.database import CONNECTIONS_MAX, MISSING, Database, MakeSteps
from sluicemq.client.sql.alchemy import AlchemyConnection, dialect_of
from sluicemq.client.sql.connections import perform

T = TypeVar("T")


def engine_database(where: object) -> Database | None:
    """Return the database of an engine, or None if it is no engine."""
    if isinstance(where, Engine):
        return EngineDatabase(where)
    return AsyncEngineDatabase(where) if isinstance(where, AsyncEngine) else None


class EngineDatabase(Database):
    """An `Engine`, used from worker threads."""

    def __init__(self, engine: Engine) -> None:
        dialect_of(engine.dialect.name)
        self._engine = engine
        self._limiter: anyio.CapacityLimiter | None = None

    async def transact(self, make_steps: MakeSteps[T]) -> T:
        """Run the steps in a transaction of their own, in a worker thread."""
        if self._limiter is None:
            self._limiter = anyio.CapacityLimiter(CONNECTIONS_MAX)
        return await anyio.to_thread.run_sync(partial(self._transact, make_steps), limiter=self._limiter)

    def _transact(self, make_steps: MakeSteps[T]) -> T:
        with self._engine.begin() as connection:
            return _performed(make_steps, connection)

    def listener(self) -> Callable[[], Any] | None:
        """Return what opens one, where the driver is psycopg."""
        return self._listen if self._engine.dialect.driver == "psycopg" else None

    def _listen(self) -> Any:
        pooled = self._engine.raw_connection()
        driver = pooled.driver_connection
        pooled.detach()  # the pool may open another one in its place
        cast("Any", driver).rollback()
        return driver

    async def aclose(self) -> None:
        """Nothing: the engine is the user's."""


class AsyncEngineDatabase(Database):
    """An `AsyncEngine`, which works under asyncio only."""

    def __init__(self, engine: AsyncEngine) -> None:
        dialect_of(engine.dialect.name)
        self._engine = engine

    async def transact(self, make_steps: MakeSteps[T]) -> T:
        """Run the steps in a transaction of their own."""
        # Not left half way, as in a worker thread: a cancelled rollback would leave the connection in its transaction.
        with anyio.CancelScope(shield=True):
            async with self._engine.begin() as connection:
                outcome: T = await connection.run_sync(partial(_performed, make_steps))
        return outcome

    def listener(self) -> Callable[[], Any] | None:
        """Return what opens a connection of psycopg's blocking kind to the same place, whatever the engine's driver."""
        return self._listen if self._engine.dialect.name == "postgresql" else None

    def _listen(self) -> Any:
        import psycopg

        url = self._engine.url
        parts: dict[str, Any] = {**url.query, **url.translate_connect_args(username="user", database="dbname")}
        return psycopg.connect(**parts)

    async def aclose(self) -> None:
        """Nothing: the engine is the user's."""


def _performed(make_steps: MakeSteps[T], connection: Connection) -> T:
    face = AlchemyConnection(connection)
    return perform(face, make_steps(face.dialect), check=False, missing=MISSING)
