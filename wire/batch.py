"""The columnar batch: many messages as a few columns, built by the client, stored and forwarded untouched.

This module owns the bytes of a batch. It must not know queues, entries or frames.

Why columns: packing 1,000 bodies as one msgpack list costs 0.06 µs a message, as 1,000 rows ten times that
(see ARCHITECTURE.md, "What things cost"). So no step between producer and consumer does per-message work in Python
unless a feature asks for it.

    offset  size  field (big-endian)
    0       1     batch version (1)
    1       1     low nibble: codec of the bodies column (0 = none); high nibble: zero
    2       2     columns present, one bit each (`Column`), lowest bit first in the batch
    4       4     count of messages, at least 1
    8       4     bytes of all columns before compression
    12      4     bytes of all bodies together
    16      4*n   length of each column present
    ...           the columns: msgpack lists of `count` values; None where a message has no value

Columns by which a broker decides (keys, ids, times) come first and are never compressed; bodies come last.
The headers column begins with a format byte, so that typed header dialects can join (1 = msgpack maps). How one
column is read stands in `columns`.

DUE_TIMES says when a message may be delivered first: milliseconds since 1970, or, where negative, so many milliseconds
after the broker has taken the batch. TTLS says for how many milliseconds it may be delivered from then on. PRIORITIES
are 0 to 9, and 9 goes first. None says: at once, for ever, and 0.
"""

from __future__ import annotations

import enum
from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from sluicemq.wire.columns import (
    HEADERS_FORMAT_MSGPACK,
    check_body_bytes,
    check_column_bytes,
    check_numbers,
    check_texts,
    check_values,
    cut_bodies,
    decode_bodies,
    decode_headers,
    decode_numbers,
    decode_texts,
    list_head,
    measure_bodies,
    uniform_item,
)
from sluicemq.wire.errors import BatchTooLarge, InvalidRequest, MessageTooLarge, ProtocolError, UnknownOption
from sluicemq.wire.messages import SECONDS_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sluicemq.wire.columns import UniformItem

BATCH_VERSION = 1
BATCH_MESSAGES_MAX = 100_000
BATCH_BYTES_MAX = 16 * 1024 * 1024
"""Largest batch that a broker can be set to take."""
BATCH_BYTES_DEFAULT = 4 * 1024 * 1024
"""Largest batch that a broker takes unless it is set otherwise. What is done with a batch in one go, such as freeing
its memory or reading it back, costs both sides about half a millisecond a MiB, and nobody else is served meanwhile."""
PINNED_SHARE = 8
"""Bodies cut out of a batch are copied where they are less than one part in this many of it: a consumer that is slow to
take them must not keep the whole batch in memory."""
LARGE_BODY_BYTES = 256
"""Bodies of this mean length are cut out of a batch by their places instead of being decoded."""
MESSAGE_BYTES_MAX = 8 * 1024 * 1024
"""Largest body of a message that a broker can be set to take."""
MESSAGE_ROOM_BYTES = 64 * 1024
"""Room in the largest batch for what the largest message has beside its body."""
MESSAGE_BYTES_DEFAULT = BATCH_BYTES_DEFAULT - MESSAGE_ROOM_BYTES
"""Largest body of a message that a broker takes unless it is set otherwise."""
KEY_BYTES_MAX = 1024
MESSAGE_ID_BYTES_MAX = 256
SUBJECT_BYTES_MAX = 1024
DUE_MS_MAX = 253_402_300_799_999
"""Latest time at which a message may be due: the end of the year 9999, in milliseconds since 1970."""
DELAY_MS_MAX = TTL_MS_MAX = round(SECONDS_MAX * 1000)
"""Longest delay and longest lifetime: ten years, in milliseconds."""
PRIORITY_MAX = 9
"""The priority that goes first."""

_HEADER = Struct(">BBHIII")
_LENGTH = Struct(">I")


