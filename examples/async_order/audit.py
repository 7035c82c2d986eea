"""Whether the books balance: every order, every piece, every point, every invoice, once."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select

from sluicemq.examples.async_order import books
from sluicemq.examples.async_order.books import CANCELLED, FRONT, PAID, PLACED, open_books
from sluicemq.examples.async_order.services import AFTER_PAYMENT, RETURNS, STOCK


@dataclass(frozen=True, slots=True)
class Books:
    """The books of one variant of the shop as they stand.

    Attributes:
        states: State of each order, by number.
        placed_at: When each was placed, seconds since 1970.
        effects: By service, when it dealt with each order: a list, for it might have done so twice.
        pieces_gone: How many pieces of the stock are gone.
        points: All customers' points together.
        points_earned: What paid orders earned.
        invoices: Numbers of invoices that the variant's orders got, among all.

    """

    states: dict[str, str]
    placed_at: dict[str, float]
    effects: dict[str, dict[str, list[float]]]
    pieces_gone: int
    points: int
    points_earned: int
    invoices: Counter[str]

    def numbers(self, state: str) -> set[str]:
        """Return the orders of one state."""
        return {number for number, found in self.states.items() if found == state}

    def expected(self, service: str) -> set[str]:
        """Return the orders that a service has to deal with."""
        if service == STOCK.name:
            return set(self.states)
        return self.numbers(CANCELLED if service == RETURNS.name else PAID)

    def missing(self) -> int:
        """Return how many effects are still to come."""
        services = (STOCK, *AFTER_PAYMENT, RETURNS)
        return len(self.numbers(PLACED)) + sum(
            len(self.expected(each.name) - set(self.effects[each.name])) for each in services
        )

    def half_done(self) -> int:
        """Return the paid orders that some service, and not every service, has dealt with."""
        paid = self.numbers(PAID)
        dealt = Counter(number for each in (STOCK, *AFTER_PAYMENT) for number in set(self.effects[each.name]) & paid)
        return sum(services <= len(AFTER_PAYMENT) for services in dealt.values())

    def completed_at(self) -> dict[str, float]:
        """Return when the last service was through with each paid order that all are through with."""
        done = {}
        for number in self.numbers(PAID):
            times = [self.effects[each.name].get(number) for each in (STOCK, *AFTER_PAYMENT)]
            if all(times):
                done[number] = max(time for found in times if found for time in found)
        return done

    def complaints(self) -> list[str]:
        """Return what does not balance; nothing is what one wants."""
        found = []
        if unsettled := self.numbers(PLACED):
            found.append(f"{len(unsettled)} orders are neither paid nor cancelled")
        for service in (STOCK, *AFTER_PAYMENT, RETURNS):
            effects = self.effects[service.name]
            expected = self.expected(service.name)
            twice = sorted(number for number, times in effects.items() if len(times) > 1)
            for problem, numbers in (
                ("never dealt with", sorted(expected - set(effects))),
                ("dealt with, and should not", sorted(set(effects) - expected)),
                ("dealt with twice", twice),
            ):
                if numbers:
                    found.append(f"{service.name}: {len(numbers)} orders {problem}, such as {numbers[0]}")
        if self.pieces_gone != len(self.numbers(PAID)):
            found.append(f"{self.pieces_gone} pieces are gone, and {len(self.numbers(PAID))} are paid")
        if self.points != self.points_earned:
            found.append(f"customers have {self.points} points, and earned {self.points_earned}")
        if any(count != 1 for count in self.invoices.values()) or set(self.invoices) != self.numbers(PAID):
            found.append(f"{self.invoices.total()} invoices for {len(self.numbers(PAID))} paid orders")
        return found


def read_books(database: str, folder: Path, variant: str) -> Books:
    """Return the books of one variant."""

    def rows(service: str, query: Any) -> list[Any]:
        engine = open_books(database, folder, service)
        try:
            with engine.connect() as connection:
                return list(connection.execute(query))
        finally:
            engine.dispose()

    mine = f"{variant}/%"
    placed = rows(FRONT, select(books.orders).where(books.orders.c.number.like(mine)))
    effects: dict[str, dict[str, list[float]]] = {}
    for service in (STOCK, *AFTER_PAYMENT, RETURNS):
        effects[service.name] = {}
        wanted = books.ledger.c.number.like(mine) & (books.ledger.c.service == service.name)
        for row in rows(service.name, select(books.ledger).where(wanted)):
            effects[service.name].setdefault(row.number, []).append(row.at)
    changed = 0
    for service in (STOCK, RETURNS) if database == "sqlite" else (STOCK,):
        (left,) = rows(service.name, select(books.stock.c.pieces).where(books.stock.c.variant == variant))
        changed += left.pieces - books.STOCK_AT_START
    earned = rows("points", select(books.points.c.points).where(books.points.c.customer.like(mine)))
    numbers = rows("invoice", select(books.invoices.c.number).where(books.invoices.c.number.like(mine)))
    return Books(
        states={row.number: row.state for row in placed},
        placed_at={row.number: row.placed_at for row in placed},
        effects=effects,
        pieces_gone=-changed,
        points=sum(row.points for row in earned),
        points_earned=sum(row.amount // 10 for row in placed if row.state == PAID),
        invoices=Counter(row.number for row in numbers),
    )
