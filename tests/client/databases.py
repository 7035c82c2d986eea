"""Every kind of connection that inbox and outbox know, behind one face, so that each story is told once.

It knows the libraries; it must not know inbox and outbox.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio.to_thread

from tests.postgres import library

KINDS = (
    "sqlite3",
    "psycopg",
    "psycopg async",
    "core sqlite",
    "core postgres",
    "session sqlite",
    "session postgres",
    "async core postgres",
    "async session postgres",
    "async session sqlite",
)
ASYNCIO_ONLY = tuple(kind for kind in KINDS if "async" in kind)
BLOCKING = tuple(kind for kind in KINDS if "async" not in kind)


class Database:
    """One database, reached in one way.

    Attributes:
        kind: One of `KINDS`.
        sqlite: Path of the file; for the kinds on SQLite.
        postgres: What libpq is told; "" for the kinds on SQLite.

    """

    def __init__(self, kind: str, sqlite: Path, postgres: str) -> None:
        self.kind = kind
        self.sqlite = sqlite
        self.postgres = postgres
        self.is_async = kind in ASYNCIO_ONLY
        self._engine: Any = None

    @property
    def dialect(self) -> str:
        return "sqlite" if "sqlite" in self.kind else "postgresql"

    @property
    def url(self) -> Any:
        """For SQLAlchemy."""
        create = library("sqlalchemy").URL.create
        if self.dialect == "sqlite":
            return create(f"sqlite{'+aiosqlite' if self.is_async else ''}", database=str(self.sqlite))
        parts = library("psycopg.conninfo").conninfo_to_dict(self.postgres)
        query = {name: parts[name] for name in ("host", "options")}
        return create("postgresql+psycopg", username=parts["user"], database=parts["dbname"], query=query)

    def engine(self, **options: Any) -> Any:
        """Return SQLAlchemy's engine."""
        library("sqlalchemy")
        if self.is_async:
            if self.dialect == "sqlite":
                library("aiosqlite")
            return library("sqlalchemy.ext.asyncio").create_async_engine(self.url, **options)
        return library("sqlalchemy").create_engine(self.url, **options)

    @asynccontextmanager
    async def connection(self, *, autocommit: bool = False) -> AsyncIterator[Any]:
        """Give a connection or session, as a user would open it."""
        opened = await self._open(autocommit)
        try:
            yield opened
        finally:
            await self._maybe(opened.close())
            if self._engine is not None:
                engine, self._engine = self._engine, None
                await self._maybe(engine.dispose())

    async def _open(self, autocommit: bool) -> Any:
        if self.kind == "sqlite3":
            return sqlite3.connect(self.sqlite, isolation_level=None if autocommit else "DEFERRED")
        if self.kind == "psycopg":
            return library("psycopg").connect(self.postgres, autocommit=autocommit)
        if self.kind == "psycopg async":
            return await library("psycopg").AsyncConnection.connect(self.postgres, autocommit=autocommit)
        options = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
        engine = self._engine = self.engine(**options)
        if "session" not in self.kind:
            return await engine.connect() if self.is_async else engine.connect()
        if self.is_async:
            return library("sqlalchemy.ext.asyncio").AsyncSession(engine)
        return library("sqlalchemy.orm").Session(engine)

    @staticmethod
    async def _maybe(outcome: Any) -> Any:
        return await outcome if hasattr(outcome, "__await__") else outcome

    async def execute(self, connection: Any, statement: str) -> list[tuple[Any, ...]]:
        """Run a statement of the user's own."""
        if self.kind == "sqlite3":
            return list(connection.execute(statement).fetchall())
        if self.kind == "psycopg":
            cursor = connection.execute(statement)
            return list(cursor.fetchall()) if cursor.description else []
        if self.kind == "psycopg async":
            cursor = await connection.execute(statement)
            return list(await cursor.fetchall()) if cursor.description else []
        result = await self._maybe(connection.execute(library("sqlalchemy").text(statement)))
        return [tuple(row) for row in result] if result.returns_rows else []

    async def commit(self, connection: Any) -> None:
        # A commit of SQLite may wait for readers: not in the loop's thread where the library forbids nothing else.
        await self._maybe(connection.commit())

    async def rollback(self, connection: Any) -> None:
        await self._maybe(connection.rollback())


async def in_thread(function: Any, *arguments: Any) -> Any:
    """Run something that blocks."""
    return await anyio.to_thread.run_sync(function, *arguments)
