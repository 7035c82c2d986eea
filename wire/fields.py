"""How the head of a frame is written: a msgpack map from small numbers to values, checked field by field.

This module owns the rule by which versions can meet: a field with an **even** number must be understood by the
reader (an unknown one is refused), a field with an **odd** number may be ignored (the rule of Lightning's BOLT 1,
"it's OK to be odd"). A field whose value equals its default is not sent. It must not know any frame type.

A message is a frozen dataclass whose fields are made by `wire_field(number, kind, ...)`; `message` turns it into a
`Message` with `encode` and `decode`. Both check every value: the writer, because a peer that gets a wrong one ends
the connection; the reader, because the writer may be hostile.
"""

from __future__ import annotations

import dataclasses
from array import array
from collections.abc import Callable
from operator import le, lt
from typing import Any, ClassVar, Self, TypeVar, cast, dataclass_transform

import msgpack

from sluicemq.wire.errors import InvalidRequest, ProtocolError
from sluicemq.wire.unpacking import LongList, unpack_map

NAME_BYTES_MAX = 255
"""Longest name of a queue, topic, vhost, producer or consumer, in bytes of UTF-8.

Frozen by the log's format: entries with longer names are unreadable, and brokers judge declarations by it at replay."""
TEXT_BYTES_MAX = 4096
"""Longest text or binary in a head; long data belongs into the tail."""
LIST_ITEMS_MAX = 1_000_000
"""Most items of a list in a head; the limit of the head is reached before."""
HEAD_BYTES_MAX = 2 * 1024 * 1024
"""Longest head: room for 100,000 ranges of delivery tags."""

Check = Callable[[Any], str | None]
"""Returns None when the value is fine, else what is wrong with it."""

_REQUIRED = dataclasses.MISSING


@dataclasses.dataclass(frozen=True, slots=True)
class Kind:
    """What a field may hold: a `Check` that can also be described, for documentation and tests.

    Attributes:
        name: Which of the functions below made it.
        check: The check itself.
        bits: Width of an integer, or of the integers in a list.
        minimum: Smallest number.
        maximum: Largest number.
        bytes_max: Longest text or binary.
        items_max: Longest list.
        multiple_of: What the length of a list is a multiple of.
        inner: Kind of what an optional or a list holds.

    """

    name: str
    check: Check
    bits: int = 0
    minimum: float = 0
    maximum: float = 0
    bytes_max: int = 0
    items_max: int = 0
    multiple_of: int = 1
    inner: Kind | None = None

    def __call__(self, value: Any) -> str | None:
        """Return None when *value* is fine, else what is wrong with it."""
        return self.check(value)


def unsigned(bits: int) -> Kind:
    """An integer from 0 to 2**bits - 1."""
    limit = 1 << bits

    def check(value: Any) -> str | None:
        if type(value) is not int:
            return f"is {type(value).__name__} instead of an integer"
        return None if 0 <= value < limit else f"is {value}, outside 0..{limit - 1}"

    return Kind("unsigned", check, bits=bits)


def number(minimum: float, maximum: float) -> Kind:
    """A finite int or float between *minimum* and *maximum*, both included; seconds mostly."""

    def check(value: Any) -> str | None:
        if type(value) not in (int, float):
            return f"is {type(value).__name__} instead of a number"
        # NaN is refused here too: every comparison with it is false.
        return None if minimum <= value <= maximum else f"is {value}, outside {minimum}..{maximum}"

    return Kind("number", check, minimum=minimum, maximum=maximum)


def text(bytes_max: int = TEXT_BYTES_MAX) -> Kind:
    """A text of at most *bytes_max* bytes in UTF-8."""

    def check(value: Any) -> str | None:
        if type(value) is not str:
            return f"is {type(value).__name__} instead of text"
        try:
            size = len(value) if value.isascii() else len(value.encode("utf-8"))
        except UnicodeEncodeError:
            return "is no valid Unicode text (it holds half of a surrogate pair)"
        return None if size <= bytes_max else f"has {size} bytes, allowed are {bytes_max}"

    return Kind("text", check, bytes_max=bytes_max)


def binary(bytes_max: int = TEXT_BYTES_MAX) -> Kind:
    """Bytes, at most *bytes_max*."""

    def check(value: Any) -> str | None:
        if type(value) is not bytes:
            return f"is {type(value).__name__} instead of binary"
        return None if len(value) <= bytes_max else f"has {len(value)} bytes, allowed are {bytes_max}"

    return Kind("binary", check, bytes_max=bytes_max)


