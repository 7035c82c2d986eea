"""Each policy against its textbook: a sequence where there is one, a distribution where chance decides."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues.dispatching.policies import (
    LeastInFlight,
    Policy,
    Random,
    RoundRobin,
    SmoothWeighted,
    TwoChoices,
    policy_named,
)
from sluicemq.wire.settings import QUEUE_SETTINGS
from tests.broker.queues.dispatching.crowds import crowd

if TYPE_CHECKING:
    from sluicemq.broker.queues.dispatching.consumers import Consumer

NAMES = ("round_robin", "weighted", "random", "least_in_flight", "two_choices")
CHI_SQUARE_9_MAX = 27.88
"""Nine degrees of freedom: a fair draw exceeds it once in a thousand times."""


def chance(seed: int):
    return random.Random(seed).randrange


def turns(policy: Policy, consumers: list[Consumer], count: int) -> list[Consumer]:
    """Let everybody in, and take so many turns; nobody ever loses his credit."""
    for consumer in consumers:
        policy.add(consumer)
    chosen = []
    for _ in range(count):
        one = policy.next()
        assert one is not None
        chosen.append(one)
        policy.add(one)
    return chosen


def letters(chosen: list[Consumer]) -> str:
    return "".join("abcdefghij"[consumer.number - 1] for consumer in chosen)


# --- round robin -------------------------------------------------------------------------------------------------


def test_round_robin_takes_one_after_the_other() -> None:
    assert letters(turns(RoundRobin(), crowd(1, 9, 1), 7)) == "abcabca", "weights do not matter"


# --- smooth weighted round robin ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "sequence"),
    [
        ((5, 1, 1), "aabacaa"),  # the example that nginx explains it by
        ((4, 2, 1), "abacaba"),
        ((1, 1, 1), "abc"),
        ((2, 1), "aba"),
        ((7,), "a"),
    ],
)
def test_weights_are_spread_evenly_as_nginx_does(weights: tuple[int, ...], sequence: str) -> None:
    assert letters(turns(SmoothWeighted(), crowd(*weights), 3 * len(sequence))) == 3 * sequence


class Textbook:
    """Smooth weighted round robin as it is usually written: every turn touches everybody."""

    def __init__(self) -> None:
        self.listed: dict[int, int] = {}  # weight by number
        self.current: dict[int, int] = {}

    def next(self) -> int | None:
        if not self.listed:
            return None
        for number, weight in self.listed.items():
            self.current[number] += weight
        best = max(sorted(self.listed), key=lambda number: self.current[number])
        self.current[best] -= sum(self.listed.values())
        return best


@given(
    st.lists(st.integers(1, 5), min_size=1, max_size=8),
    st.lists(st.tuples(st.sampled_from(["turn", "turn", "turn", "undone", "leave", "come"]), st.integers(0, 7))),
)
def test_the_fast_way_chooses_whom_the_textbook_chooses(weights: list[int], steps: list[tuple[str, int]]) -> None:
    """Also while consumers lose and regain their credit; and a turn that was taken back never was."""
    policy, book = SmoothWeighted(), Textbook()
    consumers = crowd(*weights)
    for consumer in consumers:
        policy.add(consumer)
        book.listed[consumer.number], book.current[consumer.number] = consumer.weight, 0
    for step, number in steps:
        consumer = consumers[number % len(consumers)]
        if step == "turn":
            chosen = policy.next()
            assert (chosen and chosen.number) == book.next()
            if chosen is not None:
                policy.add(chosen)
        elif step == "undone":
            chosen = policy.next()
            if chosen is not None:
                policy.undo(chosen)
        elif step == "leave" and consumer.listed:
            policy.remove(consumer)
            del book.listed[consumer.number]
        elif step == "come" and not consumer.listed:
            policy.add(consumer)
            book.listed[consumer.number] = consumer.weight


@given(st.lists(st.integers(1, 20), min_size=1, max_size=10))
def test_each_gets_its_weight_of_turns(weights: list[int]) -> None:
    chosen = Counter(consumer.number for consumer in turns(SmoothWeighted(), crowd(*weights), 3 * sum(weights)))
    assert [chosen[number] for number in range(1, len(weights) + 1)] == [3 * weight for weight in weights]


def test_a_thousand_consumers_that_come_and_go_leave_nothing_behind() -> None:
    policy = SmoothWeighted()
    stayer, *others = crowd(*[1] * 1_001)
    policy.add(stayer)
    for consumer in others:
        policy.add(consumer)
        policy.remove(consumer)
    assert len(policy._weights._groups[1].heap) < 100
    assert policy.next() is stayer


# --- chance ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_random_takes_everybody_alike(seed: int) -> None:
    chosen = Counter(consumer.number for consumer in turns(Random(chance(seed)), crowd(*[1] * 10), 10_000))
    chi_square = sum((count - 1_000) ** 2 / 1_000 for count in chosen.values())
    assert len(chosen) == 10
    assert chi_square < CHI_SQUARE_9_MAX


@pytest.mark.parametrize("seed", range(5))
def test_two_choices_takes_everybody_alike_while_all_hold_the_same(seed: int) -> None:
    chosen = Counter(consumer.number for consumer in turns(TwoChoices(chance(seed)), crowd(*[1] * 10), 10_000))
    chi_square = sum((count - 1_000) ** 2 / 1_000 for count in chosen.values())
    assert chi_square < CHI_SQUARE_9_MAX


def test_two_choices_never_takes_the_fullest_of_all() -> None:
    consumers = crowd(*[1] * 10)
    for held, consumer in enumerate(consumers):
        consumer.hold(held + 1, 0)
    chosen = {consumer.number for consumer in turns(TwoChoices(chance(1)), consumers, 2_000)}
    assert chosen == set(range(1, 10)), "whoever it is compared with holds less"


def fullest(policy: Policy, count: int) -> int:
    """Deal one message for each of *count* consumers; return how many the fullest got."""
    consumers = crowd(*[1] * count)
    for consumer in consumers:
        policy.add(consumer)
    for _ in range(count):
        one = policy.next()
        assert one is not None
        one.hold(1, 1)
        policy.add(one)
    return max(consumer.held_messages for consumer in consumers)


def test_two_choices_leave_nobody_with_a_pile_as_chance_alone_does() -> None:
    """A thousand messages over a thousand consumers: ln n / ln ln n is 3.6, ln ln n / ln 2 is 2.8."""
    alone = [fullest(Random(chance(seed)), 1_000) for seed in range(10)]
    two = [fullest(TwoChoices(chance(seed)), 1_000) for seed in range(10)]
    assert max(two) <= 4
    assert sum(alone) / len(alone) > 5 > 3.5 > sum(two) / len(two)
    assert fullest(LeastInFlight(), 1_000) == 1, "looking at all of them is perfect"


# --- least in flight ---------------------------------------------------------------------------------------------


def test_least_in_flight_takes_the_emptiest_and_of_equals_who_waited_longest() -> None:
    policy = LeastInFlight()
    first, second, third = crowd(1, 1, 1)
    first.hold(2, 20)
    for consumer in (first, second, third):
        policy.add(consumer)
    chosen = []
    for _ in range(7):
        emptiest = policy.next()
        assert emptiest is not None
        emptiest.hold(1, 10)
        policy.add(emptiest)
        chosen.append(emptiest)
    assert letters(chosen) == "bcbcabc", "at two each, the one that never had a turn comes first"


def test_least_in_flight_follows_what_is_settled() -> None:
    policy = LeastInFlight()
    first, second = crowd(1, 1)
    first.hold(5, 50)
    second.hold(4, 40)
    policy.add(first)
    policy.add(second)
    first.let_go([1, 3])
    policy.changed(first)
    assert policy.next() is first
    assert policy.next() is second
    assert policy.next() is None


def test_what_is_settled_all_the_time_does_not_pile_up() -> None:
    policy = LeastInFlight()
    (consumer,) = crowd(1)
    consumer.hold(10_000, 10_000)
    policy.add(consumer)
    for tag in range(1, 10_001):
        consumer.let_go([tag, tag])
        policy.changed(consumer)
    assert len(policy._heap) < 100


# --- all of them -------------------------------------------------------------------------------------------------


def test_every_policy_that_a_queue_can_have_exists() -> None:
    policies = {name: type(policy_named(name, chance(1))) for name in NAMES}
    assert len(set(policies.values())) == len(NAMES)
    for name in NAMES:
        assert QUEUE_SETTINGS["dispatch"].check("dispatch", name) == name
    assert policies["round_robin"] is RoundRobin
    with pytest.raises(AssertionError, match="is a policy"):
        policy_named("fastest", chance(1))


@pytest.mark.parametrize("name", NAMES)
@given(st.lists(st.tuples(st.sampled_from(["come", "leave", "turn", "undone", "settle"]), st.integers(0, 5))))
def test_whoever_is_listed_is_chosen_once_and_nobody_else(name: str, steps: list[tuple[str, int]]) -> None:
    policy = policy_named(name, chance(3))
    consumers = crowd(1, 2, 3, 1, 2, 3)
    listed: set[int] = set()
    for step, index in steps:
        consumer = consumers[index]
        if step == "come" and not consumer.gone and consumer.number not in listed:
            policy.add(consumer)
            listed.add(consumer.number)
        elif step == "leave" and consumer.number in listed:
            consumer.gone = True
            policy.remove(consumer)
            listed.discard(consumer.number)
        elif step == "settle" and consumer.number in listed:
            consumer.hold(1, 1)
            if policy.weighs_load:
                policy.changed(consumer)
        elif step in ("turn", "undone"):
            chosen = policy.next()
            assert (chosen is None) == (not listed)
            if chosen is not None:
                assert chosen.number in listed
                assert not chosen.listed
                if step == "undone":
                    policy.undo(chosen)
                else:
                    listed.discard(chosen.number)
    rest = set()
    while (chosen := policy.next()) is not None:
        rest.add(chosen.number)
    assert rest == listed


@pytest.mark.parametrize("name", ["round_robin", "weighted", "least_in_flight"])
def test_who_found_nothing_keeps_the_turn(name: str) -> None:
    policy = policy_named(name, chance(1))
    for consumer in crowd(1, 3, 2):
        policy.add(consumer)
    chosen = policy.next()
    assert chosen is not None
    policy.undo(chosen)
    assert policy.next() is chosen
