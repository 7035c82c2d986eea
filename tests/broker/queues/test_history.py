"""What a queue retains, told as stories of one queue; and its reading, compared with a plain list."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import history as history_module
from sluicemq.broker.queues.chunks import ChunksMissing
from sluicemq.broker.queues.history import PUBLISH_DROPS_MAX, START, History, Place
from sluicemq.broker.queues.outcomes import Clocked, Deleted, Purged, Ready, Retained
from sluicemq.broker.queues.runs import Run
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK
from tests.broker.paged import WhimsicalPager, make_chunks_small
from tests.broker.queues.test_machine import Broker

if TYPE_CHECKING:
    from collections.abc import Iterator


CHUNK_RUNS_OF_TESTS = 4


class RetainingBroker(Broker):
    """A broker whose queue `orders` retains from its beginning."""

    def __init__(self, **retention: float) -> None:
        super().__init__()
        self.declare("orders", retention=retention)

    @property
    def history(self) -> History:
        history = self.queue.history
        assert history is not None
        return history

    def retained(self) -> list[int]:
        """The batches that are retained."""
        return [run.zxid for run in self.history.runs.runs()]


# --- what stays ---------------------------------------------------------------------------------------------------


def test_what_is_settled_purged_or_leased_stays_until_its_time_has_come() -> None:
    broker = RetainingBroker(seconds=60)
    settled, purged, leased = broker.publish(2), broker.publish(3), broker.publish()
    broker.grant(1, settled, 0, 2)
    broker.settle(VERDICT_ACK, 1, 2)
    assert broker.get(Purged, broker.purge()).count == 4
    assert broker.counts() == (0, 0, 0, 2)
    assert broker.retained() == [settled, purged, leased]
    assert (broker.history.messages, broker.history.bytes) == (6, 60)


def test_batches_go_a_second_after_their_time_at_the_latest_and_never_before() -> None:
    broker = RetainingBroker(seconds=60)
    broker.now = 10_300
    first = broker.publish(2)
    broker.now = 10_900
    second = broker.publish()
    broker.now = 11_100
    third = broker.publish()
    assert broker.machine.next_due_ms() == 71_000, "at a full second: not each batch needs an entry of its own"
    broker.clock(70_999)
    assert broker.retained() == [first, second, third]
    assert broker.clock(71_000).value == Clocked(0), "nothing became ready"
    assert broker.retained() == [third]
    assert (broker.history.lost, broker.history.lost_ms) == (Place(second, 1), 10_900)
    assert broker.machine.next_due_ms() == 72_000
    broker.clock(72_000)
    assert broker.retained() == []
    assert broker.machine.next_due_ms() is None
    assert broker.counts() == (4, 0, 0, 0), "what is ready is not touched"
    assert broker.history.end == broker.history.lost == Place(third, 1)


def test_the_oldest_batches_go_when_all_take_too_many_bytes() -> None:
    broker = RetainingBroker(bytes=100)
    first, second = broker.publish(5), broker.publish(5)
    assert broker.retained() == [first, second]
    third = broker.publish()
    assert broker.retained() == [second, third]
    large = broker.publish(11)
    assert broker.retained() == [], "one batch may be too large alone"
    assert broker.history.lost == Place(large, 11)
    assert broker.machine.next_due_ms() is None


def test_one_entry_lets_a_bounded_number_go_and_the_clock_the_rest() -> None:
    broker = RetainingBroker(bytes=10 * (PUBLISH_DROPS_MAX + 100))
    batches = [broker.publish() for _ in range(PUBLISH_DROPS_MAX + 100)]
    large = broker.publish(PUBLISH_DROPS_MAX + 50)
    assert broker.retained() == [*batches[PUBLISH_DROPS_MAX:], large]
    due_ms = broker.machine.next_due_ms()
    assert due_ms is not None
    assert due_ms <= broker.now, "the rest is due at once"
    broker.clock(broker.now, items_max=30)
    assert broker.retained() == [*batches[PUBLISH_DROPS_MAX + 30 :], large]
    broker.clock(broker.now, items_max=30)
    assert broker.history.bytes == 10 * (PUBLISH_DROPS_MAX + 100)
    assert broker.machine.next_due_ms() is None, "no more goes than has to"


def test_items_of_a_clock_entry_are_shared_with_delayed_messages() -> None:
    broker = RetainingBroker(seconds=10)
    batches = [broker.publish() for _ in range(4)]
    broker.grant(1, batches[0], 0, 1, batches[1], 0, 1)
    broker.settle(VERDICT_NACK, 1, 1, due=broker.now + 10_000)
    broker.settle(VERDICT_NACK, 2, 2, due=broker.now + 10_001)
    broker.clock(broker.now + 20_000, items_max=5)
    assert (broker.retained(), broker.queue.delayed.messages) == ([], 1)
    broker.clock(broker.now, items_max=5)
    assert broker.queue.delayed.messages == 0


@given(
    seed=st.integers(0, 1_000),
    batches=st.lists(st.integers(1, 3), min_size=1, max_size=40),
    bytes_max=st.none() | st.integers(1, 400),
    now_ms=st.integers(1_000, 2_600),
    runs_max=st.integers(1, 12),
)
@example(seed=3, batches=[1] * 40, bytes_max=None, now_ms=1_000, runs_max=12)
def test_what_has_to_go_needs_no_more_in_memory_than_the_chunks_it_begins_in(
    seed: int, batches: list[int], bytes_max: int | None, now_ms: int, runs_max: int
) -> None:
    shelf = Shelf(seed, batches, 0)
    history = shelf.history
    history.limit({"seconds": 1} if bytes_max is None else {"seconds": 1, "bytes": bytes_max})
    missing = history.missing_due(now_ms, runs_max)
    shelf.pager.fill(missing)
    gone = history.expire(now_ms, runs_max)  # would fail on a chunk that is not there
    if bytes_max is None:
        assert len(missing) <= -(-gone // CHUNK_RUNS_OF_TESTS)
        assert gone == min(runs_max, len({at[0] for _, _, ms, at in shelf.messages if ms <= now_ms - 1_000}))


# --- the setting --------------------------------------------------------------------------------------------------


def test_a_queue_that_lives_retains_from_the_declaration_on_and_knows_what_it_did_not() -> None:
    broker = Broker()
    before = broker.publish()
    broker.now = 5_000
    broker.declare("orders", retention={"seconds": 60})
    begun = broker.zxid
    after = broker.publish()
    history = broker.queue.history
    assert history is not None
    assert [run.zxid for run in history.runs.runs()] == [after]
    assert history.has_lost(Place(before, 0))
    assert not history.has_lost(Place(begun, 0))
    assert history.has_lost_since(5_000)
    assert not history.has_lost_since(5_001)


def test_a_new_queue_has_lost_nothing() -> None:
    broker = RetainingBroker(seconds=60)
    assert broker.history.lost == START
    assert not broker.history.has_lost(START)
    assert not broker.history.has_lost_since(0)


def test_new_limits_hold_from_the_next_clock_entry_on() -> None:
    broker = RetainingBroker(seconds=3_600)
    batches = [broker.publish(10) for _ in range(5)]
    assert broker.declare("orders", retention={"bytes": 250}).value is not None
    assert broker.retained() == batches, "a declaration lets nothing go: that could take long"
    broker.clock(broker.now)
    assert broker.retained() == batches[3:]
    broker.declare("orders", retention={"seconds": 1})
    broker.clock(broker.now + 2_000)
    assert broker.retained() == []


def test_without_the_setting_all_goes_at_once_and_a_new_beginning_knows_nothing_of_the_old() -> None:
    broker = RetainingBroker(seconds=60)
    old = broker.publish()
    broker.declare("orders", retention=None)
    assert broker.queue.history is None
    assert broker.machine.next_due_ms() is None
    broker.declare("orders", retry_delay=2.0)
    assert broker.queue.history is None
    broker.declare("orders", retention={"seconds": 60})
    assert broker.retained() == []
    assert broker.history.has_lost(Place(old, 0))


def test_a_declaration_that_does_not_name_it_leaves_it() -> None:
    broker = RetainingBroker(seconds=60)
    kept = broker.publish()
    broker.declare("orders", retry_delay=2.0)
    assert broker.retained() == [kept]


def test_deleting_the_queue_drops_what_it_retains() -> None:
    broker = RetainingBroker(seconds=60)
    broker.publish(3)
    broker.purge()
    assert broker.delete("orders", if_empty=True).value == Deleted(0), "retained messages are no messages of the queue"
    assert broker.machine.next_due_ms() is None


def test_only_a_queue_that_retains_says_so() -> None:
    broker = RetainingBroker(seconds=60)
    broker.sequence += 1
    entry = e.Publish(broker.now, broker.orders, broker.producer, broker.sequence, 1, 1, None, b"x")
    assert broker.apply(entry).effects == (Ready(broker.orders), Retained(broker.orders))
    broker.declare("orders", retention=None)
    broker.sequence += 1
    entry = e.Publish(broker.now, broker.orders, broker.producer, broker.sequence, 1, 1, None, b"x")
    assert broker.apply(entry).effects == (Ready(broker.orders),)


# --- reading ------------------------------------------------------------------------------------------------------


class Shelf:
    """A history on whimsical pages, and the same messages as a plain list of (entry, number, time, address): where each
    became visible, when, and where it lies. Of five batches three came as usual, one was prepared long before, and one
    is two that a CLOCK entry released.
    """

    def __init__(self, seed: int, batches: list[int], dropped: int) -> None:
        self.pager = WhimsicalPager(random.Random(seed))
        self.history = History({"seconds": 1}, pool=self.pager.pool)
        self.messages: list[tuple[int, int, int, tuple[int, int]]] = []
        for number, count in enumerate(batches):
            zxid, ms = 10 * number + 10, 100 * (number // 3)
            stored = Run(zxid - 7, zxid - 7, 0, count, count, 10 * count, max(0, ms - 50))
            match number % 5:
                case 3:
                    self.history.append([stored._replace(ready=zxid, published_ms=ms)])
                    addresses = [(zxid - 7, index) for index in range(count)]
                case 4:
                    other = stored._replace(zxid=zxid - 9, ready=ms, first=2, size=1, batch_count=3, batch_bytes=30)
                    self.history.append_released([stored._replace(ready=ms), other], zxid, ms)
                    addresses = [*((zxid - 7, index) for index in range(count)), (zxid - 9, 2)]
                case _:
                    self.history.append([Run(zxid, zxid, 0, count, count, 10 * count, ms)])
                    addresses = [(zxid, index) for index in range(count)]
            self.messages += [(zxid, index, ms, address) for index, address in enumerate(addresses)]
        for _ in range(min(dropped, len(self.history.runs))):
            while missing := self.history.missing(1):
                self.pager.fill(missing)
            self.history._drop(1 << 60, 1)
        self.messages = [each for each in self.messages if each[:2] >= self.history.lost]
        assert len(self.messages) == self.history.messages
        rng = random.Random(seed)
        for chunk in list(self.pager.pool.resident):
            if rng.random() < 0.7:
                chunk.page = chunk.page or self.pager.write(chunk.page_data)
                self.pager.pool.drop(chunk)

    def ask(self, question: Any) -> Any:
        while True:
            try:
                return question()
            except ChunksMissing as missing:
                self.pager.fill(missing.chunks)

    def pages(self, place: Place, **bounds: Any) -> Iterator[list[tuple[int, int]]]:
        more = True
        while more:
            page = self.ask(lambda place=place: self.history.read(place, **bounds))
            assert page.next >= place
            addresses = {each[:2]: each[3] for each in self.messages}
            for run in page.runs:
                for offset in range(run.size):
                    assert addresses[run.ready, run.note + offset] == (run.zxid, run.first + offset)
            yield [(run.ready, run.note + offset) for run in page.runs for offset in range(run.size)]
            place, more = page.next, page.more


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    make_chunks_small(monkeypatch, CHUNK_RUNS_OF_TESTS)
    monkeypatch.setattr(history_module, "READ_RUNS", 3)


places = st.tuples(st.integers(0, 15).map(lambda number: 10 * number) | st.integers(0, 330), st.integers(0, 6))


@given(
    seed=st.integers(0, 1_000),
    batches=st.lists(st.integers(1, 5), max_size=30),
    dropped=st.integers(0, 30),
    begin=places,
    end=st.none() | places,
    end_ms=st.none() | st.integers(0, 1_100),
    messages_max=st.integers(1, 12),
    bytes_max=st.integers(1, 150),
)
@example(seed=1, batches=[5, 5], dropped=0, begin=(10, 1), end=(20, 2), end_ms=None, messages_max=12, bytes_max=150)
def test_pages_hold_exactly_what_lies_between_two_places(
    seed: int,
    batches: list[int],
    dropped: int,
    begin: tuple[int, int],
    end: tuple[int, int] | None,
    end_ms: int | None,
    messages_max: int,
    bytes_max: int,
) -> None:
    shelf = Shelf(seed, batches, dropped)
    wanted = [
        (zxid, index)
        for zxid, index, ms, _ in shelf.messages
        if (zxid, index) >= begin and (end is None or (zxid, index) < end) and (end_ms is None or ms < end_ms)
    ]
    found: list[tuple[int, int]] = []
    stop = None if end is None else Place(*end)
    for page in shelf.pages(Place(*begin), messages_max=messages_max, bytes_max=bytes_max, end=stop, end_ms=end_ms):
        assert len(page) <= messages_max
        assert 10 * len(page) <= bytes_max or len(page) == 1
        assert page or len(found) == len(wanted), "only the last page is empty"
        found += page
    assert found == wanted
    shelf.history.check()


@given(
    seed=st.integers(0, 1_000),
    batches=st.lists(st.integers(1, 3), max_size=30),
    dropped=st.integers(0, 30),
    ms=st.integers(0, 1_100),
)
def test_the_place_of_a_time_is_that_of_the_first_message_visible_then_or_later(
    seed: int, batches: list[int], dropped: int, ms: int
) -> None:
    shelf = Shelf(seed, batches, dropped)
    later = [Place(zxid, index) for zxid, index, visible_ms, _ in shelf.messages if visible_ms >= ms]
    assert shelf.ask(lambda: shelf.history.place_at(ms)) == (later[0] if later else shelf.history.end)
    oldest = shelf.messages[0] if shelf.messages else None
    assert shelf.ask(shelf.history.oldest) == (shelf.history.lost if oldest is None else Place(*oldest[:2]))
