"""A head crosses the wire: what fits arrives as it was, what does not is refused with class and field named."""

from __future__ import annotations

import tracemalloc

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.wire import messages as m
from sluicemq.wire.errors import InvalidRequest, ProtocolError
from sluicemq.wire.fields import HEAD_BYTES_MAX, Message, unsigned, wire_field
from sluicemq.wire.fields import message as message_class
from sluicemq.wire.unpacking import PLAIN_ITEMS_MAX, SHORT_BYTES_MAX
from tests.wire.strategies import ALL_FIELDS, ALL_MESSAGES, messages_of, smallest_of, wrong_values_of

ANY_MESSAGE = st.sampled_from(ALL_MESSAGES).flatmap(messages_of)
every_message = pytest.mark.parametrize("cls", ALL_MESSAGES, ids=lambda cls: cls.__name__)
every_field = pytest.mark.parametrize(
    ("cls", "field"),
    ALL_FIELDS,
    ids=lambda value: getattr(value, "__name__", value.name if hasattr(value, "name") else value),
)


def pack(head: object) -> bytes:
    return msgpack.packb(head)


# --- what fits ----------------------------------------------------------------------------------------------------


@every_message
@given(data=st.data())
def test_every_message_comes_back_as_it_was_sent(cls, data):
    sent = data.draw(messages_of(cls))
    assert cls.decode(sent.encode()) == sent
    assert cls.decode(memoryview(sent.encode())) == sent


@every_message
def test_a_head_with_only_required_fields_fills_in_the_defaults(cls):
    made = cls.decode(pack(smallest_of(cls)))
    for field in cls.FIELDS:
        if not field.required:
            assert getattr(made, field.name) == field.default


def test_a_default_list_belongs_to_one_message_alone():
    first, second = m.Settled.decode(pack({})), m.Settled.decode(pack({}))
    first.lost.append(1)
    assert second.lost == []
    assert m.Settled.decode(pack({})).lost == []


def test_a_value_that_equals_its_default_is_not_sent():
    assert m.Settle(1, m.VERDICT_ACK, [1, 2]).encode() == pack({2: 1, 4: 1, 6: [1, 2]})


def test_negative_zero_seconds_are_no_seconds():
    assert m.Blocked.decode(m.Blocked("", retry_after=-0.0).encode()).retry_after == 0


@pytest.mark.parametrize("count", [0, 1, 400, 5000, 100_000])
def test_long_lists_of_ranges_cross_the_wire(count):
    tags = [number for first in range(count) for number in (3 * first + 70_000, 3 * first + 70_001)]
    settle = m.Settle(7, m.VERDICT_ACK, tags, reason="many")
    assert m.Settle.decode(settle.encode()) == settle


def test_many_queues_cross_the_wire_in_one_answer():
    queues = [{"name": f"queue-{number}", "settings": {"retry_delay": 1.0}, "ready": number} for number in range(4096)]
    answer = m.Queues(queues, more=True)
    assert m.Queues.decode(answer.encode()) == answer


# --- versions meet ------------------------------------------------------------------------------------------------


@every_message
@pytest.mark.parametrize("value", [None, 1, "x", [1, 2], {"a": []}, b"x" * 2000], ids=repr)
def test_an_unknown_odd_field_is_ignored(cls, value):
    head = smallest_of(cls)
    assert cls.decode(pack({**head, 201: value})) == cls.decode(pack(head))


@every_message
@pytest.mark.parametrize("key", [200, 0, -2, -1.0, 3.5, "name", b"name", None, True, 2.0], ids=repr)
@pytest.mark.parametrize("padding", [0, SHORT_BYTES_MAX], ids=["short", "long"])
def test_an_unknown_field_that_is_not_odd_is_refused(cls, key, padding):
    head = {key: 1, **({201: b"x" * padding} if padding else {})}
    head.update({number: value for number, value in smallest_of(cls).items() if number != key})
    with pytest.raises(ProtocolError, match=cls.__name__):
        cls.decode(pack(head))


# --- what does not fit --------------------------------------------------------------------------------------------


