"""msgpack from strangers: plain types only, and never more memory than a small multiple of the bytes that came.

This module owns the limits that msgpack itself does not set. It must not know fields, messages or batches.

Three things make unpacking dangerous. msgpack makes room for as many items as an array announces before it reads the
first, and arrays nest a thousand deep, so a few kilobytes can ask for gigabytes. An empty map takes one byte on the
wire and sixty-four in memory. And extension types (timestamps are one) become objects that no reader expects. So
short input is unpacked in one step, where the worst is a few megabytes for an instant; long input item by item,
where every array and map is bounded, and all of them together; extension types are refused everywhere.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn, TypeVar

import msgpack

from sluicemq.wire.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

SHORT_BYTES_MAX = 1024
"""Input up to this length is unpacked in one step: at worst it takes 3 MiB for an instant."""
PLAIN_ITEMS_MAX = 1024
"""Most items of an array or map that is not declared as a long list."""
CONTAINERS_MAX = 16_384
"""Most arrays and maps, at any depth, in one long head."""
_PIECE_ITEMS = 4096

UNPACK_ERRORS = (ValueError, msgpack.UnpackException, RecursionError, TypeError, OverflowError)
"""What msgpack raises for bytes that are not what they seem; UnicodeDecodeError is a ValueError."""

_Container = TypeVar("_Container", list[Any], dict[Any, Any])


class LongList(NamedTuple):
    """A value of a map that may be a long list.

    Attributes:
        name: What errors call it.
        items_max: How long.
        integers_only: Whether its items are integers and nothing else.

    """

    name: str
    items_max: int
    integers_only: bool


class ContainerBudget:
    """Counts arrays and maps while msgpack builds them; its methods are hooks.

    Args:
        containers_max: How many are fine.

    """

    __slots__ = ("_left",)

    def __init__(self, containers_max: int) -> None:
        self._left = containers_max

    def spend(self, container: _Container) -> _Container:
        """Return *container*; ValueError when it is one too many."""
        self._left -= 1
        if self._left < 0:
            raise ValueError("too many arrays and maps")
        return container


def refuse_extension(code: int, data: bytes) -> NoReturn:
    """Hook for extension types, which only get here when they have no data."""
    raise ValueError(f"extension type {code} with {len(data)} bytes is unknown here")


def unpack_plain(data: bytes | memoryview, what: str) -> Any:
    """Return the one msgpack value in *data*, made of plain types only.

    Raises:
        ProtocolError: *data* is not exactly one msgpack value, nests too deeply, has an array or map with more than
            `PLAIN_ITEMS_MAX` items, or an extension type. *what* names it in the text.

    """
    try:
        return msgpack.unpackb(
            data,
            strict_map_key=False,
            max_array_len=PLAIN_ITEMS_MAX,
            max_map_len=PLAIN_ITEMS_MAX,
            max_ext_len=0,
            ext_hook=refuse_extension,
        )
    except UNPACK_ERRORS as error:
        raise ProtocolError(f"{what}: not a msgpack value ({type(error).__name__}: {error!s:.200})") from None


def unpack_map(data: bytes | memoryview, lists: Mapping[int, LongList], what: str) -> dict[Any, Any]:
    """Return the one map in *data*, no key twice; values are long lists only where *lists* says so, by key.

    Raises:
        ProtocolError: It is none; *what* names it in the text.

    """
    if len(data) > SHORT_BYTES_MAX:
        return _unpack_long_map(data, lists, what)
    values = unpack_plain(data, what)
    if type(values) is not dict:
        raise ProtocolError(f"{what}: the head is {type(values).__name__} instead of a map")
    first = data[0]
    announced = first & 0x0F if first & 0xF0 == 0x80 else int.from_bytes(data[1 : 3 if first == 0xDE else 5], "big")
    if announced != len(values):  # msgpack lets the last of two equal keys win
        raise ProtocolError(f"{what}: a field was sent twice")
    return values


def _unpack_long_map(data: bytes | memoryview, lists: Mapping[int, LongList], what: str) -> dict[Any, Any]:
    budget = ContainerBudget(CONTAINERS_MAX)
    unpacker = msgpack.Unpacker(
        strict_map_key=False,
        max_buffer_size=len(data),
        read_size=len(data),
        max_array_len=PLAIN_ITEMS_MAX,
        max_map_len=PLAIN_ITEMS_MAX,
        max_ext_len=0,
        ext_hook=refuse_extension,
        list_hook=budget.spend,
        object_hook=budget.spend,
    )
    unpacker.feed(data)
    values: dict[Any, Any] = {}
    where = what
    try:
        for _ in range(unpacker.read_map_header()):
            where = what
            key = unpacker.unpack()
            if key in values:
                raise ProtocolError(f"{what}: a field was sent twice")
            declared = lists.get(key)
            if declared is None:
                values[key] = unpacker.unpack()
            else:
                where = f"{what}.{declared.name}"
                values[key] = _unpack_list(unpacker, declared, where)
        if unpacker.tell() != len(data):
            raise ProtocolError(f"{what}: {len(data) - unpacker.tell()} bytes follow the map")
    except UNPACK_ERRORS as error:
        raise ProtocolError(
            f"{where}: not the msgpack value expected ({type(error).__name__}: {error!s:.200})"
        ) from None
    return values


def _unpack_list(unpacker: msgpack.Unpacker, declared: LongList, where: str) -> list[Any]:
    """Return the list that comes next, refused at the first wrong piece rather than after the last."""
    count = unpacker.read_array_header()
    if count > declared.items_max:
        raise ProtocolError(f"{where} has {count} items, allowed are {declared.items_max}")
    items: list[Any] = []
    while len(items) < count:
        piece = list(islice(unpacker, min(_PIECE_ITEMS, count - len(items))))
        if not piece:
            raise ProtocolError(f"{where} ends after {len(items)} of {count} items")
        if declared.integers_only and set(map(type, piece)) != {int}:
            raise ProtocolError(f"{where} holds something else than integers")
        items += piece
    return items
