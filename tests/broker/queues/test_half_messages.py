"""Half messages, told as stories: how often somebody is asked, how long a decision is remembered, what survives."""

from __future__ import annotations

from typing import Any

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues.applying import halves
from sluicemq.broker.queues.halves import CHECKS_MAX, DECIDED_MS, HALVES_ID, Half
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.outcomes import Forgotten, Published, Ready
from sluicemq.broker.queues.outcomes_of_transactions import ChecksDue, Prepared, Resolved
from sluicemq.wire.errors import InvalidRequest, LimitReached, QueueNotFound, TransactionDecided, TransactionNotFound
from tests.broker.queues.test_machine import Broker


class Shop(Broker):
    """A broker with a producer that prepares messages."""

    def prepare(self, check_after_ms: int = 6_000) -> int:
        self.sequence += 1
        said: tuple[Any, ...] = ("orders", "shop", check_after_ms, 0, [1, 0, 0, 0, 0, 0], [], b"x" * 10)
        entry = x.Prepare(self.now, self.orders, self.producer, self.sequence, 1, 10, *said)
        assert self.get(Prepared, self.apply(entry)) == Prepared(self.zxid, 1, False)
        return self.zxid

    def ask(self, number: int) -> ChecksDue:
        return self.get(ChecksDue, self.apply(x.Checked(self.now, [number])))

    def half(self, number: int) -> Half:
        half = self.machine.halves.get(number)
        assert half is not None
        return half

    def resolve(self, number: int, *, commit: bool) -> object:
        outcome = self.apply(x.Resolve(self.now, number, commit))
        return outcome.value if outcome.error is None else type(outcome.error)


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_questions_come_at_growing_intervals_and_end(shop: Shop) -> None:
    half = shop.prepare()
    begun = shop.now
    times: list[int] = []
    while not shop.half(half).parked:
        shop.now = shop.half(half).next_check_ms
        last = len(times) == CHECKS_MAX
        assert shop.ask(half) == (ChecksDue([], [half]) if last else ChecksDue([half], []))
        times.append((shop.now - begun) // 1_000)
    assert times[:6] == [6, 18, 42, 90, 150, 210], "doubling, then a minute"
    assert len(times) == CHECKS_MAX + 1, "the last time nobody is asked: it is parked"
    shop.now += 10**9
    assert shop.ask(half) == ChecksDue([], []), "and stays so"
    assert shop.resolve(half, commit=True) == Resolved(True, False, 1), "until an operator decides"
    assert shop.ready() == [(half, 0, 1)]


def test_a_question_that_is_proposed_twice_counts_once(shop: Shop) -> None:
    half = shop.prepare()
    shop.now += 6_000
    assert shop.ask(half) == ChecksDue([half], [])
    assert shop.ask(half) == ChecksDue([], [])
    assert shop.half(half).checks == 1


def test_questions_and_decisions_survive_in_an_image(shop: Shop) -> None:
    half, other, third = shop.prepare(), shop.prepare(), shop.prepare()
    shop.now += 6_000
    shop.ask(half)
    shop.resolve(other, commit=False)
    shop.resolve(third, commit=True)
    machine = load(shop.machine.freeze().pack(lambda: True))
    kept = machine.halves.get(half)
    assert kept == shop.half(half)
    assert (kept.checks, kept.next_check_ms) == (1, shop.now + 12_000)
    shop.machine = machine
    assert shop.resolve(other, commit=False) == Resolved(False, True, 0)
    assert shop.resolve(third, commit=False) is TransactionDecided
    assert machine.halves.first_due("/", "shop") == (shop.now + 12_000, half)


def test_a_decision_is_remembered_for_a_day(shop: Shop) -> None:
    half, other = shop.prepare(), shop.prepare()
    assert shop.resolve(half, commit=True) == Resolved(True, False, 1)
    shop.now += DECIDED_MS - 1
    assert shop.resolve(half, commit=True) == Resolved(True, True, 0)
    shop.now += 1
    shop.resolve(other, commit=False)
    assert shop.resolve(half, commit=True) is TransactionNotFound


def test_a_queue_that_comes_back_gets_what_was_prepared_for_it(shop: Shop) -> None:
    half = shop.prepare()
    shop.delete("orders")
    assert shop.resolve(half, commit=True) is QueueNotFound
    assert shop.half(half), "it stays undecided"
    shop.declare("orders")
    outcome = shop.apply(x.Resolve(shop.now, half, True))
    found = shop.machine.find_queue("/", "orders")
    assert found is not None
    assert (outcome.value, outcome.effects) == (Resolved(True, False, 1), (Ready(found.id),))


def test_undecided_ones_are_bounded_by_what_they_take(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    half = shop.prepare()
    monkeypatch.setattr(halves, "HALVES_BYTES_MAX", 2 * shop.machine.halves.state_bytes)
    shop.prepare()
    said: tuple[Any, ...] = ("orders", "shop", 6_000, 0, [1, 0, 0, 0, 0, 0], [], b"x" * 10)
    third = x.Prepare(shop.now, shop.orders, shop.producer, shop.sequence + 1, 1, 10, *said)
    assert type(shop.apply(third).error) is LimitReached
    shop.resolve(half, commit=False)
    shop.prepare()


def test_what_is_lost_is_given_up_undecided(shop: Shop) -> None:
    half, other = shop.prepare(), shop.prepare()
    forgotten = shop.apply(e.Forget(shop.now, HALVES_ID, [half, half], "lost"))
    assert forgotten.value == Forgotten(1, 0)
    assert [each.number for each in shop.machine.halves] == [other]
    assert shop.resolve(half, commit=True) is TransactionNotFound


# --- duplicates by message id ----------------------------------------------------------------------------------------

ANNA, BERT = b"anna" * 4, b"bert" * 4
QUEUE_SCOPE, KEY_SCOPE = 1, 2


class Window(Shop):
    """A shop whose queue remembers ids for an hour."""

    def __init__(self) -> None:
        super().__init__()
        self.declare("orders", dedup_window=3600.0)

    def prepare_with(self, *ids: bytes, scope: int = QUEUE_SCOPE, target: int = 0) -> int:
        self.sequence += 1
        count = len(ids)
        said: tuple[Any, ...] = ("orders", "shop", 6_000, 0, [count, 0, 0, 0, 0, 0], [], b"x" * 10 * count)
        numbers = target or self.orders, self.producer, self.sequence, count, 10 * count
        entry = x.Prepare(self.now, *numbers, *said, scope=scope, ids=b"".join(ids))
        assert self.get(Prepared, self.apply(entry)) == Prepared(self.zxid, count, False)
        return self.zxid

    def publish_with(self, id_: bytes) -> Published:
        self.sequence += 1
        groups: tuple[Any, ...] = ([1, 0, 0, 0, 0, 0], [], 0, id_)
        entry = e.PublishIdentified(
            self.now, self.orders, self.producer, self.sequence, 1, 10, None, b"x" * 10, *groups
        )
        return self.get(Published, self.apply(entry))


@pytest.fixture
def window() -> Window:
    return Window()


def test_a_half_message_whose_id_was_published_meanwhile_is_committed_as_a_duplicate(window: Window) -> None:
    half = window.prepare_with(ANNA)
    assert not window.publish_with(ANNA).known, "nothing counts before it is committed"
    original = window.zxid
    known = [0, 1, original, 0]
    outcome = window.apply(x.Resolve(window.now, half, True))
    assert (outcome.value, outcome.effects) == (Resolved(True, False, 0, known), ()), "and nobody is told to deliver"
    assert window.ready() == [(original, 0, 1)]
    assert window.resolve(half, commit=True) == Resolved(True, True, 0, known), "the second answer is the first one"
    window.machine = load(window.machine.freeze().pack(lambda: True))
    assert window.resolve(half, commit=True) == Resolved(True, True, 0, known), "also after a restart"


def test_what_a_half_message_said_is_known_from_its_commit_on(window: Window) -> None:
    kept, dropped = window.prepare_with(ANNA), window.prepare_with(BERT)
    window.machine = load(window.machine.freeze().pack(lambda: True))
    assert window.resolve(kept, commit=True) == Resolved(True, False, 1)
    assert window.resolve(dropped, commit=False) == Resolved(False, False, 0)
    assert window.publish_with(ANNA).known == [0, 1, kept, 0]
    assert window.publish_with(BERT).known == [], "what was rolled back makes no duplicates"


def test_of_a_half_batch_only_what_is_new_is_delivered(window: Window) -> None:
    window.publish_with(BERT)
    original = window.zxid
    half = window.prepare_with(ANNA, BERT, ANNA, bytes(16))
    known = [1, 1, original, 0, 2, 1, half, 0]
    assert window.resolve(half, commit=True) == Resolved(True, False, 2, known)
    assert window.ready() == [(original, 0, 1), (half, 0, 1), (half, 3, 1)]


def test_a_window_that_began_after_it_was_prepared_judges_it(window: Window) -> None:
    window.declare("orders", dedup_window=0.0)
    half, again = window.prepare_with(ANNA), window.prepare_with(ANNA)
    window.declare("orders", dedup_window=60.0)
    assert window.resolve(half, commit=True) == Resolved(True, False, 1)
    assert window.resolve(again, commit=True) == Resolved(True, False, 0, [0, 1, half, 0])


def test_ids_that_were_hashed_for_another_scope_are_not_judged(window: Window) -> None:
    window.publish_with(ANNA)
    half = window.prepare_with(ANNA, scope=KEY_SCOPE)
    assert window.resolve(half, commit=True) == Resolved(True, False, 1)


def test_ids_that_are_none_of_its_messages_are_refused(window: Window) -> None:
    said: tuple[Any, ...] = ("orders", "shop", 6_000, 0, [1, 0, 0, 0, 0, 0], [], b"x" * 10)
    entry = x.Prepare(window.now, window.orders, window.producer, 1, 1, 10, *said, scope=1, ids=ANNA + BERT)
    assert type(window.apply(entry).error) is InvalidRequest