class Column(enum.IntEnum):
    """Which columns a batch has, in the order in which they are stored: bits of a number.

    No `IntFlag`: each `&` with one of those is five calls in Python, and every batch has some on both of its sides.
    """

    KEYS = 0x0001
    MESSAGE_IDS = 0x0002
    SUBJECTS = 0x0004
    DUE_TIMES = 0x0008
    TTLS = 0x0010
    PRIORITIES = 0x0020
    BODY_IS_REFERENCE = 0x0040
    HEADERS = 0x0100
    BODIES = 0x8000


_BODIES_ONLY = int(Column.BODIES)
_COLUMN_BITS = tuple(int(column) for column in Column)
_KNOWN_BITS = sum(_COLUMN_BITS)
_TEXT_BYTES_MAX: dict[int, int] = {
    Column.KEYS: KEY_BYTES_MAX,
    Column.MESSAGE_IDS: MESSAGE_ID_BYTES_MAX,
    Column.SUBJECTS: SUBJECT_BYTES_MAX,
}
_NUMBER_RANGE: dict[int, tuple[int, int]] = {
    Column.DUE_TIMES: (-DELAY_MS_MAX, DUE_MS_MAX),
    Column.TTLS: (1, TTL_MS_MAX),
    Column.PRIORITIES: (0, PRIORITY_MAX),
}
DELIVERY_COLUMNS = Column.DUE_TIMES | Column.TTLS | Column.PRIORITIES
"""Columns that say when, for how long and how soon a message is delivered."""
SUPPORTED_COLUMNS = (
    Column.KEYS | Column.MESSAGE_IDS | Column.SUBJECTS | DELIVERY_COLUMNS | Column.HEADERS | Column.BODIES
)
"""Columns that this version acts upon; a batch with another one is refused, never half obeyed."""


class BatchFacts(NamedTuple):
    """What the fixed header of a batch says.

    Attributes:
        messages: How many messages the batch holds.
        columns: Bits of `Column`.
        body_bytes: Bytes of all bodies together.

    """

    messages: int
    columns: int
    body_bytes: int


def encode_batch(
    bodies: Sequence[bytes | bytearray | memoryview],
    *,
    keys: Sequence[str | None] | None = None,
    message_ids: Sequence[str | None] | None = None,
    subjects: Sequence[str | None] | None = None,
    headers: Sequence[Mapping[str, Any] | None] | None = None,
    due_times: Sequence[int | None] | None = None,
    ttls: Sequence[int | None] | None = None,
    priorities: Sequence[int | None] | None = None,
) -> bytes:
    """Return the batch that holds *bodies* and, where given, one value a message in each other column.

    What it returns passes `Batch.check`, but for the size of one message, which is the broker's setting.

    Raises:
        InvalidRequest: No bodies, a column of another length, a value of the wrong type or too long, or one that
            msgpack cannot carry.
        BatchTooLarge: More than `BATCH_MESSAGES_MAX` messages, `BATCH_BYTES_MAX` bytes, or `BATCH_VALUES_MAX` values
            or `BATCH_COLUMNS_BYTES_MAX` bytes beside the bodies.

    """
    count = len(bodies)
    if count == 0:
        raise InvalidRequest("a batch needs at least one message")
    if count > BATCH_MESSAGES_MAX:
        raise BatchTooLarge(
            f"a batch of {count} messages; allowed are {BATCH_MESSAGES_MAX}: send it in parts",
            messages=count,
            messages_max=BATCH_MESSAGES_MAX,
        )
    given = (
        (Column.KEYS, keys),
        (Column.MESSAGE_IDS, message_ids),
        (Column.SUBJECTS, subjects),
        (Column.DUE_TIMES, due_times),
        (Column.TTLS, ttls),
        (Column.PRIORITIES, priorities),
        (Column.HEADERS, headers),
    )
    values_count = count * sum(values is not None for _, values in given)
    check_values(values_count)
    bits = int(Column.BODIES)
    columns: list[bytes] = []
    for bit, values in given:
        if values is not None:
            bits |= bit
            columns.append(_encode_column(bit, values, count, values_count))
    check_column_bytes(sum(map(len, columns)))
    packed = _pack(bodies)
    columns.append(packed)
    size = _HEADER.size + sum(_LENGTH.size + len(column) for column in columns)
    if size > BATCH_BYTES_MAX:
        raise BatchTooLarge(
            f"a batch of {size} bytes; allowed are {BATCH_BYTES_MAX}: send it in parts",
            batch_bytes=size,
            batch_bytes_max=BATCH_BYTES_MAX,
        )
    body_bytes = _body_bytes(bodies, packed)
    return _assemble(bits, count, columns, body_bytes)


