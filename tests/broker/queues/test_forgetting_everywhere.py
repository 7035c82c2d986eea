"""What a repair gives up goes from lanes, from among dead letters, from topics and from what is still to come too."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues.delayed import DelayedRuns
from sluicemq.broker.queues.delayed_check import check_delayed
from sluicemq.broker.queues.giving_up import forget_delayed, missing_delayed
from sluicemq.broker.queues.history import Hole, Place
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.lost import LostEntries
from sluicemq.broker.queues.outcomes import Forgotten, LeasesOver, Outcome, Published, Removed
from sluicemq.broker.queues.runs import Run, messages_in
from sluicemq.wire.messages import VERDICT_NACK, VERDICT_REJECT, VERDICT_RELEASE
from tests.broker.paged import WhimsicalPager, make_chunks_small
from tests.broker.queues.routing.test_topics import Broker as BrokerWithTopic
from tests.broker.queues.test_machine import Broker

KEY = 77


def forget(broker: Broker | BrokerWithTopic, *zxids: int, queue: int = 0) -> Outcome:
    """Forget these entries, one range each."""
    entries = [number for zxid in zxids for number in (zxid, zxid)]
    return broker.apply(e.Forget(broker.now, queue or broker.orders, entries, "lost"))


def publish(broker: Broker, *, priority: int = 0, ttl_ms: int = 0, key: int = 0) -> int:
    broker.sequence += 1
    groups = [1, 0, ttl_ms, priority, key, 0]
    batch = (broker.now, broker.orders, broker.producer, broker.sequence, 1, 10, None, b"x" * 10)
    return broker.get(Published, broker.apply(e.PublishGrouped(*batch, groups, []))).zxid


def test_messages_of_every_priority_go_and_what_expires_is_watched_no_more() -> None:
    broker = Broker()
    kept = publish(broker, priority=5)
    lost = [
        publish(broker, priority=5, ttl_ms=900),
        publish(broker, priority=5, ttl_ms=100),
        publish(broker, ttl_ms=50),
    ]
    assert forget(broker, *lost).value == Forgotten(3, 0)
    assert broker.ready() == [(kept, 0, 1)]
    assert broker.machine.next_due_ms() is None
    assert broker.queue.purged_total == 3


def test_what_a_queue_takes_is_less_by_what_it_lost() -> None:
    broker = Broker()
    broker.declare("orders", max_bytes=1_000)
    broker.publish(4)
    lost = [broker.publish(4), broker.publish(4)]
    broker.grant(1, broker.zxid - 2, 0, 4, lost[0], 0, 2)
    assert broker.queue.bytes == 120
    forget(broker, *lost)
    assert broker.queue.bytes == 40


def test_dead_letters_go_with_their_notes() -> None:
    broker = Broker()
    kept, lost = broker.publish(2), broker.publish(2)
    broker.grant(1, kept, 0, 2, lost, 0, 2)
    for tag in (1, 3):
        broker.now += 5_000
        broker.apply(e.SettleJudged(broker.now, broker.session, 1, VERDICT_REJECT, [tag, tag + 1], 0, "no"))
    assert len(broker.queue.notes) == 2
    assert forget(broker, lost).value == Forgotten(2, 0)
    assert [run.zxid for run in broker.queue.dead.runs()] == [kept]
    assert len(broker.queue.notes) == 1
    assert forget(broker, kept).value == Forgotten(2, 0)
    assert (broker.queue.dead.messages, len(broker.queue.notes), broker.queue.purged_total) == (0, 0, 4)


def test_the_leader_is_told_which_returned_runs_are_gone() -> None:
    broker = Broker()
    lost = broker.publish(3)
    broker.grant(1, lost, 0, 3)
    broker.settle(VERDICT_RELEASE, 1, 3)
    effects = forget(broker, lost).effects
    assert [type(effect) for effect in effects] == [Removed]
    assert messages_in(effects[0].runs) == 3


def test_a_key_goes_on_when_the_message_that_it_waited_for_is_given_up() -> None:
    broker = Broker()
    broker.declare("orders", ordering="key")
    lost, held = publish(broker, key=KEY), publish(broker, key=KEY + 1)
    broker.apply(e.GrantPlaced(broker.now, broker.orders, broker.session, 1, 1, [lost, lost, 0, 1, held, held, 0, 1]))
    broker.settle(VERDICT_NACK, 1, 1, due=9_000)
    assert broker.queue.keys is not None
    assert not broker.queue.keys.is_open(KEY)
    effects = forget(broker, lost, held).effects
    assert broker.queue.keys.is_open(KEY)
    freed = [effect.keys for effect in effects if isinstance(effect, LeasesOver)]
    assert freed == [[KEY, 0], [KEY + 1, 1]]


def test_a_topic_gives_up_what_it_delays_with_the_routes_and_what_it_retains() -> None:
    broker = BrokerWithTopic(retention={"seconds": 1_000})
    broker.publish("eu.paid", due_ms=5_000)
    lost = broker.publish("us.paid", "eu.paid", due_ms=3_000)
    broker.publish("eu.paid")
    other = broker.publish("eu.paid", due_ms=2_000)
    gone = broker.publish("us.paid", "us.paid", "us.paid", due_ms=2_000)
    kept = broker.publish("eu.paid", due_ms=2_000)
    broker.clock(2_000)
    released = broker.zxid
    assert forget(broker, lost).value == Forgotten(2, 0), "what is delayed is retained once it is ready"
    assert forget(broker, gone).value == Forgotten(0, 1)
    assert [text for _, text, _ in broker.topic.routes.items()] == ["eu.paid"]
    assert broker.machine.next_due_ms() == 5_000
    history = broker.topic.history
    assert history is not None
    assert history.holes == [Hole(Place(released, 1), Place(released, 4))], "of what became ready in one entry, a part"
    assert history.end == Place(released, 5)
    (before,) = history.read(Place(released, 0), messages_max=9, bytes_max=99).runs
    (behind,) = history.read(Place(released, 4), messages_max=9, bytes_max=99).runs
    assert (before.zxid, behind.zxid) == (other, kept)
    history.check()
    again = load(broker.machine.freeze().pack(lambda: True))
    assert again.state_hash() == broker.machine.state_hash()


def test_a_subscription_loses_what_it_has_and_what_is_held_back_for_it() -> None:
    broker = BrokerWithTopic(retention={"seconds": 1_000})
    broker.publish("eu.paid")
    broker.subscribe("#", "billing", start=t.START_BEGINNING)
    kept, lost = broker.publish("eu.paid"), broker.publish("us.paid")
    queue = broker.machine.find_queue("/", "billing")
    assert queue is not None
    filling = broker.machine.sources.filling_of(queue.id)
    assert filling is not None
    assert forget(broker, lost, queue=queue.id).value == Forgotten(1, 0)
    assert [run.zxid for run in filling.held.runs()] == [kept]
    broker.fill("billing", next_=(filling.end_zxid, 0), done=True)
    assert broker.holds("billing") == [(kept, 0)]
    assert forget(broker, kept, queue=queue.id).value == Forgotten(1, 0)
    assert broker.holds("billing") == []


@given(
    seed=st.integers(0, 1_000),
    dues=st.lists(st.tuples(st.integers(1, 60), st.integers(1, 3)), max_size=50),
    taken_until=st.integers(0, 20),
    losses=st.lists(st.tuples(st.integers(1, 45), st.integers(0, 12)), max_size=4),
)
def test_delayed_rows_on_pages_and_beside_them_give_up_what_a_list_does(
    seed: int, dues: list[tuple[int, int]], taken_until: int, losses: list[tuple[int, int]]
) -> None:
    with pytest.MonkeyPatch.context() as small:
        make_chunks_small(small, 4)
        pager = WhimsicalPager(random.Random(seed))
        delayed = DelayedRuns(pager.pool)
        zxid = 0
        for due_ms, runs in dues:
            pager.disturb()
            first = zxid + 1
            zxid += runs
            rows = [Run(number, 0, 0, 2, 2, 20, 7) for number in range(first, zxid + 1)]
            if seed % 2:
                pager.fill(delayed.missing_late())
            delayed.add(due_ms, rows)
        pager.fill(delayed.missing_due(taken_until, 5))
        delayed.take_due(taken_until, 5)
        naive = delayed.runs()
        for low, length in losses:
            lost = LostEntries([low, low + length])
            pager.disturb()
            pager.fill(missing_delayed(delayed, lost))
            gone = forget_delayed(delayed, lost)
            assert gone == sorted(run for run in naive if run.zxid in lost)
            naive = [run for run in naive if run.zxid not in lost]
            check_delayed(delayed)
            assert delayed.runs() == naive
        pager.fill(delayed.missing_due(1_000, 1_000))
        assert delayed.take_due(1_000, 1_000) == naive
        assert delayed.next_due_ms is None
        assert pager.pool.buffered_bytes == 0
