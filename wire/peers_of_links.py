"""What two brokers say about the connection between them, not over it: refusals, signs of life, streams, names.

The rest of the vocabulary stands in `peers`, and the same rules hold. Nothing here reaches the replication core.
"""

from __future__ import annotations

from typing import Any

from sluicemq.wire.fields import Message, binary, boolean, map_of_text, message, text, unsigned, wire_field

__all__ = ["Beat", "ClusterNamed", "NodeFigures", "PeerRefusal", "StreamWanted"]

_CLUSTER_ID_BYTES = 16
_WORD_BYTES_MAX = 32


@message(30)
class PeerRefusal(Message):
    """Last frame of a stream: why its other end is not talked to, or not any more."""

    error: dict[str, Any] = wire_field(2, map_of_text)


@message(31)
class Beat(Message):
    """Either side, on any stream that had nothing to say: I am here."""


@message(32)
class ClusterNamed(Message):
    """Either side, on the data stream: the cluster that I belong to, which is not what my hello said any more."""

    cluster_id: bytes = wire_field(2, binary(_CLUSTER_ID_BYTES))
    founded: bool = wire_field(4, boolean)


@message(33)
class StreamWanted(Message):
    """To whoever opened the connection, on its control stream: open one more stream, of this kind."""

    stream: int = wire_field(2, unsigned(8))


@message(34)
class NodeFigures(Message):
    """Either side, on the control stream, about every second: how I am. For people, never for decisions.

    `role` and `phase` are words of the replication core; `leader` is 0 while I know none. Times of syncs are means of
    the last seconds.
    """

    role: str = wire_field(2, text(_WORD_BYTES_MAX))
    phase: str = wire_field(4, text(_WORD_BYTES_MAX))
    epoch: int = wire_field(6, unsigned(32))
    leader: int = wire_field(8, unsigned(32))
    last_zxid: int = wire_field(10, unsigned(64))
    committed_zxid: int = wire_field(12, unsigned(64))
    applied_zxid: int = wire_field(14, unsigned(64))
    log_time_ms: int = wire_field(16, unsigned(64))
    disk_free_bytes: int = wire_field(18, unsigned(64))
    sync_microseconds: int = wire_field(20, unsigned(32))
    version: str = wire_field(1, text(255), default="")
