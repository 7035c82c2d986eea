"""How the broker says which messages of a batch are duplicates by their ids: as exactly as a frame has room for."""

from __future__ import annotations

from sluicemq.wire.messages import KNOWN_NUMBERS

KNOWN_NUMBER_BYTES = 9
"""Most bytes of one of the numbers that say so."""
HEAD_BYTES = 128
"""Most bytes of the rest of a frame that says so."""


def told(known: list[int], count: int, frame_bytes_max: int) -> tuple[list[int], bytes]:
    """Return *known*, or one bit for each of *count* messages where that is too long for a frame."""
    if len(known) * KNOWN_NUMBER_BYTES + HEAD_BYTES <= frame_bytes_max:
        return known, b""
    bits = 0
    for first, size in zip(known[::KNOWN_NUMBERS], known[1::KNOWN_NUMBERS], strict=True):
        bits |= ((1 << size) - 1) << first
    return [], bits.to_bytes(-(-count // 8), "little")
