"""Bodies that cannot be compressed, of varying length around a nominal size, cut from one random pool.

Chance comes from a seed, so every run has the same ones. Pure.
"""

from __future__ import annotations

import random
import struct

POOL_BYTES = 4 << 20
BATCH_BYTES_MAX = 2 << 20
VARIANTS = 8
STAMP = struct.Struct("<8sd")
MAGIC = b"\xfesluice\xfe"[:8]


def batch_of(size: int, batch: int) -> int:
    """Return how many messages of *size* make a batch: *batch*, or fewer where they would exceed `BATCH_BYTES_MAX`."""
    return max(1, min(batch, BATCH_BYTES_MAX // size))


def make_batches(size: int, batch: int, *, vary: bool, seed: int = 1) -> list[list[bytes]]:
    """Return some batches; lengths are uniform between half and one and a half of *size*, or all *size*."""
    chance = random.Random(seed)
    pool = chance.randbytes(POOL_BYTES)
    batches = []
    for _ in range(VARIANTS):
        bodies = []
        for _ in range(batch):
            length = chance.randint(size // 2, size + size // 2) if vary else size
            start = chance.randrange(POOL_BYTES - length)
            bodies.append(pool[start : start + length])
        batches.append(bodies)
    return batches


def stamped(body: bytes, moment: float) -> bytes:
    """Return *body* with *moment* written over its first bytes."""
    return STAMP.pack(MAGIC, moment) + body[STAMP.size :]


def stamp_of(body: bytes) -> float | None:
    """Return the moment that `stamped` wrote, if it did."""
    return STAMP.unpack_from(body)[1] if body[:8] == MAGIC else None
