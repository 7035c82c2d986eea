"""How an epoch begins: whoever appends to a log does so in an epoch of its own.

So no zxid ever stands for two contents, whatever was cut off a log or written by whom. This module must not know what
is appended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluicemq.storage.log import SegmentLog

__all__ = ["EPOCH_BITS", "promise_epoch"]

EPOCH_BITS = 32
"""Bits of a zxid below its epoch."""


def promise_epoch(log: SegmentLog) -> int:
    """Return an epoch above every one that the log holds or promised, promised durably: its entry EPOCH comes next.

    Raises:
        LogWriteFailed: The promise cannot be written.

    """
    epoch = max(log.promised_epoch, log.last_zxid >> EPOCH_BITS) + 1
    log.save_promised_epoch(epoch)
    return epoch
