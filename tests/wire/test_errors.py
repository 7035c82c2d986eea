"""Errors travel: through pickle, over the wire, and out of the hands of a peer that means harm."""

from __future__ import annotations

import copy
import datetime
import pickle
import re
import traceback

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.wire import errors
from sluicemq.wire import messages as m
from sluicemq.wire.errors import (
    ERROR_FIELDS_MAX,
    ERROR_TEXT_CHARACTERS_MAX,
    ConnectionFailed,
    InvalidRequest,
    ProtocolError,
    QueueNotFound,
    RequestTimeout,
    SequenceGap,
    SluiceError,
    Unavailable,
    error_from_wire,
    error_to_wire,
)
from sluicemq.wire.frames import FRAME_BYTES_BEFORE_OPEN
from tests.wire.strategies import PLAIN

ALL_ERRORS = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, SluiceError)]
every_error = pytest.mark.parametrize("cls", ALL_ERRORS, ids=lambda cls: cls.__name__)

HOSTILE_NAMES = [
    "",
    " ",
    *[
        "args",
        "with_traceback",
        "add_note",
        "code",
        "text",
        "retryable",
        "retry_after",
        "fields",
        "self",
        "cls",
        "errno",
        "strerror",
        "filename",
        "name",
        "obj",
        "0",
    ],
    *[
        "__class__",
        "__dict__",
        "__reduce__",
        "__reduce_ex__",
        "__deepcopy__",
        "__copy__",
        "__getstate__",
        "__setstate__",
        "__notes__",
    ],
    *["__cause__", "__context__", "__traceback__", "__suppress_context__", "__str__", "__len__", "__bool__"],
]


def same(left: SluiceError, right: SluiceError) -> bool:
    return (type(left), left.text, left.fields, left.retryable, left.retry_after) == (
        type(right), right.text, right.fields, right.retryable, right.retry_after,
    )  # fmt: skip


# --- the tree -----------------------------------------------------------------------------------------------------


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Return what the module's docstring draws: class -> (parent, builtin that it is as well)."""
    found: dict[str, tuple[str | None, str | None]] = {}
    path: list[tuple[int, str]] = []
    for line in errors.__doc__.splitlines():
        match = re.match(r"^    ((?:\|  |   )*)(?:[|`]- )?([A-Z]\w+(?:, [A-Z]\w+)*)(?: \((\w+)\))?(?:  .*)?$", line)
        if match is None:
            continue
        depth = (match.start(2) - 4) // 3
        while path and path[-1][0] >= depth:
            path.pop()
        for name in match[2].split(", "):
            found[name] = (path[-1][1] if path else None, match[3])
        path.append((depth, match[2]))
    return found


def test_the_tree_in_the_docstring_is_the_tree_in_the_code():
    real = {}
    for cls in ALL_ERRORS:
        parents = [base.__name__ for base in cls.__bases__ if issubclass(base, SluiceError)]
        builtins = [
            base.__name__ for base in cls.__bases__ if not issubclass(base, SluiceError) and base is not Exception
        ]
        assert len(parents) <= 1
        assert len(builtins) <= 1
        real[cls.__name__] = (parents[0] if parents else None, builtins[0] if builtins else None)
    assert drawn_tree() == real


def test_every_class_is_exported_and_has_a_code_of_its_own():
    assert {cls.__name__ for cls in ALL_ERRORS} | {"error_from_wire", "error_to_wire"} == set(errors.__all__)
    assert len({cls.code for cls in ALL_ERRORS}) == len(ALL_ERRORS)
    for cls in ALL_ERRORS:
        assert cls is SluiceError or "code" in vars(cls), f"{cls.__name__} has no code of its own"


def test_errors_are_caught_by_what_one_can_do_next():
    assert Unavailable("later").retryable
    assert not QueueNotFound("gone").retryable
    assert QueueNotFound("gone", retryable=True).retryable
    assert isinstance(QueueNotFound("gone"), LookupError)
    assert isinstance(RequestTimeout("late"), TimeoutError)
    assert isinstance(ConnectionFailed("broken"), ConnectionError)
    assert isinstance(InvalidRequest("wrong"), ValueError)


def test_fields_are_attributes_and_others_are_missing():
    error = SequenceGap("a gap", expected=7)
    assert error.expected == 7
    assert str(error) == "a gap"
    with pytest.raises(AttributeError, match="'SequenceGap' object has no attribute 'producer'"):
        _ = error.producer


# --- the journey --------------------------------------------------------------------------------------------------


@every_error
def test_every_error_pickles(cls):
    error = cls("what was wrong", retryable=True, retry_after=1.5, queue="orders", count=3)
    for copied in (pickle.loads(pickle.dumps(error)), copy.copy(error), copy.deepcopy(error)):
        assert same(copied, error)
        assert copied.queue == "orders"


@every_error
def test_every_error_crosses_the_wire(cls):
    error = cls("what was wrong", retryable=False, retry_after=1.5, queue="orders", changes={"ttl": [1, 2]})
    sent = m.Error(error_to_wire(error)).encode()
    assert same(error_from_wire(m.Error.decode(sent).error), error)
    plain = error_from_wire(m.Close.decode(m.Close(error_to_wire(cls())).encode()).error)
    assert same(plain, cls())