def _body_bytes(bodies: Sequence[bytes | bytearray | memoryview], packed: bytes) -> int:
    """Return how long *bodies* are together, having seen that they are what they must be."""
    uniform = uniform_item(packed, len(bodies))
    if uniform is not None:
        return uniform.value_bytes * len(bodies)
    if set(map(type, bodies)) == {bytes}:
        return sum(map(len, bodies))
    total = 0
    for body in bodies:
        if not isinstance(body, (bytes, bytearray, memoryview)):
            raise InvalidRequest(f"a body is {type(body).__name__}; it must be bytes")
        total += body.nbytes if isinstance(body, memoryview) else len(body)
    return total


def _encode_column(bit: Column, values: Sequence[Any], count: int, values_count: int) -> bytes:
    if len(values) != count:
        raise InvalidRequest(f"column {bit.name} has {len(values)} values for {count} messages")
    try:
        if bit == Column.HEADERS:
            column = bytes((HEADERS_FORMAT_MSGPACK,)) + _pack(
                [None if value is None else dict(value) for value in values]
            )
            decode_headers(column, count, str(bit.name), values_count)
            return column
        if bit in _NUMBER_RANGE:
            check_numbers(values, *_NUMBER_RANGE[bit], str(bit.name))
        else:
            check_texts(values, _TEXT_BYTES_MAX[bit], str(bit.name))
    except (ProtocolError, TypeError, ValueError) as error:
        if isinstance(error, InvalidRequest):
            raise
        # The reader's own check refused it: said to the caller in the caller's terms.
        raise InvalidRequest(f"a value of column {bit.name} cannot be sent: {error}") from error
    return _pack(values)


def _pack(values: Sequence[Any]) -> bytes:
    try:
        packed: bytes = msgpack.packb(values if isinstance(values, (list, tuple)) else list(values))
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        raise InvalidRequest(f"a value cannot be sent: {error}") from error
    return packed


def _packed_column(bit: int, values: Sequence[Any]) -> bytes:
    packed = _pack(values)
    return bytes((HEADERS_FORMAT_MSGPACK,)) + packed if bit == Column.HEADERS else packed


def _assemble(bits: int, count: int, columns: Sequence[bytes | memoryview], body_bytes: int) -> bytes:
    return b"".join((*_heads(bits, count, list(map(len, columns)), body_bytes), *columns))


def _heads(bits: int, count: int, lengths: list[int], body_bytes: int) -> list[bytes]:
    """Return what stands before the columns."""
    return [_HEADER.pack(BATCH_VERSION, 0, bits, count, sum(lengths), body_bytes), *map(_LENGTH.pack, lengths)]


