"""What inbox and outbox cost: `python -m tests.e2e.sql_costs`. A broker of its own, SQLite in a file, PostgreSQL.

Measured is what a block of the inbox and a message in the outbox add to a transaction (the commit and its sync are
the user's own, and not in it), and how fast a relay empties a full outbox. The least of several rounds counts, because
other load only adds.
"""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio

from sluicemq.client import Inbox, Outbox, connect
from tests.e2e.broker_process import BrokerProcess
from tests.postgres import CHECKOUT, Cluster

REPEATS = 500
ROUNDS = 9
BACKLOG = 5_000
BODY = b"x" * 100


def run() -> int:
    """Measure and print."""
    with tempfile.TemporaryDirectory(prefix="sluicemq-bench-sql-") as temporary:
        directory = Path(temporary)
        _measure("SQLite (WAL, synchronous=FULL)", f"sqlite:///{directory}/orders.db", directory)
        found = subprocess.run([CHECKOUT / "tools" / "postgres-programs"], capture_output=True, text=True, check=False)
        if found.returncode:
            print(found.stderr.strip())
            return 0
        cluster = Cluster(Path(found.stdout.strip()), settings=("fsync=on",)).start()
        try:
            _measure("PostgreSQL (psycopg 3, Unix socket, fsync=on)", cluster.address, directory)
        finally:
            cluster.stop()
    return 0


def _open(address: str) -> Any:
    if address.startswith("sqlite"):
        connection = sqlite3.connect(address.removeprefix("sqlite:///"))
        connection.execute("PRAGMA journal_mode = WAL")
        return connection
    import psycopg

    return psycopg.connect(address)


def _measure(name: str, address: str, directory: Path) -> None:
    connection = _open(address)
    inbox, outbox = Inbox("bench"), Outbox(address)
    connection.execute("CREATE TABLE effects (number INTEGER)")
    inbox.create_table_blocking(connection)
    outbox.create_tables_blocking(connection)
    connection.commit()
    effect = f"INSERT INTO effects VALUES ({'?' if address.startswith('sqlite') else '%s'})"
    numbers = iter(range(10**9))

    def bare() -> None:
        connection.execute(effect, (1,))

    def with_inbox() -> None:
        with inbox.once(f"message {next(numbers)}", connection):
            connection.execute(effect, (1,))

    def with_outbox() -> None:
        connection.execute(effect, (1,))
        outbox.add(connection, "orders", BODY, key="42")

    print(name)
    base = _microseconds(connection, bare)
    print(f"  an INSERT of the user's own          {base:6.0f} µs")
    print(f"  a block of the inbox around it     + {_microseconds(connection, with_inbox) - base:6.0f} µs")
    print(f"  a message in the outbox beside it  + {_microseconds(connection, with_outbox) - base:6.0f} µs")
    connection.execute("DELETE FROM sluicemq_outbox")
    for number in range(BACKLOG):
        outbox.add(connection, "orders", BODY, key=f"customer {number % 1000}")
    connection.commit()
    connection.close()
    with BrokerProcess(directory / f"data-{address[:6]}") as broker:
        seconds = anyio.run(_relay, broker.url, outbox)
        broker.stop()
    print(f"  one relay sends                    {BACKLOG / seconds:8.0f} messages/s")


def _microseconds(connection: Any, work: Callable[[], None]) -> float:
    rounds = []
    for _ in range(ROUNDS):
        began = time.perf_counter()
        for _ in range(REPEATS):
            work()
        rounds.append((time.perf_counter() - began) / REPEATS * 1e6)
        connection.commit()
    return min(rounds)


async def _relay(url: str, outbox: Outbox) -> float:
    async with connect(url) as client:
        await client.declare_queue("orders", dedup_window=3600)
        began = time.perf_counter()
        async with outbox.relay(client) as relay:
            while relay.statistics().sent < BACKLOG:  # noqa: ASYNC110 - measured from outside
                await anyio.sleep(0.002)
        seconds = time.perf_counter() - began
        await outbox.aclose()
        return seconds


if __name__ == "__main__":
    sys.exit(run())
