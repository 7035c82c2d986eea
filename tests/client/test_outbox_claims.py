"""Random lives of relays on one table: they claim, send, fail, die and oversleep. Nothing is lost or overtaken.

The statements run on SQLite in memory; the broker is a list that knows message ids, as one with a `dedup_window` does.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.client.outbox.statements import Claim, Failure, Row, Statements
from sluicemq.client.outgoing import Attributes
from sluicemq.client.sql.connections import perform
from sluicemq.client.sql.sqlite import SqliteConnection

KEYS = ("Ada", "Ada", "Bob", None)
RELAYS = 2
LANES = 2
"""Fewer than there are in truth, so that keys meet in them."""

actions = st.one_of(
    st.tuples(st.just("add"), st.sampled_from(KEYS)),
    st.tuples(st.just("add"), st.sampled_from(KEYS)),
    st.tuples(st.just("begin"), st.tuples(st.integers(0, RELAYS - 1), st.integers(0, 2), st.booleans())),
    st.tuples(st.just("go on"), st.tuples(st.integers(0, RELAYS - 1), st.integers(0, 4), st.booleans())),
    st.tuples(st.just("die"), st.integers(0, RELAYS - 1)),
    st.tuples(st.just("leases run out"), st.none()),
    st.tuples(st.just("failures are due"), st.none()),
)


@dataclass
class Relay:
    """What one of them has in hand."""

    claim: Claim | None = None
    sent: list[int] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)


class World:
    """The table, the relays and the broker."""

    def __init__(self) -> None:
        self.statements = Statements("outbox", parked_waits=True)
        self.connection = sqlite3.connect(":memory:")
        self.face = SqliteConnection(self.connection)
        self.relays = [Relay() for _ in range(RELAYS)]
        self.added: dict[str | None, list[str]] = {key: [] for key in {*KEYS}}
        self.arrived: dict[str | None, list[str]] = {key: [] for key in {*KEYS}}
        self._claims = 0
        self.run(self.statements.create("sqlite"))

    def run(self, steps: Any) -> Any:
        outcome = perform(self.face, steps, check=False, missing="")
        self.connection.commit()
        return outcome

    def add(self, key: str | None) -> None:
        message_id = f"{key} {len(self.added[key])}"
        self.added[key].append(message_id)
        attributes = Attributes(key, None, None, message_id)
        self.run(self.statements.add("sqlite", "orders", message_id, b"", attributes, notify=False))
        self.connection.execute(f"UPDATE outbox SET lane = lane % {LANES}")

    def claim(self, number: int) -> None:
        lanes = self.run(self.statements.peek("sqlite", ())).lanes
        if lanes:
            self._claims += 1
            limits: dict[str, Any] = {"lease_seconds": 1e6, "rows_max": 4, "bytes_max": 1000}
            claim = self.run(self.statements.claim("sqlite", f"claim {self._claims}", lanes[:1], (), **limits))
            self.relays[number] = Relay(claim)

    def arrives(self, row: Row) -> None:
        if row.message_id not in self.arrived[row.key]:
            self.arrived[row.key].append(row.message_id)

    def next_row(self, relay: Relay) -> Row | None:
        """The next row to send: not one of a key that failed, as the sender does it."""
        failed = {failure.row.key for failure in relay.failures}
        done = {*relay.sent, *(failure.row.id for failure in relay.failures)}
        rows = relay.claim.rows if relay.claim is not None else []
        return next((row for row in rows if row.id not in done and (row.key is None or row.key not in failed)), None)

    def send(self, number: int) -> None:
        relay = self.relays[number]
        row = self.next_row(relay)
        if row is not None:
            self.arrives(row)
            relay.sent.append(row.id)

    def fail(self, number: int) -> None:
        relay = self.relays[number]
        row = self.next_row(relay)
        if row is not None:
            relay.failures.append(Failure(row, "refused", 1e6))

    def work(self, number: int, sends: int, fails: bool) -> None:
        for _ in range(sends):
            self.send(number)
        if fails:
            self.fail(number)

    def finish(self, number: int) -> None:
        relay, self.relays[number] = self.relays[number], Relay()
        if relay.claim is not None:
            self.run(self.statements.finish("sqlite", relay.claim, relay.sent, relay.failures))

    def leases_run_out(self) -> None:
        """Nobody holds anything any more; those who believe it go on believing."""
        self.connection.execute("UPDATE outbox_lanes SET held_until = 0")
        self.connection.commit()

    def failures_are_due(self) -> None:
        self.connection.execute("UPDATE outbox SET next_at = 1 WHERE next_at > 0")
        self.connection.commit()

    def act(self, what: str, whom: Any) -> None:
        match what:
            case "add":
                self.add(whom)
            case "begin":  # claims, sends some, and perhaps one of them fails
                number, sends, fails = whom
                self.claim(number)
                self.work(number, sends, fails)
            case "go on":  # however late it is
                number, sends, fails = whom
                self.work(number, sends, fails)
                self.finish(number)
            case "die":
                self.relays[whom] = Relay()
            case "leases run out":
                self.leases_run_out()
            case "failures are due":
                self.failures_are_due()

    def drain(self) -> None:
        """One relay that lives does the rest."""
        for _ in range(200):
            self.leases_run_out()
            self.failures_are_due()
            if not self.run(self.statements.peek("sqlite", ())).lanes:
                return
            self.claim(0)
            while self.next_row(self.relays[0]) is not None:
                self.send(0)
            self.finish(0)
        raise AssertionError("something is never sent")


@settings(max_examples=200)
@given(st.lists(actions, min_size=10, max_size=50))
def test_relays_that_die_and_oversleep_neither_lose_nor_overtake(history: list[tuple[str, Any]]) -> None:
    world = World()
    for what, whom in history:
        world.act(what, whom)
        for key in ("Ada", "Bob"):
            assert world.arrived[key] == world.added[key][: len(world.arrived[key])], "a message was overtaken"
    world.drain()
    assert {key: sorted(ids) for key, ids in world.arrived.items()} == {
        key: sorted(ids) for key, ids in world.added.items()
    }
    assert world.connection.execute("SELECT COUNT(*) FROM outbox").fetchone() == (0,)
    world.connection.close()
