"""SQLAlchemy's asynchronous engines as the relay's database, under asyncio. Imported only when one is there."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from sqlalchemy.ext.asyncio import AsyncEngine

from sluicemq.client.outbox.database import Database, MakeSteps
from sluicemq.client.outbox.engines import performed
from sluicemq.client.sql.alchemy import dialect_of

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def async_engine_database(where: object) -> Database | None:
    """Return the database of an asynchronous engine, or None if it is none."""
    return AsyncEngineDatabase(where) if isinstance(where, AsyncEngine) else None


class AsyncEngineDatabase(Database):
    """An `AsyncEngine`."""

    def __init__(self, engine: AsyncEngine) -> None:
        dialect_of(engine.dialect.name)
        self._engine = engine

    async def transact(self, make_steps: MakeSteps[T]) -> T:
        """Run the steps in a transaction of their own."""
        # Not left half way, as in a worker thread: a cancelled rollback would leave the connection in its transaction.
        with anyio.CancelScope(shield=True):
            async with self._engine.begin() as connection:
                outcome: T = await connection.run_sync(partial(performed, make_steps))
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
