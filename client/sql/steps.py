"""SQL as data: what inbox and outbox want done, written once for blocking and asynchronous connections. Pure.

An operation is a generator: it yields a statement or a mark, gets the result sent in, and returns its outcome. The
statements hold `?` for each value; who runs them knows how the driver writes it. It must not know any driver.
"""

from __future__ import annotations

import re
from collections.abc import Generator
from enum import Enum
from typing import Any, Literal, NamedTuple, TypeVar

from sluicemq.client.errors import InvalidRequest

Dialect = Literal["sqlite", "postgresql"]
DIALECTS: tuple[Dialect, ...] = ("sqlite", "postgresql")
IDENTIFIER_CHARACTERS_MAX = 40
"""A table's name leaves room for those of its indexes: PostgreSQL cuts at 63."""
_TABLE = re.compile(rf"(?:[a-z_][a-z0-9_]{{0,{IDENTIFIER_CHARACTERS_MAX - 1}}}\.)?[a-z_][a-z0-9_]{{0,39}}", re.ASCII)


class Execute(NamedTuple):
    """One statement.

    Attributes:
        text: SQL with `?` for each value, and no other question mark or percent sign.
        values: In the order of the question marks.

    """

    text: str
    values: tuple[Any, ...] = ()


class Result(NamedTuple):
    """What a statement came to.

    Attributes:
        rows: What it returned.
        changed: How many rows it changed.

    """

    rows: list[tuple[Any, ...]]
    changed: int


class Mark(Enum):
    """What is no plain statement, because a library keeps books about it."""

    SAVEPOINT = "savepoint"
    RELEASE = "release"
    UNDO = "undo"


T = TypeVar("T")
Request = Execute | Mark
Steps = Generator[Request, Result, T]
"""An operation; marks are answered with `MARKED`, or with `NOTHING` where there is no savepoint any more."""

NOTHING = Result([], 0)
MARKED = Result([], 1)


def now_in(dialect: Dialect) -> str:
    """Return the expression for the database's clock: seconds since 1970, with fractions."""
    if dialect == "sqlite":
        return "((julianday('now') - 2440587.5) * 86400.0)"
    # Not clock_timestamp(): that is another one for every row, which no plan can make use of.
    return "CAST(EXTRACT(EPOCH FROM statement_timestamp()) AS DOUBLE PRECISION)"


def checked_table(name: str) -> str:
    """Return the table's *name* if it can stand in a statement as it is.

    Raises:
        TypeError: It is no text.
        InvalidRequest: It holds other characters than small letters, digits and underscores, or is too long.

    """
    if not isinstance(name, str):
        raise TypeError(f"table must be str, not {type(name).__name__}")
    if _TABLE.fullmatch(name) is None:
        raise InvalidRequest(
            f"table is {name!r:.80}; it must be [SCHEMA.]NAME, each of small letters, digits and underscores, at most "
            f"{IDENTIFIER_CHARACTERS_MAX} of them, the first one no digit"
        )
    return name


def checked_dialect(dialect: str) -> Dialect:
    """Return *dialect* if it is one of ours.

    Raises:
        InvalidRequest: It is not.

    """
    for known in DIALECTS:
        if dialect == known:
            return known
    raise InvalidRequest(f"dialect is {dialect!r:.80}; it must be one of {', '.join(DIALECTS)}")


def index_name(table: str, what: str) -> str:
    """Return the name of the table's index for *what*; in PostgreSQL an index lies in the schema of its table."""
    return f"{table.rpartition('.')[2]}_{what}"


def placeholders(count: int) -> str:
    """Return so many question marks, for a list."""
    return ", ".join("?" * count)
