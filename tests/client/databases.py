"""Every kind of connection that inbox and outbox know, behind one face, so that each story is told once.

It knows the libraries; it must not know inbox and outbox.
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
        self._engines: list[Any] = []

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

    def engine(self) -> Any:
        """Return an engine of SQLAlchemy, which `dispose` closes."""
        self._engines.append(self._make_engine())
        return self._engines[-1]

    def _make_engine(self, **options: Any) -> Any:
        library("sqlalchemy")
        if self.is_async:
            if self.dialect == "sqlite":
                library("aiosqlite")
            return library("sqlalchemy.ext.asyncio").create_async_engine(self.url, **options)
        return library("sqlalchemy").create_engine(self.url, **options)

    @property
    def postgres_url(self) -> str:
        """For psycopg and the outbox."""
        parts = library("psycopg.conninfo").conninfo_to_dict(self.postgres)
        host, options = quote(parts["host"], safe=""), quote(parts["options"], safe="")
        return f"postgresql://{parts['user']}@/{parts['dbname']}?host={host}&options={options}"

    async def dispose(self) -> None:
        """Close what the engines keep."""
        engines, self._engines = self._engines, []
        for engine in engines:
            await self._maybe(engine.dispose())

    @asynccontextmanager
    async def connection(self, *, autocommit: bool = False) -> AsyncIterator[Any]:
        """Give a connection or session, as a user would open it."""
        opened, own = await self._open(autocommit)
        try:
            yield opened
        finally:
            await self._maybe(opened.close())
            if own is not None:
                await self._maybe(own.dispose())

    async def _open(self, autocommit: bool) -> tuple[Any, Any]:
        if self.kind == "sqlite3":
            return sqlite3.connect(self.sqlite, isolation_level=None if autocommit else "DEFERRED"), None
        if self.kind == "psycopg":
            return library("psycopg").connect(self.postgres, autocommit=autocommit), None
        if self.kind == "psycopg async":
            return await library("psycopg").AsyncConnection.connect(self.postgres, autocommit=autocommit), None
        options = {"isolation_level": "AUTOCOMMIT"} if autocommit else {}
        engine = self._make_engine(**options)
        if "session" not in self.kind:
            return await self._maybe(engine.connect()), engine
        if self.is_async:
            return library("sqlalchemy.ext.asyncio").AsyncSession(engine), engine
        return library("sqlalchemy.orm").Session(engine), engine

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
