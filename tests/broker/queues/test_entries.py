"""What the log says comes back from its bytes; what this version cannot read stops it by name."""

from __future__ import annotations

import dataclasses
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_cluster as c
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import entries_of_sessions as r
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues.entries import ENTRIES, RESERVED_KINDS, Entry, EntryUnknown, decode_entry
from sluicemq.broker.queues.entries_of_moving import READY, Move

number = st.integers(0, 2**64 - 1)
small = st.integers(0, 2**32 - 1)
name = st.text(max_size=60)
ranges = st.lists(st.tuples(number, number), max_size=5).map(lambda pairs: [n for pair in pairs for n in pair])
runs = st.lists(st.tuples(number, number, number), max_size=5).map(lambda rows: [n for row in rows for n in row])

ANY_ENTRY = st.one_of(
    st.builds(e.Epoch, number, small),
    st.builds(e.SessionOpen, number, name, name, name, st.binary(max_size=64)),
    st.builds(e.SessionClose, number, number, name),
    st.builds(e.ProducerOpen, number, name, name, name),
    st.builds(e.ProducerClose, number, number),
    st.builds(e.Publish, number, number, number, number, small, small, st.none() | st.binary(max_size=30), st.binary()),
    st.builds(
        e.PublishGrouped,
        *(number, number, number, number, small, small, st.none() | st.binary(max_size=30), st.binary()),
        st.lists(st.lists(number, min_size=6, max_size=6), max_size=3).map(
            lambda rows: [n for row in rows for n in row]
        ),
        st.lists(name, max_size=3),
    ),
    st.builds(e.Grant, number, number, number, small, number, runs),
    st.builds(e.Settle, number, number, small, st.integers(0, 255), ranges, number, name),
    st.builds(e.Clock, number, small),
    st.builds(e.Declare, number, name, st.just("queue"), name, st.dictionaries(name, st.floats(0, 9) | name)),
    st.builds(e.Delete, number, name, st.just("queue"), name, st.booleans()),
    st.builds(e.Purge, number, number),
    st.builds(e.Forget, number, number, ranges, name),
    st.builds(r.Resume, number, number, number, ranges, name),
    st.builds(r.MarkClosed, number, st.lists(number, max_size=5), st.lists(number, max_size=5)),
)

EXAMPLES: list[Entry] = [
    e.Epoch(1, 2),
    e.SessionOpen(1, "/", "ann", "web", b"token"),
    e.SessionClose(1, 2, "gone"),
    e.ProducerOpen(1, "/", "web", "ann"),
    e.ProducerClose(1, 2),
    e.Publish(1, 2, 3, 4, 5, 6, None, b"batch"),
    e.Grant(1, 2, 3, 4, 5, [6, 7, 8]),
    e.Settle(1, 2, 3, 1, [4, 5]),
    e.Clock(1, 2),
    e.Declare(1, "/", "queue", "orders", {"retry_delay": 1.0}),
    e.Delete(1, "/", "queue", "orders", True),
    e.Purge(1, 2),
    e.Forget(1, 2, [3, 4, 6, 6], "lost"),
    q.Alter(1, "/", "queue", "orders", {"pause_publish": True}),
    q.Cancel(1, 2, [8, 4, 0, 1]),
    q.Reschedule(1, 2, [8, 4, 0, 1], 9),
    q.Policy(1, "/", "short", "tmp.#", 5, {"ttl": 60.0}),
    t.Subscribe(1, "/", "orders", "eu.#", "billing", {}, 7, t.START_POSITION, 5, 3),
    t.Unsubscribe(1, "/", "billing"),
    t.Fill(1, 2, 4, 0, [4, 0, 1, 2, 90, 1_000, 0, 5, 7], 5, 0, False),
    t.Schedule(1, "/", "report", "0 6 * * *", "Europe/Berlin", "reports", 1, 5, 9, "one", b"batch"),
    t.Fire(1, 2, 3, 4, 1),
    q.Redrive(1, 2, [8, 4, 0, 1], 0),
    q.Discard(1, 2, [8, 4, 0, 1]),
    Move(1, 5, 1, 2, 3, False, READY, [8, 4, 0, 1]),
    q.ExpireQueue(1, 2, 3),
    q.MarkUsed(1, [2, 3]),
    x.Transaction(
        1, 2, 3, 2, 6, [9, 2, 1, 1], [2, 0, 0, 0, 0, 1], ["eu"], 7, [1, 1, 0, 1, 4, 5], [""], b"ids", b"batch"
    ),
    x.Prepare(1, 2, 3, 4, 5, 6, "orders.eu", "shop", 6_000, 1, [5, 0, 0, 0, 0, 1], ["eu"], b"batch"),
    x.Resolve(1, 2, True),
    x.Checked(1, [2, 3]),
    r.Resume(1, 2, 3, [4, 5], "connection lost"),
    r.MarkClosed(1, [2, 3], [4]),
    c.Membership(1, b"voters"),
    c.NodeAddress(1, 2, "10.0.0.2:7650"),
]