def _boolean(value: Any) -> str | None:
    return None if type(value) is bool else f"is {type(value).__name__} instead of true or false"


boolean = Kind("boolean", _boolean)
"""True or False."""


def _anything_plain(value: Any) -> str | None:
    del value
    return None


anything_plain = Kind("anything_plain", _anything_plain)
"""Any msgpack value; the reader checks it further (settings, error fields)."""


def _map_of_text(value: Any) -> str | None:
    if type(value) is not dict:
        return f"is {type(value).__name__} instead of a map"
    return None if set(map(type, value)) <= {str} else "has a key that is no text"


map_of_text = Kind("map_of_text", _map_of_text)
"""A map whose keys are texts; values are checked by the reader."""


def optional(inner: Kind) -> Kind:
    """None or what *inner* accepts."""
    inner_check = inner.check

    def check(value: Any) -> str | None:
        return None if value is None else inner_check(value)

    return Kind("optional", check, inner=inner)


def list_of(inner: Kind, items_max: int = LIST_ITEMS_MAX) -> Kind:
    """A list of at most *items_max* values that *inner* accepts."""
    inner_check = inner.check

    def check(value: Any) -> str | None:
        if type(value) is not list:
            return f"is {type(value).__name__} instead of a list"
        if len(value) > items_max:
            return f"has {len(value)} items, allowed are {items_max}"
        for position, item in enumerate(value):
            problem = inner_check(item)
            if problem:
                return f"item {position} {problem}"
        return None

    return Kind("list_of", check, items_max=items_max, inner=inner)


def _problem_of_numbers(value: Any, bits: int, multiple_of: int, items_max: int) -> str | None:
    if type(value) is not list:
        return f"is {type(value).__name__} instead of a list"
    if len(value) % multiple_of:
        return f"has {len(value)} items, which is no multiple of {multiple_of}"
    if len(value) > items_max:
        return f"has {len(value)} items, allowed are {items_max}"
    if value:
        try:
            # Cheaper than min(): the conversion refuses whatever does not fit 64 bits unsigned.
            wrong = set(map(type, value)) != {int} or not array("Q", value) or (bits < 64 and max(value) >= 1 << bits)
        except OverflowError:
            wrong = True
        if wrong:
            return f"holds something else than integers in 0..{(1 << bits) - 1}"
    return None


def numbers(bits: int = 64, *, multiple_of: int = 1, items_max: int = LIST_ITEMS_MAX) -> Kind:
    """A flat list of unsigned integers whose length is a multiple of *multiple_of*; checked without a Python loop."""

    def check(value: Any) -> str | None:
        return _problem_of_numbers(value, bits, multiple_of, items_max)

    return Kind("numbers", check, bits=bits, multiple_of=multiple_of, items_max=items_max)


def ranges(bits: int = 64, *, items_max: int = LIST_ITEMS_MAX) -> Kind:
    """A flat list `[first, last, first, last, ...]` of ascending ranges that do not touch twice the same integer."""
    limit = 1 << bits

    def check(value: Any) -> str | None:
        if type(value) is list and len(value) == 2:  # one range, the common case, at a third of the price
            first, last = value
            if type(first) is int and type(last) is int and 0 <= first <= last < limit:
                return None
        problem = _problem_of_numbers(value, bits, 2, items_max)
        if problem:
            return problem
        firsts, lasts = value[::2], value[1::2]
        if all(map(le, firsts, lasts)) and all(map(lt, lasts, firsts[1:])):
            return None
        return "holds ranges that do not ascend"

    return Kind("ranges", check, bits=bits, multiple_of=2, items_max=items_max)


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """One field of a message, as declared by `wire_field`.

    Attributes:
        number: Its number on the wire; an even one must be understood.
        name: Its name in the dataclass.
        kind: What it may hold.
        check: The check of *kind*, at hand for the hot path.
        required: Whether it is always sent.
        default: What it is when it was not sent; a list or map is copied.
        put: Sets it on a new instance, past the frozen dataclass's `__setattr__`.

    """

    number: int
    name: str
    kind: Kind
    check: Check
    required: bool
    default: Any
    put: Callable[[Message, Any], None]