def batch_facts(data: bytes | memoryview) -> BatchFacts:
    """Return what the fixed header says, without looking at any column.

    Raises:
        ProtocolError: Too short, or another batch version.
        UnknownOption: Compressed with a codec that this version does not know.

    """
    if len(data) < _HEADER.size:
        raise ProtocolError(f"a batch of {len(data)} bytes is shorter than its header")
    version, codec, columns, count, uncompressed, body_bytes = _HEADER.unpack_from(data)
    if version != BATCH_VERSION:
        raise ProtocolError(f"batch version {version} is unknown here; this side reads {BATCH_VERSION}")
    if codec:
        raise UnknownOption(f"batch codec {codec:#04x} is unknown here; send it uncompressed", codec=codec)
    expected = len(data) - _HEADER.size - _LENGTH.size * columns.bit_count()
    if uncompressed != expected:
        raise ProtocolError(f"a batch announces {uncompressed} bytes of columns, but {expected} arrived")
    return BatchFacts(count, columns, body_bytes)


class Batch:
    """A batch as received: columns are decoded when they are first asked for.

    Decoded columns are not kept, but for `bodies`, numbers, and what `part` had to decode.

    Args:
        data: The bytes; kept by reference.

    Raises:
        ProtocolError: The bytes are no batch (checked as far as header and column lengths go).
        UnknownOption: A codec or column that this version does not know.

    """

    __slots__ = ("_bodies", "_cut_end", "_places", "_sliced", "_uniform", "body_bytes", "columns", "count", "data")

    def __init__(self, data: bytes | memoryview) -> None:
        self.data = data
        self.count, self.columns, self.body_bytes = batch_facts(data)
        columns = self.columns
        if columns & ~_KNOWN_BITS:
            raise UnknownOption(f"batch columns {columns & ~_KNOWN_BITS:#06x} are unknown here", columns=columns)
        if not columns & Column.BODIES:
            raise ProtocolError("a batch without a bodies column")
        offset = _HEADER.size
        start = offset + _LENGTH.size * columns.bit_count()
        places: dict[int, tuple[int, int]] = {}
        if start > len(data):
            raise ProtocolError("a batch ends within its column lengths")
        for bit in _COLUMN_BITS if columns != _BODIES_ONLY else (_BODIES_ONLY,):
            if columns & bit:
                (length,) = _LENGTH.unpack_from(data, offset)
                offset += _LENGTH.size
                places[bit] = (start, start + length)
                start += length
        if start != len(data):
            raise ProtocolError(f"the columns of a batch take {start} bytes, but {len(data)} arrived")
        self._places = places
        self._bodies: list[bytes] | None = None
        self._cut_end: tuple[int, int] | None = None
        self._uniform: tuple[()] | tuple[UniformItem | None] = ()
        self._sliced: dict[int, list[Any]] = {}

    @property
    def _values_count(self) -> int:
        """Values in all columns other than bodies, the items within headers not counted."""
        return self.count * (self.columns.bit_count() - 1)

    def _column(self, bit: int) -> memoryview | None:
        place = self._places.get(bit)
        return None if place is None else memoryview(self.data)[place[0] : place[1]]

    @property
    def bodies(self) -> list[bytes]:
        """All bodies, decoded once."""
        if self._bodies is None:
            self._bodies = self._decode_bodies()
        return self._bodies

    def _decode_bodies(self) -> list[bytes]:
        column = self._column(Column.BODIES)
        assert column is not None
        return decode_bodies(column, self.count, self.body_bytes)

    @property
    def keys(self) -> list[str | None] | None:
        """One key or None a message; None when no message has one."""
        return self._texts(Column.KEYS)

    @property
    def message_ids(self) -> list[str | None] | None:
        """One id given by the sender or None a message; None when no message has one."""
        return self._texts(Column.MESSAGE_IDS)

    def kept_message_ids(self) -> list[str | None] | None:
        """Return `message_ids`, decoded once: for whoever asks again and again."""
        return self._sliced_values(Column.MESSAGE_IDS) if self.columns & Column.MESSAGE_IDS else None

    @property
    def subjects(self) -> list[str | None] | None:
        """One subject or None a message; None when no message has one."""
        return self._texts(Column.SUBJECTS)

    @property
    def headers(self) -> list[dict[str, Any] | None] | None:
        """One map of headers or None a message; None when no message has any."""
        column = self._column(Column.HEADERS)
        return None if column is None else decode_headers(column, self.count, "HEADERS", self._values_count)

    def _texts(self, bit: Column) -> list[str | None] | None:
        column = self._column(bit)
        return None if column is None else decode_texts(column, self.count, _TEXT_BYTES_MAX[bit], str(bit.name))

    @property
    def due_times(self) -> list[int | None] | None:
        """When each message may be delivered first, see above; None when no message has to wait."""
        return self._numbers(Column.DUE_TIMES)

    @property
    def ttls(self) -> list[int | None] | None:
        """How many milliseconds each message may be delivered, from when it is ready; None when all may be for ever."""
        return self._numbers(Column.TTLS)

    @property
    def priorities(self) -> list[int | None] | None:
        """The priority of each message, 0 to 9; None when all have 0."""
        return self._numbers(Column.PRIORITIES)

    def _numbers(self, bit: Column) -> list[int | None] | None:
        """Return a column of numbers, kept: the broker checks it, and decides by it."""
        values = self._sliced.get(bit)
        if values is None:
            column = self._column(bit)
            if column is None:
                return None
            values = self._sliced[bit] = decode_numbers(column, self.count, *_NUMBER_RANGE[bit], str(bit.name))
        return values

    def check(self, *, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        """Check every column once, as a broker does before it stores the bytes untouched.

        Costs about 0.03 µs a message for a batch of bodies alone, and next to nothing when they all have one length.

        Raises:
            ProtocolError: A column is malformed.
            InvalidRequest: A value is too long (`MessageTooLarge` for a body), or there are too many messages, or
                values or bytes beside the bodies (`BatchTooLarge`).
            UnknownOption: A column that this version would have to act upon but cannot yet.

        """
        if not 1 <= self.count <= BATCH_MESSAGES_MAX:
            raise BatchTooLarge(
                f"a batch of {self.count} messages; allowed are 1 to {BATCH_MESSAGES_MAX}",
                messages=self.count,
                messages_max=BATCH_MESSAGES_MAX,
            )
        unsupported = self.columns & ~SUPPORTED_COLUMNS
        if unsupported:
            raise UnknownOption(
                f"this broker does not support the batch columns {Column(unsupported)!r} yet", columns=unsupported
            )
        if self.columns != _BODIES_ONLY:
            check_values(self._values_count)
            places = self._places
            check_column_bytes(sum(places[bit][1] - places[bit][0] for bit in places if bit != _BODIES_ONLY))
            # Each property checks its own column; nothing else is wanted from it here.
            _ = (self.keys, self.message_ids, self.subjects, self.headers)
            if self.columns & DELIVERY_COLUMNS:
                _ = (self.due_times, self.ttls, self.priorities)
        largest = self._largest_body(message_bytes_max)
        if largest > message_bytes_max:
            raise MessageTooLarge(
                f"a message of {largest} bytes; allowed are {message_bytes_max}",
                message_bytes=largest,
                message_bytes_max=message_bytes_max,
            )

    def _largest_body(self, ask_above: int) -> int:
        """Return the length of the longest body, or less when none is longer than *ask_above*; all bodies checked."""
        column = self._column(Column.BODIES)
        assert column is not None
        held, largest = measure_bodies(column, self.count, with_largest=self.body_bytes > ask_above)
        check_body_bytes(self.body_bytes, held)
        return largest

    def part(self, first: int, count: int) -> bytes:
        """Return messages *first* to *first + count - 1* as a batch of their own."""
        return b"".join(self.part_pieces(first, count))

    def part_pieces(self, first: int, count: int) -> list[bytes | memoryview]:
        """Return `part` in pieces that follow each other; what is a large share of the batch is a view, not a copy."""
        if first == 0 and count == self.count:
            return [self.data]
        if first < 0 or count <= 0 or first + count > self.count:
            raise ValueError(f"part {first}+{count} of a batch of {self.count}")
        end = first + count
        columns = [
            _packed_column(bit, self._sliced_values(bit)[first:end]) for bit in self._places if bit != _BODIES_ONLY
        ]
        bodies = self._column(Column.BODIES)
        assert bodies is not None
        start_of_list = list_head(count)
        items, body_bytes = self._items(bodies, self._uniform_item(bodies), first, end)
        if len(items) * PINNED_SHARE < len(self.data):
            items = memoryview(bytes(items))
        lengths = [*map(len, columns), len(start_of_list) + len(items)]
        heads = b"".join((*_heads(self.columns, count, lengths, body_bytes), *columns, start_of_list))
        return [heads, items]

    def select(self, ranges: Sequence[tuple[int, int]]) -> bytes:
        """Return the messages of *ranges*, (first, count) each, ascending and apart, as one batch of their own.

        Raises:
            ValueError: There are none, they are not ascending, or they reach beyond the batch.

        """
        if not ranges:
            raise ValueError("no part of a batch was asked for")
        behind = 0
        for first, size in ranges:
            if first < behind or size <= 0 or first + size > self.count:
                raise ValueError(f"part {first}+{size} behind message {behind} of a batch of {self.count}")
            behind = first + size
        if len(ranges) == 1:
            return self.part(*ranges[0])
        count = sum(size for _, size in ranges)
        columns: list[bytes | memoryview] = []
        for bit in self._places:
            if bit != _BODIES_ONLY:
                values = self._sliced_values(bit)
                columns.append(_packed_column(bit, [v for first, size in ranges for v in values[first : first + size]]))
        bodies = self._column(Column.BODIES)
        assert bodies is not None
        uniform = self._uniform_item(bodies)
        pieces: list[bytes | memoryview] = [list_head(count)]
        body_bytes = 0
        for first, size in ranges:
            items, item_bytes = self._items(bodies, uniform, first, first + size)
            pieces.append(items)
            body_bytes += item_bytes
        return _assemble(self.columns, count, [*columns, b"".join(pieces)], body_bytes)

    def _uniform_item(self, bodies: memoryview) -> UniformItem | None:
        """Return the shape of the bodies, kept: a batch that is split into single messages asks a thousand times."""
        if not self._uniform:
            self._uniform = (uniform_item(bodies, self.count),)
        return self._uniform[0]

    def _items(self, bodies: memoryview, uniform: UniformItem | None, first: int, end: int) -> tuple[memoryview, int]:
        """Return the packed bodies *first* to *end - 1* without the head of their list, and how long they are."""
        if uniform is not None:
            items = bodies[uniform.first + first * uniform.stride : uniform.first + end * uniform.stride]
            return items, (end - first) * uniform.value_bytes
        if self.body_bytes >= LARGE_BODY_BYTES * self.count:
            # Parts mostly follow each other: the walk goes on where the last one ended.
            items, body_bytes, place = cut_bodies(bodies, first, end, self._cut_end)
            self._cut_end = end, place
            return items, body_bytes
        taken = self.bodies[first:end]
        return memoryview(_pack(taken))[len(list_head(end - first)) :], sum(map(len, taken))

    def _sliced_values(self, bit: int) -> list[Any]:
        """Return a column's values, kept, because a batch that is split once is split again."""
        values = self._sliced.get(bit)
        if values is None:
            if bit not in _TEXT_BYTES_MAX and bit not in _NUMBER_RANGE and bit != Column.HEADERS:
                raise UnknownOption(f"a batch with the column {Column(bit)!r} cannot be split here", columns=bit)
            found: list[Any] | None
            if bit in _NUMBER_RANGE:
                found = self._numbers(Column(bit))
            else:
                found = self.headers if bit == Column.HEADERS else self._texts(Column(bit))
            assert found is not None
            values = self._sliced[bit] = found
        return values
