"""A batch is built, checked, cut in parts; and every lie that one can tell is found out."""

from __future__ import annotations

import random
import struct
import time
import tracemalloc

import msgpack
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from sluicemq.wire.batch import (
    BATCH_BYTES_MAX,
    BATCH_MESSAGES_MAX,
    DELAY_MS_MAX,
    DUE_MS_MAX,
    KEY_BYTES_MAX,
    MESSAGE_ID_BYTES_MAX,
    PRIORITY_MAX,
    SUBJECT_BYTES_MAX,
    SUPPORTED_COLUMNS,
    TTL_MS_MAX,
    Batch,
    Column,
    batch_facts,
    encode_batch,
)
from sluicemq.wire.columns import (
    BATCH_COLUMNS_BYTES_MAX,
    BATCH_VALUES_MAX,
    HEADER_ITEMS_MAX,
    list_head,
    measure_bodies,
    uniform_item,
)
from sluicemq.wire.errors import BatchTooLarge, InvalidRequest, MessageTooLarge, ProtocolError, UnknownOption
from tests.wire.strategies import PLAIN, TEXTS

MIB = 1024 * 1024


def raw_batch(
    columns: dict[int, bytes], count: int, body_bytes: int, *, version: int = 1, codec: int = 0, size: int | None = None
) -> bytes:
    """Put a batch together by the layout in the documentation, with whatever it claims."""
    total = sum(map(len, columns.values())) if size is None else size
    header = struct.pack(">BBHIII", version, codec, sum(columns), count, total, body_bytes)
    lengths = b"".join(struct.pack(">I", len(columns[bit])) for bit in sorted(columns))
    return header + lengths + b"".join(columns[bit] for bit in sorted(columns))


def bodies_batch(column: bytes, count: int, body_bytes: int) -> bytes:
    return raw_batch({Column.BODIES: column}, count, body_bytes)


@st.composite
def contents(draw):
    """Columns of a batch, as `encode_batch` takes them."""
    count = draw(st.integers(1, 20))
    same = draw(st.booleans())
    size = draw(st.integers(0, 300))
    body = st.binary(min_size=size, max_size=size) if same else st.binary(max_size=300)

    def column(values):
        return draw(st.none() | st.lists(st.none() | values, min_size=count, max_size=count))

    return {
        "bodies": draw(st.lists(body, min_size=count, max_size=count)),
        "keys": column(TEXTS),
        "message_ids": column(TEXTS),
        "subjects": column(TEXTS),
        "due_times": column(st.integers(-DELAY_MS_MAX, DUE_MS_MAX)),
        "ttls": column(st.integers(1, TTL_MS_MAX)),
        "priorities": column(st.integers(0, PRIORITY_MAX)),
        "headers": column(st.dictionaries(TEXTS, PLAIN, max_size=3)),
    }


def columns_of(batch: Batch) -> dict:
    names = ("bodies", "keys", "message_ids", "subjects", "due_times", "ttls", "priorities", "headers")
    return {name: getattr(batch, name) for name in names}


def build(values: dict) -> bytes:
    return encode_batch(values["bodies"], **{name: value for name, value in values.items() if name != "bodies"})


# --- a batch as it should be --------------------------------------------------------------------------------------


@given(contents(), st.booleans())
def test_a_batch_comes_back_as_it_was_built(values, as_view):
    data = build(values)
    batch = Batch(memoryview(data) if as_view else data)
    batch.check()
    assert columns_of(batch) == values
    assert batch.count == len(values["bodies"])
    assert batch.body_bytes == sum(map(len, values["bodies"]))
    assert batch_facts(data) == (batch.count, batch.columns, batch.body_bytes)


@given(contents(), st.data())
def test_a_part_holds_what_a_slice_would(values, data):
    whole = Batch(build(values))
    for _ in range(2):  # twice: the second takes what the first had to decode
        first = data.draw(st.integers(0, whole.count - 1))
        count = data.draw(st.integers(1, whole.count - first))
        part = Batch(whole.part(first, count))
        part.check()
        assert columns_of(part) == {
            name: None if each is None else each[first : first + count] for name, each in values.items()
        }


def test_a_part_has_the_bytes_that_its_sender_would_have_built():
    for bodies in ([b"same", b"size"] * 20, [b"", b"other size"] * 20, [bytes(300)] * 40, [bytes(70_000)] * 40):
        keys = [f"key {number}" for number in range(40)]
        whole = Batch(encode_batch(bodies, keys=keys))
        for first, count in ((0, 1), (3, 16), (39, 1), (0, 40)):
            end = first + count
            assert whole.part(first, count) == encode_batch(bodies[first:end], keys=keys[first:end])