def wire_field(number: int, check: Kind, *, default: Any = _REQUIRED) -> Any:
    """Declare one field of a message: its *number* on the wire, its *check*, and its *default* (none = required)."""
    metadata = {"number": number, "kind": check}
    if default is _REQUIRED:
        return dataclasses.field(metadata=metadata)
    if isinstance(default, (list, dict)):
        empty = type(default)
        return dataclasses.field(default_factory=empty, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Message:
    """Base of all messages of the protocol; made concrete by `message`."""

    __slots__ = ()

    TYPE: ClassVar[int]
    FIELDS: ClassVar[tuple[Field, ...]]
    _BY_NUMBER: ClassVar[dict[int, Field]]
    _LISTS: ClassVar[dict[int, LongList]]

    def encode(self) -> bytes:
        """Return the head of the frame that carries this message.

        Raises:
            InvalidRequest: A value that its field does not allow, named in the text; or all together are too long.

        """
        head = {}
        for field in self.FIELDS:
            value = getattr(self, field.name)
            if field.required or value != field.default:
                problem = field.check(value)
                if problem:
                    raise InvalidRequest(f"{type(self).__name__}.{field.name} {problem}")
                head[field.number] = value
        try:
            packed: bytes = msgpack.packb(head)
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            raise InvalidRequest(f"{type(self).__name__} holds what cannot be sent: {error!s:.200}") from error
        if len(packed) > HEAD_BYTES_MAX:
            raise InvalidRequest(
                f"{type(self).__name__} takes {len(packed)} bytes, allowed are {HEAD_BYTES_MAX}: send it in parts"
            )
        return packed

    @classmethod
    def decode(cls, head: bytes | memoryview) -> Self:
        """Return the message that *head* holds.

        Raises:
            ProtocolError: No msgpack map, a required field missing, a wrong type, a field sent twice, or an unknown
                even field.

        """
        if len(head) > HEAD_BYTES_MAX:
            raise ProtocolError(f"{cls.__name__}: a head of {len(head)} bytes, allowed are {HEAD_BYTES_MAX}")
        values = unpack_map(head, cls._LISTS, cls.__name__)
        made = cls.__new__(cls)
        known = cls._BY_NUMBER
        ignored = 0
        for key, value in values.items():
            field = known.get(key)
            if field is None or type(key) is not int:
                if type(key) is not int or key % 2 == 0:
                    raise ProtocolError(f"{cls.__name__}: field {key!r:.40} is unknown here and must not be ignored")
                ignored += 1
                continue
            problem = field.check(value)
            if problem:
                raise ProtocolError(f"{cls.__name__}.{field.name} {problem}")
            field.put(made, value)
        if len(values) - ignored != len(known):
            for field in cls.FIELDS:
                if field.number not in values:
                    default = field.default
                    if field.required:
                        raise ProtocolError(f"{cls.__name__}.{field.name} is missing")
                    field.put(made, default.copy() if type(default) in (list, dict) else default)
        return made


_M = TypeVar("_M", bound=type[Message])


@dataclass_transform(frozen_default=True, field_specifiers=(wire_field,))
def message(type_: int) -> Callable[[_M], _M]:
    """Class decorator: make a class of wire fields into the frozen dataclass that frames of *type_* carry."""

    def decorate(cls: _M) -> _M:
        made: Any = dataclasses.dataclass(frozen=True, slots=True)(cls)
        fields = []
        for declared in dataclasses.fields(made):
            factory = declared.default_factory
            default = declared.default if factory is dataclasses.MISSING else factory()
            kind = declared.metadata["kind"]
            fields.append(
                Field(
                    number=declared.metadata["number"],
                    name=declared.name,
                    kind=kind,
                    check=kind.check,
                    required=default is dataclasses.MISSING,
                    default=default,
                    put=getattr(made, declared.name).__set__,
                )
            )
        made.TYPE = type_
        made.FIELDS = tuple(fields)
        made._BY_NUMBER = {field.number: field for field in fields}
        made._LISTS = {
            field.number: LongList(field.name, field.kind.items_max, field.kind.bits > 0)
            for field in fields
            if field.kind.items_max
        }
        if len(made._BY_NUMBER) != len(fields):
            raise TypeError(f"{cls.__name__} uses a field number twice")
        return cast("_M", made)

    return decorate
