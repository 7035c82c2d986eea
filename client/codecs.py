"""Codecs: what a body means, for the handlers of `App` and for whoever wants to use them alone. Pure.

A codec turns a value into bytes and back. `codec_for` finds the one for an annotation: bytes, str, plain values, lists
and dicts, dataclasses, and models of pydantic, which is used where the program has it and never asked for otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import types
import typing
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Any, Protocol

import msgpack

from sluicemq.client.errors import Undecodable
from sluicemq.client.handling import error_text

PLAIN_KINDS = (bool, int, float, list, dict, tuple, type(None))
"""Kinds of values that JSON carries, beside text."""

KINDS_MAX = 256
"""Types of values whose codecs are remembered."""


class Codec(Protocol):
    """Turns values into bodies and back. Any object with these two methods is one."""

    def encode(self, value: Any) -> bytes:
        """Return the body that means *value*; TypeError or ValueError where there is none."""

    def decode(self, body: bytes) -> Any:
        """Return what *body* means; any exception says that it means nothing."""


class BytesCodec:
    """The body as it is."""

    def encode(self, value: Any) -> bytes:
        """Return *value* as bytes."""
        if not isinstance(value, bytes | bytearray | memoryview):
            raise TypeError(f"a body must be bytes, not {type(value).__name__}: choose a codec")
        return bytes(value)

    def decode(self, body: bytes) -> bytes:
        """Return the body."""
        return body


class TextCodec:
    """Text in UTF-8."""

    def encode(self, value: Any) -> bytes:
        """Return the text as bytes."""
        if not isinstance(value, str):
            raise TypeError(f"a text must be str, not {type(value).__name__}")
        return value.encode()

    def decode(self, body: bytes) -> str:
        """Return the text."""
        return body.decode()


class JsonCodec:
    """JSON in UTF-8.

    Args:
        kind: The type that a decoded value must have; None: any.

    """

    def __init__(self, kind: type | None = None) -> None:
        self._kind = kind

    def encode(self, value: Any) -> bytes:
        """Return the value as JSON."""
        return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()

    def decode(self, body: bytes) -> Any:
        """Return the value."""
        return _of_kind(json.loads(body), self._kind)


class MsgpackCodec:
    """msgpack."""

    def encode(self, value: Any) -> bytes:
        """Return the value as msgpack."""
        packed: bytes = msgpack.packb(value)
        return packed

    def decode(self, body: bytes) -> Any:
        """Return the value."""
        return msgpack.unpackb(body, strict_map_key=False)


class DataclassCodec:
    """A dataclass as a JSON object, dataclasses within it included.

    A body that lacks a field without a default, has a field that the class has not, or has a plain value of another
    type than the class says, cannot be decoded. What else an annotation says is not looked at: use a model of pydantic
    then.
    """

    def __init__(self, kind: type) -> None:
        self._make = _maker_of(kind)

    def encode(self, value: Any) -> bytes:
        """Return the object as JSON."""
        return JSON.encode(dataclasses.asdict(value))

    def decode(self, body: bytes) -> Any:
        """Return the object."""
        return self._make(json.loads(body))


class PydanticCodec:
    """A model of pydantic, or whatever its TypeAdapter takes, as JSON."""

    def __init__(self, kind: Any) -> None:
        self._adapter = sys.modules["pydantic"].TypeAdapter(kind)

    def encode(self, value: Any) -> bytes:
        """Return the value as JSON."""
        dumped: bytes = self._adapter.dump_json(value)
        return dumped

    def decode(self, body: bytes) -> Any:
        """Return the value, validated."""
        return self._adapter.validate_json(body)


class ValueCodec:
    """For values of which nobody said what they are: bytes as they are, text in UTF-8, everything else as JSON.

    It decodes to bytes.
    """

    def encode(self, value: Any) -> bytes:
        """Return the body for *value*, by its type."""
        kind: Hashable = type(value)  # type: ignore[assignment] # mypy doubts that types can be hashed
        return _codec_for_kind(kind).encode(value)

    def decode(self, body: bytes) -> bytes:
        """Return the body."""
        return body


BYTES = BytesCodec()
TEXT = TextCodec()
JSON = JsonCodec()
MSGPACK = MsgpackCodec()
VALUE = ValueCodec()


def codec_for(annotation: Any) -> Codec:
    """Return the codec for a type, as a handler's annotation names it.

    Args:
        annotation: bytes, str, bool, int, float, list, dict (also with the types of their items), a TypedDict, a
            dataclass, a model of pydantic, a union of these with None, or Any for bytes.

    Raises:
        TypeError: None of these.

    """
    origin = typing.get_origin(annotation)
    if origin in (typing.Union, types.UnionType):
        kinds = [kind for kind in typing.get_args(annotation) if kind is not type(None)]
        annotation = kinds[0] if len(kinds) == 1 else annotation
        origin = typing.get_origin(annotation)
    if annotation in (bytes, bytearray, memoryview, Any):
        return BYTES
    if annotation is str:
        return TEXT
    if _is_pydantic(annotation):
        return PydanticCodec(annotation)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return DataclassCodec(annotation)
    kind = origin or annotation
    if typing.is_typeddict(kind) or kind in (Mapping, dict):
        return JsonCodec(dict)
    if kind in (Sequence, list):
        return JsonCodec(list)
    if kind in PLAIN_KINDS:
        return JsonCodec(list if kind is tuple else kind)
    raise TypeError(
        f"no codec is known for {annotation!r:.100}: annotate the value with bytes, str, list, dict, a dataclass or a "
        "pydantic model, or name a codec with codec="
    )


@lru_cache(maxsize=KINDS_MAX)
def _codec_for_kind(kind: Hashable) -> Codec:
    return codec_for(kind)


def decoded(codec: Codec, body: bytes) -> Any:
    """Return what *body* means.

    Raises:
        Undecodable: It means nothing, and never will.

    """
    try:
        return codec.decode(body)
    except Exception as error:
        raise Undecodable(f"the body cannot be decoded: {error_text(error)}") from error


def _is_pydantic(annotation: Any) -> bool:
    """Whether pydantic must decode it: its own models, its dataclasses, and lists or unions of them."""
    if "pydantic" not in sys.modules:
        return False
    if hasattr(annotation, "__pydantic_validator__"):
        return True
    return any(_is_pydantic(part) for part in typing.get_args(annotation))


def _of_kind(value: Any, kind: type | None) -> Any:
    if kind is None or (isinstance(value, kind) and not (kind is int and isinstance(value, bool))):
        return value
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    raise TypeError(f"it holds {value!r:.40}, which is no {kind.__name__}")


def _maker_of(kind: Any) -> Callable[[Any], Any]:
    """Return what makes an object of a dataclass out of a decoded JSON object."""
    hints = typing.get_type_hints(kind)
    makers: dict[str, Callable[[Any], Any]] = {}
    for field in dataclasses.fields(kind):
        hint = hints[field.name]
        if dataclasses.is_dataclass(hint):
            makers[field.name] = _maker_of(hint)
        elif hint in (str, bool, int, float, list, dict):
            makers[field.name] = partial(_of_kind, kind=hint)
        else:
            makers[field.name] = partial(_of_kind, kind=None)

    def make(value: Any) -> Any:
        if not isinstance(value, dict):
            raise TypeError(f"it holds {value!r:.40}, which is no {kind.__name__}")
        unknown = sorted(set(value) - set(makers))
        if unknown:
            raise TypeError(f"{kind.__name__} has no field {', '.join(map(repr, unknown))}")
        found = {}
        for name, part in value.items():
            try:
                found[name] = makers[name](part)
            except TypeError as error:
                raise TypeError(f"{name}: {error}") from None
        return kind(**found)

    return make
