"""How one column of a batch is read and checked, item by item or, where it can be, without looking at any item.

This module owns the shape of a column: a msgpack list with as many values as the batch has messages. It must not
know which columns a batch has. Everything it reads may come from a hostile peer: the length of a list is compared
with the batch's count before anything is built, and what is no plain value of the column's type is refused before
it can take memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgpack

from sluicemq.wire.errors import BatchTooLarge, InvalidRequest, ProtocolError, UnknownOption
from sluicemq.wire.unpacking import UNPACK_ERRORS, refuse_extension

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HEADERS_FORMAT_MSGPACK = 1
HEADER_ITEMS_MAX = 256
"""Most items of one map of headers, and of each map and list within it."""
BATCH_VALUES_MAX = 20_000
"""Most values of a batch in all columns other than bodies together, a None counted too; so are the items of the maps
and lists in headers, and an empty map or list counts as one. Looking at a value costs some tenths of a microsecond, and
whoever checks or splits a batch does nothing else meanwhile."""
BATCH_COLUMNS_BYTES_MAX = 4 * 1024 * 1024
"""Most bytes of a batch in all columns other than bodies together: unlike bodies they are decoded to be checked, all of
them in one go."""

_Container = TypeVar("_Container", list[Any], dict[Any, Any])

_PIECE_BYTES = 64 * 1024
_NONE = b"\xc0"
_FIXARRAY, _FIXARRAY_MAX = 0x90, 15
_ARRAY16, _ARRAY16_MAX = 0xDC, 0xFFFF
_ARRAY32 = 0xDD
_BIN32 = 0xC6
_EXT32 = 0xC9
_BIN_HEAD_BYTES = {0xC4: 2, 0xC5: 3, _BIN32: 5}
_LARGE_HEAD_BYTES = _BIN_HEAD_BYTES[_BIN32]


class UniformItem(NamedTuple):
    """What is known about a column of binaries that all have the same length.

    Attributes:
        first: Where in the column the first item begins.
        stride: Bytes from one item to the next.
        value_bytes: Length of each binary.

    """

    first: int
    stride: int
    value_bytes: int


def list_head(count: int) -> bytes:
    """Return the bytes with which a msgpack list of *count* values begins."""
    if count <= _FIXARRAY_MAX:
        return bytes((_FIXARRAY | count,))
    if count <= _ARRAY16_MAX:
        return bytes((_ARRAY16,)) + count.to_bytes(2, "big")
    return bytes((_ARRAY32,)) + count.to_bytes(4, "big")


def uniform_item(column: bytes | memoryview, count: int) -> UniformItem | None:
    """Return the shape of *column* if it is a list of *count* binaries of one length; None if it is anything else.

    This is a proof: every item's head was compared, by strides, which costs a nanosecond a message. Programs that
    send records of a fixed size are common, and nothing cheaper tells that a batch is what it claims to be.
    """
    head = list_head(count)
    first = len(head)
    if len(column) <= first or column[:first] != head:
        return None
    head_bytes = _BIN_HEAD_BYTES.get(column[first])
    if head_bytes is None:
        return None
    value_bytes = int.from_bytes(column[first + 1 : first + head_bytes], "big")
    stride = head_bytes + value_bytes
    if first + count * stride != len(column):
        return None
    for place in range(first, first + head_bytes):
        if column[place::stride] != bytes((column[place],)) * count:
            return None
    return UniformItem(first, stride, value_bytes)


def measure_bodies(column: memoryview, count: int, *, with_largest: bool) -> tuple[int, int]:
    """Return how long the *count* bodies in *column* are together, and the longest of them, keeping none.

    Without *with_largest*, which costs time of its own, the second number is 0 unless it is known anyway.

    Raises:
        ProtocolError: The column is no list of *count* binaries.

    """
    uniform = uniform_item(column, count)
    if uniform is not None:
        return uniform.value_bytes * count, uniform.value_bytes
    held = largest = found = 0
    place = _place_of_first(column, count)
    while place < len(column):
        # What is large is passed over, what is small is decoded many at a time: neither touches much fresh memory.
        passed, passed_bytes, longest, end = _pass_large_bodies(column, place)
        if end == place:
            passed, passed_bytes, longest, end = _pass_small_bodies(column, place, with_largest)
        found += passed
        held += passed_bytes
        largest = max(largest, longest)
        place = end
    if found != count:
        raise ProtocolError(f"batch column BODIES is no list of {count} values")
    return held, largest


def decode_bodies(column: memoryview, count: int, body_bytes: int) -> list[bytes]:
    """Return the *count* bodies in *column*, together *body_bytes* long.

    Raises:
        ProtocolError: It holds anything else.

    """
    bodies: list[bytes] = []
    uniform = uniform_item(column, count)
    if uniform is not None:
        bodies = msgpack.unpackb(column)
        held = uniform.value_bytes * count
    else:
        held = 0
        for piece, piece_bytes in _pieces_of_bodies(column, count):
            bodies += piece
            held += piece_bytes
    check_body_bytes(body_bytes, held)
    return bodies


def cut_bodies(
    column: memoryview, first: int, end: int, known: tuple[int, int] | None = None
) -> tuple[memoryview, int, int]:
    """Return the packed bodies *first* to *end - 1* of a checked *column*, untouched, their length, and where they end.

    Walks from head to head, a quarter of a microsecond a body, and copies nothing: for large bodies, whose decoding
    would touch megabytes of fresh memory. *known* is a body and its place, from where to walk if it comes early enough.

    Raises:
        ProtocolError: The column holds anything else than binaries, or ends too early.

    """
    begin, place = known if known is not None and known[0] <= first else (0, 0)
    place = place or {_ARRAY16: 3, _ARRAY32: 5}.get(column[0], 1)
    start = place
    body_bytes = 0
    try:
        for index in range(begin, end):
            if index == first:
                start, body_bytes = place, 0
            head_bytes = _BIN_HEAD_BYTES[column[place]]
            value_bytes = int.from_bytes(column[place + 1 : place + head_bytes], "big")
            body_bytes += value_bytes
            place += head_bytes + value_bytes
    except (IndexError, KeyError):
        raise ProtocolError("a batch holds a body that is not binary") from None
    if place > len(column):
        raise ProtocolError("a batch ends within a body")
    return column[start:place], body_bytes, place


def check_body_bytes(announced: int, held: int) -> None:
    """Raise ProtocolError unless the header of a batch said the truth about its bodies."""
    if announced != held:
        raise ProtocolError(f"a batch announces {announced} bytes of bodies but holds {held}")


def _head_bytes_read() -> int:
    """Return how much of a head an unpacker counts as read while it waits for the rest of the value.

    All of it where msgpack is compiled, nothing where it is pure Python.
    """
    unpacker = msgpack.Unpacker()
    unpacker.feed(bytes((_BIN32, 0, 1, 0, 0)))
    next(unpacker, None)
    read: int = unpacker.tell()
    return read


_HEAD_BYTES_READ = _head_bytes_read()


def _place_of_first(column: memoryview, count: int) -> int:
    """Return where the first value of *column* begins, having seen that it is a list of *count*."""
    head = list_head(count)
    if column[: len(head)] == head:
        return len(head)
    place = {_ARRAY16: 3, _ARRAY32: 5}.get(column[0], 1) if len(column) else 0
    unpacker = _unpacker(column)
    unpacker.feed(column[:place])
    _read_list_head(unpacker, column, count, "BODIES")
    return place


def _pass_large_bodies(column: memoryview, place: int) -> tuple[int, int, int, int]:
    """Pass over the bodies from *place* on that are larger than a piece, without looking into them.

    Return how many they were, their length together, the longest, and where they end.
    """
    passed = passed_bytes = longest = 0
    while len(column) - place > _LARGE_HEAD_BYTES + _PIECE_BYTES and column[place] == _BIN32:
        value_bytes = int.from_bytes(column[place + 1 : place + _LARGE_HEAD_BYTES], "big")
        if value_bytes < _PIECE_BYTES:
            break
        passed += 1
        passed_bytes += value_bytes
        longest = max(longest, value_bytes)
        place += _LARGE_HEAD_BYTES + value_bytes
        if place > len(column):
            raise ProtocolError("a batch ends within a body")
    return passed, passed_bytes, longest, place


def _pass_small_bodies(column: memoryview, place: int, with_largest: bool) -> tuple[int, int, int, int]:
    """Decode bodies from *place* on, up to the end or to one that is larger than a piece, keeping none.

    Return how many they were, their length together, the longest (0 without *with_largest*), and where they end.
    """
    passed = passed_bytes = longest = 0
    rest = column[place:]
    unpacker = _unpacker(rest, max_str_len=0)
    fed = 0
    while fed < len(rest):
        unpacker.feed(rest[fed : fed + _PIECE_BYTES])
        fed = min(len(rest), fed + _PIECE_BYTES)
        piece, piece_bytes = _take_bodies(unpacker)
        if piece:
            passed += len(piece)
            passed_bytes += piece_bytes
            if with_largest:
                longest = max(longest, max(map(len, piece)))
        read = unpacker.tell()
        if fed - read > _LARGE_HEAD_BYTES + _PIECE_BYTES:
            # So much waits behind the head of a value that is not whole: no shorter head announces so long a value.
            end = place + read - _HEAD_BYTES_READ
            if column[end] != _BIN32:
                raise ProtocolError("a batch holds a body that is not binary")
            if end > place and column[end - 1] == _EXT32:
                # Or is this the one type with a longer head, of which we see the second byte? Then no value ends here.
                _pass_small_bodies(column[:end], place, False)
            return passed, passed_bytes, longest, end
    if not _between_values(unpacker):
        raise ProtocolError("a batch ends within a body")
    return passed, passed_bytes, longest, len(column)


def _take_bodies(unpacker: msgpack.Unpacker) -> tuple[list[bytes], int]:
    """Return the bodies that *unpacker* holds whole, and their length together."""
    try:
        piece = list(unpacker)
        # Joining takes half the time of looking at each type and length, and accepts binaries only.
        return piece, len(b"".join(piece))
    except UNPACK_ERRORS:
        raise ProtocolError("a batch holds a body that is not binary") from None


def _pieces_of_bodies(column: memoryview, count: int) -> Iterator[tuple[list[bytes], int]]:
    """Yield the bodies in *column* some at a time, with their length together."""
    unpacker = _unpacker(column, max_str_len=0)
    found = 0
    for start in range(0, len(column), _PIECE_BYTES):
        unpacker.feed(column[start : start + _PIECE_BYTES])
        if start == 0:
            _read_list_head(unpacker, column, count, "BODIES")
        piece, piece_bytes = _take_bodies(unpacker)
        if piece:
            found += len(piece)
            yield piece, piece_bytes
    _check_end(unpacker, found, count, "BODIES")


def decode_texts(column: memoryview, count: int, bytes_max: int, name: str) -> list[str | None]:
    """Return the *count* texts (or None) in *column*.

    Raises:
        ProtocolError: It holds anything else.
        InvalidRequest: One is longer than *bytes_max* bytes of UTF-8.

    """
    values: list[str | None] = _read_values(column, count, name, max_bin_len=0)
    if not set(map(type, values)) <= {str, type(None)}:
        raise ProtocolError(f"batch column {name} holds something else than text")
    check_texts(values, bytes_max, name)
    return values


def check_texts(values: Sequence[Any], bytes_max: int, name: str) -> None:
    """Check that *values* are texts (or None) of at most *bytes_max* bytes of UTF-8.

    Raises:
        InvalidRequest: One is not.

    """
    if not set(map(type, values)) <= {str, type(None)}:
        wrong = next(type(value).__name__ for value in values if type(value) not in (str, type(None)))
        raise InvalidRequest(f"a value of batch column {name} is {wrong}; it must be text or None")
    texts = list(filter(None, values))
    if max(map(len, texts), default=0) * 4 <= bytes_max:  # no character takes more than four bytes
        return
    try:
        longest = max(len(value.encode("utf-8")) for value in texts)
    except UnicodeEncodeError:
        raise InvalidRequest(f"a value of batch column {name} is no valid Unicode text") from None
    if longest > bytes_max:
        raise InvalidRequest(f"a value of batch column {name} has {longest} bytes, allowed are {bytes_max}")


def decode_numbers(column: memoryview, count: int, minimum: int, maximum: int, name: str) -> list[int | None]:
    """Return the *count* integers (or None) in *column*.

    Raises:
        ProtocolError: It holds anything else.
        InvalidRequest: One is below *minimum* or beyond *maximum*.

    """
    values: list[int | None] = _read_values(column, count, name, max_bin_len=0, max_str_len=0)
    if not set(map(type, values)) <= {int, type(None)}:
        raise ProtocolError(f"batch column {name} holds something else than integers")
    check_numbers(values, minimum, maximum, name)
    return values


def check_numbers(values: Sequence[Any], minimum: int, maximum: int, name: str) -> None:
    """Check that *values* are integers (or None) from *minimum* to *maximum*.

    Raises:
        InvalidRequest: One is not.

    """
    types = set(map(type, values))
    if not types <= {int, type(None)}:
        wrong = next(type(value).__name__ for value in values if type(value) not in (int, type(None)))
        raise InvalidRequest(f"a value of batch column {name} is {wrong}; it must be an integer or None")
    present = [value for value in values if value is not None] if type(None) in types else values
    if present:
        least, most = min(present), max(present)
        if least < minimum or most > maximum:
            wrong = least if least < minimum else most
            raise InvalidRequest(
                f"a value of batch column {name} is {wrong}; it must be {minimum} to {maximum}",
                column=name,
                minimum=minimum,
                maximum=maximum,
            )


def check_values(values: int) -> None:
    """Raise BatchTooLarge when a batch has more than `BATCH_VALUES_MAX` *values* other than bodies."""
    if values > BATCH_VALUES_MAX:
        raise BatchTooLarge(
            f"a batch of {values} or more values beside its bodies (keys, ids, subjects, times, priorities, headers "
            f"and their items); allowed are {BATCH_VALUES_MAX}: send it in parts",
            values=values,
            values_max=BATCH_VALUES_MAX,
        )


def check_column_bytes(column_bytes: int) -> None:
    """Raise BatchTooLarge when a batch has more than `BATCH_COLUMNS_BYTES_MAX` bytes other than bodies."""
    if column_bytes > BATCH_COLUMNS_BYTES_MAX:
        raise BatchTooLarge(
            f"a batch of {column_bytes} bytes beside its bodies (keys, ids, subjects, headers); allowed are "
            f"{BATCH_COLUMNS_BYTES_MAX}: send it in parts",
            column_bytes=column_bytes,
            column_bytes_max=BATCH_COLUMNS_BYTES_MAX,
        )


def decode_headers(column: bytes | memoryview, count: int, name: str, values: int = 0) -> list[dict[str, Any] | None]:
    """Return the *count* maps of headers (or None) in *column*.

    Values may be plain scalars, lists and maps. *values* says how many the batch has that count against
    `BATCH_VALUES_MAX`, before any item of a header.

    Raises:
        ProtocolError: It holds anything else.
        BatchTooLarge: Too many items in all maps and lists together.
        UnknownOption: The column has a format that this version does not know.

    """
    if len(column) == 0 or column[0] != HEADERS_FORMAT_MSGPACK:
        raise UnknownOption("the headers column has a format that is unknown here; 1 = msgpack maps")
    column = memoryview(column)[1:]

    def take_items(value: _Container) -> _Container:
        nonlocal values
        values += len(value) or 1
        if values > BATCH_VALUES_MAX:
            check_values(values)
        return value

    def take_map(value: dict[Any, Any]) -> dict[Any, Any]:
        if not set(map(type, value)) <= {str}:
            raise ValueError("headers that are no map with text keys")
        return take_items(value)

    headers: list[dict[str, Any] | None] = _read_values(
        column,
        count,
        name,
        max_array_len=HEADER_ITEMS_MAX,
        max_map_len=HEADER_ITEMS_MAX,
        list_hook=take_items,
        object_hook=take_map,
    )
    if not set(map(type, headers)) <= {dict, type(None)}:
        raise ProtocolError("a batch holds headers that are no map with text keys")
    return headers


def _unpacker(column: memoryview, **limits: Any) -> msgpack.Unpacker:
    options = {"max_array_len": 0, "max_map_len": 0, **limits}
    return msgpack.Unpacker(
        strict_map_key=False,
        max_buffer_size=len(column) + len(_NONE),
        read_size=min(_PIECE_BYTES, len(column) + len(_NONE)),
        max_ext_len=0,
        ext_hook=refuse_extension,
        **options,
    )


def _read_list_head(unpacker: msgpack.Unpacker, column: memoryview, count: int, name: str) -> None:
    try:
        announced = unpacker.read_array_header()
    except UNPACK_ERRORS:
        announced = None
    if announced != count or len(column) < count:
        raise ProtocolError(f"batch column {name} is no list of {count} values")


def _check_end(unpacker: msgpack.Unpacker, found: int, count: int, name: str) -> None:
    """Check that *count* values were found and that the column ends behind the last."""
    if found != count or not _between_values(unpacker):
        raise ProtocolError(f"batch column {name} is no list of {count} values")


def _between_values(unpacker: msgpack.Unpacker) -> bool:
    """Return whether *unpacker*, which has nothing left, stands between two values and not within one."""
    # It stops at the end of the bytes as well as within a value that lacks some, and does not say which. So it gets one
    # more value: only where it stood between values does this come out as it went in.
    unpacker.feed(_NONE)
    try:
        return next(unpacker, False) is None
    except UNPACK_ERRORS:
        return False


def _read_values(column: memoryview, count: int, name: str, **limits: Any) -> list[Any]:
    unpacker = _unpacker(column, **limits)
    unpacker.feed(column)
    _read_list_head(unpacker, column, count, name)
    try:
        values = list(unpacker)
    except BatchTooLarge:
        raise
    except UNPACK_ERRORS as error:
        raise ProtocolError(f"batch column {name} holds what it must not ({error!s:.200})") from None
    _check_end(unpacker, len(values), count, name)
    return values
