"""Copies of a node and its canonical form, by looking at objects as they are.

The core's classes know nothing of this: whatever they keep in their attributes is copied or compared. Values that never
change (numbers, tuples, frozen dataclasses) are shared.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from enum import Enum
from types import MethodType
from typing import Any

from sluicemq.broker.replication.effects import Token

_NEVER_CHANGES: set[type] = {int, float, bool, str, bytes, type(None), tuple, frozenset}
_LEFT_OUT: dict[str, set[str]] = {
    "Replica": {"_handlers", "_reason"},
    "Local": {"effects", "_generation", "_number"},
}
"""Attributes that cannot change what a node does, or say the same as the order of the disk's queue does."""
_NOTHING: set[str] = set()


def _never_changes(kind: type) -> bool:
    if kind in _NEVER_CHANGES:
        return True
    frozen = dataclasses.is_dataclass(kind) and kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    if frozen or issubclass(kind, tuple | Enum):
        _NEVER_CHANGES.add(kind)
        return True
    return False


def copied(value: Any, memo: dict[int, Any]) -> Any:
    """Return a copy of *value* that shares nothing which can change."""
    kind = type(value)
    if kind in _NEVER_CHANGES or _never_changes(kind):
        return value
    known = memo.get(id(value))
    if known is not None:
        return known
    new: Any
    if issubclass(kind, dict):
        new = memo[id(value)] = kind()
        for key, one in value.items():
            new[key] = copied(one, memo)
    elif kind is list:
        new = memo[id(value)] = []
        new.extend(copied(one, memo) for one in value)
    elif kind is deque:
        new = memo[id(value)] = deque()
        new.extend(copied(one, memo) for one in value)
    elif kind is set:
        new = memo[id(value)] = set(value)
    elif kind is MethodType:
        new = MethodType(value.__func__, copied(value.__self__, memo))
    else:
        new = memo[id(value)] = object.__new__(kind)
        attributes = new.__dict__
        for name, one in value.__dict__.items():
            attributes[name] = copied(one, memo)
    return new


def frozen(value: Any, memo: dict[int, int], generation: int) -> Any:
    """Return what *value* is, hashable; equal for values that behave alike.

    Tokens are told apart only by whether they are of the present *generation*: their order is that of the queue.
    """
    kind = type(value)
    if kind is Token:
        return value.generation == generation
    if kind is tuple:
        return tuple(frozen(one, memo, generation) for one in value)
    if kind in _NEVER_CHANGES or _never_changes(kind):
        if hasattr(kind, "__dataclass_fields__") and "token" in kind.__dataclass_fields__:
            return (kind.__name__, *(frozen(getattr(value, name), memo, generation) for name in kind.__slots__))
        return value
    known = memo.get(id(value))
    if known is not None:
        return "seen", known
    memo[id(value)] = len(memo)
    if issubclass(kind, dict):
        return tuple((key, frozen(one, memo, generation)) for key, one in value.items())  # the order shows in messages
    if kind is list or kind is deque:
        return tuple(frozen(one, memo, generation) for one in value)
    if kind is set:
        return frozenset(value)
    left_out = _LEFT_OUT.get(kind.__name__, _NOTHING)
    kept = (one for name, one in value.__dict__.items() if name not in left_out)
    return kind.__name__, *(frozen(one, memo, generation) for one in kept)