@every_field
def test_a_wrong_value_is_refused_by_name(cls, field):
    for value in wrong_values_of(field.kind):
        for padding in ({}, {201: b"x" * SHORT_BYTES_MAX}):
            with pytest.raises(ProtocolError, match=rf"{cls.__name__}\.{field.name}\b"):
                cls.decode(pack({**smallest_of(cls), **padding, field.number: value}))


@every_field
def test_a_wrong_value_is_not_even_sent(cls, field):
    right = cls.decode(pack(smallest_of(cls)))
    values = {each.name: getattr(right, each.name) for each in cls.FIELDS}
    for value in wrong_values_of(field.kind):
        if not field.required and value == field.default:
            continue  # 0 for False: nothing is sent, so nothing wrong is
        with pytest.raises(InvalidRequest, match=rf"{cls.__name__}\.{field.name}\b"):
            cls(**{**values, field.name: value}).encode()


@every_message
def test_a_missing_field_is_named(cls):
    head = smallest_of(cls)
    for field in cls.FIELDS:
        if field.required:
            rest = {number: value for number, value in head.items() if number != field.number}
            with pytest.raises(ProtocolError, match=rf"{cls.__name__}\.{field.name} is missing"):
                cls.decode(pack(rest))


@pytest.mark.parametrize("value", [None, 1, 1.0, "text", b"binary", [], [1], True])
def test_a_head_that_is_no_map_is_refused(value):
    with pytest.raises(ProtocolError, match="Hello"):
        m.Hello.decode(pack(value))


@pytest.mark.parametrize("padding", [b"", b"\xcd\x00\xc9\xc5\x08\x00" + b"x" * 2048], ids=["short", "long"])
@pytest.mark.parametrize(
    "twice", [b"\x02\x01\x02\x02", b"\x02\x01\xcd\x00\x02\x02", b"\x02\x01\xcb\x40" + bytes(7) + b"\x02"]
)
def test_a_field_sent_twice_is_refused(padding, twice):
    entries = 2 + bool(padding)
    for head in (bytes((0x80 | entries,)), b"\xde" + entries.to_bytes(2, "big"), b"\xdf" + entries.to_bytes(4, "big")):
        with pytest.raises(ProtocolError, match="sent twice"):
            m.Consuming.decode(head + padding + twice)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_decode_or_are_refused(data):
    for cls in ALL_MESSAGES:
        try:
            made = cls.decode(data)
        except ProtocolError:
            continue
        assert cls.decode(made.encode()) == made


@given(ANY_MESSAGE, st.data())
def test_a_cut_head_is_refused(message, data):
    head = message.encode()
    cut = data.draw(st.integers(0, len(head) - 1))
    with pytest.raises(ProtocolError):
        type(message).decode(head[:cut])


@given(ANY_MESSAGE, st.binary(min_size=1, max_size=9))
def test_bytes_behind_the_head_are_refused(message, rest):
    with pytest.raises(ProtocolError):
        type(message).decode(message.encode() + rest)


@pytest.mark.parametrize(
    "extension", [msgpack.Timestamp(1, 2), msgpack.ExtType(5, b""), msgpack.ExtType(5, b"abcd")], ids=repr
)
@pytest.mark.parametrize("padding", [{}, {201: b"x" * 2048}], ids=["short", "long"])
def test_extension_types_are_refused_wherever_they_stand(extension, padding):
    for head in ({2: extension}, {2: "q", 4: {"retry_delay": extension}}, {2: "q", 201: extension}, {extension: 1}):
        with pytest.raises(ProtocolError):
            m.DeclareQueue.decode(pack({**padding, **head}))


def test_half_a_surrogate_pair_is_refused_on_both_sides():
    with pytest.raises(ProtocolError):
        m.QueueInfo.decode(b"\x81\x02\xa3\xed\xa0\x80")
    with pytest.raises(InvalidRequest, match=r"QueueInfo\.name"):
        m.QueueInfo("\ud800").encode()
    with pytest.raises(InvalidRequest, match="DeclareQueue"):
        m.DeclareQueue("q", {"\ud800": 1}).encode()


@pytest.mark.parametrize("value", [object(), {1, 2}, 2**64, -(2**63) - 1], ids=["object", "set", "2**64", "-2**63-1"])
def test_what_msgpack_cannot_carry_is_the_senders_error(value):
    with pytest.raises(InvalidRequest, match="DeclareQueue"):
        m.DeclareQueue("q", {"retry_delay": value}).encode()


