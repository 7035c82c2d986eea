"""What is retained stands where it became visible: prepared messages by their commit, delayed ones by their time."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues.history import START, History, Page, Place, place_of
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.outcomes import Cancelled, Declared, Published, Ready, Retained
from sluicemq.broker.queues.outcomes_of_transactions import Prepared, Resolved
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK
from tests.broker.queues.alive import check_alive
from tests.broker.queues.routing.test_topics import Broker as BrokerWithTopic
from tests.broker.queues.test_machine import Broker

if TYPE_CHECKING:
    from sluicemq.broker.queues import chunks
    from sluicemq.broker.queues.machine import Machine

LONG = {"seconds": 1_000.0}
Address = tuple[int, int]


def no_page(page: chunks.Page) -> bytes:
    raise AssertionError(f"page {page} was read")


def check(machine: Machine) -> None:
    """What is alive is counted once, and an image knows all of it."""
    sections = machine.freeze().pack(lambda: True)
    check_alive(machine, sections, no_page)
    assert load(sections).state_hash() == machine.state_hash()


def read(history: History, place: Place = START, messages_max: int = 1) -> list[Address]:
    """Read page by page: the messages by where they lie, in the order of their places."""
    found: list[Address] = []
    while True:
        page: Page = history.read(place, messages_max=messages_max, bytes_max=10**9)
        assert all(place <= place_of(run) for run in page.runs)
        found += [(run.zxid, index) for run in page.runs for index in range(run.first, run.first + run.size)]
        place = page.next
        if not page.more:
            return found


class Shop(Broker):
    """The queue `orders` retains."""

    def __init__(self, **retention: float) -> None:
        super().__init__()
        self.declare("orders", retention=retention or LONG)

    @property
    def history(self) -> History:
        assert self.queue.history is not None
        return self.queue.history

    def prepare(self, count: int = 1, ids: bytes = b"", due_ms: int = 0) -> int:
        self.sequence += 1
        groups = [count, due_ms, 0, 0, 0, 0]
        said: tuple[Any, ...] = "orders", "shop", 6_000, 0, groups, [], b"x" * 10 * count
        entry = x.Prepare(
            self.now, self.orders, self.producer, self.sequence, count, 10 * count, *said, scope=int(bool(ids)), ids=ids
        )
        assert self.get(Prepared, self.apply(entry)).zxid == self.zxid
        return self.zxid

    def commit(self, number: int) -> int:
        self.get(Resolved, self.apply(x.Resolve(self.now, number, True)))
        return self.zxid


def test_what_was_prepared_is_read_where_it_was_committed() -> None:
    shop = Shop()
    half, rolled_back = shop.prepare(2), shop.prepare()
    before = shop.publish()
    shop.apply(x.Resolve(shop.now, rolled_back, False))
    assert read(shop.history) == [(before, 0)], "nobody sees it yet"
    outcome = shop.apply(x.Resolve(shop.now, half, True))
    assert outcome.effects == (Ready(shop.orders), Retained(shop.orders)), "whoever follows is woken"
    committed = shop.zxid
    after = shop.publish()
    assert read(shop.history) == [(before, 0), (half, 0), (half, 1), (after, 0)]
    assert read(shop.history, Place(half, 0)) == read(shop.history), "its own position lies before all that came since"
    assert read(shop.history, Place(committed, 1)) == [(half, 1), (after, 0)]
    assert read(shop.history, Place(committed, 2)) == [(after, 0)]
    assert shop.history.end == Place(after, 1)
    check(shop.machine)


def test_time_counts_from_the_commit() -> None:
    shop = Shop(seconds=10)
    half = shop.prepare()
    shop.now += 60_000
    shop.publish()
    shop.now += 2_000
    committed_ms, committed = shop.now, shop.commit(half)
    assert shop.history.place_at(committed_ms) == Place(committed, 0)
    assert shop.history.place_at(committed_ms - 1_999) == Place(committed, 0)
    shop.clock(committed_ms + 8_000)
    assert read(shop.history, shop.history.lost) == [(half, 0)], "the one that was published before it is gone"
    check(shop.machine)
    shop.clock(committed_ms + 10_000)
    assert shop.history.lost == Place(committed, 1)
    assert shop.history.lost_ms == committed_ms
    check(shop.machine)
    assert shop.history.messages == 0


def test_bytes_of_what_was_committed_count_and_push_out_what_is_older() -> None:
    shop = Shop(bytes=100)
    half = shop.prepare(8)
    old, new = shop.publish(4), shop.publish(2)
    shop.commit(half)
    assert read(shop.history, shop.history.lost) == [*((new, n) for n in range(2)), *((half, n) for n in range(8))]
    assert shop.history.has_lost(Place(old, 3))
    check(shop.machine)


def test_what_was_prepared_before_retention_began_is_retained_from_its_commit_on() -> None:
    shop = Shop()
    shop.declare("orders", retention=None)
    half = shop.prepare(2)
    published = shop.publish()
    shop.declare("orders", retention=LONG)
    began = shop.zxid
    assert shop.history.lost == Place(began, 0)
    shop.commit(half)
    assert shop.queue.ready == 3
    assert read(shop.history, shop.history.lost) == [(half, 0), (half, 1)]
    check(shop.machine)
    shop.grant(1, published, 0, 1, half, 0, 2)
    shop.settle(VERDICT_ACK, 1, 2)
    check(shop.machine)
    shop.settle(VERDICT_ACK, 3, 3)
    assert read(shop.history, shop.history.lost) == [(half, 0), (half, 1)], "also when it is settled"
    check(shop.machine)


def test_of_duplicates_among_what_was_prepared_nothing_is_retained() -> None:
    shop = Shop()
    shop.declare("orders", retention=LONG, dedup_window=60)
    first = shop.prepare(1, b"b" * 16)
    half = shop.prepare(3, b"a" * 16 + b"b" * 16 + b"c" * 16)
    shop.commit(first)
    shop.now += 5_000
    committed = shop.commit(half)
    assert read(shop.history) == [(first, 0), (half, 0), (half, 2)]
    assert shop.history.place_at(shop.now) == Place(committed, 0), "time counts from the commit, of a part too"
    assert read(shop.history, Place(committed, 1)) == [(half, 2)], "places are those of the batch, with gaps"
    check(shop.machine)


def test_what_was_committed_with_a_delay_is_retained_from_the_commit_on_as_what_is_published_with_one() -> None:
    shop = Shop()
    half = shop.prepare(1, due_ms=shop.now + 5_000)
    shop.commit(half)
    assert (read(shop.history), shop.queue.delayed.messages) == ([(half, 0)], 1)
    check(shop.machine)
    shop.clock(shop.now + 5_000)
    assert (read(shop.history), shop.ready()) == ([(half, 0)], [(half, 0, 1)])
    check(shop.machine)


@pytest.mark.parametrize("seed", range(12))
def test_whatever_happens_to_it_every_message_is_alive_once_and_read_in_order(seed: int) -> None:
    rng = random.Random(seed)
    shop = Shop(seconds=3, bytes=400)
    seen: list[Address] = []
    undecided: list[int] = []
    leased: list[int] = []
    tag = 1
    for _ in range(60):
        shop.now += rng.choice((0, 0, 100, 700))
        match rng.randrange(6):
            case 0 | 1:
                count = rng.randint(1, 3)
                published = shop.publish(count)
                seen += [(published, index) for index in range(count)]
            case 2:
                undecided.append(shop.prepare(rng.randint(1, 3)))
            case 3 if undecided:
                half = undecided.pop(rng.randrange(len(undecided)))
                messages = shop.machine.halves.get(half)
                assert messages is not None
                shop.commit(half)
                seen += [(half, index) for index in range(messages.messages)]
            case 4 if shop.queue.ready:
                run = shop.machine.peek(shop.orders, 0, 1)[0]
                shop.grant(tag, run.zxid, run.first, 1)
                leased.append(tag)
                tag += 1
            case 5 if leased:
                mine = leased.pop()
                shop.settle(rng.choice((VERDICT_ACK, VERDICT_ACK, VERDICT_NACK)), mine, mine)
            case _:
                shop.clock(shop.now)
        kept = read(shop.history, shop.history.lost, rng.randint(1, 5))
        assert kept == seen[len(seen) - len(kept) :]
        check(shop.machine)


# --- what a topic delays -------------------------------------------------------------------------------------------


class News(BrokerWithTopic):
    """The topic `orders` retains."""

    def __init__(self) -> None:
        super().__init__(retention=LONG)

    @property
    def history(self) -> History:
        assert self.topic.history is not None
        return self.topic.history

    def named(self, due_ms: int, zxid: int, first: int = 0, count: int = 1) -> list[int]:
        return [due_ms, zxid, first, count]


def test_what_a_topic_delayed_is_read_where_it_became_ready() -> None:
    news = News()
    late = news.publish("eu", "us", due_ms=5_000)
    soon = news.publish("eu", due_ms=4_000)
    now = news.publish("eu")
    assert read(news.history) == [(now, 0)]
    check(news.machine)
    outcome = news.clock(5_000, items_max=100)
    assert Retained(news.orders) in outcome.effects, "whoever follows is woken"
    released = news.zxid
    after = news.publish("eu")
    assert read(news.history) == [(now, 0), (soon, 0), (late, 0), (late, 1), (after, 0)]
    assert read(news.history, Place(released, 2)) == [(late, 1), (after, 0)]
    assert news.history.place_at(4_999) == Place(released, 0)
    check(news.machine)


def test_what_is_cancelled_is_never_read_and_what_is_rescheduled_when_it_becomes_ready() -> None:
    news = News()
    cancelled = news.publish("eu", due_ms=5_000)
    moved = news.publish("eu", "us", due_ms=5_000)
    usual = news.publish("eu", due_ms=6_000)
    assert news.apply(q.Cancel(news.now, news.orders, news.named(5_000, cancelled))).value == Cancelled(1)
    assert news.apply(q.Reschedule(news.now, news.orders, news.named(5_000, moved, 1), 8_000)).value == Cancelled(1)
    for now_ms in (5_000, 6_000, 8_000):
        news.clock(now_ms)
        check(news.machine)
    assert read(news.history) == [(moved, 0), (usual, 0), (moved, 1)]


def test_of_a_batch_only_what_is_ready_is_read_at_once() -> None:
    news = News()
    news.sequence += 1
    payload = b"x" * 30
    groups = [1, 0, 0, 0, 0, 0, 1, 5_000, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0]
    batch = (news.now, news.orders, news.producer, news.sequence, 3, 30, None, payload)
    news.apply(e.PublishGrouped(*batch, groups, []))
    mixed = news.zxid
    assert read(news.history) == [(mixed, 0), (mixed, 2)]
    assert news.history.bytes == 20
    check(news.machine)
    news.clock(5_000)
    assert read(news.history) == [(mixed, 0), (mixed, 2), (mixed, 1)]
    assert news.history.bytes == 30
    check(news.machine)


def test_of_what_was_prepared_for_a_topic_only_what_is_ready_is_read_from_the_commit_on() -> None:
    news = News()
    news.sequence += 1
    groups = [1, 0, 0, 0, 0, 0, 1, 5_000, 0, 0, 0, 0]
    said: tuple[Any, ...] = "orders", "shop", 6_000, 0, groups, [], b"x" * 20
    news.apply(x.Prepare(news.now, news.orders, news.producer, news.sequence, 2, 20, *said))
    half = news.zxid
    other = news.publish("eu")
    news.apply(x.Resolve(news.now, half, True))
    assert read(news.history) == [(other, 0), (half, 0)]
    check(news.machine)
    news.clock(5_000)
    assert read(news.history) == [(other, 0), (half, 0), (half, 1)]
    check(news.machine)


def test_one_turn_of_the_clock_may_release_messages_before_and_after_those_of_others() -> None:
    news = News()
    early, late = news.publish("eu", "eu", due_ms=2_000), news.publish("eu", due_ms=4_000)
    mail = news.get(Declared, news.declare("mail")).queue_id
    news.get(Published, news.try_publish("", topic=mail, due_ms=3_000))
    news.clock(5_000)
    assert read(news.history) == [(early, 0), (early, 1), (late, 0)]
    assert read(news.history, Place(news.zxid, 2)) == [(late, 0)], "each has a place of its own"
    check(news.machine)


def test_what_expired_while_it_was_delayed_was_never_visible() -> None:
    news = News()
    news.publish("eu", due_ms=5_000, ttl_ms=100)
    news.clock(9_000)
    assert read(news.history) == []


def test_what_is_too_much_when_it_becomes_ready_goes_at_once() -> None:
    news = News()
    news.declare_topic("orders", retention={"bytes": 30})
    news.publish("eu", "eu")
    delayed = news.publish("eu", "eu", due_ms=5_000)
    news.clock(5_000)
    assert read(news.history, news.history.lost) == [(delayed, 0), (delayed, 1)]
    check(news.machine)
