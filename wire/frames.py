"""How bytes become frames and frames become bytes.

This module owns the outermost shape of the native protocol and nothing of its meaning: it must not know which
frame types exist or when they may come.

A connection opens with eight bytes (`PREFACE`), by which one port tells native clients from TLS, AMQP and HTTP.
After that both sides send frames:

    offset  size  field
    0       4     length: bytes that follow this field (12 + head + tail), big-endian like all numbers here
    4       1     type
    5       1     flags: bit 0 = MORE (the tail goes on in the next frame of this correlation; reserved)
    6       2     zero (reserved; anything else is refused, so that it can gain a meaning later)
    8       4     correlation: which request this belongs to; 0 = none
    12      4     head length
    16      ...   head: msgpack map, see `fields`
    ...     ...   tail: raw bytes that are never copied into msgpack (batches)
"""

from __future__ import annotations

from struct import Struct
from typing import NamedTuple

from sluicemq.wire.errors import FrameTooLarge, ProtocolError

PREFACE = b"\x8fSluice\x01"
"""First bytes of every native connection: a byte that no TLS, AMQP or HTTP peer begins with, name, wire generation."""

FRAME_HEADER_BYTES = 16
FRAME_BYTES_DEFAULT = 36 * 1024 * 1024
"""Frame limit when the handshake says nothing else: the largest entry (32 MiB) with room for its head."""
FRAME_BYTES_BEFORE_OPEN = 64 * 1024
"""Frame limit until a peer is authenticated: strangers get no large buffers."""
FRAME_BYTES_MIN = 4096
"""Smallest frame limit that a peer may ask for."""

PINNED_SHARE = 8
"""A tail smaller than one part in this many of its receive buffer is copied, so that keeping it frees the buffer."""

FLAG_MORE = 0x01

_HEADER = Struct(">IBBHII")
_Header = tuple[int, int, int, int, int, int]
_NO_TAIL = memoryview(b"")


class Frame(NamedTuple):
    """One frame as it was read.

    Attributes:
        type: Frame type, see `messages`.
        flags: Bits, see `FLAG_MORE`.
        correlation: Number that ties a reply to its request; 0 = none.
        head: msgpack bytes.
        tail: Raw bytes after the head; stays valid as long as it is referenced.

    """

    type: int
    flags: int
    correlation: int
    head: memoryview
    tail: memoryview


def pack_frame(type_: int, head: bytes, tail_length: int = 0, *, correlation: int = 0, flags: int = 0) -> bytes:
    """Return the header and head of a frame whose tail of *tail_length* bytes the caller sends right behind it."""
    return _HEADER.pack(12 + len(head) + tail_length, type_, flags, 0, correlation, len(head)) + head


class FrameReader:
    """Cuts a stream of bytes into frames. Sans-IO: feed it what arrived, take what is complete.

    What memory it costs: a frame that arrives whole is not copied, its head and tail point into *data*. A frame in
    pieces is gathered in a buffer of its own that grows with what arrived, never with what was announced. A tail
    that is kept keeps at most `PINNED_SHARE` times its own size: a smaller share of a buffer is copied out of it.

    Args:
        frame_bytes_max: Largest frame (whole, with its header) that is accepted. May be raised after the handshake.

    """

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_BEFORE_OPEN) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._partial = bytearray()
        self._needed_bytes = FRAME_HEADER_BYTES

    @property
    def buffered_bytes(self) -> int:
        """Bytes that wait for the rest of their frame; less than `frame_bytes_max`."""
        return len(self._partial)

    @property
    def missing_bytes(self) -> int:
        """How many more bytes the frame under way needs at least; 0 between frames. A hint for the next read's size."""
        return self._needed_bytes - len(self._partial) if self._partial else 0

    def feed(self, data: bytes) -> list[Frame]:
        """Return the frames that *data* completes, in order.

        Args:
            data: What the socket gave; kept by reference as long as a frame points into it.

        Raises:
            ProtocolError: The bytes are no frames. The connection is beyond repair: close it, feed nothing more.
            FrameTooLarge: A frame announces more than `frame_bytes_max`.

        """
        frames: list[Frame] = []
        view = memoryview(data)
        start = self._complete_partial(view, frames) if self._partial else 0
        end = len(view)
        while end - start >= FRAME_HEADER_BYTES:
            header = _HEADER.unpack_from(view, start)
            needed = self._frame_bytes(header)
            if end - start < needed:
                self._needed_bytes = needed
                break
            frames.append(_cut(header, view, start, start + needed))
            start += needed
        if start < end:
            self._partial += view[start:]
        return frames

    def _complete_partial(self, view: memoryview, frames: list[Frame]) -> int:
        """Take from *view* what the frame under way lacks, and return how many bytes that was."""
        partial = self._partial
        taken = 0
        while True:  # twice at most: the rest of the header, then the rest of the frame
            missing = self._needed_bytes - len(partial)
            partial += view[taken : taken + missing]
            taken = min(len(view), taken + missing)
            if len(partial) < self._needed_bytes:
                return taken
            header = _HEADER.unpack_from(partial)
            self._needed_bytes = self._frame_bytes(header)
            if len(partial) == self._needed_bytes:
                break
        frames.append(_cut(header, memoryview(partial).toreadonly(), 0, len(partial)))
        self._partial = bytearray()
        self._needed_bytes = FRAME_HEADER_BYTES
        return taken

    def _frame_bytes(self, header: _Header) -> int:
        """Return how long the frame of *header* is, having checked all that the header says."""
        length, type_, flags, reserved, _correlation, head_length = header
        total = length + 4
        if total > self.frame_bytes_max:
            raise FrameTooLarge(
                f"a frame of type {type_} announces {total} bytes, allowed are {self.frame_bytes_max}",
                frame_bytes=total,
                frame_bytes_max=self.frame_bytes_max,
            )
        if reserved:
            raise ProtocolError(f"a frame of type {type_} sets reserved bits ({reserved:#06x})")
        if flags:
            raise ProtocolError(f"a frame of type {type_} sets flags {flags:#04x}, which this version does not know")
        if head_length > length - 12:  # also where the length is below 12
            raise ProtocolError(
                f"a frame of type {type_} announces {length} bytes, too few for its head of {head_length}"
            )
        return total


def _cut(header: _Header, view: memoryview, start: int, end: int) -> Frame:
    _length, type_, flags, _reserved, correlation, head_length = header
    head_start = start + FRAME_HEADER_BYTES
    tail_start = head_start + head_length
    tail = view[tail_start:end]
    if (end - tail_start) * PINNED_SHARE < len(view):
        tail = memoryview(bytes(tail)) if tail_start < end else _NO_TAIL
    return Frame(type_, flags, correlation, view[head_start:tail_start], tail)