def test_a_head_that_is_too_long_is_refused_on_both_sides():
    tags = list(range(2**32, 2**32 + 500_000))
    with pytest.raises(InvalidRequest, match="send it in parts"):
        m.Settle(1, m.VERDICT_ACK, tags).encode()
    with pytest.raises(ProtocolError, match="bytes, allowed are"):
        m.Settle.decode(pack({2: 1, 4: 1, 6: tags}))


# --- what it costs ------------------------------------------------------------------------------------------------

_ARRAY32 = b"\xdd"


def _hostile_heads() -> dict[str, bytes]:
    nested = (_ARRAY32 + (2**31).to_bytes(4, "big")) * 200
    deep_array16 = b"\xdc\xff\xff" * 1000
    filler = bytes(HEAD_BYTES_MAX - 5000)
    return {
        "an array that announces 4 billion items": b"\x81\x06\xdd\xff\xff\xff\xff",
        "a map that announces 4 billion entries": b"\xdf\xff\xff\xff\xff\x02\x01",
        "binary that announces 4 GiB": b"\x81\x06\xc6\xff\xff\xff\xff",
        "arrays in arrays, each announcing 2 billion items": b"\x81\x06" + nested,
        "the same in a long head": b"\x81\x06" + nested + filler,
        "arrays of 65,535 in each other, in a long head": b"\x81\x06" + deep_array16 + filler,
        "a short head of as many arrays as fit": b"\x81\x06" + b"\xdc\x01\x4a" * 338,
        "a long list of empty arrays": b"\x81\x06\xdd\x00\x0f\x42\x40" + b"\x90" * 1_000_000,
        "a long list of empty maps": b"\x81\x06\xdd\x00\x0f\x42\x40" + b"\x80" * 1_000_000,
        "an unknown field with arrays of arrays": b"\x81\xcc\xc9\xdc\x03\xe8"
        + (b"\xdc\x03\xe8" + b"\x90" * 1000) * 1000,
        "arrays a thousand deep": b"\x81\xcc\xc9" + b"\x91" * 1000 + b"\xc0",
        "arrays a million deep": b"\x81\xcc\xc9" + b"\x91" * 1_000_000 + b"\xc0",
        "maps a million deep": b"\x81\xcc\xc9" + b"\x81\x01" * 1_000_000 + b"\xc0",
        "more entries than any message has": b"\xde\xff\xff"
        + b"".join(b"\xcd" + n.to_bytes(2, "big") + b"\xc0" for n in range(1, 65536)),
    }


@pytest.mark.parametrize("name", list(_hostile_heads()))
def test_a_hostile_head_is_refused_before_it_takes_memory(name):
    head = _hostile_heads()[name]
    for cls in (m.Settle, m.Hello, m.Deliver, m.Queues):
        tracemalloc.start()
        try:
            with pytest.raises(ProtocolError):
                cls.decode(head)
            _, peak_bytes = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        # msgpack's own buffer, for one copy of the head, is not traced; what it builds is.
        assert peak_bytes < 12 * 1024 * 1024, f"{cls.__name__}: {peak_bytes} bytes for a head of {len(head)}"


def test_items_beyond_the_plain_limit_are_refused_where_no_list_is_declared():
    with pytest.raises(ProtocolError):
        m.Hello.decode(pack({2: 1, 4: 1, 201: [0] * (PLAIN_ITEMS_MAX + 1)}))


# --- declarations -------------------------------------------------------------------------------------------------


def test_a_field_number_can_be_used_once():
    with pytest.raises(TypeError, match="twice"):

        @message_class(255)
        class Twice(Message):
            first: int = wire_field(2, unsigned(8))
            second: int = wire_field(2, unsigned(8))


def test_every_frame_type_has_one_class():
    ours = [cls for cls in Message.__subclasses__() if cls.__module__.startswith(m.__name__)]
    declared = [cls for cls in ours if hasattr(cls, "TYPE")]
    assert len({cls.TYPE for cls in declared}) == len(declared) == len(m.MESSAGES)
