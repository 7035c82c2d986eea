"""SQLAlchemy's asynchronous connections and sessions, which work under asyncio only.

Imported only where somebody has one of them: this half of SQLAlchemy needs one more library, `greenlet`.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, cast

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession, async_scoped_session

from sluicemq.client.sql.alchemy import AlchemyConnection, dialect_of
from sluicemq.client.sql.connections import AsyncSqlConnection, perform

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.orm import Session

    from sluicemq.client.sql.steps import Steps

T = TypeVar("T")


def alchemy_async_connection(connection: object) -> AsyncSqlConnection | None:
    """Return the face of *connection*, or None if it is no asynchronous connection or session of SQLAlchemy."""
    if isinstance(connection, async_scoped_session):
        connection = connection()  # the session of this task
    return AlchemyAsyncConnection(connection) if isinstance(connection, (AsyncConnection, AsyncSession)) else None


class AlchemyAsyncConnection(AsyncSqlConnection):
    """An `AsyncConnection` or `AsyncSession`."""

    def __init__(self, connection: AsyncConnection | AsyncSession) -> None:
        self._owner = connection
        bind = connection.get_bind() if isinstance(connection, AsyncSession) else connection
        self.dialect = dialect_of(bind.dialect.name)
        self._sync: AlchemyConnection | None = None

    async def perform(self, steps: Steps[T], *, check: bool, missing: str) -> T:
        """Run *steps*; arguments and errors as for `perform`."""
        run = cast("Any", partial(self._perform, steps, check, missing))
        return cast("T", await self._owner.run_sync(run))

    def _perform(self, steps: Steps[T], check: bool, missing: str, connection: Connection | Session) -> T:
        if self._sync is None:  # kept, because it holds the savepoint from one operation to the next
            self._sync = AlchemyConnection(connection)
        return perform(self._sync, steps, check=check, missing=missing)
