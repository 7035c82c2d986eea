"""A basket takes so many messages, bytes and runs, and says what is left over."""

from __future__ import annotations

from sluicemq.broker.queues.dispatching.baskets import GRANT_RUNS_MAX, Basket
from sluicemq.broker.queues.runs import Run


def single(zxid: int) -> Run:
    return Run(zxid, zxid, 0, 1, 1, 100, 0)


def test_a_pick_of_single_messages_ends_at_so_many_runs_however_much_credit_there_is() -> None:
    basket = Basket(1_000_000, 1 << 40, 1_000_000, 1 << 40)
    taken = 0
    while basket.open:
        assert basket.add(single(taken + 1)) is None
        taken += 1
    assert taken == len(basket.runs) == GRANT_RUNS_MAX


def test_a_large_batch_is_one_run_and_goes_whole() -> None:
    basket = Basket(100_000, 1 << 30, 0, 0)
    assert basket.add(Run(1, 1, 0, 50_000, 50_000, 1 << 20, 0)) is None
    assert basket.messages == 50_000
    assert basket.open
