"""Windows of message ids, story by story; what they know at random is compared in `test_lives_of_windows`."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from sluicemq.broker.pipeline.identities import hashes_of
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import window_index
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Published
from sluicemq.broker.queues.window import IdWindow
from sluicemq.broker.queues.window_index import LEAF_MAX, WindowIndex


class Shop:
    """A machine with one queue, *orders*, and a producer."""

    def __init__(self) -> None:
        self.machine = Machine()
        self.zxid = 1 << 32
        self.now = 1_000
        self.sequence = 0
        self.apply(e.Declare(self.now, "/", "queue", "orders", {}))
        self.orders = self.zxid
        self.apply(e.ProducerOpen(self.now, "/", "", ""))
        self.producer = self.zxid

    def apply(self, entry: e.Entry) -> object:
        self.zxid += 1
        return self.machine.apply(self.zxid, entry).value

    def publish(self, *ids: str) -> list[int]:
        """Publish messages with these ids; return which of them are known."""
        self.sequence += 1
        fields = self.now, self.orders, self.producer, self.sequence, len(ids), 0, None, b"x"
        value = self.apply(e.PublishIdentified(*fields, [], [], 0, hashes_of(ids, None, 0)))
        assert isinstance(value, Published)
        return value.known


@pytest.fixture
def shop() -> Shop:
    return Shop()


def test_a_policy_gives_a_window_and_takes_it_back(shop: Shop) -> None:
    shop.apply(q.Policy(shop.now, "/", "once", "orders", 0, {"dedup_window": 60.0}))
    shop.apply(e.Clock(shop.now, 1_000))
    assert not shop.publish("a")
    assert shop.publish("a")
    shop.apply(q.Policy(shop.now, "/", "once", "orders", 0, {}))
    shop.apply(e.Clock(shop.now, 1_000))
    assert not shop.publish("a")
    shop.machine.check()


def test_an_idle_queue_lets_its_ids_go_by_the_clock(shop: Shop) -> None:
    shop.apply(e.Declare(shop.now, "/", "queue", "orders", {"dedup_window": 60.0}))
    shop.publish("a", "b")
    assert shop.machine.next_due_ms() == shop.now + 60_000
    shop.now += 60_000
    shop.apply(e.Clock(shop.now, 1_000))
    window = shop.machine.existing_queue(shop.orders).window
    assert window is not None
    assert (window.ids, shop.machine.next_due_ms()) == (0, None)


def test_a_deleted_queue_forgets_and_one_of_its_name_begins_anew(shop: Shop) -> None:
    shop.apply(e.Declare(shop.now, "/", "queue", "orders", {"dedup_window": 60.0}))
    shop.publish("a")
    shop.apply(e.Delete(shop.now, "/", "queue", "orders", False))
    shop.apply(e.Declare(shop.now, "/", "queue", "orders", {"dedup_window": 60.0}))
    shop.orders = shop.zxid
    assert not shop.publish("a")


def test_hashes_that_somebody_chose_make_one_leaf_long_and_not_the_directory() -> None:
    """Who tries long enough finds ids whose hashes begin alike."""
    index = WindowIndex()
    alike = [0xABCD << 48 | number << 24 for number in range(4 * LEAF_MAX)]
    random.Random(1).shuffle(alike)
    for count, hash_ in enumerate(alike):
        index.add(hash_, 0, 0, count)
    assert len(index) == len(alike)
    assert len(index.directory) <= 2 * len(alike)
    assert all(index.numbers_of(hash_, 0) == [0] for hash_ in alike)


def test_an_index_is_packed_while_ids_go_on_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_index, "PIECE_LEAVES", 8)
    index = WindowIndex()
    rng = random.Random(3)
    before = [rng.getrandbits(64) | 1 for _ in range(30_000)]
    for count, hash_ in enumerate(before):
        index.add(hash_, count // 5_000, 0, count)
    meanwhile = [rng.getrandbits(64) | 1 for _ in range(30_000)]
    coming = iter(meanwhile)
    pieces = []
    for piece in index.pieces():
        pieces.append(piece)
        for hash_ in islice(coming, 10_000):
            index.add(hash_, 9, 0, 60_000)
    assert len(pieces) > 3
    again = WindowIndex.of_pieces(pieces)
    assert all(count // 5_000 in again.numbers_of(hash_, 0) for count, hash_ in enumerate(before))
    for count, hash_ in enumerate(meanwhile):
        again.add(hash_, 10, 0, 60_000 + count)
        assert 10 in again.numbers_of(hash_, 0), "and it goes on"
    assert len(again) >= 60_000


def test_what_leaves_the_window_while_it_is_packed_is_known_by_the_image() -> None:
    window = IdWindow(0, 60_000, 5_000)
    batches = [hashes_of([f"{batch}-{number}" for number in range(500)], None, 0) for batch in range(60)]
    for number, ids in enumerate(batches[:20]):
        window.judge(ids, number + 1, 1_000)
    image = window.image()
    for number, ids in enumerate(batches[20:]):
        window.judge(ids, number + 21, 1_000)
    packed = [(depths, sizes, entries) for depths, sizes, entries in image.fingerprints.index.pieces()]
    again = IdWindow(0, 60_000, 5_000)
    rows = image.open_rows[: image.open_bytes]
    again.restore(image._replace(fingerprints=WindowIndex.of_pieces(packed).held(0), open_rows=rows))
    again.check(None)
    assert again.look(batches[12], 1_000) == [0, 500, 13, 0], "they count until what follows is replayed"
    del image, again
    for number, ids in enumerate(batches):
        window.judge(ids, number + 61, 61_001)
    assert len(window._index) <= 3 * window.ids, "nobody holds them any more"


def test_what_left_the_window_leaves_the_index_too() -> None:
    window = IdWindow(0, 60_000, 5_000)
    for batch in range(200):
        ids = hashes_of([f"{batch}-{number}" for number in range(500)], None, 0)
        assert not window.judge(ids, batch + 1, 1_000 + batch)
    assert window.ids <= 5_000 + 2_048
    assert len(window._index) <= 3 * window.ids
