"""The outbox's tables and every statement on them, as steps. Pure: it must not know drivers, loops or the broker.

Rows are claimed by *lane*: a checksum of destination and key, so that all rows of one key lie in one lane, and whoever
holds the lane sends them in the order of their ids. A lane is held under a lease that carries the name of one claim,
never used again: that is the fencing token. Whoever lost the lane changes nothing any more; only what the broker has
confirmed may be deleted by anybody, because it is true whoever says it.

A row whose send failed has its next time in `next_at`, a parked one a time that never comes; either holds back the
later rows of its key, which are found by the index of such rows.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import msgpack

from sluicemq.client.outgoing import Attributes
from sluicemq.client.sql.steps import Dialect, Execute, Steps, index_name, now_in, placeholders

LANES = 64
"""Written into the rows: it may never change for a table that exists."""
LANES_PER_CLAIM = 32
"""So that another relay finds some, too."""
PEEK_ROWS = 1_000
"""How far to look for lanes that have something to send."""
VALUES_PER_STATEMENT_MAX = 500
"""SQLite's own limit was 999 for long."""
NEVER = 1e18
"""The time, in seconds since 1970, at which a parked row is tried again by itself."""
ERROR_CHARACTERS_MAX = 1_000


class Row(NamedTuple):
    """A message that waits.

    Attributes:
        id: Its place in the order.
        destination: Queue, or name below a topic.
        key: The sender's key, or None.
        message_id: Under which the broker recognises it.
        attributes: What else goes with it, packed; None if nothing does.
        body: The payload.
        attempts: How often it failed.

    """

    id: int
    destination: str
    key: str | None
    message_id: str
    attributes: bytes | None
    body: bytes
    attempts: int


class Claim(NamedTuple):
    """What one relay may send now.

    Attributes:
        owner: Name of the claim.
        lanes: How many lanes it holds.
        rows: In order.

    """

    owner: str
    lanes: int
    rows: list[Row]


class Failure(NamedTuple):
    """A row that could not be sent.

    Attributes:
        row: It.
        error: Why.
        delay_seconds: When to try again; None: it is parked.
        counts: Whether it was an attempt at this row; not where the destination takes nothing.

    """

    row: Row
    error: str
    delay_seconds: float | None
    counts: bool = True


class Peeked(NamedTuple):
    """What is there to do.

    Attributes:
        lanes: Free lanes with rows to send now, those with the oldest first.
        due_seconds: In how many seconds the next failed row is to be tried; None if there is none.

    """

    lanes: list[int]
    due_seconds: float | None


def pack_attributes(attributes: Attributes) -> bytes | None:
    """Return what accompanies a body beside key and message id, packed; None if there is nothing."""
    values = (attributes.subject, attributes.headers, attributes.due, attributes.ttl, attributes.priority)
    return None if all(value is None for value in values) else bytes(msgpack.packb(values))


def unpack_attributes(row: Row) -> Attributes:
    """Return what accompanies the body of *row*.

    Raises:
        ValueError: The packed part is no such thing.

    """
    if row.attributes is None:
        return Attributes(row.key, None, None, row.message_id, None, None, None)
    values = msgpack.unpackb(bytes(row.attributes))
    if not isinstance(values, list) or len(values) != 5:
        raise ValueError(f"the row's attributes are {values!r:.80}")
    subject, headers, due, lifetime, urgency = values
    return Attributes(row.key, subject, headers, row.message_id, due, lifetime, urgency)


def lane_of(destination: str, key: str | None, message_id: str) -> int:
    """Return the lane of a message: the same for all of one key to one destination."""
    word = f"{destination}\0{message_id if key is None else key}"
    return zlib.crc32(word.encode("utf-8", "surrogatepass")) % LANES


