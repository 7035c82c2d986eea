"""What is left of a batch when its file is rewritten: the same messages at the same addresses, however often."""

from __future__ import annotations

import dataclasses
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues.entries import SPARSE, Clock, EntryUnknown, Publish, PublishGrouped, decode_entry
from sluicemq.broker.queues.entries_of_transactions import Prepare, Transaction
from sluicemq.broker.queues.sparse import Body, Kept, SurvivorsMissing, left_of, read_left_over
from sluicemq.wire.batch import Batch, encode_batch

COUNT = 12
DIGEST = 4711


def published() -> Body:
    """Return the record of a batch of twelve messages."""
    batch = encode_batch([b"message %d" % index for index in range(COUNT)], keys=[str(n) for n in range(COUNT)])
    entry = Publish(1_000, 3, 5, 9, COUNT, 110, payload=batch)
    return Body(entry.KIND, entry.VERSION, entry.header(), batch)


def ranges(indices):
    """Return sorted *indices* as ranges."""
    found = []
    for _, group in groupby(enumerate(sorted(indices)), key=lambda pair: pair[1] - pair[0]):
        members = [index for _, index in group]
        found.append((members[0], len(members)))
    return tuple(found)


def messages_of(body: Body):
    """Return index and body of each message."""
    if body.kind == Publish.KIND:
        return dict(enumerate(Batch(body.payload).bodies))
    left = read_left_over(body.kind_version, body.header, body.payload)
    indices = [index for first, count in left.ranges for index in range(first, first + count)]
    return dict(zip(indices, Batch(body.payload).bodies, strict=True))


alive_sets = st.sets(st.integers(0, COUNT - 1), min_size=1)


@given(st.lists(alive_sets, min_size=1, max_size=4))
def test_what_is_left_may_be_rewritten_again_and_again(deaths):
    record, alive = published(), set(range(COUNT))
    for survivors in deaths:
        if not alive & survivors:
            break
        alive &= survivors
        record = left_of(record, ranges(alive), DIGEST if record.kind == Publish.KIND else 0)
        assert messages_of(record) == {index: b"message %d" % index for index in alive}
    if record.kind == SPARSE:
        left = read_left_over(record.kind_version, record.header, record.payload)
        assert left.digest == DIGEST, "the digest stays that of the original"
        assert (left.publish.producer, left.publish.sequence, left.publish.count) == (5, 9, COUNT)
        assert Batch(record.payload).keys == [str(index) for index in sorted(alive)]


def test_an_entry_that_is_alive_as_a_whole_stays_as_it_is():
    record = published()
    assert left_of(record, ((0, COUNT),), DIGEST) is record
    half = left_of(record, ((0, 6),), DIGEST)
    assert left_of(half, ((0, 6),), 0) is half


def test_what_was_dropped_is_never_made_up():
    half = left_of(published(), ((0, 3), (6, 3)), DIGEST)
    for alive in (((0, 4),), ((5, 1),), ((9, 1),), ((2, 5),)):
        with pytest.raises(SurvivorsMissing):
            left_of(half, alive, 0)


def test_what_it_said_about_delivery_is_dead_weight_once_it_is_rewritten():
    whole = published()
    groups = [1, 7, 0, 0, 0, 0, COUNT - 1, 0, 0, 0, 0, 0]
    entry = PublishGrouped(1_000, 3, 5, 9, COUNT, 110, None, whole.payload, groups, ["eu"])
    record = Body(entry.KIND, entry.VERSION, entry.header(), whole.payload)
    assert left_of(record, ((0, COUNT),), DIGEST) is record
    assert left_of(record, ((3, 1),), DIGEST) == left_of(whole, ((3, 1),), DIGEST)


def test_a_record_without_messages_cannot_have_any_left():
    clock = Clock(1_000, 10)
    with pytest.raises(SurvivorsMissing, match="kind 9"):
        left_of(Body(clock.KIND, clock.VERSION, clock.header(), b""), ((0, 1),), 0)


@given(alive_sets, st.integers(0, COUNT - 1), st.integers(1, COUNT))
def test_places_are_those_of_a_count(alive, first, count):
    wanted = set(range(first, first + count))
    kept = Kept(ranges(alive))
    assert kept.end == max(alive) + 1
    if wanted <= alive:
        assert kept.position(first, count) == sorted(alive).index(first)
    else:
        with pytest.raises(SurvivorsMissing):
            kept.position(first, count)


def test_a_rewritten_record_is_no_entry():
    left = left_of(published(), ((3, 1),), DIGEST)
    with pytest.raises(EntryUnknown):
        decode_entry(left.kind, left.kind_version, left.header, left.payload)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"\xc1",
        b"\x95\x06\x01\xa0\x00\x90",
        b"\x95\x06\x01\xc4\x00\x00\x92\x00\x00",
        b"\x95\x09\x01\xc4\x00\x00\x92\x00\x01",
    ],
)
def test_a_header_that_is_none_is_refused(header):
    with pytest.raises(EntryUnknown):
        read_left_over(2, header, b"")


def test_a_newer_version_is_refused_by_name():
    with pytest.raises(EntryUnknown, match="version 3"):
        read_left_over(3, b"", b"")


def transaction_of(whole: Body) -> Transaction:
    """A transaction whose batch goes in equal halves to a queue and to a topic."""
    half = COUNT // 2
    groups = [half, 7, 0, 0, 0, 0, COUNT - half, 0, 0, 0, 0, 1]
    parts = [3, half, 0, 0, 4, COUNT - half, 1, 0]
    settled = [1, 1, 0, 1, 5, 5]
    return Transaction(1_000, 5, 9, COUNT, 110, parts, groups, ["eu.paid"], 8, settled, ["done"], b"", whole.payload)


def test_of_a_transaction_stay_the_routes_and_nothing_that_only_its_apply_needed():
    whole = published()
    entry = transaction_of(whole)
    record = Body(entry.KIND, entry.VERSION, entry.header(), whole.payload)
    left = left_of(record, ((1, 1), (COUNT - 2, 2)), DIGEST)
    found = read_left_over(left.kind_version, left.header, left.payload)
    assert found.publish == dataclasses.replace(entry, groups=[], settlements=[], reasons=[], payload=left.payload)
    assert found.publish.route == ((0, ""), (COUNT // 2, "eu.paid"))
    assert (found.ranges, found.digest) == (((1, 1), (COUNT - 2, 2)), DIGEST)
    assert len(left.header) < len(record.header) + 40


def test_of_a_half_message_stays_where_it_goes():
    whole = published()
    said = "orders.eu", "shop", 6_000, 1, [COUNT, 7, 0, 0, 0, 1], ["eu"]
    entry = Prepare(1_000, 3, 5, 9, COUNT, 110, *said, whole.payload)
    left = left_of(Body(entry.KIND, entry.VERSION, entry.header(), whole.payload), ((3, 1),), DIGEST)
    found = read_left_over(left.kind_version, left.header, left.payload)
    assert found.publish == dataclasses.replace(entry, groups=[], payload=left.payload)
    assert found.publish.route == "eu"