OTHER_EXAMPLES: list[Entry] = [
    e.ProducerOpenUnlimited(1, "/", "web", "ann"),
    e.PublishGrouped(1, 2, 3, 4, 5, 6, None, b"batch", [5, 7, 0, 0, 0, 1], ["eu.paid"]),
    e.PublishIdentified(1, 2, 3, 4, 1, 6, None, b"batch", [], [], 1, bytes(range(16))),
    e.GrantPlaced(1, 2, 3, 4, 5, [8, 4, 0, 1]),
    e.GrantIdentified(1, 2, 3, 4, 5, [8, 4, 0, 1], bytes(range(16))),
    e.SettleJudged(1, 2, 3, 1, [4, 5], e.BY_RETRY_POLICY, "because"),
]


@given(ANY_ENTRY)
def test_an_entry_comes_back_from_its_bytes(entry: Entry) -> None:
    again = decode_entry(entry.KIND, entry.VERSION, entry.header(), entry.payload)
    assert again == entry
    assert type(again) is type(entry)


def test_every_kind_has_an_example_here_and_a_number_of_its_own() -> None:
    assert [type(entry) for entry in EXAMPLES] == list(ENTRIES.values())
    assert len({entry.KIND for entry in EXAMPLES}) == len(EXAMPLES)
    assert not set(ENTRIES) & {*RESERVED_KINDS, e.SPARSE}
    assert {(entry.KIND, entry.VERSION): type(entry) for entry in OTHER_EXAMPLES} == e.OTHER_VERSIONS


@pytest.mark.parametrize("entry", [*EXAMPLES, *OTHER_EXAMPLES], ids=lambda entry: type(entry).__name__)
def test_the_header_is_an_array_of_the_fields_in_order(entry: Entry) -> None:
    fields = msgpack.unpackb(entry.header(), strict_map_key=False)
    names = [field.name for field in dataclasses.fields(entry) if field.name != "payload"]
    assert fields == [getattr(entry, name) for name in names]


@pytest.mark.parametrize("entry", [*EXAMPLES, *OTHER_EXAMPLES], ids=lambda entry: type(entry).__name__)
def test_a_field_too_many_or_too_few_or_of_another_type_is_refused(entry: Entry) -> None:
    fields: list[Any] = msgpack.unpackb(entry.header(), strict_map_key=False)
    broken = [fields[:-1], [*fields, 0]]
    broken += [[*fields[:at], object_, *fields[at + 1 :]] for at in range(len(fields)) for object_ in (-1, 1.5)]
    for version in broken:
        with pytest.raises(EntryUnknown, match=type(entry).__name__):
            decode_entry(entry.KIND, entry.VERSION, msgpack.packb(version), entry.payload)


def test_an_unknown_kind_is_never_skipped() -> None:
    with pytest.raises(EntryUnknown, match="99"):
        decode_entry(99, 1, b"")


@pytest.mark.parametrize(("kind", "known_as"), RESERVED_KINDS.items())
def test_a_kind_of_a_later_version_is_refused_by_its_name(kind: int, known_as: str) -> None:
    with pytest.raises(EntryUnknown, match=known_as):
        decode_entry(kind, 1, b"\x90")


def test_a_newer_version_of_a_known_kind_is_refused() -> None:
    with pytest.raises(EntryUnknown, match="version 2"):
        decode_entry(e.Purge.KIND, 2, e.Purge(1, 2).header())


@given(st.binary(max_size=80), st.sampled_from(sorted(ENTRIES)))
def test_garbage_is_refused_and_nothing_else_happens(garbage: bytes, kind: int) -> None:
    try:
        entry: Entry | None = decode_entry(kind, 1, garbage)
    except EntryUnknown:
        entry = None
    assert entry is None or decode_entry(kind, 1, entry.header()) == entry


@pytest.mark.parametrize("header", [b"", b"\x93\x01", b"\x90", b"\xc0", b"\x91" * 3000, msgpack.packb([1, 2]) + b"x"])
def test_a_damaged_header_is_refused(header: bytes) -> None:
    with pytest.raises(EntryUnknown, match="header of Epoch"):
        decode_entry(e.Epoch.KIND, 1, header)


def test_a_batch_is_no_part_of_what_is_printed() -> None:
    assert "secret" not in repr(e.Publish(1, 2, 3, 4, 5, 6, None, b"secret"))
    assert e.Publish(1, 2, 3, 4, 5, 6, None, b"secret").payload_bytes == 6
