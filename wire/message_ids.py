"""Ids of messages whose senders gave none: numbers of 64 bits that rise with time, made from the base of their batch.

41 bits are milliseconds since 2024 (UTC), 10 bits the broker that led, 12 bits count within a millisecond. The leader
gives each batch the id of its first message; that of any other follows: a batch of more than 4,096 messages goes on in
the milliseconds behind. As text they have 16 digits, so that texts sort as ids do. This module must not know clocks.
"""

from __future__ import annotations

EPOCH_MS = 1_704_067_200_000
"""The beginning of 2024, in milliseconds since 1970."""
NODE_BITS, COUNT_BITS = 10, 12
NODE_MASK, COUNT_MASK = (1 << NODE_BITS) - 1, (1 << COUNT_BITS) - 1
TIME_MS_MAX = (1 << 41) - 1
"""Latest millisecond that an id can say, in 2093."""


def id_of(moment: int, node: int) -> int:
    """Return the id that the broker *node* gives at *moment*: milliseconds since `EPOCH_MS` << `COUNT_BITS` | count."""
    return moment >> COUNT_BITS << NODE_BITS + COUNT_BITS | (node & NODE_MASK) << COUNT_BITS | moment & COUNT_MASK


def moment_of(message_id: int) -> int:
    """Return the moment at which an id was given, as `id_of` takes it."""
    return message_id >> NODE_BITS + COUNT_BITS << COUNT_BITS | message_id & COUNT_MASK


def message_id_at(base: int, index: int) -> int:
    """Return the id of message *index* of a batch whose first message has the id *base*."""
    return id_of(moment_of(base) + index, base >> COUNT_BITS)


def default_message_id(base: int, index: int) -> str:
    """Return the same as text: 16 hexadecimal digits; empty where there is no base, because it was forgotten."""
    return f"{message_id_at(base, index):016x}" if base else ""
