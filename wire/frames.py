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

from io import BytesIO
from struct import Struct
from typing import NamedTuple

from sluicemq.wire.errors import FrameTooLarge, ProtocolError

PREFACE = b"\x8fSluice\x01"
"""First bytes of every native connection: a byte that no TLS, AMQP or HTTP peer begins with, name, wire generation."""
PEER_PREFACE = b"\x8fSlPeer\x01"
"""First bytes of a connection between brokers: told from a client's by the fourth."""

FRAME_HEADER_BYTES = 16
FRAME_BYTES_DEFAULT = 36 * 1024 * 1024
"""Frame limit when the handshake says nothing else: the largest entry (32 MiB) with room for its head."""
FRAME_BYTES_BEFORE_OPEN = 64 * 1024
"""Frame limit until a peer is authenticated: strangers get no large buffers."""
FRAME_BYTES_MIN = 4096
"""Smallest frame limit that a peer may ask for."""

PINNED_SHARE = 8
"""A tail smaller than one part in this many of its receive buffer is copied, so that keeping it frees the buffer."""

LARGE_TAIL_BYTES = 256 * 1024
"""A tail from here on that does not arrive at once is gathered in a `bytes` object of its own: to copy megabytes into
fresh memory in one go would hold a busy program for milliseconds."""
LARGE_TAIL_GROWTH = 8
"""That object has room for at most so many times what arrived (and for `LARGE_TAIL_BYTES` in any case)."""

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

    A large frame under way can also be received without a copy: fill the buffer that `writable` hands out, and say so
    with `filled`. `feed` takes its bytes as well, at the price of copying them.

    What memory it costs: a frame that arrives whole is not copied, its head and tail point into *data*. A frame in
    pieces is gathered in a buffer of its own that grows with what arrived, never with what was announced. A tail
    that is kept keeps at most `PINNED_SHARE` times its own size: a smaller share of a buffer is copied out of it. The
    tail of a frame that came in pieces and is `LARGE_TAIL_BYTES` or longer is a view of a `bytes` object of its own.

    Args:
        frame_bytes_max: Largest frame (whole, with its header) that is accepted. May be raised after the handshake.

    """

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_BEFORE_OPEN) -> None:
        self.frame_bytes_max = frame_bytes_max
        self._partial = bytearray()
        self._needed_bytes = FRAME_HEADER_BYTES
        self._large: _LargeFrame | None = None

    @property
    def buffered_bytes(self) -> int:
        """Bytes held for a frame whose rest has not come: what arrived, and for a large frame the room made for more.

        Less than `frame_bytes_max`, and a few times (`LARGE_TAIL_GROWTH`) what arrived at most.
        """
        return len(self._partial) if self._large is None else self._large.held_bytes

    @property
    def missing_bytes(self) -> int:
        """How many more bytes the frame under way needs at least; 0 between frames. A hint for the next read's size."""
        if self._large is not None:
            return self._large.missing_bytes
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
        end = len(view)
        start = self._complete_partial(view, frames) if self._partial else 0
        if self._large is not None:
            start += self._large.take(view[start:])
            self._complete_large(frames)
        while end - start >= FRAME_HEADER_BYTES:
            header = _HEADER.unpack_from(view, start)
            needed = self._frame_bytes(header)
            if end - start < needed:
                self._needed_bytes = needed
                head_end = FRAME_HEADER_BYTES + header[-1]
                if needed - head_end >= LARGE_TAIL_BYTES and end - start >= head_end:
                    self._large = _LargeFrame(header, bytes(view[start + FRAME_HEADER_BYTES : start + head_end]))
                    self._large.take(view[start + head_end :])
                    return frames
                break
            frames.append(_cut(header, view, start, start + needed))
            start += needed
        if start < end:
            self._partial += view[start:]
        return frames

    def writable(self, bytes_max: int) -> memoryview | None:
        """Return where to receive what comes next of the large frame under way; None when no such frame is under way.

        The buffer takes *bytes_max* bytes at most, and never more than the frame lacks. Fill it from its start, then
        call `filled`, before anything else; from then on the buffer cannot be used any more.
        """
        return None if self._large is None else self._large.writable(bytes_max)

    def filled(self, count: int) -> list[Frame]:
        """Return the frame that the first *count* bytes of the buffer complete, if they do."""
        assert self._large is not None, "filled without writable"
        frames: list[Frame] = []
        self._large.filled(count)
        self._complete_large(frames)
        return frames

    def _complete_large(self, frames: list[Frame]) -> None:
        large = self._large
        if large is not None and not large.missing_bytes:
            frames.append(large.frame())
            self._large = None
            self._needed_bytes = FRAME_HEADER_BYTES

    def _complete_partial(self, view: memoryview, frames: list[Frame]) -> int:
        """Take from *view* what the frame under way lacks, and return how many bytes that was.

        Of a large frame only header and head are taken: its tail gets a buffer of its own.
        """
        partial = self._partial
        taken = 0
        # Three turns at most: the rest of the header, the rest of the frame, and what is to be done with it.
        while True:
            stop = FRAME_HEADER_BYTES
            large = False
            if len(partial) >= stop:
                header = _HEADER.unpack_from(partial)
                stop = self._needed_bytes = self._frame_bytes(header)
                head_end = FRAME_HEADER_BYTES + header[-1]
                large = stop - head_end >= LARGE_TAIL_BYTES
                if large:
                    stop = head_end
                if len(partial) == stop:
                    break
            missing = stop - len(partial)
            partial += view[taken : taken + missing]
            taken = min(len(view), taken + missing)
            if len(partial) < stop:
                return taken
        if large:
            self._large = _LargeFrame(header, bytes(memoryview(partial)[FRAME_HEADER_BYTES:]))
        else:
            frames.append(_cut(header, memoryview(partial).toreadonly(), 0, len(partial)))
            self._needed_bytes = FRAME_HEADER_BYTES
        self._partial = bytearray()
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


