"""A producer of prepared messages that may die anywhere: `python -m tests.e2e.half_producer URL DATABASE JOURNAL ...`.

Each order is prepared, paid in the local SQLite database or not, and decided. With a small chance the process kills
itself at one of the stages, and its parent kills it besides. It also answers check-backs, from the database: whoever
says there that an order is not paid makes sure that it never will be.
"""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import sys
from typing import TYPE_CHECKING

import anyio

from sluicemq.client import Decision, connect
from sluicemq.client.errors import SluiceError

if TYPE_CHECKING:
    from sluicemq.client import Client, Undecided

QUEUE = "orders"
GROUP = "shop"
AT_ONCE = 16
CHECK_AFTER_SECONDS = 0.3
REGRET_CHANCE = 0.2
BUSY_SECONDS = 30.0


class Regret(Exception):
    """The order is not to be paid after all."""


def open_database(path: str) -> sqlite3.Connection:
    """Return a connection to the local database; outcomes are (order, whether it is paid), decided once."""
    database = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")  # processes are killed here, the power stays on
    database.execute("CREATE TABLE IF NOT EXISTS outcomes (id INTEGER PRIMARY KEY, paid INTEGER NOT NULL)")
    return database


def check_with(database: sqlite3.Connection, message: Undecided) -> Decision:
    """Say what the database says of an order; where it says nothing, nobody can pay it from now on."""
    order = int(message.body)
    database.execute("INSERT OR IGNORE INTO outcomes VALUES (?, 0)", (order,))
    (paid,) = database.execute("SELECT paid FROM outcomes WHERE id = ?", (order,)).fetchone()
    return Decision.COMMIT if paid else Decision.ROLLBACK


class Shop:
    """One process of the shop."""

    def __init__(
        self, client: Client, database: sqlite3.Connection, journal: int, rng: random.Random, death_chance: float
    ) -> None:
        self._client = client
        self._database = database
        self._journal = journal
        self._rng = rng
        self._death_chance = death_chance

    def _may_die(self) -> None:
        if self._rng.random() < self._death_chance:
            os.kill(os.getpid(), signal.SIGKILL)

    async def sell(self, order: int) -> None:
        """Prepare, pay and commit one order, as far as this process lives."""
        os.write(self._journal, b"%d\n" % order)
        self._may_die()
        half = self._client.prepare(QUEUE, b"%d" % order, check=GROUP, check_after=CHECK_AFTER_SECONDS)
        async with half:
            self._may_die()
            self._database.execute("BEGIN IMMEDIATE")
            try:
                self._database.execute("INSERT INTO outcomes VALUES (?, 1)", (order,))
                self._may_die()
                if self._rng.random() < REGRET_CHANCE:
                    raise Regret
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")
            self._may_die()
        self._may_die()

    async def sell_all(self, first: int, behind: int) -> None:
        """Sell the orders from *first* to before *behind*, several at a time."""
        orders = iter(range(first, behind))

        async def some() -> None:
            for order in orders:
                try:
                    await self.sell(order)
                except (Regret, sqlite3.IntegrityError):
                    pass  # a check-back was faster, or nobody wants it
                except SluiceError as error:
                    print(f"order {order}: {error}", file=sys.stderr)

        async with anyio.create_task_group() as tasks:
            for _ in range(AT_ONCE):
                tasks.start_soon(some)


async def main(url: str, path: str, journal: str, death_chance: float, first: int, behind: int, seed: int) -> None:
    """Sell, while answering check-backs; says so on a line of its own."""
    database = open_database(path)
    descriptor = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)

    async def check(message: Undecided) -> Decision:
        return check_with(database, message)

    async with connect(url, connect_timeout=60.0) as client:
        client.transaction_checker(GROUP, check)
        print("selling", flush=True)
        await Shop(client, database, descriptor, random.Random(seed), death_chance).sell_all(first, behind)


if __name__ == "__main__":
    _, url_, path_, journal_, chance, first_text, behind_text, seed_text = sys.argv
    first_, behind_, seed_ = int(first_text), int(behind_text), int(seed_text)
    anyio.run(main, url_, path_, journal_, float(chance), first_, behind_, seed_, backend="trio")
