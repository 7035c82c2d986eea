"""A batch whose messages differ in when they are due, how long they live and how soon they go: each finds its place."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Clocked, Outcome, Published, Ready, Retained
from sluicemq.broker.queues.runs import Run
from sluicemq.wire.errors import InvalidRequest, ProducerNotFound, QueueNotFound
from tests.broker.queues.test_machine import Broker

NOW = 1_000
Group = tuple[int, int, int, int]


@pytest.fixture
def broker() -> Broker:
    return Broker()


def grouped(broker: Broker, *groups: Group, queue: int | None = None, payload_bytes: int = 60) -> e.PublishGrouped:
    """Return the next batch of these groups: count, due time, time to live, priority."""
    broker.sequence += 1
    count = sum(group[0] for group in groups)
    flat = [number for group in groups for number in (*group, 0, 0)]
    payload = b"x" * payload_bytes
    orders = broker.orders if queue is None else queue
    return e.PublishGrouped(
        broker.now, orders, broker.producer, broker.sequence, count, payload_bytes, None, payload, flat
    )


def publish(broker: Broker, *groups: Group) -> Outcome:
    outcome = broker.apply(grouped(broker, *groups))
    assert broker.get(Published, outcome) == Published(broker.zxid, sum(group[0] for group in groups), False)
    return outcome


def clock(broker: Broker, now: int, items_max: int = 1_000) -> Outcome:
    broker.now = now
    return broker.apply(e.Clock(now, items_max))


def ready(broker: Broker) -> list[tuple[int, int, int]]:
    return [(run.zxid, run.first, run.size) for run in broker.machine.peek(broker.orders, 0, 10**6)]


def test_a_message_that_is_due_later_is_not_ready_before(broker: Broker) -> None:
    outcome = publish(broker, (2, NOW + 500, 0, 0))
    assert outcome.effects == (), "nothing can be dispatched"
    assert (broker.queue.ready, broker.queue.delayed.messages, broker.queue.published_total) == (0, 2, 2)
    assert broker.machine.next_due_ms() == NOW + 500
    assert clock(broker, NOW + 499).value == Clocked(0)
    due = clock(broker, NOW + 500)
    assert (due.value, due.effects) == (Clocked(2), (Ready(broker.orders),))
    assert ready(broker) == [(broker.zxid - 2, 0, 2)]


def test_what_is_overdue_when_it_comes_is_ready_at_once(broker: Broker) -> None:
    outcome = publish(broker, (1, NOW - 1, 0, 0), (1, NOW, 0, 0), (1, 1, 0, 0))
    assert outcome.effects == (Ready(broker.orders),)
    assert ready(broker) == [(broker.zxid, 0, 3)], "and all of it is one run"
    assert broker.machine.next_due_ms() is None


def test_parts_of_a_batch_wait_each_for_its_own_time_and_keep_their_addresses(broker: Broker) -> None:
    publish(broker, (1, NOW + 30, 0, 0), (2, 0, 0, 0), (1, NOW + 10, 0, 0), (1, NOW + 30, 0, 0))
    batch = broker.zxid
    assert ready(broker) == [(batch, 1, 2)]
    clock(broker, NOW + 10)
    assert ready(broker) == [(batch, 1, 2), (batch, 3, 1)]
    clock(broker, NOW + 30)
    assert ready(broker) == [(batch, 1, 2), (batch, 3, 1), (batch, 0, 1), (batch, 4, 1)], "as they stood in the batch"


def test_a_lifetime_begins_when_the_message_is_ready(broker: Broker) -> None:
    publish(broker, (1, 0, 50, 0), (1, NOW + 100, 50, 0), (1, 0, 0, 0))
    runs = broker.machine.peek(broker.orders, 0, 10)
    assert [run.expires_ms for run in runs] == [NOW + 50, 0]
    (waiting,) = broker.queue.delayed.runs()
    assert waiting.expires_ms == NOW + 150


def test_a_batch_is_published_once_however_often_it_comes(broker: Broker) -> None:
    batch = grouped(broker, (1, NOW + 500, 0, 0), (1, 0, 0, 0))
    assert broker.apply(batch).value == Published(broker.zxid, 2, False)
    first = broker.zxid
    assert broker.apply(batch).value == Published(first, 2, True)
    assert broker.queue.messages == 2


def test_a_queue_that_retains_keeps_the_batch_as_one(broker: Broker) -> None:
    broker.declare("orders", retention={"seconds": 60})
    outcome = publish(broker, (1, NOW + 500, 0, 0), (1, 0, 0, 0))
    assert outcome.effects == (Ready(broker.orders), Retained(broker.orders))
    assert broker.queue.history is not None
    assert broker.queue.history.runs.messages == 2
    assert publish(broker, (1, NOW + 500, 0, 0)).effects == (Retained(broker.orders),)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ([], "hold 0"),
        ([2, 0, 0, 0, 0, 0], "of 3 messages hold 2"),
        ([3, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0], "hold 3"),
        ([3, 0, 0, 10, 0, 0], "priorities are 0 to 9, not 10"),
        ([3, 0, 0, 0, 1 << 32, 0], "32 bits"),
        ([3, 0, 0, 0, 0, 2], "a route that is none of the 1"),
    ],
)
def test_groups_that_are_none_change_nothing(broker: Broker, groups: list[int], words: str) -> None:
    entry = e.PublishGrouped(NOW, broker.orders, broker.producer, 1, 3, 9, None, b"x" * 9, groups, ["eu"])
    error = broker.apply(entry).error
    assert type(error) is InvalidRequest
    assert words in str(error)
    assert broker.queue.messages == 0
    publish(broker, (1, 0, 0, 0))


def test_it_is_refused_like_any_other_batch(broker: Broker) -> None:
    assert type(broker.apply(grouped(broker, (1, 0, 0, 0), queue=99)).error) is QueueNotFound
    unknown = e.PublishGrouped(NOW, broker.orders, 77, 1, 1, 1, None, b"x", [1, 0, 0, 0, 0, 0])
    assert type(broker.apply(unknown).error) is ProducerNotFound


due_times = st.lists(st.integers(0, 8).map(lambda due: NOW + due if due else 0), min_size=1, max_size=12)


@given(st.lists(due_times, min_size=1, max_size=8), st.lists(st.integers(0, 3), max_size=12), st.integers(1, 5))
def test_messages_become_ready_in_due_order_and_in_one_millisecond_as_they_came(
    batches: list[list[int]], steps: list[int], items_max: int
) -> None:
    """The other opinion: a list of (due time, number of the batch, index), sorted by nothing else."""
    broker = Broker()
    line: list[tuple[int, int]] = []
    waiting: list[tuple[int, int, int]] = []
    for batch in batches:
        publish(broker, *((1, due, 0, 0) for due in batch))
        line += [(broker.zxid, index) for index, due in enumerate(batch) if due <= broker.now]
        waiting += [(due, broker.zxid, index) for index, due in enumerate(batch) if due > broker.now]
        if steps:
            clock(broker, broker.now + steps.pop(), items_max)
            waiting.sort(key=lambda message: message[0])
            due_now = [message for message in waiting if message[0] <= broker.now]
            taken = len(broker_addresses(broker)) - len(line)
            assert min(len(due_now), items_max) <= taken <= len(due_now)
            line += [message[1:] for message in due_now[:taken]]
            del waiting[:taken]
    assert broker_addresses(broker) == line
    while waiting:
        clock(broker, NOW + 10_000, items_max)
        waiting.sort(key=lambda message: message[0])
        taken = len(broker_addresses(broker)) - len(line)
        assert taken
        line += [message[1:] for message in waiting[:taken]]
        del waiting[:taken]
    assert broker_addresses(broker) == line


def broker_addresses(broker: Broker) -> list[tuple[int, int]]:
    runs: list[Run] = broker.machine.peek(broker.orders, 0, 10**6)
    return [(run.zxid, run.first + index) for run in runs for index in range(run.size)]


def test_the_entry_comes_back_with_its_groups_and_routes() -> None:
    entry = e.PublishGrouped(5, 1, 2, 3, 3, 9, None, b"batch", [1, 7, 8, 9, 10, 1, 2, 0, 0, 0, 0, 0], ["eu.paid"])
    again = e.decode_entry(entry.KIND, entry.VERSION, entry.header(), entry.payload)
    assert type(again) is e.PublishGrouped
    assert again == entry
    assert (entry.KIND, entry.VERSION) == (e.Publish.KIND, 2)


def test_the_machine_never_looks_into_the_batch(broker: Broker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicemq.wire.batch.Batch.__init__", lambda *_: pytest.fail("the batch was opened"))
    publish(broker, (1, NOW + 500, 0, 0))
    assert isinstance(broker.machine, Machine)
