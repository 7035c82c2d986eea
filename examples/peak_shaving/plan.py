"""The plan of the sale: who comes when, what there is to sell, and how the line is set up."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from sluicemq.wire.settings import QueueSettings

PAYMENTS, EXTRAS = "payments", "extras"
DIRECT, QUEUED = "direct", "queued"
PATIENCE_SECONDS = 2.0
"""How long the front waits for the payment service when it calls it in the request."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many come.

    Attributes:
        normal: Customers a second, before the sale and after it.
        factor: How many times as many come while it lasts.
        before_seconds: How long the quiet before lasts.
        sale_seconds: How long the sale lasts.
        pieces: What there is to sell.
        admitted: Orders a second that are let into the line.
        admitted_burst: How many more of them at once.

    """

    normal: float = 6.0
    factor: float = 10.0
    before_seconds: float = 3.0
    sale_seconds: float = 20.0
    pieces: int = 700
    admitted: int = 50
    admitted_burst: int = 100

    def arrivals(self) -> Iterator[float]:
        """Yield when customers come, in seconds."""
        at = 0.0
        while at < self.before_seconds + self.sale_seconds:
            yield at
            at += 1 / (self.normal * (self.factor if at >= self.before_seconds else 1.0))


def settings_of_payments(plan: Plan) -> QueueSettings:
    """Return how the line before the payment service is set up: this is what replaces code.

    Nobody tells the line what the service bears: it finds out by how long payments take. At most so many are there at a
    time, and only so many orders a second come in, for a customer would rather come again than wait for an hour.
    """
    return {
        "delivery_adaptive": {"min": 5, "max": 200, "latency": 0.8},
        "max_concurrency": 20,
        "publish_limit": f"token_bucket {plan.admitted}/s burst {plan.admitted_burst}",
        "dedup_window": 3600.0,
        "retry": {"initial": 0.5, "factor": 2, "max": 10, "jitter": 0.5},
    }


def open_stock(folder: Path) -> sqlite3.Connection:
    """Open the shop's database; each statement is a transaction of its own."""
    database = sqlite3.connect(folder / "stock.db", isolation_level=None, timeout=10)
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")
    database.execute("CREATE TABLE IF NOT EXISTS stock (shop TEXT PRIMARY KEY, pieces INTEGER NOT NULL)")
    database.execute("CREATE TABLE IF NOT EXISTS sales (shop TEXT, number TEXT, at REAL)")
    return database
