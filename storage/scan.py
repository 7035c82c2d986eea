"""Walking the records of a segment, in large reads, with every check that the format allows.

Why here: recovery, reading, truncation and the tools must agree, byte for byte, on what a good record is. A walk ends
at the first place that is not one and says why; what that means is decided elsewhere (`recovery` for the log's end,
`reading` for damage).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sluicemq.storage.record import HEAD_BYTES, MAGIC, MARK, Head, body_digest, chain_after, parse_head

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.storage.files import File

__all__ = ["Found", "Trace", "Walk", "find_traces"]

BLANK = "no record here"
CUT_OFF = "the record is longer than the file"
BAD_BODY = "header or payload do not match their digest"
DISCONTINUED = "a whole record that does not follow the one before it"


class Found(NamedTuple):
    """A good record. `header` and `payload` are slices, made anew."""

    offset: int
    head: Head
    header: bytes
    payload: bytes


class Walk:
    """Iterates over the good records (marks included) of a byte range, from a known position.

    Start where a record starts. With `previous_zxid` and `chain` given, each record must follow the one before; with
    None, the first is taken on its own checksum, and the rest must follow it. After the iteration, `offset` is the
    first byte that is not part of a good record, and `reason` says why (one of the constants of this module). Raises
    OSError.
    """

    def __init__(
        self,
        file: File,
        seed: int,
        start_offset: int,
        end_offset: int,
        previous_zxid: int | None,
        chain: bytes | None,
        read_bytes: int,
    ) -> None:
        self._file = file
        self._seed = seed
        self._end_offset = end_offset
        self._read_bytes = read_bytes
        self._window = b""
        self._window_offset = start_offset
        self.offset = start_offset
        self.last_zxid = previous_zxid
        self.chain = chain
        self.reason = BLANK

    def __iter__(self) -> Iterator[Found]:
        while True:
            offset = self.offset
            head = self._head_at(offset)
            if head is None:
                self.reason = BLANK
                return
            body_start = offset + HEAD_BYTES
            body_end = body_start + head.header_bytes + head.payload_bytes
            if not self._fetch(offset, body_end - offset):
                self.reason = CUT_OFF
                return
            at = body_start - self._window_offset
            middle = at + head.header_bytes
            header = self._window[at:middle]
            payload = self._window[middle : middle + head.payload_bytes]
            if body_digest(header, payload) != head.digest:
                self.reason = BAD_BODY
                return
            if not self._follows(head):
                self.reason = DISCONTINUED
                return
            self.offset = offset + head.size
            self.last_zxid = head.zxid
            self.chain = head.chain
            yield Found(offset, head, header, payload)

    def _head_at(self, offset: int) -> Head | None:
        if not self._fetch(offset, HEAD_BYTES):
            return None
        return parse_head(self._window, offset - self._window_offset, self._seed, offset)

    def _follows(self, head: Head) -> bool:
        if head.kind == MARK:
            return self.last_zxid is None or (head.zxid == self.last_zxid and head.chain == self.chain)
        if self.last_zxid is not None and head.previous_zxid != self.last_zxid:
            return False
        return self.chain is None or chain_after(self.chain, head.neutral) == head.chain

    def _fetch(self, offset: int, length: int) -> bool:
        """Have this range in the window; False when it reaches beyond the end."""
        if offset + length <= self._window_offset + len(self._window):
            return True
        if offset + length > self._end_offset:
            return False
        wanted = min(max(length, self._read_bytes), self._end_offset - offset)
        self._window = self._file.pread(wanted, offset)
        self._window_offset = offset
        return length <= len(self._window)


class Trace(NamedTuple):
    """A head whose checksum holds, somewhere beyond the end of the good records. Its body may be anything."""

    offset: int
    head: Head

    @property
    def end_offset(self) -> int:
        """Where its record would end."""
        return self.offset + self.head.size


def find_traces(file: File, seed: int, start_offset: int, end_offset: int, read_bytes: int) -> Iterator[Trace]:
    """All heads of this segment's generation in a byte range, at any aligned place. Raises OSError.

    A recycled file is full of old magics; those heads fail the checksum, for it is seeded with the generation and the
    offset.
    """
    overlap = HEAD_BYTES - 1
    base = start_offset
    while base + HEAD_BYTES <= end_offset:
        data = file.pread(min(read_bytes + overlap, end_offset - base), base)
        if len(data) < HEAD_BYTES:
            return
        position = data.find(MAGIC)
        while position >= 0:
            if (base + position) % 8 == 0:
                head = parse_head(data, position, seed, base + position)
                if head is not None:
                    yield Trace(base + position, head)
            position = data.find(MAGIC, position + 1)
        base += len(data) - overlap