class _LargeFrame:
    """A frame under way whose tail is received straight into the `bytes` object that it will be.

    A `BytesIO` is what the standard library has for that: it lends its memory for writing, and gives it away as `bytes`
    without a copy. The memory of `bytes(count)` comes from the system page by page, when something is written there.
    """

    __slots__ = ("_buffer", "_filled_bytes", "_head", "_header", "_lent", "_tail_bytes", "_view")

    def __init__(self, header: _Header, head: bytes) -> None:
        self._header = header
        self._head = head
        self._tail_bytes = header[0] - 12 - len(head)
        self._buffer = BytesIO()
        self._view = self._buffer.getbuffer()
        self._lent = memoryview(b"")
        self._filled_bytes = 0

    @property
    def held_bytes(self) -> int:
        """Bytes of memory held, written to or not."""
        return FRAME_HEADER_BYTES + len(self._head) + len(self._view)

    @property
    def missing_bytes(self) -> int:
        """Bytes that the tail lacks."""
        return self._tail_bytes - self._filled_bytes

    def take(self, data: memoryview) -> int:
        """Copy what belongs to the tail from *data*, and return how many bytes that was."""
        count = min(len(data), self.missing_bytes)
        end = self._filled_bytes + count
        if end > len(self._view):
            self._make_room(end)
        self._view[self._filled_bytes : end] = data[:count]
        self._filled_bytes = end
        return count

    def writable(self, bytes_max: int) -> memoryview:
        """Return the next *bytes_max* bytes of the tail, or as many as there is room for, to be written to."""
        if self._filled_bytes == len(self._view):
            self._make_room(self._filled_bytes)
        self._lent = self._view[self._filled_bytes : self._filled_bytes + bytes_max]
        return self._lent

    def filled(self, count: int) -> None:
        """Take note that so much of what was lent has been written to, and take it back."""
        self._filled_bytes += count
        self._lent.release()

    def _make_room(self, arrived_bytes: int) -> None:
        room_bytes = LARGE_TAIL_GROWTH * max(arrived_bytes, LARGE_TAIL_BYTES // LARGE_TAIL_GROWTH)
        # Half of what may be, unless all of it is enough: what is missing at the end is never a small rest.
        room_bytes = self._tail_bytes if self._tail_bytes <= room_bytes else room_bytes // 2
        buffer = BytesIO(bytes(room_bytes))
        view = buffer.getbuffer()
        view[: self._filled_bytes] = self._view[: self._filled_bytes]
        self._buffer, self._view = buffer, view

    def frame(self) -> Frame:
        """Return the frame, whose tail is complete."""
        _length, type_, flags, _reserved, correlation, _head_length = self._header
        # While anything of its memory is lent, the buffer would give away a copy.
        self._view.release()
        tail = self._buffer.getvalue()
        return Frame(type_, flags, correlation, memoryview(self._head), memoryview(tail))
