"""Hypothesis strategies for messages, derived from the declarations of their fields."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from sluicemq.wire.fields import Field, Kind, Message
from sluicemq.wire.messages import MESSAGES

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False)
    | TEXTS
    | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)


def _ranges(bits: int) -> st.SearchStrategy[list[int]]:
    bounds = st.sets(st.integers(0, 2**bits - 1), max_size=12)
    # An odd number of bounds ends with a range of one integer.
    return bounds.map(sorted).map(lambda found: found if len(found) % 2 == 0 else [*found, found[-1]])


def values_of(kind: Kind) -> st.SearchStrategy[Any]:
    """Values that *kind* accepts."""
    match kind.name:
        case "unsigned":
            return st.integers(0, 2**kind.bits - 1)
        case "number":
            return st.floats(kind.minimum, kind.maximum) | st.integers(int(kind.minimum + 0.999), int(kind.maximum))
        case "text":
            return TEXTS.filter(lambda text: len(text.encode()) <= kind.bytes_max)
        case "binary":
            return st.binary(max_size=kind.bytes_max)
        case "boolean":
            return st.booleans()
        case "anything_plain":
            return PLAIN
        case "map_of_text":
            return st.dictionaries(TEXTS, PLAIN, max_size=4)
        case "optional":
            assert kind.inner is not None
            return st.none() | values_of(kind.inner)
        case "list_of":
            assert kind.inner is not None
            return st.lists(values_of(kind.inner), max_size=4)
        case "numbers":
            flat = st.lists(st.integers(0, 2**kind.bits - 1), max_size=30)
            return flat.map(lambda found: found[: len(found) - len(found) % kind.multiple_of])
        case "ranges":
            return _ranges(kind.bits)
    raise AssertionError(f"no strategy for {kind.name}")


WRONG_VALUES: dict[str, list[Any]] = {
    "unsigned": [None, True, 1.0, "1", b"1", [], {}, -1],
    "number": [None, True, "1", b"1", [], {}, -0.5, float("nan"), float("inf"), float("-inf"), 2**64 - 1],
    "text": [None, True, 1, b"text", [], {}],
    "binary": [None, True, 1, "text", [], {}],
    "boolean": [None, 0, 1, "true", b"", [], {}],
    "map_of_text": [None, True, 1, "text", b"", [], {1: 2}, {b"key": 2}, {None: 2}],
    "list_of": [None, True, 1, "text", b"", {}],
    "numbers": [None, True, 1, "text", b"", {}, [1.0] * 18, [True] * 18, [-1] * 18, ["1"] * 18, [[]] * 18, [None] * 18],
    "ranges": [None, 1, {}, [1], [1.0, 2.0], [True, True], [-1, 2], ["1", "2"], [2, 1], [1, 5, 5, 6], [5, 6, 1, 2]],
}
"""For each kind values that it must refuse, all of which msgpack carries."""


def wrong_values_of(kind: Kind) -> list[Any]:
    """Values that *kind* must refuse."""
    wrong = list(WRONG_VALUES[(kind.inner or kind).name if kind.name == "optional" else kind.name])
    match kind.name:
        case "unsigned" if kind.bits < 64:
            wrong.append(2**kind.bits)
        case "text":
            wrong.append("x" * (kind.bytes_max + 1))
            wrong.append("ü" * (kind.bytes_max // 2 + 1))
        case "binary":
            wrong.append(b"x" * (kind.bytes_max + 1))
        case "list_of":
            assert kind.inner is not None
            wrong += [[value] for value in wrong_values_of(kind.inner)]
        case "optional":
            assert kind.inner is not None
            wrong = [value for value in wrong_values_of(kind.inner) if value is not None]
    return wrong


def messages_of(cls: type[Message]) -> st.SearchStrategy[Message]:
    """Messages of *cls*; fields with a default are left out at times."""
    required = {field.name: values_of(field.kind) for field in cls.FIELDS if field.required}
    others = {field.name: values_of(field.kind) for field in cls.FIELDS if not field.required}
    return st.fixed_dictionaries(required, optional=others).map(lambda values: cls(**values))


def smallest_of(cls: type[Message]) -> dict[int, Any]:
    """A head of *cls*, as a map, with its required fields only."""
    simple = {"unsigned": 1, "number": 1, "text": "x", "binary": b"", "boolean": False, "map_of_text": {}}
    return {field.number: simple.get(field.kind.name, []) for field in cls.FIELDS if field.required}


ALL_MESSAGES = sorted(MESSAGES.values(), key=lambda cls: cls.TYPE)
ALL_FIELDS: list[tuple[type[Message], Field]] = [(cls, field) for cls in ALL_MESSAGES for field in cls.FIELDS]
