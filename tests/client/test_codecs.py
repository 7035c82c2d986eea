"""What bodies mean: each codec there and back, the codec for an annotation, and what cannot be decoded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.client import codecs
from sluicemq.client.errors import Undecodable
from tests.postgres import library

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@dataclass
class Line:
    item: str
    count: int = 1


@dataclass
class Order:
    number: int
    first: Line
    total: float = 0.0
    notes: list = field(default_factory=list)


class Row(TypedDict):
    name: str


@given(PLAIN)
def test_plain_values_come_back_from_json_and_msgpack(value):
    for codec in (codecs.JSON, codecs.MSGPACK):
        assert codec.decode(codec.encode(value)) == value


def test_msgpack_takes_back_keys_that_are_no_text():
    assert codecs.MSGPACK.decode(codecs.MSGPACK.encode({7: "seven", b"x": [1]})) == {7: "seven", b"x": [1]}


@given(st.binary(), st.text())
def test_bytes_and_text_come_back(body, text):
    assert codecs.BYTES.decode(codecs.BYTES.encode(body)) == body
    assert codecs.TEXT.decode(codecs.TEXT.encode(text)) == text


@given(st.integers(), st.text(), st.integers())
def test_a_dataclass_comes_back_with_those_within_it(number, item, count):
    order = Order(number, Line(item, count), 1.5, ["fragile"])
    codec = codecs.codec_for(Order)
    assert codec.decode(codec.encode(order)) == order


@pytest.mark.parametrize(
    ("annotation", "value", "body"),
    [
        (bytes, b"x", b"x"),
        (Any, b"x", b"x"),
        (str, "ä", "ä".encode()),
        (int, 7, b"7"),
        (float, 1.0, b"1.0"),
        (float, 2.0, b"2"),
        (bool, True, b"true"),
        (dict, {"a": 1}, b'{"a":1}'),
        (dict[str, int], {"a": 1}, b'{"a":1}'),
        (Mapping[str, Any], {"a": 1}, b'{"a":1}'),
        (list[int], [1, 2], b"[1,2]"),
        (Sequence[int], [1], b"[1]"),
        (Row, {"name": "x"}, b'{"name":"x"}'),
        (str | None, "x", b"x"),
        (Line, Line("lamp", 2), b'{"item":"lamp","count":2}'),
    ],
)
def test_the_codec_for_an_annotation(annotation, value, body):
    codec = codecs.codec_for(annotation)
    assert codec.decode(body) == value
    assert codec.decode(codec.encode(value)) == value


@pytest.mark.parametrize(
    ("annotation", "body", "why"),
    [
        (str, b"\xff", "UnicodeDecodeError"),
        (int, b'"7"', "no int"),
        (int, b"true", "no int"),
        (float, b"true", "no float"),
        (dict, b"[]", "no dict"),
        (list, b"{", "JSONDecodeError"),
        (Line, b"[]", "no Line"),
        (Line, b'{"count":2}', "item"),
        (Line, b'{"item":"x","size":2}', "no field 'size'"),
        (Line, b'{"item":"x","count":"two"}', "count: it holds 'two', which is no int"),
        (Order, b'{"number":1,"first":{"item":7}}', "first: item: it holds 7, which is no str"),
    ],
)
def test_what_means_nothing_is_undecodable_and_says_why(annotation, body, why):
    with pytest.raises(Undecodable, match=why) as raised:
        codecs.decoded(codecs.codec_for(annotation), body)
    assert not raised.value.retryable


@pytest.mark.parametrize("annotation", [object, int | str, set, complex])
def test_an_annotation_without_a_codec_is_refused_by_name(annotation):
    with pytest.raises(TypeError, match="codec="):
        codecs.codec_for(annotation)


@pytest.mark.parametrize("value", ["text", 1, None])
def test_the_codec_for_bytes_takes_nothing_else(value):
    with pytest.raises(TypeError):
        codecs.BYTES.encode(value)


def test_values_of_which_nothing_is_known_are_encoded_by_their_type():
    assert [codecs.VALUE.encode(value) for value in (b"x", "x", {"a": 1}, Line("x"), 1.5)] == [
        b"x",
        b"x",
        b'{"a":1}',
        b'{"item":"x","count":1}',
        b"1.5",
    ]


def test_pydantic_validates_where_the_program_has_it():
    pydantic = library("pydantic")

    class Paid(pydantic.BaseModel):  # type: ignore[name-defined]
        order: int
        amount: float = pydantic.Field(gt=0)

    codec = codecs.codec_for(Paid)
    assert codec.decode(b'{"order": 1, "amount": 2.5}') == Paid(order=1, amount=2.5)
    assert codec.decode(codec.encode(Paid(order=1, amount=2.5))).amount == 2.5
    assert codecs.codec_for(list[Paid]).decode(b'[{"order": 1, "amount": 1}]')[0].order == 1
    assert codecs.VALUE.encode(Paid(order=1, amount=1)) == b'{"order":1,"amount":1.0}'
    with pytest.raises(Undecodable, match="amount"):
        codecs.decoded(codec, b'{"order": 1, "amount": 0}')
