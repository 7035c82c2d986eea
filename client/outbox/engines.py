"""SQLAlchemy's blocking engines as the relay's database. Imported only when one is there; see `engines_async`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar, cast

import anyio
import anyio.to_thread
from sqlalchemy import Connection, Engine

from sluicemq.client.outbox.database import CONNECTIONS_MAX, MISSING, Database, MakeSteps
from sluicemq.client.sql.alchemy import ASYNCHRONOUS_HALF, AlchemyConnection, dialect_of
from sluicemq.client.sql.connections import perform

T = TypeVar("T")


def engine_database(where: object) -> Database | None:
    """Return the database of an engine, or None if it is no engine."""
    if isinstance(where, Engine):
        return EngineDatabase(where)
    if ASYNCHRONOUS_HALF not in sys.modules:
        return None
    from sluicemq.client.outbox.engines_async import async_engine_database

    return async_engine_database(where)


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
            return performed(make_steps, connection)

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


def performed(make_steps: MakeSteps[T], connection: Connection) -> T:
    """Run the steps on *connection*, and return what they did."""
    face = AlchemyConnection(connection)
    return perform(face, make_steps(face.dialect), check=False, missing=MISSING)
