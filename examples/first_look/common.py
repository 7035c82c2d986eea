"""What every process of the example needs beside the broker: a database of its own, and a clean end."""

from __future__ import annotations

import signal
import sqlite3
import time
from pathlib import Path

import trio

from sluicemq.client import Consumer


def open_database(path: Path) -> sqlite3.Connection:
    """Open the SQLite file of one service, with a table of the orders that it has handled."""
    database = sqlite3.connect(path)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute(
        "CREATE TABLE IF NOT EXISTS handled (order_id TEXT PRIMARY KEY, note TEXT, at REAL, repeats INTEGER DEFAULT 0)"
    )
    database.commit()
    return database


def handle_once(database: sqlite3.Connection, order_id: str, note: str) -> bool:
    """Record the effect on an order; return whether it is the first time.

    A message may come twice: after a crash between the effect and its acknowledgement, the broker cannot know that the
    effect took place. The primary key makes the second time harmless. What belongs to the effect goes into the same
    transaction.
    """
    with database:
        new = database.execute(
            "INSERT OR IGNORE INTO handled (order_id, note, at) VALUES (?, ?, ?)", (order_id, note, time.time())
        ).rowcount
        if not new:
            database.execute("UPDATE handled SET repeats = repeats + 1 WHERE order_id = ?", (order_id,))
    return bool(new)


async def drain_on_sigterm(consumer: Consumer) -> None:
    """When the process is asked to end: take nothing new, finish the message in hand, give the others back."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            await consumer.drain()
            return
