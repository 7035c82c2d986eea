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
The headers column begins with a format byte, so that typed header dialects can join (1 = msgpack maps).
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from struct import Struct
from typing import Any, NamedTuple

import msgpack

from sluicemq.wire.errors import BatchTooLarge, InvalidRequest, MessageTooLarge, ProtocolError, UnknownOption

BATCH_VERSION = 1
BATCH_MESSAGES_MAX = 100_000
BATCH_BYTES_MAX = 16 * 1024 * 1024
MESSAGE_BYTES_MAX = 8 * 1024 * 1024
KEY_BYTES_MAX = 1024
MESSAGE_ID_BYTES_MAX = 256
SUBJECT_BYTES_MAX = 1024
HEADERS_FORMAT_MSGPACK = 1

_HEADER = Struct(">BBHIII")
_LENGTH = Struct(">I")


class Column(enum.IntFlag):
    """Which columns a batch has, in the order in which they are stored."""

    KEYS = 0x0001
    MESSAGE_IDS = 0x0002
    SUBJECTS = 0x0004
    DUE_TIMES = 0x0008
    TTLS = 0x0010
    PRIORITIES = 0x0020
    BODY_IS_REFERENCE = 0x0040
    HEADERS = 0x0100
    BODIES = 0x8000


_COLUMN_BITS = tuple(int(column) for column in Column)
_KNOWN_BITS = sum(_COLUMN_BITS)
SUPPORTED_COLUMNS = Column.KEYS | Column.MESSAGE_IDS | Column.SUBJECTS | Column.HEADERS | Column.BODIES
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
) -> bytes:
    """Return the batch that holds *bodies* and, where given, one value a message in each other column.

    Raises:
        InvalidRequest: No bodies, a column of another length, or a value that msgpack cannot carry.
        BatchTooLarge: More than `BATCH_MESSAGES_MAX` messages or `BATCH_BYTES_MAX` bytes.

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
    bits = int(Column.BODIES)
    columns: list[bytes] = []
    try:
        for bit, values in (
            (Column.KEYS, keys),
            (Column.MESSAGE_IDS, message_ids),
            (Column.SUBJECTS, subjects),
            (Column.HEADERS, headers),
        ):
            if values is None:
                continue
            if len(values) != count:
                raise InvalidRequest(f"column {bit.name} has {len(values)} values for {count} messages")
            bits |= bit
            packed = msgpack.packb(values)
            columns.append(bytes((HEADERS_FORMAT_MSGPACK,)) + packed if bit == Column.HEADERS else packed)
        columns.append(msgpack.packb(bodies))
    except (TypeError, OverflowError, ValueError, RecursionError) as error:
        if isinstance(error, InvalidRequest):
            raise
        raise InvalidRequest(f"a value cannot be sent: {error}") from error
    size = sum(map(len, columns))
    if size > BATCH_BYTES_MAX:
        raise BatchTooLarge(
            f"a batch of {size} bytes; allowed are {BATCH_BYTES_MAX}: send it in parts",
            batch_bytes=size,
            batch_bytes_max=BATCH_BYTES_MAX,
        )
    body_bytes = sum(map(len, bodies))
    header = _HEADER.pack(BATCH_VERSION, 0, bits, count, size, body_bytes)
    return b"".join((header, *(_LENGTH.pack(len(column)) for column in columns), *columns))


def batch_facts(data: bytes | memoryview) -> BatchFacts:
    """Return what the fixed header says, without looking at any column.

    Raises:
        ProtocolError: Too short, or another batch version.

    """
    if len(data) < _HEADER.size:
        raise ProtocolError(f"a batch of {len(data)} bytes is shorter than its header")
    version, codec, columns, count, _uncompressed, body_bytes = _HEADER.unpack_from(data)
    if version != BATCH_VERSION:
        raise ProtocolError(f"batch version {version} is unknown here; this side reads {BATCH_VERSION}")
    if codec:
        raise UnknownOption(f"batch codec {codec:#04x} is unknown here; send it uncompressed", codec=codec)
    return BatchFacts(count, columns, body_bytes)


class Batch:
    """A batch as received: columns are decoded when they are first asked for.

    Args:
        data: The bytes; kept by reference.

    Raises:
        ProtocolError: The bytes are no batch (checked as far as header and column lengths go).
        UnknownOption: A codec or column that this version does not know.

    """

    __slots__ = ("_bodies", "_places", "body_bytes", "columns", "count", "data")

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
        for bit in _COLUMN_BITS:
            if columns & bit:
                (length,) = _LENGTH.unpack_from(data, offset)
                offset += _LENGTH.size
                places[bit] = (start, start + length)
                start += length
        if start != len(data):
            raise ProtocolError(f"the columns of a batch take {start} bytes, but {len(data)} arrived")
        self._places = places
        self._bodies: list[bytes] | None = None

    def _column(self, bit: int) -> list[Any] | None:
        place = self._places.get(bit)
        if place is None:
            return None
        start, end = place
        if bit == Column.HEADERS:
            if start == end or self.data[start] != HEADERS_FORMAT_MSGPACK:
                raise UnknownOption("the headers column has a format that is unknown here")
            start += 1
        name = Column(bit).name
        try:
            values = msgpack.unpackb(self.data[start:end], strict_map_key=False)
        except (ValueError, msgpack.UnpackException, RecursionError, TypeError) as error:
            raise ProtocolError(f"batch column {name} is no msgpack value ({type(error).__name__})") from None
        if type(values) is not list or len(values) != self.count:
            raise ProtocolError(f"batch column {name} is no list of {self.count} values")
        return values

    @property
    def bodies(self) -> list[bytes]:
        """All bodies, decoded once."""
        if self._bodies is None:
            bodies = self._column(Column.BODIES)
            assert bodies is not None
            if set(map(type, bodies)) != {bytes}:
                raise ProtocolError("a batch holds a body that is not binary")
            self._bodies = bodies
        return self._bodies

    @property
    def keys(self) -> list[str | None] | None:
        """One key or None a message; None when no message has one."""
        return self._texts(Column.KEYS, KEY_BYTES_MAX)

    @property
    def message_ids(self) -> list[str | None] | None:
        """One id given by the sender or None a message; None when no message has one."""
        return self._texts(Column.MESSAGE_IDS, MESSAGE_ID_BYTES_MAX)

    @property
    def subjects(self) -> list[str | None] | None:
        """One subject or None a message; None when no message has one."""
        return self._texts(Column.SUBJECTS, SUBJECT_BYTES_MAX)

    @property
    def headers(self) -> list[dict[str, Any] | None] | None:
        """One map of headers or None a message; None when no message has any."""
        values = self._column(Column.HEADERS)
        if values is not None:
            for value in values:
                if value is not None and (type(value) is not dict or not all(type(name) is str for name in value)):
                    raise ProtocolError("a batch holds headers that are no map with text keys")
        return values

    def _texts(self, bit: int, bytes_max: int) -> list[str | None] | None:
        values = self._column(bit)
        if values is not None:
            kinds = set(map(type, values))
            if not kinds <= {str, type(None)}:
                raise ProtocolError(f"batch column {Column(bit).name} holds something else than text")
            longest = max((len(value) for value in values if value is not None), default=0)
            if longest > bytes_max:
                raise InvalidRequest(
                    f"a value of batch column {Column(bit).name} has {longest} characters, allowed are {bytes_max}"
                )
        return values

    def check(self, *, message_bytes_max: int = MESSAGE_BYTES_MAX) -> None:
        """Decode and check every column once, as a broker does before it stores the bytes untouched.

        Costs about 0.1 µs a message for a batch of bodies alone.

        Raises:
            ProtocolError: A column is malformed.
            InvalidRequest: A value is too long (`MessageTooLarge` for a body), or there are too many messages.
            UnknownOption: A column that this version would have to act upon but cannot yet.

        """
        if not 1 <= self.count <= BATCH_MESSAGES_MAX:
            raise BatchTooLarge(
                f"a batch of {self.count} messages; allowed are 1 to {BATCH_MESSAGES_MAX}", messages=self.count
            )
        unsupported = self.columns & ~SUPPORTED_COLUMNS
        if unsupported:
            raise UnknownOption(
                f"this broker does not support the batch columns {Column(unsupported)!r} yet", columns=unsupported
            )
        if self.columns != Column.BODIES:
            # Each property checks its own column; nothing else is wanted from it here.
            _ = (self.keys, self.message_ids, self.subjects, self.headers)
        sizes = list(map(len, self.bodies))
        if sum(sizes) != self.body_bytes:
            raise ProtocolError(f"a batch announces {self.body_bytes} bytes of bodies but holds {sum(sizes)}")
        largest = max(sizes)
        if largest > message_bytes_max:
            raise MessageTooLarge(
                f"a message of {largest} bytes; allowed are {message_bytes_max}",
                message_bytes=largest,
                message_bytes_max=message_bytes_max,
            )

    def part(self, first: int, count: int) -> bytes:
        """Return messages *first* to *first + count - 1* as a batch of their own."""
        if first == 0 and count == self.count:
            return bytes(self.data)
        if not (0 <= first and 0 < count and first + count <= self.count):
            raise ValueError(f"part {first}+{count} of a batch of {self.count}")
        end = first + count
        columns: dict[str, Any] = {}
        for name in ("keys", "message_ids", "subjects", "headers"):
            values = getattr(self, name)
            if values is not None:
                columns[name] = values[first:end]
        return encode_batch(self.bodies[first:end], **columns)
