"""Who takes part, as tables of who is there and who holds leases."""

from __future__ import annotations

import pytest

from sluicemq.broker.queues.dispatching.modes import active_of, holder_against, may_deliver
from tests.broker.queues.dispatching.crowds import crowd


@pytest.mark.parametrize(
    ("mode", "weights", "active"),
    [
        ("shared", (1, 2), None),
        ("exclusive", (), None),
        ("exclusive", (1,), 1),
        ("exclusive", (1, 9), 1),  # became exclusive with two: the first one goes on
        ("failover", (), None),
        ("failover", (1,), 1),
        ("failover", (1, 1, 1), 1),
        ("failover", (1, 5, 5), 2),
        ("failover", (2, 1, 3), 3),
    ],
)
def test_who_is_active(mode: str, weights: tuple[int, ...], active: int | None) -> None:
    found = active_of(mode, crowd(*weights))
    assert (None if found is None else found.number) == active


def test_the_active_one_needs_no_credit() -> None:
    first, second = crowd(1, 1)
    first.credit_messages = 0
    assert active_of("failover", [first, second]) is first, "a slow one must not make the others take turns"


@pytest.mark.parametrize(
    ("mode", "there", "refused_because_of"),
    [
        ("shared", 3, None),
        ("failover", 3, None),
        ("exclusive", 0, None),
        ("exclusive", 1, 1),
        ("exclusive", 2, 1),
    ],
)
def test_who_may_come(mode: str, there: int, refused_because_of: int | None) -> None:
    holder = holder_against(mode, crowd(*[1] * there))
    assert (None if holder is None else holder.number) == refused_because_of


ACTIVE, OTHER, LEFT = (7, 1), (7, 2), (3, 1)


@pytest.mark.parametrize(
    ("holders", "planned_elsewhere", "may"),
    [
        ([], 0, True),
        ([ACTIVE], 0, True),
        ([OTHER], 0, False),
        ([LEFT], 0, False),
        ([ACTIVE, OTHER], 0, False),
        ([], 1, False),
        ([ACTIVE], 1, False),
    ],
)
def test_the_active_one_waits_until_others_let_go(
    holders: list[tuple[int, int]], planned_elsewhere: int, may: bool
) -> None:
    assert may_deliver(ACTIVE, holders, planned_elsewhere) is may
