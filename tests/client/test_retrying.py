"""How a client repeats: waits that double and spread, a budget of repeats, breakers that open. Tables, no clock."""

from __future__ import annotations

import pickle

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.client import connect
from sluicemq.client.backoff import Backoff
from sluicemq.client.breaker import CLOSED_BACKOFF, FAILURES_MAX, OPEN_BACKOFF, CircuitBreaker, State
from sluicemq.client.budget import RetryBudget
from sluicemq.client.errors import NotLeader, OutcomeUnknown, PublishLimited, QueueFull, RetriesExhausted, Unavailable
from sluicemq.client.retrying import LIMITED_SECONDS_MAX, REPEAT_BACKOFF, Retrying
from sluicemq.wire import messages as m
from tests.client.conftest import virtual_time
from tests.client.scripted_broker import SILENCE


def never() -> float:
    return 0.0


def always() -> float:
    return 1.0


@pytest.mark.parametrize(
    ("failures", "ceiling"), [(0, 0.1), (1, 0.1), (2, 0.2), (3, 0.4), (5, 1.6), (6, 2.0), (7, 2.0), (10_000, 2.0)]
)
def test_waits_double_up_to_a_ceiling(failures: int, ceiling: float) -> None:
    backoff = Backoff(0.1, 2.0)
    assert backoff.delay(failures, always) == pytest.approx(ceiling)
    assert backoff.delay(failures, never) == 0.0, "full jitter: anything down to nothing"
    assert Backoff(0.1, 2.0, floor_share=0.5).delay(failures, never) == pytest.approx(ceiling / 2)


def test_a_budget_is_spent_and_comes_back_with_time_and_success() -> None:
    budget = RetryBudget(100.0, tokens_max=3, per_second=2, per_success=0.5)
    assert [budget.spend(100.0) for _ in range(4)] == [True, True, True, False]
    assert not budget.spend(100.4)
    assert budget.spend(100.5), "half a second brings one"
    assert not budget.spend(100.5)
    budget.succeeded()
    assert not budget.spend(100.5)
    budget.succeeded()
    assert budget.spend(100.5), "two successes bring one"
    assert budget.tokens(1e9) == 3, "it never holds more"
    assert budget.tokens(0.0) == 3, "and a clock that goes back takes nothing"


@given(st.lists(st.tuples(st.floats(0, 10), st.booleans()), max_size=200))
def test_a_budget_never_lets_more_through_than_came_in(steps: list[tuple[float, bool]]) -> None:
    budget = RetryBudget(0.0, tokens_max=5, per_second=1, per_success=0.1)
    now, spent, succeeded = 0.0, 0, 0
    for seconds, success in steps:
        now += seconds
        if success:
            budget.succeeded()
            succeeded += 1
        elif budget.spend(now):
            spent += 1
        assert spent <= 5 + now + succeeded * 0.1 + 1e-6


def test_a_breaker_opens_after_failures_in_a_row_and_closes_with_a_success() -> None:
    breaker = CircuitBreaker(always)
    now = 0.0
    for failures in range(1, FAILURES_MAX):
        breaker.failed(now)
        assert breaker.state(now) is State.CLOSED
        assert breaker.not_before - now == pytest.approx(CLOSED_BACKOFF.ceiling(failures))
        assert not breaker.may_try(now)
        now = breaker.not_before
        assert breaker.may_try(now)
    for opened in range(1, 8):
        breaker.failed(now)
        assert breaker.state(now) is State.OPEN
        assert breaker.not_before - now == pytest.approx(OPEN_BACKOFF.ceiling(opened))
        assert breaker.not_before_alone - now <= CLOSED_BACKOFF.seconds_max, "where there is no other choice"
        assert not breaker.may_try(breaker.not_before - 0.001)
        now = breaker.not_before
        assert breaker.state(now) is State.HALF_OPEN
        assert breaker.may_try(now)
    breaker.succeeded()
    assert (breaker.state(now), breaker.failures) == (State.CLOSED, 0)
    breaker.failed(now)
    assert breaker.not_before - now == pytest.approx(CLOSED_BACKOFF.ceiling(1)), "it begins anew"


def test_a_breaker_is_overruled_by_who_knows_better() -> None:
    breaker = CircuitBreaker(always)
    for _ in range(20):
        breaker.failed(0.0)
    assert not breaker.may_try(1.0)
    breaker.hurry()
    assert breaker.may_try(1.0)
    breaker.succeeded()
    breaker.rest(1.25)
    assert not breaker.may_try(1.2)
    assert breaker.state(1.2) is State.CLOSED


def test_the_brokers_own_time_is_waited_for_and_spread() -> None:
    patient = Retrying(lambda: 0.0, always)
    refusals = patient.series()
    assert refusals.pause(QueueFull("full", retry_after=3.0)) == pytest.approx(3.0 + REPEAT_BACKOFF.ceiling(1))
    assert refusals.pause(QueueFull("full")) == pytest.approx(REPEAT_BACKOFF.ceiling(2))
    refusals.failures = 0
    assert refusals.pause(QueueFull("full")) == pytest.approx(REPEAT_BACKOFF.ceiling(1))


@virtual_time
@pytest.mark.anyio
async def test_a_client_that_is_refused_for_ever_stops_repeating(broker, anyio_backend) -> None:
    broker.on[m.QueueInfo] = lambda *_: NotLeader("broker 2 leads")
    async with connect(broker.url, request_timeout=600) as client:
        parts = client._alive()
        parts.link.retrying.budget = RetryBudget(parts.runtime.now(), tokens_max=4, per_second=0)
        with pytest.raises(RetriesExhausted, match=r"QueueInfo was not repeated.*broker 2 leads") as caught:
            await client.queue_info("orders")
    assert broker.count(m.QueueInfo) == 5
    assert isinstance(caught.value, Unavailable)
    assert caught.value.retryable
    assert type(pickle.loads(pickle.dumps(caught.value))) is RetriesExhausted


@virtual_time
@pytest.mark.anyio
async def test_no_call_on_a_message_waits_for_ever(broker, anyio_backend) -> None:
    broker.on[m.Settle] = broker.on[m.Extend] = lambda *_: SILENCE
    async with connect(broker.url, request_timeout=5) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, [b"order"])
        message = await anext(consumer)
        for call in (message.extend(60), message.ack(confirm=True), consumer.flush()):
            began = anyio.current_time()
            with pytest.raises(OutcomeUnknown, match="was not answered within 5 seconds"):
                await call
            assert anyio.current_time() - began == pytest.approx(5, abs=0.5)


@pytest.mark.parametrize(("told", "waited"), [(0.5, 0.5), (554.0, LIMITED_SECONDS_MAX)])
def test_who_waits_for_a_limit_asks_now_and_then_whether_it_was_lifted(told: float, waited: float) -> None:
    retrying = Retrying(never, never)
    assert retrying.pause_limited(PublishLimited("too much", retry_after=told), 1) == waited
