"""How the head of a frame is written: a msgpack map from small numbers to values, checked field by field.

This module owns the rule by which versions can meet: a field with an **even** number must be understood by the
reader (an unknown one is refused), a field with an **odd** number may be ignored (the rule of Lightning's BOLT 1,
"it's OK to be odd"). A field whose value equals its default is not sent. It must not know any frame type.

A message is a frozen dataclass whose fields are made by `wire_field(number, kind, ...)`; `message` turns it into a
`Message` with `encode` and `decode`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, ClassVar, Self, TypeVar, dataclass_transform

import msgpack

from sluicemq.wire.errors import ProtocolError

TEXT_BYTES_MAX = 4096
"""Longest text or binary in a head; long data belongs into the tail."""
LIST_ITEMS_MAX = 1_000_000
"""Most items of a list in a head; the frame limit is reached long before."""

Check = Callable[[Any], str | None]
"""Returns None when the value is fine, else what is wrong with it."""

_REQUIRED = dataclasses.MISSING


def unsigned(bits: int) -> Check:
    """An integer from 0 to 2**bits - 1."""
    limit = 1 << bits

    def check(value: Any) -> str | None:
        if type(value) is not int:
            return f"is {type(value).__name__} instead of an integer"
        return None if 0 <= value < limit else f"is {value}, outside 0..{limit - 1}"

    return check


def number(minimum: float, maximum: float) -> Check:
    """A finite int or float between *minimum* and *maximum*, both included; seconds mostly."""

    def check(value: Any) -> str | None:
        if type(value) not in (int, float):
            return f"is {type(value).__name__} instead of a number"
        return None if minimum <= value <= maximum else f"is {value}, outside {minimum}..{maximum}"

    return check


def text(bytes_max: int = TEXT_BYTES_MAX) -> Check:
    """A text of at most *bytes_max* bytes in UTF-8."""

    def check(value: Any) -> str | None:
        if type(value) is not str:
            return f"is {type(value).__name__} instead of text"
        size = len(value.encode("utf-8", "surrogatepass"))
        return None if size <= bytes_max else f"has {size} bytes, allowed are {bytes_max}"

    return check


def binary(bytes_max: int = TEXT_BYTES_MAX) -> Check:
    """Bytes, at most *bytes_max*."""

    def check(value: Any) -> str | None:
        if type(value) is not bytes:
            return f"is {type(value).__name__} instead of binary"
        return None if len(value) <= bytes_max else f"has {len(value)} bytes, allowed are {bytes_max}"

    return check


def boolean(value: Any) -> str | None:
    """True or False."""
    return None if type(value) is bool else f"is {type(value).__name__} instead of true or false"


def anything_plain(value: Any) -> str | None:
    """Any msgpack value; the reader checks it further (settings, error fields)."""
    del value
    return None


def optional(inner: Check) -> Check:
    """None or what *inner* accepts."""

    def check(value: Any) -> str | None:
        return None if value is None else inner(value)

    return check


def list_of(inner: Check, items_max: int = LIST_ITEMS_MAX) -> Check:
    """A list of at most *items_max* values that *inner* accepts."""

    def check(value: Any) -> str | None:
        if type(value) is not list:
            return f"is {type(value).__name__} instead of a list"
        if len(value) > items_max:
            return f"has {len(value)} items, allowed are {items_max}"
        for position, item in enumerate(value):
            problem = inner(item)
            if problem:
                return f"item {position} {problem}"
        return None

    return check


def numbers(bits: int = 64, *, multiple_of: int = 1) -> Check:
    """A flat list of unsigned integers whose length is a multiple of *multiple_of*; checked without a Python loop."""
    limit = 1 << bits

    def check(value: Any) -> str | None:
        if type(value) is not list:
            return f"is {type(value).__name__} instead of a list"
        if len(value) % multiple_of:
            return f"has {len(value)} items, which is no multiple of {multiple_of}"
        if value and (set(map(type, value)) != {int} or min(value) < 0 or max(value) >= limit):
            return f"holds something else than integers in 0..{limit - 1}"
        return None

    return check


def map_of_text(value: Any) -> str | None:
    """A map whose keys are texts; values are checked by the reader."""
    if type(value) is not dict:
        return f"is {type(value).__name__} instead of a map"
    return None if all(type(key) is str for key in value) else "has a key that is no text"


@dataclasses.dataclass(frozen=True, slots=True)
class _Field:
    number: int
    name: str
    check: Check
    required: bool
    default: Any


def wire_field(number: int, check: Check, *, default: Any = _REQUIRED) -> Any:
    """Declare one field of a message: its *number* on the wire, its *check*, and its *default* (none = required)."""
    metadata = {"number": number, "check": check}
    if default is _REQUIRED:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, (list, dict)):
        empty = type(default)
        return dataclasses.field(default_factory=empty, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Message:
    """Base of all messages of the protocol; made concrete by `message`."""

    TYPE: ClassVar[int]
    _FIELDS: ClassVar[tuple[_Field, ...]]
    _BY_NUMBER: ClassVar[dict[int, _Field]]

    def encode(self) -> bytes:
        """Return the head of the frame that carries this message."""
        head = {}
        for field in self._FIELDS:
            value = getattr(self, field.name)
            if field.required or value != field.default:
                head[field.number] = value
        packed: bytes = msgpack.packb(head)
        return packed

    @classmethod
    def decode(cls, head: bytes | memoryview) -> Self:
        """Return the message that *head* holds.

        Raises:
            ProtocolError: No msgpack map, a required field missing, a wrong type, or an unknown even field.

        """
        values = unpack_plain(head, cls.__name__)
        if type(values) is not dict:
            raise ProtocolError(f"{cls.__name__}: the head is {type(values).__name__} instead of a map")
        known = cls._BY_NUMBER
        arguments: dict[str, Any] = {}
        for key, value in values.items():
            field = known.get(key) if type(key) is int else None
            if field is None:
                if type(key) is not int or key % 2 == 0:
                    raise ProtocolError(f"{cls.__name__}: field {key!r:.40} is unknown here and must not be ignored")
                continue
            problem = field.check(value)
            if problem:
                raise ProtocolError(f"{cls.__name__}.{field.name} {problem}")
            arguments[field.name] = value
        for field in cls._FIELDS:
            if field.required and field.name not in arguments:
                raise ProtocolError(f"{cls.__name__}.{field.name} is missing")
        return cls(**arguments)


_M = TypeVar("_M", bound=type[Message])


@dataclass_transform(frozen_default=True, field_specifiers=(wire_field,))
def message(type_: int) -> Callable[[_M], _M]:
    """Class decorator: make a class of wire fields into the frozen dataclass that frames of *type_* carry."""

    def decorate(cls: _M) -> _M:
        made = dataclasses.dataclass(frozen=True, slots=True)(cls)
        fields = []
        for declared in dataclasses.fields(made):
            has_factory = declared.default_factory is not dataclasses.MISSING
            required = declared.default is dataclasses.MISSING and not has_factory
            default = declared.default_factory() if has_factory else declared.default  # type: ignore[misc]
            fields.append(
                _Field(declared.metadata["number"], declared.name, declared.metadata["check"], required, default)
            )
        made.TYPE = type_
        made._FIELDS = tuple(fields)
        made._BY_NUMBER = {field.number: field for field in fields}
        if len(made._BY_NUMBER) != len(fields):
            raise TypeError(f"{cls.__name__} uses a field number twice")
        return made

    return decorate


def unpack_plain(data: bytes | memoryview, what: str) -> Any:
    """Return the one msgpack value in *data*.

    Raises:
        ProtocolError: *data* is not exactly one msgpack value, or nests too deeply. *what* names it in the text.

    """
    try:
        return msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, msgpack.UnpackException, UnicodeDecodeError, RecursionError, TypeError) as error:
        raise ProtocolError(f"{what}: not a msgpack value ({type(error).__name__}: {error!s:.200})") from None
