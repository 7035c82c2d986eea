"""The columns that say when, for how long and how soon a message is delivered, and what they refuse."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest

from sluicemq.wire.batch import DELAY_MS_MAX, DUE_MS_MAX, PRIORITY_MAX, TTL_MS_MAX, Batch, Column, encode_batch
from sluicemq.wire.errors import InvalidRequest, ProtocolError
from tests.wire.test_batch import raw_batch

GOOD = msgpack.packb([b"abc", b"de"])
COLUMNS = {"due_times": Column.DUE_TIMES, "ttls": Column.TTLS, "priorities": Column.PRIORITIES}


def forged(name: str, packed: bytes) -> bytes:
    return raw_batch({COLUMNS[name]: packed, Column.BODIES: GOOD}, 2, 5)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("due_times", 0),
        ("due_times", DUE_MS_MAX),
        ("due_times", -DELAY_MS_MAX),
        ("ttls", 1),
        ("ttls", TTL_MS_MAX),
        ("priorities", 0),
        ("priorities", PRIORITY_MAX),
    ],
)
def test_the_ends_of_the_ranges_are_allowed(name: str, value: int) -> None:
    column: dict[str, Any] = {name: [value, None]}
    batch = Batch(encode_batch([b"abc", b"de"], **column))
    batch.check()
    assert getattr(batch, name) == [value, None]
    assert batch.columns == Column.BODIES | COLUMNS[name]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("due_times", DUE_MS_MAX + 1),
        ("due_times", -DELAY_MS_MAX - 1),
        ("due_times", 2**64 - 1),
        ("ttls", 0),
        ("ttls", -1),
        ("ttls", TTL_MS_MAX + 1),
        ("priorities", -1),
        ("priorities", PRIORITY_MAX + 1),
    ],
)
def test_beyond_them_both_sides_name_value_and_range(name: str, value: int) -> None:
    column: dict[str, Any] = {name: [None, value]}
    words = f"column {COLUMNS[name].name} is {value}; it must be"
    with pytest.raises(InvalidRequest, match=words) as caught:
        encode_batch([b"abc", b"de"], **column)
    assert caught.value.column == COLUMNS[name].name
    with pytest.raises(InvalidRequest, match=words):
        Batch(forged(name, msgpack.packb([None, value]))).check()


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize("value", [True, 1.0, "1", b"1", [], {}], ids=repr)
def test_only_integers_count(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=f"column {COLUMNS[name].name} is {type(value).__name__}"):
        encode_batch([b"abc", b"de"], **{name: [1, value]})
    with pytest.raises(ProtocolError):
        Batch(forged(name, msgpack.packb([1, value]))).check()


@pytest.mark.parametrize("name", COLUMNS)
@pytest.mark.parametrize(
    "packed",
    [b"", b"\x91\x01", b"\x93\x01\x01\x01", b"\x92\x01", b"\x92\x01\x01\xc0", b"\xdd\xff\xff\xff\xff", b"\x81\x01\x01"],
    ids=["nothing", "one less", "one more", "cut short", "a byte behind", "a list of 4 billion", "a map"],
)
def test_a_column_of_another_shape_is_refused(name: str, packed: bytes) -> None:
    with pytest.raises(ProtocolError, match=f"column {COLUMNS[name].name}"):
        Batch(forged(name, packed)).check()


def test_selected_messages_keep_their_times_and_priorities() -> None:
    batch = Batch(
        encode_batch([b"%d" % n for n in range(6)], due_times=[-5, None, 7, 8, 9, 10], priorities=[0, 1, 2, 3, 4, 5])
    )
    chosen = Batch(batch.select([(0, 2), (4, 1)]))
    assert (chosen.due_times, chosen.ttls, chosen.priorities) == ([-5, None, 9], None, [0, 1, 4])


def test_a_column_is_decoded_once_however_often_it_is_asked_for() -> None:
    batch = Batch(encode_batch([b"a", b"b"], due_times=[1, 2]))
    batch.check()
    assert batch.due_times is batch.due_times
