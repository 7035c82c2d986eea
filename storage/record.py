"""How one record lies on disk, and the checks that tell it from garbage. Pure: bytes in, bytes out.

Why a layout of our own: a record must be recognised after any power cut, on a recycled file full of old records, and
without trusting a length before its checksum. And the part that all brokers must agree on (the neutral fields, chained)
must not depend on local matters (generation, offset, what was synced when). This module knows no files and no segments.

Layout, little-endian, 8-byte aligned, HEAD_BYTES in front of the entry header, then the payload, then zeros up to the
next multiple of 8::

     0  4  magic          so that a search for later records is one bytes.find
     4  4  checksum       crc32c over bytes 8 to 56 and the offset, seeded with the segment's generation
     8  8  zxid           \\
    16  8  previous zxid   |
    24  4  header length   |  the neutral fields: the same on every broker
    28  4  payload length  |
    32  1  kind            |
    33  1  kind version    |
    34  2  flags           |
    36  4  digest         /   crc32c over entry header and payload
    40  8  synced up to       what this broker knew to be durable when it wrote the record
    48  8  chain              hash over the previous chain and the neutral fields

The offset within the segment goes into the checksum, so that a record which travels inside a payload (somebody
publishes a copy of a log file) is never taken for a record of the log itself.

Kind 0 is a MARK: a local note that carries `synced up to`. It repeats zxid and chain of the entry before it and is part
of no chain.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import NamedTuple

from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

__all__ = [
    "CHAIN_START",
    "HEAD_BYTES",
    "MAGIC",
    "MARK",
    "NEUTRAL_BYTES",
    "PADDING",
    "Head",
    "Record",
    "body_digest",
    "chain_after",
    "crc32c",
    "crc32c_extend",
    "encode_head",
    "encode_mark",
    "pack_offset",
    "parse_head",
    "record_size",
    "seed_of",
    "unpack_head",
]

MAGIC = b"\xb5SqR"
HEAD_BYTES = 56
ALIGNMENT = 8
MARK = 0
NEUTRAL_BYTES = 32
CHAIN_START = bytes(8)

PADDING = tuple(bytes(count) for count in range(ALIGNMENT))

_NEUTRAL = struct.Struct("<QQIIBBHI")
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_HEAD = struct.Struct("<4sIQQIIBBHIQ8s")

_pack_neutral = _NEUTRAL.pack
_pack_u32 = _U32.pack
_pack_u64 = _U64.pack
pack_offset = _pack_u64
unpack_head = _HEAD.unpack_from


class Record(NamedTuple):
    """One entry of the log.

    `zxid` is `epoch << 32 | counter`; `kind` 1 to 255 (0 is the log's own); `kind_version` 0 to 255; `flags` 16 bits;
    `header` and `payload` are opaque. Give the payload as `bytes`: it then goes to the kernel without a copy. Other
    bytes-like objects are accepted and copied once. What the log returns always holds `bytes`.
    """

    zxid: int
    kind: int
    kind_version: int
    flags: int
    header: bytes
    payload: bytes


class Head(NamedTuple):
    """The fixed part of a record whose checksum was right."""

    zxid: int
    previous_zxid: int
    header_bytes: int
    payload_bytes: int
    kind: int
    kind_version: int
    flags: int
    digest: int
    synced_up_to: int
    chain: bytes

    @property
    def neutral(self) -> bytes:
        """The fields that all brokers share, as they enter the chain."""
        return _pack_neutral(*self[:8])

    @property
    def size(self) -> int:
        """Bytes that the whole record takes on disk, padding included."""
        return record_size(self.header_bytes + self.payload_bytes)


def record_size(body_bytes: int) -> int:
    """Bytes on disk of a record whose entry header and payload have this many bytes together."""
    return (HEAD_BYTES + body_bytes + 7) & -8


def seed_of(generation: int) -> int:
    """The start value of all head checksums in a segment of this generation."""
    seed: int = crc32c(_pack_u64(generation))
    return seed


def body_digest(header: bytes, payload: bytes) -> int:
    """crc32c over entry header and payload; the same on every broker."""
    digest: int = crc32c_extend(crc32c(header), payload)
    return digest


def chain_after(chain: bytes, neutral: bytes) -> bytes:
    """The chain value of a record with these neutral fields that follows a record with this chain value."""
    return blake2b(chain + neutral, digest_size=8).digest()


def encode_head(
    seed: int,
    offset: int,
    synced_up_to: int,
    previous_zxid: int,
    previous_chain: bytes,
    record: Record,
) -> tuple[bytes, bytes]:
    """The 56 bytes in front of an entry at this offset of a segment with this seed, and the chain value after it."""
    zxid, kind, kind_version, flags, header, payload = record
    neutral = _pack_neutral(
        zxid,
        previous_zxid,
        len(header),
        len(payload),
        kind,
        kind_version,
        flags,
        crc32c_extend(crc32c(header), payload),
    )
    chain = blake2b(previous_chain + neutral, digest_size=8).digest()
    rest = neutral + _pack_u64(synced_up_to) + chain
    return MAGIC + _pack_u32(crc32c_extend(seed, rest + _pack_u64(offset))) + rest, chain


def encode_mark(seed: int, offset: int, synced_up_to: int, last_zxid: int, chain: bytes) -> bytes:
    """A whole MARK record for this place: it repeats the position of the entry before it."""
    rest = _pack_neutral(last_zxid, last_zxid, 0, 0, MARK, 0, 0, 0) + _pack_u64(synced_up_to) + chain
    return MAGIC + _pack_u32(crc32c_extend(seed, rest + _pack_u64(offset))) + rest


def parse_head(data: bytes, position: int, seed: int, offset: int) -> Head | None:
    """The head at `position` of `data`, which lies at `offset` of a segment with this seed; None if it is not valid."""
    checked = data[position + 8 : position + HEAD_BYTES]
    if len(checked) != HEAD_BYTES - 8:
        return None
    fields = unpack_head(data, position)
    if fields[0] != MAGIC or crc32c_extend(seed, checked + _pack_u64(offset)) != fields[1]:
        return None
    return Head._make(fields[2:])
