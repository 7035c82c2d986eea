"""What a snapshot keeps alive, where messages come to a queue that retains from elsewhere: nothing is ever given up."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, rule

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues.image import live_runs, load
from sluicemq.broker.queues.outcomes import Redriven
from sluicemq.wire.messages import VERDICT_REJECT
from tests.broker.queues.alive import check_alive
from tests.broker.queues.routing.test_lives_of_topics import PATTERNS, Topics
from tests.broker.queues.routing.test_topics import Broker as BrokerWithTopic
from tests.broker.queues.test_lives_and_deaths import CHANGES, GRAVE, ORDERS, LivesAndDeaths
from tests.broker.queues.test_machine import Broker

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Page
    from sluicemq.broker.queues.machine import Machine

LONG = {"seconds": 1_000.0}
RETENTIONS: tuple[dict[str, Any], ...] = (
    {"retention": LONG},
    {"retention": {"seconds": 1.0}},
    {"retention": {"bytes": 60}},
    {"retention": None},
)


def no_page(page: Page) -> bytes:
    raise AssertionError(f"page {page} was read")


def check(machine: Machine, *, moves: bool = False) -> None:
    sections = machine.freeze().pack(lambda: True)
    check_alive(machine, sections, no_page, moves=moves)
    assert load(sections).state_hash() == machine.state_hash()


def reject(broker: Broker, first_tag: int, zxid: int, count: int) -> None:
    broker.grant(first_tag, zxid, 0, count)
    tags = [first_tag, first_tag + count - 1]
    broker.apply(e.SettleJudged(broker.now, broker.session, 1, VERDICT_REJECT, tags, 0, "no"))


def test_a_dead_letter_queue_that_retains_keeps_the_dead_letters_of_others() -> None:
    broker = Broker()
    broker.declare("grave", retention=LONG)
    broker.declare("orders", dead_letter="grave")
    zxid = broker.publish(3)
    reject(broker, 1, zxid, 2)
    grave = broker.machine.find_queue("/", "grave")
    assert grave is not None
    assert grave.ready == 2
    check(broker.machine)
    assert {part.queue for part in live_runs(broker.machine.freeze().pack(lambda: True))} == {broker.orders, grave.id}


def test_what_is_redriven_to_a_queue_that_retains_stays_alive_with_what_was_published_there() -> None:
    broker = Broker()
    broker.declare("other", retention=LONG)
    broker.declare("orders", retention=LONG)
    zxids = [broker.publish(2) for _ in range(3)]
    reject(broker, 1, zxids[0], 2)
    other = broker.machine.find_queue("/", "other")
    assert other is not None
    dead = [(run.ready, run.zxid, run.first, run.size) for run in broker.queue.dead.runs()]
    redriven = broker.apply(q.Redrive(broker.now, broker.orders, [number for run in dead for number in run], other.id))
    assert redriven.value == Redriven(2)
    check(broker.machine, moves=True)
    broker.declare("orders", retention=None)
    check(broker.machine)


def test_nobody_reads_rows_of_a_queue_that_retains_what_was_published_to_it() -> None:
    broker = Broker()
    broker.declare("orders", retention=LONG)
    for _ in range(3):
        broker.publish(2)
    parts = list(live_runs(broker.machine.freeze().pack(lambda: True)))
    assert [(part.place, part.shared) for part in parts] == [("retained", False)]


@pytest.mark.parametrize("topic_retains", [True, False])
def test_a_subscription_that_retains_keeps_what_its_topic_gave_it(topic_retains: bool) -> None:
    broker = BrokerWithTopic(retention=LONG) if topic_retains else BrokerWithTopic()
    for name in ("first", "second"):
        broker.try_subscribe("#", name, settings={"retention": LONG})
    broker.publish("eu", "us")
    broker.publish("eu", due_ms=9_000)
    check(broker.machine)
    if topic_retains:
        broker.try_subscribe("#", "late", settings={"retention": LONG}, start=t.START_BEGINNING)
        broker.publish("eu")
        assert broker.topic.fillings
        check(broker.machine)
        broker.declare_topic("orders", retention=None)
        check(broker.machine)


class RetainedLives(LivesAndDeaths):
    """Lives and deaths of two queues that both may retain."""

    @rule(name=st.sampled_from((ORDERS, GRAVE)), change=st.sampled_from(RETENTIONS))
    def retain(self, name: str, change: dict[str, Any]) -> None:
        self.change(name, change)

    @rule(change=st.sampled_from([change for change in CHANGES if "dead_letter" in change]))
    def change_dead_letters(self, change: dict[str, Any]) -> None:
        self.change(ORDERS, change)

    @rule(count=st.integers(1, 3), to_orders=st.booleans())
    def publish_more(self, count: int, to_orders: bool) -> None:
        if to_orders:
            self.publish([(count, 0, 0, 0)])

    def freeze(self) -> None:
        """Nobody else freezes the machine: every step is followed by a freeze."""

    @invariant()
    def everything_is_alive(self) -> None:
        if self.model.settings:
            machine = self.cluster.machine
            check_alive(machine, machine.freeze().pack(lambda: True), no_page, moves=True)


class RetainingTopics(Topics):
    """Lives of topics whose subscriptions may retain too."""

    @rule(which=st.integers(0, 9), change=st.sampled_from(RETENTIONS))
    def retain(self, which: int, change: dict[str, Any]) -> None:
        if self.subscriptions:
            name = sorted(self.subscriptions)[which % len(self.subscriptions)]
            self.apply(e.Declare(self.now, "/", "queue", name, change))

    @rule(pattern=st.sampled_from(PATTERNS), change=st.sampled_from(RETENTIONS))
    def subscribe_and_retain(self, pattern: str, change: dict[str, Any]) -> None:
        self.subscribe(pattern, False, 0, 0)
        if self.subscriptions:
            self.apply(e.Declare(self.now, "/", "queue", list(self.subscriptions)[-1], change))

    @invariant()
    def everything_is_alive(self) -> None:
        check_alive(self.machine, self.machine.freeze().pack(lambda: True), no_page)


TestRetainedLives: Any = RetainedLives.TestCase
TestRetainedLives.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestRetainingTopics: Any = RetainingTopics.TestCase
TestRetainingTopics.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