@pytest.mark.parametrize(("first", "count"), [(-1, 1), (0, 0), (0, 4), (3, 1), (1, 3), (0, -1)])
def test_a_part_outside_the_batch_is_the_callers_bug(first, count):
    with pytest.raises(ValueError, match="of a batch of 3"):
        Batch(encode_batch([b"a", b"b", b"c"])).part(first, count)


def test_mutable_bodies_are_taken_as_they_are_now():
    body = bytearray(b"now")
    wide = memoryview(bytes(16)).cast("I")
    data = encode_batch([body, memoryview(b"view"), b"bytes", wide])
    body[:] = b"new"
    batch = Batch(data)
    batch.check()
    assert batch.bodies == [b"now", b"view", b"bytes", bytes(16)]


@given(st.lists(st.binary(max_size=5), min_size=1, max_size=30))
def test_bodies_count_as_uniform_exactly_when_their_lengths_are_equal(bodies):
    found = uniform_item(msgpack.packb(bodies), len(bodies))
    assert (found is not None) == (len({len(body) for body in bodies}) == 1)
    if found is not None:
        assert found.value_bytes == len(bodies[0])


@given(st.data())
def test_nothing_but_binaries_counts_as_uniform(data):
    """Take a uniform column and change bytes in it: whatever still counts as uniform decodes to such bodies."""
    count, size = data.draw(st.integers(1, 12)), data.draw(st.integers(0, 4))
    column = bytearray(msgpack.packb([bytes(size)] * count))
    for _ in range(data.draw(st.integers(1, 3))):
        column[data.draw(st.integers(0, len(column) - 1))] = data.draw(st.integers(0, 255))
    found = uniform_item(bytes(column), count)
    if found is not None:
        bodies = msgpack.unpackb(column)
        assert [type(body) for body in bodies] == [bytes] * count
        assert {len(body) for body in bodies} == {found.value_bytes}


