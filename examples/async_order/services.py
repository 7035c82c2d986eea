"""What has to be done for an order, by whom, how long it takes, and how it fails: the same for both shops.

What takes long is elsewhere in real life (a mail server, a printer, another company), and bears only so many at a time.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import trio

from sluicemq.examples.async_order.books import (
    Effect,
    Order,
    add_points,
    nothing_more,
    put_back,
    take_from_stock,
    write_invoice,
)

ADDRESSES_MENDED = "addresses-mended"
"""A file of this name appears when an operator has corrected the address book."""


class TryAgain(Exception):
    """The other side has a bad moment."""


class NoSuchAddress(Exception):
    """Trying again does not help until somebody has corrected the address."""


@dataclass(frozen=True, slots=True)
class Service:
    """One of the shop's services.

    Attributes:
        name: Of the service, its queue and its ledger.
        pattern: What it subscribes to.
        seconds: How long its work takes elsewhere, for each order.
        capacity: How many it can do at a time.
        effect: What it does to its books.

    """

    name: str
    pattern: str
    seconds: float
    capacity: int
    effect: Effect = nothing_more


STOCK = Service("stock", "shop.placed", 0.005, 4, take_from_stock)
PAYMENT_SECONDS = 0.02
AFTER_PAYMENT = (
    Service("points", "shop.paid", 0.03, 4, add_points),
    Service("mail", "shop.paid", 0.2, 5),
    Service("warehouse", "shop.paid", 0.05, 4),
    Service("invoice", "shop.paid", 0.02, 1, write_invoice),
)
RETURNS = Service("returns", "shop.cancelled", 0.005, 4, put_back)
SERVICES = (STOCK, *AFTER_PAYMENT, RETURNS)
DEADLINE = "payment-deadline"
"""The queue of delayed messages that cancel what is not paid in time, and the worker that takes them."""


def is_paid_in_time(number: int) -> bool:
    """Nine customers of ten pay."""
    return number % 10 != 9


def has_bad_address(order: Order) -> bool:
    """Of some customers the address book is wrong."""
    return zlib.crc32(order.number.encode()) % 40 == 0


def has_bad_moment(service: str, order: Order) -> bool:
    """For some orders the first attempt fails: the mail server is busy, the warehouse's scanner is stuck."""
    return service in {"mail", "warehouse"} and zlib.crc32(f"{service} {order.number}".encode()) % 12 == 0


async def do_work(service: Service, order: Order, attempt: int, folder: Path) -> None:
    """What happens elsewhere.

    Raises:
        TryAgain: A bad moment.
        NoSuchAddress: As long as the address book is not corrected.

    """
    await trio.sleep(service.seconds)
    if attempt == 1 and has_bad_moment(service.name, order):
        raise TryAgain(f"{service.name} has a bad moment")
    if service.name == "mail" and has_bad_address(order) and not (folder / ADDRESSES_MENDED).exists():
        raise NoSuchAddress(f"there is no address of {order.customer}")
