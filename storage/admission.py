"""What may be appended: pure checks of a whole group before its first byte is written.

Why before: a group that is refused half-way would leave entries behind whose fate nobody knows. This module knows no
files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.storage.errors import EntryTooLarge, EpochExhausted, ZxidGap
from sluicemq.storage.record import HEAD_BYTES, MARK, record_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.storage.record import Record

__all__ = ["admit"]

_COUNTER_MASK = 0xFFFFFFFF


def admit(last_zxid: int, records: Sequence[Record], entry_bytes_max: int) -> Sequence[Record]:
    """Check a group that is to follow `last_zxid`; returns it with headers and payloads that are `bytes`.

    Raises ZxidGap, EpochExhausted, EntryTooLarge, ValueError (kind 0).
    """
    previous = last_zxid
    plain = True
    for record in records:
        zxid = record.zxid
        if zxid != previous + 1 and (zxid & _COUNTER_MASK or zxid >> 32 <= previous >> 32):
            raise ZxidGap(previous, zxid)
        if zxid & _COUNTER_MASK == _COUNTER_MASK:
            # The number behind it would be the next epoch's first, which nobody could tell from a new epoch.
            raise EpochExhausted(previous, zxid)
        previous = zxid
        if type(record.payload) is not bytes or type(record.header) is not bytes:
            plain = False
        elif len(record.header) + len(record.payload) + HEAD_BYTES > entry_bytes_max:
            raise EntryTooLarge(zxid, record_size(len(record.header) + len(record.payload)), entry_bytes_max)
        if record.kind == MARK:
            raise ValueError(f"kind {MARK} of entry {zxid} is the log's own")
    if plain:
        return records
    # The checksum takes only bytes.
    return admit(
        last_zxid,
        [record._replace(header=bytes(record.header), payload=bytes(record.payload)) for record in records],
        entry_bytes_max,
    )
