"""The ring: shares, and how few keys move."""

from __future__ import annotations

import pytest
from google_crc32c import value as crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.broker.queues.dispatching.consumers import Consumer
from sluicemq.broker.queues.dispatching.ring import POINTS_MAX, VIRTUAL_NODES, Ring
from tests.broker.queues.dispatching.crowds import crowd

KEYS = [crc32c(b"customer-%d" % number) for number in range(20_000)]


def ring_of(consumers: list[Consumer]) -> Ring:
    ring = Ring()
    for consumer in consumers:
        ring.add(consumer)
    return ring


def owners(ring: Ring) -> list[int]:
    found = []
    for key in KEYS:
        owner = ring.owner(key)
        assert owner is not None
        found.append(owner.number)
    return found


def test_nobody_owns_a_key_on_an_empty_ring() -> None:
    ring = Ring()
    assert ring.owner(KEYS[0]) is None
    (consumer,) = crowd(1)
    ring.add(consumer)
    assert {ring.owner(key) for key in (0, 1, (1 << 32) - 1, *KEYS[:100])} == {consumer}
    ring.remove(consumer)
    assert ring.owner(KEYS[0]) is None


@pytest.mark.parametrize("count", [2, 10, 100])
def test_one_that_joins_takes_its_share_and_moves_no_other_key(count: int) -> None:
    *there, joiner = crowd(*[1] * count)
    ring = ring_of(there)
    before = owners(ring)
    ring.add(joiner)
    after = owners(ring)
    moved = [new for old, new in zip(before, after, strict=True) if old != new]
    assert set(moved) == {joiner.number}
    assert 0.5 / count < len(moved) / len(KEYS) < 1.6 / count


@pytest.mark.parametrize("count", [2, 10, 100])
def test_one_that_leaves_gives_back_only_its_own(count: int) -> None:
    consumers = crowd(*[1] * count)
    ring = ring_of(consumers)
    before = owners(ring)
    ring.remove(consumers[0])
    for old, new in zip(before, owners(ring), strict=True):
        assert new == old or old == consumers[0].number
        assert new != consumers[0].number


def test_its_keys_go_to_many_others_and_not_to_one() -> None:
    consumers = crowd(*[1] * 10)
    ring = ring_of(consumers)
    before = owners(ring)
    ring.remove(consumers[0])
    heirs = {new for old, new in zip(before, owners(ring), strict=True) if old == consumers[0].number}
    assert len(heirs) == 9


def test_shares_of_equals_are_about_equal() -> None:
    shares = ring_of(crowd(*[1] * 20)).shares()
    assert sum(shares.values()) == pytest.approx(1)
    assert 0.5 / 20 < min(shares.values()) < max(shares.values()) < 1.6 / 20


def test_keys_fall_as_the_shares_say() -> None:
    """Keys are checksums of texts that hardly differ."""
    ring = ring_of(crowd(*[1] * 10))
    found = owners(ring)
    for number, share in ring.shares().items():
        assert found.count(number) / len(KEYS) == pytest.approx(share, abs=0.02)


def test_a_weight_multiplies_the_share() -> None:
    shares = ring_of(crowd(1, 2, 4)).shares()
    assert shares[2] / shares[1] == pytest.approx(2, rel=0.4)
    assert shares[3] / shares[1] == pytest.approx(4, rel=0.4)


@pytest.mark.parametrize("weights", [(1,), (1_000,) * 50, (1_000, 1), (1,) * 3_000])
def test_points_are_bounded_and_everybody_has_one(weights: tuple[int, ...]) -> None:
    ring = ring_of(crowd(*weights))
    shares = ring.shares()
    assert len(ring._points) <= max(POINTS_MAX, VIRTUAL_NODES * len(weights)) + len(weights)
    assert all(share > 0 for share in shares.values())


def test_many_that_come_and_go_turn_the_ring_over_rarely(monkeypatch: pytest.MonkeyPatch) -> None:
    """At the border where all get half the points, one that comes and goes must not cost as much as all."""
    monkeypatch.setattr("sluicemq.broker.queues.dispatching.ring.POINTS_MAX", 10 * VIRTUAL_NODES)
    *there, last = crowd(*[1] * 11)
    ring = ring_of(there)
    ring.owner(0)
    shifts = []
    for _ in range(3):
        ring.add(last)
        ring.owner(0)
        shifts.append(ring._shift)
        ring.remove(last)
        ring.owner(0)
        shifts.append(ring._shift)
    assert shifts == [1] * 6
    for consumer in there[:6]:
        ring.remove(consumer)
    ring.owner(0)
    assert ring._shift == 0


@settings(max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=30))
def test_who_owns_a_key_depends_only_on_who_is_there(steps: list[tuple[int, bool]]) -> None:
    consumers = crowd(1, 1, 2, 3, 1, 1, 1, 5, 1, 1)
    there: list[Consumer] = []
    ring = Ring()
    for number, asked in steps:
        consumer = consumers[number]
        if consumer in there:
            there.remove(consumer)
            ring.remove(consumer)
        else:
            there.append(consumer)
            ring.add(consumer)
        if asked:
            ring.owner(KEYS[0])
    fresh = ring_of(there)
    assert [ring.owner(key) for key in KEYS[:200]] == [fresh.owner(key) for key in KEYS[:200]]
