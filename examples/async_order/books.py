"""The shop's books: tables and statements, for SQLite and PostgreSQL alike.

With SQLite each service has a file of its own, with PostgreSQL all share one database. Nothing here forbids that an
effect happens twice: the ledger takes every row it is given, so that a duplicate would show.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    Engine,
    Float,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    insert,
    select,
    update,
)

from sluicemq.client import Inbox, Outbox

FRONT = "front"
PLACED, PAID, CANCELLED = "placed", "paid", "cancelled"
STOCK_AT_START = 100_000

metadata = MetaData()
orders = Table(
    "orders",
    metadata,
    Column("number", String, primary_key=True),
    Column("customer", String, nullable=False),
    Column("amount", Integer, nullable=False),
    Column("state", String, nullable=False),
    Column("placed_at", Float, nullable=False),
)
ledger = Table(
    "ledger",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("service", String, nullable=False),
    Column("number", String, nullable=False),
    Column("at", Float, nullable=False),
)
stock = Table("stock", metadata, Column("variant", String, primary_key=True), Column("pieces", Integer, nullable=False))
points = Table("points", metadata, Column("customer", String, primary_key=True), Column("points", Integer))
invoices = Table("invoices", metadata, Column("invoice", Integer, primary_key=True), Column("number", String))


@dataclass(frozen=True, slots=True)
class Order:
    """What a customer wants.

    Attributes:
        number: Names it; begins with the variant of the shop that took it.
        customer: Who ordered.
        amount: What it costs, in euro.

    """

    number: str
    customer: str
    amount: int

    @property
    def variant(self) -> str:
        """The shop that took it: at-once or answered."""
        return self.number.split("/")[0]

    def pack(self) -> bytes:
        """Return the body of a message about it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def unpack(cls, body: bytes) -> Order:
        """Return the order that a message is about."""
        return cls(**json.loads(body))


def open_books(database: str, folder: Path, service: str) -> Engine:
    """Return the engine of one service: *database* is "sqlite" or the URL of a PostgreSQL database."""
    if database != "sqlite":
        return create_engine(database, pool_size=10)
    engine = create_engine(f"sqlite:///{folder / service}.db", connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def write_ahead(connection: Any, _record: Any) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")

    return engine


def make_tables(engine: Engine, variants: tuple[str, ...]) -> None:
    """Make what is missing, before any service starts."""
    metadata.create_all(engine)
    with engine.begin() as connection:
        Inbox("any").create_table_blocking(connection)
        Outbox(engine).create_tables_blocking(connection)
        for variant in variants:
            if connection.execute(select(stock).where(stock.c.variant == variant)).first() is None:
                connection.execute(insert(stock).values(variant=variant, pieces=STOCK_AT_START))


# --- what a service writes down -----------------------------------------------------------------------------------


def write_down(connection: Connection, service: str, order: Order, effect: Effect) -> None:
    """Do what a service does to its books, and note that it did."""
    effect(connection, order)
    connection.execute(insert(ledger).values(service=service, number=order.number, at=time.time()))


def nothing_more(_connection: Connection, _order: Order) -> None:
    """Of services whose effect is elsewhere: a mail, a parcel."""


def take_from_stock(connection: Connection, order: Order) -> None:
    """One piece less."""
    connection.execute(update(stock).where(stock.c.variant == order.variant).values(pieces=stock.c.pieces - 1))


def put_back(connection: Connection, order: Order) -> None:
    """One piece more."""
    connection.execute(update(stock).where(stock.c.variant == order.variant).values(pieces=stock.c.pieces + 1))


def add_points(connection: Connection, order: Order) -> None:
    """A point for every ten euro."""
    earned = order.amount // 10
    changed = connection.execute(
        update(points).where(points.c.customer == order.customer).values(points=points.c.points + earned)
    )
    if not changed.rowcount:
        connection.execute(insert(points).values(customer=order.customer, points=earned))


def write_invoice(connection: Connection, order: Order) -> None:
    """The next number; there must be no gap. The one worker of invoices is the only one who writes them."""
    last = connection.execute(select(func.max(invoices.c.invoice))).scalar() or 0
    connection.execute(insert(invoices).values(invoice=last + 1, number=order.number))


Effect = Callable[[Connection, Order], None]


# --- orders ---------------------------------------------------------------------------------------------------------


def place(connection: Connection, order: Order, state: str = PLACED) -> None:
    """Note a new order."""
    values = {**asdict(order), "state": state, "placed_at": time.time()}
    connection.execute(insert(orders).values(**values))


def change_state(connection: Connection, number: str, state: str) -> bool:
    """Let an order that was only placed be paid or cancelled; False where the other one came first."""
    changed = connection.execute(
        update(orders).where(orders.c.number == number, orders.c.state == PLACED).values(state=state)
    )
    return bool(changed.rowcount)


def state_of(connection: Connection, number: str) -> str | None:
    """Return how an order stands; None where there is none of that number."""
    state: str | None = connection.execute(select(orders.c.state).where(orders.c.number == number)).scalar()
    return state
