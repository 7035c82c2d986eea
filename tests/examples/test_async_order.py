"""The shop: its demonstration for real, and that its audit would notice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sluicemq.examples.async_order import books
from sluicemq.examples.async_order.audit import read_books
from sluicemq.examples.async_order.books import CANCELLED, FRONT, PAID, Order, make_tables, open_books
from sluicemq.examples.async_order.services import AFTER_PAYMENT, RETURNS, SERVICES, STOCK, Service
from tests.examples.programs import run_demonstration

ORDER = Order("answered/1", "answered/ann", 100)


@pytest.mark.timeout(200)
def test_two_kills_and_a_wrong_address_book_leave_books_that_balance(tmp_path: Path) -> None:
    outcome = run_demonstration(
        "async_order", tmp_path, "--orders", "40", "--rate", "15", "--deadline", "5", seconds_max=180
    )
    assert "mail killed" in outcome.stderr
    assert "broker killed" in outcome.stderr


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The books of a shop with one paid order, as they should be."""
    for name in {FRONT, *(each.name for each in SERVICES)}:
        make_tables(open_books("sqlite", tmp_path, name), ("answered",))
    with open_books("sqlite", tmp_path, FRONT).begin() as connection:
        books.place(connection, ORDER, PAID)
    for service in (STOCK, *AFTER_PAYMENT):
        deal_with(tmp_path, service)
    return tmp_path


def deal_with(folder: Path, service: Service) -> None:
    with open_books("sqlite", folder, service.name).begin() as connection:
        books.write_down(connection, service.name, ORDER, service.effect)


def mail_twice(folder: Path) -> None:
    deal_with(folder, AFTER_PAYMENT[1])


def take_two_pieces(folder: Path) -> None:
    with open_books("sqlite", folder, STOCK.name).begin() as connection:
        books.take_from_stock(connection, ORDER)


def give_too_many_points(folder: Path) -> None:
    with open_books("sqlite", folder, "points").begin() as connection:
        books.add_points(connection, ORDER)


def write_two_invoices(folder: Path) -> None:
    with open_books("sqlite", folder, "invoice").begin() as connection:
        books.write_invoice(connection, ORDER)


def forget_an_order(folder: Path) -> None:
    with open_books("sqlite", folder, FRONT).begin() as connection:
        books.place(connection, Order("answered/2", "answered/bob", 10))


def return_what_is_paid(folder: Path) -> None:
    deal_with(folder, RETURNS)


def test_books_in_good_order_raise_no_complaint(shop: Path) -> None:
    found = read_books("sqlite", shop, "answered")
    assert found.complaints() == []
    assert (found.missing(), found.half_done()) == (0, 0)


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (mail_twice, "mail: 1 orders dealt with twice"),
        (take_two_pieces, "2 pieces are gone, and 1 are paid"),
        (give_too_many_points, "customers have 20 points, and earned 10"),
        (write_two_invoices, "2 invoices for 1 paid orders"),
        (forget_an_order, "1 orders are neither paid nor cancelled"),
        (return_what_is_paid, "returns: 1 orders dealt with, and should not"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_the_audit_notices(shop: Path, harm: Callable[[Path], None], complaint: str) -> None:
    harm(shop)
    assert any(complaint in each for each in read_books("sqlite", shop, "answered").complaints())


def test_what_is_paid_in_time_is_not_cancelled(shop: Path) -> None:
    with open_books("sqlite", shop, FRONT).begin() as connection:
        assert not books.change_state(connection, ORDER.number, CANCELLED)
        assert books.state_of(connection, ORDER.number) == PAID