class Statements:
    """What is done with the tables of one outbox.

    Args:
        table: Name of the table of messages.
        parked_waits: Whether a parked row holds back the later ones of its key.

    """

    def __init__(self, table: str, *, parked_waits: bool) -> None:
        self.table = table
        self.lanes = f"{table}_lanes"
        self.channel = table.replace(".", "_")
        self._parked_waits = parked_waits

    # --- tables ---------------------------------------------------------------------------------------------------

    def schema(self, dialect: Dialect) -> Iterator[str]:
        """Yield the statements that make the tables."""
        sqlite = dialect == "sqlite"
        real, data, number = ("REAL", "BLOB", "INTEGER") if sqlite else ("DOUBLE PRECISION", "BYTEA", "SMALLINT")
        # Neither ever gives a number twice, and each gives a later transaction a greater one.
        identity = (
            "INTEGER PRIMARY KEY AUTOINCREMENT" if sqlite else "BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY"
        )
        yield (
            f"CREATE TABLE IF NOT EXISTS {self.table} (id {identity}, lane {number} NOT NULL, "
            f"destination TEXT NOT NULL, message_key TEXT, message_id TEXT NOT NULL, attributes {data}, "
            f"body {data} NOT NULL, added_at {real} NOT NULL DEFAULT ({now_in(dialect)}), "
            f"attempts INTEGER NOT NULL DEFAULT 0, next_at {real} NOT NULL DEFAULT 0, parked_at {real}, error TEXT)"
        )
        yield (
            f"CREATE INDEX IF NOT EXISTS {index_name(self.table, 'failed')} "
            f"ON {self.table} (destination, message_key, id) WHERE next_at > 0"
        )
        yield (
            f"CREATE TABLE IF NOT EXISTS {self.lanes} "
            f"(lane {number} PRIMARY KEY, owner TEXT, held_until {real} NOT NULL DEFAULT 0)"
        )
        lanes = ", ".join(f"({lane})" for lane in range(LANES))
        yield f"INSERT INTO {self.lanes} (lane) VALUES {lanes} ON CONFLICT DO NOTHING"  # noqa: S608

    def create(self, dialect: Dialect) -> Steps[None]:
        """Make the tables unless they are there."""
        for statement in self.schema(dialect):
            yield Execute(statement)

    # --- for those who send ---------------------------------------------------------------------------------------

    def add(
        self, dialect: Dialect, destination: str, message_id: str, body: bytes, attributes: Attributes, *, notify: bool
    ) -> Steps[None]:
        """Insert a message; on PostgreSQL, listening relays hear of it when its transaction commits."""
        insert = (
            f"INSERT INTO {self.table} (lane, destination, message_key, message_id, attributes, body) "  # noqa: S608
            "VALUES (?, ?, ?, ?, ?, ?)"
        )
        key = attributes.key
        values = (
            *(lane_of(destination, key, message_id), destination, key, message_id),
            *(pack_attributes(attributes), body),
        )
        if dialect == "sqlite" or not notify:
            yield Execute(insert, values)
        else:
            yield Execute(f"WITH added AS ({insert}) SELECT pg_notify('{self.channel}', '')", values)

    # --- for relays -----------------------------------------------------------------------------------------------

    def _sendable(self, dialect: Dialect, held: Sequence[str]) -> str:
        """Return the condition on row `o` that it may be sent now; its values are *held*."""
        now = now_in(dialect)
        parked = "" if self._parked_waits else " AND e.parked_at IS NULL"
        not_held = f" AND o.destination NOT IN ({placeholders(len(held))})" if held else ""
        return (
            f"o.next_at <= {now}{not_held} AND NOT EXISTS (SELECT 1 FROM {self.table} e WHERE e.next_at > 0 "  # noqa: S608
            f"AND e.destination = o.destination AND e.message_key = o.message_key AND e.id < o.id "
            f"AND e.next_at > {now}{parked})"
        )

    def peek(self, dialect: Dialect, held: Sequence[str]) -> Steps[Peeked]:
        """See what there is to do, changing nothing.

        Args:
            dialect: Which SQL.
            held: Destinations to leave alone for now.

        """
        now = now_in(dialect)
        found = yield Execute(
            f"SELECT lane FROM (SELECT o.lane, o.id FROM {self.table} o WHERE o.lane NOT IN "  # noqa: S608
            f"(SELECT lane FROM {self.lanes} WHERE held_until > {now}) AND {self._sendable(dialect, held)} "
            f"ORDER BY o.id LIMIT {PEEK_ROWS}) AS waiting GROUP BY lane ORDER BY MIN(id) LIMIT {LANES_PER_CLAIM}",
            tuple(held),
        )
        if found.rows:
            return Peeked([row[0] for row in found.rows], None)
        due = yield Execute(
            f"SELECT MIN(next_at) - {now} FROM {self.table} WHERE next_at > 0 AND next_at < {NEVER}"  # noqa: S608
        )
        seconds = due.rows[0][0]
        return Peeked([], None if seconds is None else max(0.0, float(seconds)))

    def claim(
        self,
        dialect: Dialect,
        owner: str,
        lanes: Sequence[int],
        held: Sequence[str],
        *,
        lease_seconds: float,
        rows_max: int,
        bytes_max: int,
    ) -> Steps[Claim]:
        """Take those of *lanes* that nobody holds, and read what is to be sent from them.

        Args:
            dialect: Which SQL.
            owner: A name that was never used.
            lanes: Which ones.
            held: Destinations to leave alone for now.
            lease_seconds: How long they are held unless renewed.
            rows_max: Most rows to read.
            bytes_max: Most bytes of bodies, unless a single one has more.

        """
        now = now_in(dialect)
        free = f"held_until <= {now} AND lane IN ({placeholders(len(lanes))})"
        if dialect == "postgresql":
            free = f"lane IN (SELECT lane FROM {self.lanes} WHERE {free} ORDER BY lane FOR UPDATE SKIP LOCKED)"  # noqa: S608
        # First of all a change: from then on, SQLite lets nobody else write, whoever began the transaction and how.
        taken = yield Execute(
            f"UPDATE {self.lanes} SET owner = ?, held_until = {now} + ? WHERE {free}",  # noqa: S608
            (owner, lease_seconds, *lanes),
        )
        if not taken.changed:
            return Claim(owner, 0, [])
        mine = f"o.lane IN (SELECT lane FROM {self.lanes} WHERE owner = ?)"  # noqa: S608
        size = "length(o.body)" if dialect == "sqlite" else "octet_length(o.body)"
        sizes = yield Execute(
            f"SELECT o.id, {size} FROM {self.table} o WHERE {mine} AND {self._sendable(dialect, held)} "  # noqa: S608
            f"ORDER BY o.id LIMIT {rows_max}",
            (owner, *held),
        )
        rows: list[Row] = []
        for ids in _pieces(_within(sizes.rows, bytes_max)):
            found = yield Execute(
                "SELECT id, destination, message_key, message_id, attributes, body, attempts "  # noqa: S608
                f"FROM {self.table} WHERE id IN ({placeholders(len(ids))}) ORDER BY id",
                tuple(ids),
            )
            rows += [_row(values) for values in found.rows]
        return Claim(owner, taken.changed, rows)

    def renew(self, dialect: Dialect, owner: str, lease_seconds: float) -> Steps[int]:
        """Hold the lanes of the claim longer; return how many it still holds."""
        renewed = yield Execute(
            f"UPDATE {self.lanes} SET held_until = {now_in(dialect)} + ? WHERE owner = ?",  # noqa: S608
            (lease_seconds, owner),
        )
        return renewed.changed

    def finish(self, dialect: Dialect, claim: Claim, sent: Sequence[int], failures: Sequence[Failure]) -> Steps[int]:
        """Delete what was sent, note what failed as far as the lanes are still held, and let them go.

        Returns:
            How many lanes were still held.

        """
        for ids in _pieces(sent):
            yield Execute(f"DELETE FROM {self.table} WHERE id IN ({placeholders(len(ids))})", tuple(ids))  # noqa: S608
        now = now_in(dialect)
        mine = f"lane IN (SELECT lane FROM {self.lanes} WHERE owner = ?)"  # noqa: S608
        for row, error, delay, counts in failures:
            when, parked = (f"{now} + ?", "NULL") if delay is not None else ("?", now)
            yield Execute(
                f"UPDATE {self.table} SET attempts = attempts + ?, error = ?, next_at = {when}, parked_at = {parked} "  # noqa: S608
                f"WHERE id = ? AND {mine}",
                (int(counts), error[:ERROR_CHARACTERS_MAX], NEVER if delay is None else delay, row.id, claim.owner),
            )
        released = yield Execute(
            f"UPDATE {self.lanes} SET owner = NULL, held_until = 0 WHERE owner = ?",  # noqa: S608
            (claim.owner,),
        )
        return released.changed

    # --- for operators --------------------------------------------------------------------------------------------

    def status(self, dialect: Dialect) -> Steps[tuple[Any, ...]]:
        """Return how many wait, how many of them failed before, how many are parked, and the age of the oldest."""
        found = yield Execute(
            "SELECT COUNT(*) FILTER (WHERE parked_at IS NULL), "  # noqa: S608
            "COUNT(*) FILTER (WHERE parked_at IS NULL AND next_at > 0), COUNT(*) FILTER (WHERE parked_at IS NOT NULL), "
            f"{now_in(dialect)} - MIN(added_at) FILTER (WHERE parked_at IS NULL) FROM {self.table}"
        )
        return found.rows[0]

    def troubles(self, count_max: int, *, parked: bool) -> Steps[list[tuple[Any, ...]]]:
        """Return the oldest rows that failed, parked ones or those that will be tried again."""
        found = yield Execute(
            "SELECT id, destination, message_key, message_id, attempts, error, added_at, parked_at "  # noqa: S608
            f"FROM {self.table} WHERE next_at > 0 AND parked_at IS {'NOT ' if parked else ''}NULL "
            f"ORDER BY id LIMIT {count_max}"
        )
        return found.rows

    def retry(self, ids: Sequence[int] | None) -> Steps[int]:
        """Let parked rows be tried again: these, or all; return how many there were."""
        change = f"UPDATE {self.table} SET attempts = 0, next_at = 0, parked_at = NULL, error = NULL WHERE next_at > 0 "  # noqa: S608
        return (yield from self._of_parked(change, ids))

    def discard(self, ids: Sequence[int] | None) -> Steps[int]:
        """Delete parked rows: these, or all; return how many there were."""
        return (yield from self._of_parked(f"DELETE FROM {self.table} WHERE next_at > 0 ", ids))  # noqa: S608

    def _of_parked(self, change: str, ids: Sequence[int] | None) -> Steps[int]:
        change += "AND parked_at IS NOT NULL"
        if ids is None:
            return (yield Execute(change)).changed
        total = 0
        for piece in _pieces(ids):
            changed = yield Execute(f"{change} AND id IN ({placeholders(len(piece))})", tuple(piece))
            total += changed.changed
        return total


def _row(values: tuple[Any, ...]) -> Row:
    number, destination, key, message_id, attributes, body, attempts = values
    packed = None if attributes is None else bytes(attributes)
    return Row(number, destination, key, message_id, packed, bytes(body), attempts)


def _pieces(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), VALUES_PER_STATEMENT_MAX):
        yield ids[start : start + VALUES_PER_STATEMENT_MAX]


def _within(sizes: list[tuple[Any, ...]], bytes_max: int) -> list[int]:
    """Return the ids of as many of the first rows as have so many bytes together, of one at least."""
    ids: list[int] = []
    left = bytes_max
    for number, size in sizes:
        left -= size
        if left < 0 and ids:
            break
        ids.append(number)
    return ids