# --- what a sender is told ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"bodies": []}, "at least one"),
        ({"bodies": ["text"]}, "a body is str"),
        ({"bodies": [b"bytes", None]}, "a body is NoneType"),
        ({"bodies": [b"bytes", 5]}, "a body is int"),
        ({"bodies": [object()]}, "cannot be sent"),
        ({"bodies": [b"a"], "keys": ["1", "2"]}, "KEYS has 2 values for 1 messages"),
        ({"bodies": [b"a"], "keys": [b"binary"]}, "KEYS is bytes"),
        ({"bodies": [b"a"], "keys": ["\ud800"]}, "cannot be sent"),
        ({"bodies": [b"a"], "keys": ["\ud800" * 1000]}, "no valid Unicode"),
        ({"bodies": [b"a"], "keys": ["x" * (KEY_BYTES_MAX + 1)]}, "KEYS has 1025 bytes"),
        ({"bodies": [b"a"], "keys": ["ü" * (KEY_BYTES_MAX // 2 + 1)]}, "KEYS has 1026 bytes"),
        ({"bodies": [b"a"], "message_ids": ["x" * (MESSAGE_ID_BYTES_MAX + 1)]}, "MESSAGE_IDS has 257 bytes"),
        ({"bodies": [b"a"], "subjects": ["x" * (SUBJECT_BYTES_MAX + 1)]}, "SUBJECTS has 1025 bytes"),
        ({"bodies": [b"a"], "headers": [5]}, "HEADERS"),
        ({"bodies": [b"a"], "headers": [{1: 2}]}, "text keys"),
        ({"bodies": [b"a"], "headers": [{"a": object()}]}, "cannot be sent"),
        ({"bodies": [b"a"], "headers": [{"a": 2**64}]}, "cannot be sent"),
        ({"bodies": [b"a"], "headers": [{"a": msgpack.Timestamp(1)}]}, "HEADERS"),
        ({"bodies": [b"a"], "headers": [{"a": [0] * (HEADER_ITEMS_MAX + 1)}]}, "HEADERS"),
        (
            {"bodies": [b"a"], "headers": [{"a": [[]] * 100 + [[[]] * 100] * 100}]},
            "allowed are 20000: send it in parts",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_before_it_is(columns, words):
    with pytest.raises(InvalidRequest, match=words):
        build({"keys": None, "message_ids": None, "subjects": None, "headers": None, **columns})


def test_the_longest_values_allowed_can_be_sent():
    data = encode_batch(
        [b""],
        keys=["x" * KEY_BYTES_MAX],
        message_ids=["ü" * (MESSAGE_ID_BYTES_MAX // 2)],
        subjects=["y" * SUBJECT_BYTES_MAX],
    )
    Batch(data).check()


def test_a_batch_beyond_its_limits_is_to_be_sent_in_parts():
    with pytest.raises(BatchTooLarge) as caught:
        encode_batch([b""] * (BATCH_MESSAGES_MAX + 1))
    assert (caught.value.messages, caught.value.messages_max) == (BATCH_MESSAGES_MAX + 1, BATCH_MESSAGES_MAX)
    with pytest.raises(BatchTooLarge) as caught:
        encode_batch([bytes(MIB)] * 16)
    assert caught.value.batch_bytes_max == BATCH_BYTES_MAX
    Batch(encode_batch([b""] * BATCH_MESSAGES_MAX)).check()


def test_the_bytes_of_a_batch_are_those_of_the_whole_batch():
    """The broker compares the length of what arrives, so the client must as well."""
    head = len(encode_batch([bytes(MIB)])) - MIB
    largest = encode_batch([bytes(BATCH_BYTES_MAX - head)])
    assert len(largest) == BATCH_BYTES_MAX
    with pytest.raises(BatchTooLarge) as caught:
        encode_batch([bytes(BATCH_BYTES_MAX - head + 1)])
    assert caught.value.batch_bytes == BATCH_BYTES_MAX + 1


@pytest.mark.parametrize(
    ("count", "columns"),
    [
        (BATCH_VALUES_MAX, lambda count: {"keys": ["k"] * count}),
        (BATCH_VALUES_MAX // 2, lambda count: {"keys": [None] * count, "subjects": ["s"] * count}),
        (BATCH_VALUES_MAX // 4, lambda count: {"headers": [{"a": 1, "b": 2, "c": 3}] * count}),
        (BATCH_VALUES_MAX // 4, lambda count: {"headers": [{"a": [1, 2]}] * count}),
        (BATCH_VALUES_MAX // 2, lambda count: {"headers": [{}] * count}),
    ],
    ids=["keys", "keys and subjects", "items of headers", "items of lists in headers", "empty headers"],
)
def test_values_beside_the_bodies_are_bounded_on_both_sides(count, columns):
    """One batch of 100,000 messages with everything cost a broker 200 ms in which nobody else was served."""
    Batch(encode_batch([b""] * count, **columns(count))).check()
    with pytest.raises(BatchTooLarge, match="send it in parts") as caught:
        encode_batch([b""] * (count + 1), **columns(count + 1))
    assert caught.value.values_max == BATCH_VALUES_MAX
    forged: dict[int, bytes] = {
        {"keys": Column.KEYS, "subjects": Column.SUBJECTS, "headers": Column.HEADERS}[name]: (
            b"\x01" * (name == "headers") + msgpack.packb(values)
        )
        for name, values in columns(count + 1).items()
    }
    data = raw_batch({**forged, Column.BODIES: msgpack.packb([b""] * (count + 1))}, count + 1, 0)
    with pytest.raises(BatchTooLarge, match="send it in parts"):
        Batch(data).check()


def test_bytes_beside_the_bodies_are_bounded_on_both_sides():
    """Keys and headers are decoded in one go to be checked: 16 MiB of keys cost a broker 40 ms."""
    count = 5_000
    room = BATCH_COLUMNS_BYTES_MAX // 2 - len(list_head(count))
    key, rest = "k" * (room // count - 3), room % count
    keys = [key + "k"] * rest + [key] * (count - rest)
    assert len(msgpack.packb(keys)) == BATCH_COLUMNS_BYTES_MAX // 2
    Batch(encode_batch([b""] * count, keys=keys, subjects=keys)).check()

    longer = [*keys[:-1], key + "k"]
    with pytest.raises(BatchTooLarge, match=r"keys, ids, subjects, headers.*send it in parts") as caught:
        encode_batch([b""] * count, keys=longer, subjects=keys)
    assert caught.value.column_bytes == BATCH_COLUMNS_BYTES_MAX + 1
    assert caught.value.column_bytes_max == BATCH_COLUMNS_BYTES_MAX
    forged: dict[int, bytes] = {
        Column.KEYS: msgpack.packb(longer),
        Column.SUBJECTS: msgpack.packb(keys),
        Column.BODIES: msgpack.packb([b""] * count),
    }
    with pytest.raises(BatchTooLarge, match="beside its bodies") as caught:
        Batch(raw_batch(forged, count, 0)).check()
    assert caught.value.column_bytes == BATCH_COLUMNS_BYTES_MAX + 1


# --- what a hostile peer is told ----------------------------------------------------------------------------------

GOOD = msgpack.packb([b"abc", b"de"])


def _lies() -> dict[str, tuple[type[Exception], bytes]]:
    keys = msgpack.packb(["k", None])
    two: dict[int, bytes] = {Column.KEYS: keys, Column.BODIES: GOOD}
    good = bodies_batch(GOOD, 2, 5)
    uniform = msgpack.packb([b"abc", b"def"])
    return {
        "no bytes": (ProtocolError, b""),
        "fifteen bytes": (ProtocolError, good[:15]),
        "cut within the lengths": (ProtocolError, good[:18]),
        "cut by one byte": (ProtocolError, good[:-1]),
        "one byte more": (ProtocolError, good + b"\x00"),
        "version 2": (ProtocolError, raw_batch({Column.BODIES: GOOD}, 2, 5, version=2)),
        "codec 1": (UnknownOption, raw_batch({Column.BODIES: GOOD}, 2, 5, codec=1)),
        "high nibble of the codec": (UnknownOption, raw_batch({Column.BODIES: GOOD}, 2, 5, codec=0x10)),
        "another size of all columns": (ProtocolError, raw_batch({Column.BODIES: GOOD}, 2, 5, size=len(GOOD) + 1)),
        "no bodies": (ProtocolError, raw_batch({Column.KEYS: keys}, 2, 0)),
        "no columns": (ProtocolError, raw_batch({}, 0, 0)),
        "an unknown column": (UnknownOption, raw_batch({0x0080: keys, Column.BODIES: GOOD}, 2, 5)),
        "no messages": (BatchTooLarge, bodies_batch(b"\x90", 0, 0)),
        "too many messages": (
            BatchTooLarge,
            bodies_batch(msgpack.packb([b""] * (BATCH_MESSAGES_MAX + 1)), BATCH_MESSAGES_MAX + 1, 0),
        ),
        "one message more": (ProtocolError, bodies_batch(GOOD, 3, 5)),
        "one message less": (ProtocolError, bodies_batch(GOOD, 1, 5)),
        "a count of 4 billion": (BatchTooLarge, bodies_batch(GOOD, 2**32 - 1, 5)),
        "a list that announces 4 billion": (ProtocolError, bodies_batch(b"\xdd\xff\xff\xff\xff" + GOOD[1:], 2, 5)),
        "more body bytes": (ProtocolError, bodies_batch(GOOD, 2, 6)),
        "fewer body bytes": (ProtocolError, bodies_batch(GOOD, 2, 4)),
        "more body bytes, one length": (ProtocolError, bodies_batch(uniform, 2, 7)),
        "fewer body bytes, one length": (ProtocolError, bodies_batch(uniform, 2, 0)),
        "bodies of text": (ProtocolError, bodies_batch(msgpack.packb(["abc", "de"]), 2, 5)),
        "one body of text": (ProtocolError, bodies_batch(msgpack.packb([b"abc", "de"]), 2, 5)),
        "an empty body of text": (ProtocolError, bodies_batch(msgpack.packb([b"abc", ""]), 2, 3)),
        "a body of None": (ProtocolError, bodies_batch(msgpack.packb([b"abc", None]), 2, 3)),
        "a body that is a number": (ProtocolError, bodies_batch(msgpack.packb([b"abc", 5]), 2, 3)),
        "a body that is a list": (ProtocolError, bodies_batch(msgpack.packb([b"abc", []]), 2, 3)),
        "a body that is a map": (ProtocolError, bodies_batch(msgpack.packb([b"abc", {}]), 2, 3)),
        "a body that is a time": (ProtocolError, bodies_batch(msgpack.packb([b"abc", msgpack.Timestamp(1)]), 2, 3)),
        "a body that is an extension": (
            ProtocolError,
            bodies_batch(msgpack.packb([b"abc", msgpack.ExtType(1, b"")]), 2, 3),
        ),
        "a body cut short": (ProtocolError, bodies_batch(GOOD[:-1], 2, 4)),
        "a byte behind the bodies": (ProtocolError, bodies_batch(GOOD + b"\xc0", 2, 5)),
        "part of a value behind the bodies": (ProtocolError, bodies_batch(GOOD + b"\xc4", 2, 5)),
        "bodies that are a map": (ProtocolError, bodies_batch(msgpack.packb({b"abc": b"de"}), 2, 5)),
        "bodies that are no list": (ProtocolError, bodies_batch(msgpack.packb(b"abcde"), 2, 5)),
        "keys of binary": (ProtocolError, raw_batch({**two, Column.KEYS: msgpack.packb([b"k", None])}, 2, 5)),
        "a key of binary, empty": (ProtocolError, raw_batch({**two, Column.KEYS: msgpack.packb([b"", None])}, 2, 5)),
        "keys of numbers": (ProtocolError, raw_batch({**two, Column.KEYS: msgpack.packb([1, 2])}, 2, 5)),
        "one key less": (ProtocolError, raw_batch({**two, Column.KEYS: msgpack.packb(["k"])}, 2, 5)),
        "one key more": (ProtocolError, raw_batch({**two, Column.KEYS: msgpack.packb(["k"] * 3)}, 2, 5)),
        "a key that is half a surrogate pair": (
            ProtocolError,
            raw_batch({**two, Column.KEYS: b"\x92\xc0\xa3\xed\xa0\x80"}, 2, 5),
        ),
        "an empty column of keys": (ProtocolError, raw_batch({**two, Column.KEYS: b""}, 2, 5)),
        "a key that is too long": (
            InvalidRequest,
            raw_batch({**two, Column.KEYS: msgpack.packb(["k" * 1025, None])}, 2, 5),
        ),
        "a message id that is too long": (
            InvalidRequest,
            raw_batch({Column.MESSAGE_IDS: msgpack.packb(["k" * 257, None]), Column.BODIES: GOOD}, 2, 5),
        ),
        "headers without a format": (UnknownOption, raw_batch({Column.HEADERS: b"", Column.BODIES: GOOD}, 2, 5)),
        "headers of another format": (
            UnknownOption,
            raw_batch({Column.HEADERS: b"\x02" + keys, Column.BODIES: GOOD}, 2, 5),
        ),
        "headers that are texts": (
            ProtocolError,
            raw_batch({Column.HEADERS: b"\x01" + keys, Column.BODIES: GOOD}, 2, 5),
        ),
        "headers with a number as a name": (
            ProtocolError,
            raw_batch({Column.HEADERS: b"\x01" + msgpack.packb([{1: 2}, None]), Column.BODIES: GOOD}, 2, 5),
        ),
        "headers with a number as a name within": (
            ProtocolError,
            raw_batch({Column.HEADERS: b"\x01" + msgpack.packb([{"a": {1: 2}}, None]), Column.BODIES: GOOD}, 2, 5),
        ),
        "headers with a reserved type": (
            ProtocolError,
            raw_batch(
                {Column.HEADERS: b"\x01" + msgpack.packb([{"a": msgpack.ExtType(3, b"x")}, None]), Column.BODIES: GOOD},
                2,
                5,
            ),
        ),
        **{
            f"the column {column.name}, not supported yet": (
                UnknownOption,
                raw_batch({column: msgpack.packb([0, 0]), Column.BODIES: GOOD}, 2, 5),
            )
            for column in Column
            if not column & SUPPORTED_COLUMNS
        },
    }


LIES = _lies()


@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found_out(lie):
    error, data = LIES[lie]
    for form in (data, memoryview(data), memoryview(bytearray(data))):
        with pytest.raises(error) as caught:
            Batch(form).check()
        assert type(caught.value) is error


def test_the_truth_is_not_called_a_lie():
    Batch(bodies_batch(GOOD, 2, 5)).check()
    keys = msgpack.packb(["k", None])
    Batch(
        raw_batch(
            {
                Column.KEYS: keys,
                Column.HEADERS: b"\x01" + msgpack.packb([None, {"a": [1, {"b": None}]}]),
                Column.BODIES: GOOD,
            },
            2,
            5,
        )
    ).check()


def test_a_reader_that_does_not_check_finds_the_lies_about_what_it_reads():
    for lie in (
        "one message more",
        "more body bytes",
        "more body bytes, one length",
        "bodies of text",
        "a body of None",
        "a body cut short",
    ):
        error, data = LIES[lie]
        with pytest.raises(error):
            _ = Batch(data).bodies


def test_a_message_beyond_the_brokers_limit_is_refused_with_its_size():
    for bodies in ([bytes(10), bytes(101)], [bytes(101), bytes(101)]):
        with pytest.raises(MessageTooLarge) as caught:
            Batch(encode_batch(bodies)).check(message_bytes_max=100)
        assert (caught.value.message_bytes, caught.value.message_bytes_max) == (101, 100)
        Batch(encode_batch(bodies)).check(message_bytes_max=101)
    Batch(encode_batch([bytes(60), bytes(61)])).check(message_bytes_max=100)


@given(contents(), st.data())
def test_a_damaged_batch_is_whole_or_refused(values, data):
    damaged = bytearray(build(values))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        batch = Batch(bytes(damaged))
        batch.check()
    except (ProtocolError, InvalidRequest):
        return
    # What passes is a batch: it can be read, and cut, and its header says the truth.
    assert sum(map(len, batch.bodies)) == batch.body_bytes
    assert len(batch.bodies) == batch.count
    Batch(batch.part(0, 1)).check()


@given(st.integers(1, 200_000), st.integers(0, 3), st.randoms())
def test_bodies_around_the_size_of_a_piece_are_read_whole(size, others, rng):
    bodies = [rng.randbytes(rng.randrange(10)) for _ in range(others)] + [bytes(size)] + [b"end"]
    assume(len({len(body) for body in bodies}) > 1)
    batch = Batch(encode_batch(bodies))
    batch.check()
    assert batch.bodies == bodies


@given(st.lists(st.sampled_from([0, 1, 3, 255, 65_530, 65_535, 65_536, 65_541, 65_550, 131_072, 200_000]), max_size=12))
def test_large_bodies_among_small_ones_are_measured_without_being_read(sizes):
    bodies = [bytes([0xC9, 0xC6]) * (size // 2) + b"\xc9" * (size % 2) for size in sizes] + [b"", b"\xc6"]
    column = memoryview(msgpack.packb(bodies))
    assert measure_bodies(column, len(bodies), with_largest=True) == (sum(map(len, bodies)), max(map(len, bodies)))


@pytest.mark.parametrize(
    "column",
    [
        b"\x92\xc4\x01a\xdb\x00\x03\x00\x00" + bytes(0x30000),
        b"\x92\xc4\x01a\xdb\x00\x03\x00\x00" + bytes(0x20000),
        b"\x92\xc4\x01a\xc9\x00\x03\x00\x00\x05" + bytes(0x30000),
        # An extension, whose head could be read as the end of a body and the head of the next.
        b"\x92\xc4\x01a\xc9\xc6\x00\x03\x00\x00" + bytes(0x30000),
        b"\x92\xc4\x01a\xc6\x00\x03\x00\x01" + bytes(0x30000),
        b"\x92\xc6\x00\x03\x00\x00" + bytes(0x30000) + b"\xc6\x00\x03\x00\x01" + bytes(0x30000),
        b"\x92\xc6\x00\x03\x00\x00" + bytes(0x30000),
        b"\x91\xc6\x00\x03\x00\x00" + bytes(0x30000) + b"\xc4\x00",
        b"\x92\xc4\x01a\xc6\x00\x03\x00\x00" + bytes(0x30000) + b"\xc4",
    ],
    ids=[
        "a text",
        "a text cut short",
        "an extension",
        "an extension that looks like two bodies",
        "a large body cut short behind a small one",
        "a large body cut short behind a large one",
        "a body too few",
        "a body too many",
        "a head without its body",
    ],
)
def test_what_is_no_large_body_is_found_where_bodies_are_passed_over(column):
    count = column[0] & 0x0F
    with pytest.raises(ProtocolError):
        measure_bodies(memoryview(column), count, with_largest=False)


# --- what it costs ------------------------------------------------------------------------------------------------


def _greedy() -> dict[str, bytes]:
    many = BATCH_MESSAGES_MAX
    announce = b"\xdd" + many.to_bytes(4, "big")
    fill = BATCH_BYTES_MAX - 100
    maps = b"\x01" + announce + b"\x80" * many
    deep_maps = b"\x01" + list_head(1) + b"\x81\xa1a\xdc\x01\x00" + (b"\xdc\x01\x00" + b"\x90" * 256) * 256
    empty = msgpack.packb([b""] * many)
    return {
        "a million empty arrays as one body": bodies_batch(
            list_head(2) + b"\xc4\x00\xdd\x00\x0f\x42\x40" + b"\x90" * 1_000_000, 2, 0
        ),
        "empty arrays instead of bodies": bodies_batch(announce + b"\x90" * many, many, 0),
        "arrays that announce as much as the batch, in each other": bodies_batch(
            announce * 1000 + bytes(fill - 5000), many, 0
        ),
        "arrays that announce 4 billion": bodies_batch(announce + b"\xdd\xff\xff\xff\xff" * many, many, 0),
        "a body that announces 4 GiB": bodies_batch(list_head(1) + b"\xc6\xff\xff\xff\xff" + bytes(1000), 1, 2**32 - 1),
        "keys that are arrays": raw_batch({Column.KEYS: announce + b"\x90" * many, Column.BODIES: empty}, many, 0),
        "keys in keys": raw_batch({Column.KEYS: announce * 1000 + bytes(many), Column.BODIES: empty}, many, 0),
        "headers as deep as they go": raw_batch(
            {
                Column.HEADERS: b"\x01" + list_head(1) + b"\x81\xa1a" * 5000 + b"\xc0",
                Column.BODIES: msgpack.packb([b""]),
            },
            1,
            0,
        ),
        "headers with arrays of arrays": raw_batch(
            {Column.HEADERS: deep_maps, Column.BODIES: msgpack.packb([b""])}, 1, 0
        ),
        "headers that announce 4 billion": raw_batch(
            {Column.HEADERS: b"\x01" + list_head(1) + b"\xdf\xff\xff\xff\xff", Column.BODIES: msgpack.packb([b""])},
            1,
            0,
        ),
        "more maps than messages": raw_batch({Column.HEADERS: maps + b"\x80" * many, Column.BODIES: empty}, many, 0),
    }


@pytest.mark.parametrize("name", list(_greedy()))
def test_a_greedy_batch_is_refused_before_it_takes_memory(name):
    data = _greedy()[name]
    tracemalloc.start()
    try:
        with pytest.raises((ProtocolError, BatchTooLarge)):
            Batch(data).check()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 24 * MIB, f"{peak_bytes} bytes for a batch of {len(data)}"


def test_a_check_does_not_keep_or_gather_the_bodies():
    rng = random.Random(1)
    data = encode_batch([bytes(rng.randrange(100, 200)) for _ in range(100_000)])
    tracemalloc.start()
    try:
        Batch(data).check()
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < MIB


def test_a_check_does_not_read_a_large_body_among_small_ones():
    data = encode_batch([b"small", b"", bytes(8 * MIB), *[b"x"] * 10_000])
    tracemalloc.start()
    try:
        Batch(data).check(message_bytes_max=8 * MIB)
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak_bytes < 2 * MIB


def test_parts_that_follow_each_other_cost_linear_time():
    count = 10_000
    batch = Batch(encode_batch([bytes(256 + number % 2) for number in range(count)]))
    times = []
    for _ in range(3):
        started = time.process_time()
        for first in range(0, count, 10):
            batch.part_pieces(first, 10)
        times.append(time.process_time() - started)
    # Linear is 0.01 s here. To walk from the first body for each part takes over a second.
    assert min(times) < 0.3


def test_a_part_keeps_a_batch_in_memory_only_where_it_is_a_large_share_of_it():
    bodies = [bytes(1000 + number) for number in range(100)]
    batch = Batch(encode_batch(bodies))
    for first, count, pinned in ((0, 50, True), (50, 50, True), (3, 1, False), (95, 5, False), (20, 8, False)):
        _, items = batch.part_pieces(first, count)
        assert isinstance(items, memoryview)
        assert (items.obj is batch.data) == pinned
        part = Batch(batch.part(first, count))
        part.check()
        assert part.bodies == bodies[first : first + count]


@pytest.mark.parametrize("size", [300, 70_000])
def test_large_bodies_are_cut_out_by_their_places(size: int) -> None:
    bodies = [bytes([number]) * (size + number) for number in range(20)]
    batch = Batch(encode_batch(bodies, keys=[str(number) for number in range(20)]))
    for first in range(20):
        for count in range(1, 21 - first):
            part = Batch(batch.part(first, count))
            part.check()
            assert part.bodies == bodies[first : first + count]
            assert part.keys == [str(number) for number in range(first, first + count)]
