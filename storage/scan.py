"""Walking the records of a segment, in large reads, with every check that the format allows.

Why here: recovery, reading, truncation and the tools must agree, byte for byte, on what a good record is. A walk ends
at the first place that is not one and says why; what that means is decided elsewhere (`recovery` for the log's end,
`reading` for damage).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from sluicemq.storage.record import (
    HEAD_BYTES,
    MAGIC,
    MARK,
    NEUTRAL_BYTES,
    Head,
    chain_after,
    crc32c,
    crc32c_extend,
    pack_offset,
    parse_head,
    unpack_head,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["BadPlaceError", "Found", "Readable", "Trace", "Walk", "find_traces"]

BLANK = "no record here"
CUT_OFF = "the record is longer than the file"
BAD_BODY = "header or payload do not match their digest"
DISCONTINUED = "a whole record that does not follow the one before it"


class Readable(Protocol):
    """What a walk reads from: an open file, or one that is opened when it is read."""

    def pread(self, length: int, offset: int) -> bytes:
        """Up to `length` bytes at the offset: fewer only at the end of the file. Raises OSError."""


class BadPlaceError(Exception):
    """A reader met bytes that are not what they should be: damage, or the file was recycled under it.

    Never leaves this package: whoever knows whether the log changed meanwhile tries again, or says LogCorrupt.
    """

    def __init__(self, name: str, offset: int, reason: str, last_good_zxid: int) -> None:
        super().__init__(name, offset, reason, last_good_zxid)
        self.name = name
        self.offset = offset
        self.reason = reason
        self.last_good_zxid = last_good_zxid


class Found(NamedTuple):
    """A good record; `end_offset` is where the next one starts. `header` and `payload` are slices, made anew."""

    offset: int
    end_offset: int
    zxid: int
    previous_zxid: int
    kind: int
    kind_version: int
    flags: int
    digest: int
    synced_up_to: int
    chain: bytes
    header: bytes
    payload: bytes

    @property
    def head(self) -> Head:
        """The fixed part as it lies on disk. Only for a walk with bodies."""
        return Head(
            self.zxid,
            self.previous_zxid,
            len(self.header),
            len(self.payload),
            self.kind,
            self.kind_version,
            self.flags,
            self.digest,
            self.synced_up_to,
            self.chain,
        )


class Walk:
    """Iterates over the good records (marks included) of a byte range, from a known position.

    Start where a record starts. With `previous_zxid` and `chain` given, each record must follow the one before; with
    None, the first is taken on its own checksum, and the rest must follow it. After the iteration, `offset` is the
    first byte that is not part of a good record, and `reason` says why (one of the constants of this module). Without
    `bodies`, header and payload are verified and not handed out. Raises OSError.
    """

    def __init__(
        self,
        file: Readable,
        seed: int,
        start_offset: int,
        end_offset: int,
        previous_zxid: int | None,
        chain: bytes | None,
        read_bytes: int,
        *,
        bodies: bool = True,
    ) -> None:
        self._file = file
        self._seed = seed
        self._end_offset = end_offset
        self._read_bytes = read_bytes
        self._bodies = bodies
        self.offset = start_offset
        self.last_zxid = previous_zxid
        self.chain = chain
        self.reason = BLANK

    def __iter__(self) -> Iterator[Found]:  # noqa: C901 - one loop on purpose: a call per check would double the time of a scan
        seed, offset, last_zxid, chain = self._seed, self.offset, self.last_zxid, self.chain
        base, window = offset, b""
        limit = offset
        while True:
            if offset + HEAD_BYTES > limit:
                base, window = offset, self._read(offset, HEAD_BYTES)
                limit = base + len(window)
            at = offset - base
            checked = window[at + 8 : at + HEAD_BYTES]
            if len(checked) != HEAD_BYTES - 8:
                break
            magic, checksum, zxid, previous, header_bytes, payload_bytes, kind, version, flags, digest, synced, own = (
                unpack_head(window, at)
            )
            if magic != MAGIC or crc32c_extend(seed, checked + pack_offset(offset)) != checksum:
                break
            length = HEAD_BYTES + header_bytes + payload_bytes
            if offset + length > limit:
                base, window = offset, self._read(offset, length)
                limit, at = base + len(window), 0
                if offset + length > limit:
                    self.reason = CUT_OFF
                    break
            body = window[at + HEAD_BYTES : at + length]
            if crc32c(body) != digest:
                self.reason = BAD_BODY
                break
            if kind == MARK:
                follows = last_zxid is None or (zxid == last_zxid and own == chain)
            elif chain is None:
                follows = last_zxid is None or previous == last_zxid
            else:
                follows = previous == last_zxid and chain_after(chain, checked[:NEUTRAL_BYTES]) == own
            if not follows:
                self.reason = DISCONTINUED
                break
            start, offset = offset, offset + ((length + 7) & -8)
            self.offset, self.last_zxid, self.chain = offset, zxid, own
            last_zxid, chain = zxid, own
            header, payload = (body[:header_bytes], body[header_bytes:]) if self._bodies else (b"", b"")
            yield Found(start, offset, zxid, previous, kind, version, flags, digest, synced, own, header, payload)

    def _read(self, offset: int, length: int) -> bytes:
        """At least this many bytes from here, and as many as one read fetches; fewer where the range ends."""
        return self._file.pread(max(0, min(max(length, self._read_bytes), self._end_offset - offset)), offset)


class Trace(NamedTuple):
    """A head whose checksum holds, somewhere beyond the end of the good records. Its body may be anything."""

    offset: int
    head: Head

    @property
    def end_offset(self) -> int:
        """Where its record would end."""
        return self.offset + self.head.size


def find_traces(file: Readable, seed: int, start_offset: int, end_offset: int, read_bytes: int) -> Iterator[Trace]:
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