ANYTHING = st.recursive(
    st.none() | st.integers() | st.floats() | st.text() | st.binary() | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=6,
)


@given(st.text(), st.dictionaries(st.text(max_size=8), ANYTHING, max_size=5))
def test_whatever_an_error_holds_it_can_be_sent(text, fields):
    error = QueueNotFound(text)
    error.fields = fields
    arrived = error_from_wire(m.Error.decode(m.Error(error_to_wire(error)).encode()).error)
    assert type(arrived) is QueueNotFound


@pytest.mark.parametrize("retry_after", [float("nan"), float("inf"), -1.0])
def test_a_senseless_retry_after_is_not_sent(retry_after):
    assert error_to_wire(Unavailable("later", retry_after=retry_after))["retry_after"] is None


def test_an_error_always_fits_the_frame_that_strangers_get():
    long = "ü" * 100_000
    error = SluiceError(long, queue="orders")
    error.fields.update({f"field_{number}": [long] * 1000 for number in range(100)})
    wire = error_to_wire(error)
    assert len(msgpack.packb(wire)) < FRAME_BYTES_BEFORE_OPEN
    arrived = error_from_wire(wire)
    assert len(arrived.text) == ERROR_TEXT_CHARACTERS_MAX
    assert arrived.text.endswith("…")
    assert arrived.fields == {"queue": "orders"}  # what has room is sent, the rest is left out
    error = SluiceError("x")
    error.fields = {f"field_{number}": number for number in range(100)}
    assert error_from_wire(error_to_wire(error)).fields == {
        f"field_{number}": number for number in range(ERROR_FIELDS_MAX)
    }


def test_what_cannot_be_sent_as_it_is_arrives_as_text():
    error = SluiceError(
        "x", day=datetime.date(2026, 11, 21), large=2**70, half="\ud800", nested=[[1, [2]]], names={1: {"a": [2]}}
    )
    fields = error_from_wire(error_to_wire(error)).fields
    assert fields == {
        "day": "2026-11-21",
        "large": str(2**70),
        "half": "\\ud800",
        "nested": [[1, "[2]"]],
        "names": {"1": {"a": "[2]"}},
    }


# --- a peer that means harm ---------------------------------------------------------------------------------------


@every_error
@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_a_field_cannot_pose_as_an_attribute(cls, name):
    arrived = error_from_wire(
        {"code": cls.code, "text": "t", "retryable": False, "retry_after": None, "fields": {name: ["evil"]}}
    )
    assert same(arrived, error_from_wire(error_to_wire(arrived)))
    assert type(arrived) is cls
    assert arrived.fields == {name: ["evil"]}
    assert (str(arrived), arrived.code, arrived.retryable, arrived.retry_after) == ("t", cls.code, False, None)
    for copied in (pickle.loads(pickle.dumps(arrived)), copy.copy(arrived), copy.deepcopy(arrived)):
        assert same(copied, arrived)
    assert arrived.with_traceback(None) is arrived
    assert "evil" not in "".join(traceback.format_exception(arrived))
    arrived.add_note("a note")
    with pytest.raises(cls):
        raise arrived


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        5,
        "text",
        [],
        {},
        {"code": 5},
        {"code": None},
        {"code": "x" * 1000},
        {"text": None},
        {"text": b"t"},
        {"text": "x" * (ERROR_TEXT_CHARACTERS_MAX + 1)},
        {"fields": None},
        {"fields": []},
        {"fields": {1: 2}},
        {"fields": {str(number): 1 for number in range(ERROR_FIELDS_MAX + 1)}},
        {"retryable": None},
        {"retryable": 1},
        {"retry_after": "1"},
        {"retry_after": True},
        {"retry_after": float("nan")},
        {"retry_after": float("inf")},
        {"retry_after": -1},
    ],
    ids=lambda value: f"{value!r:.60}",
)
def test_what_is_no_error_becomes_a_protocol_error(wrong):
    right = {"code": "queue_not_found", "text": "t", "retryable": False, "retry_after": None, "fields": {}}
    value = {**right, **wrong} if isinstance(wrong, dict) and wrong else wrong
    assert type(error_from_wire(right)) is QueueNotFound
    assert type(error_from_wire(value)) is ProtocolError


def test_a_missing_retry_after_means_that_nobody_knows():
    arrived = error_from_wire({"code": "queue_not_found", "text": "t", "retryable": False, "fields": {}})
    assert same(arrived, QueueNotFound("t"))


def test_an_error_of_a_newer_peer_keeps_its_code():
    arrived = error_from_wire(
        {"code": "of_tomorrow", "text": "t", "retryable": True, "retry_after": 2, "fields": {"a": 1}}
    )
    assert type(arrived) is SluiceError
    assert arrived.fields == {"a": 1, "code": "of_tomorrow"}
    assert (arrived.retryable, arrived.retry_after) == (True, 2)


@given(
    PLAIN
    | st.fixed_dictionaries({"code": PLAIN, "text": PLAIN, "fields": PLAIN, "retryable": PLAIN, "retry_after": PLAIN})
)
def test_any_value_becomes_some_error(value):
    assert isinstance(error_from_wire(value), SluiceError)
