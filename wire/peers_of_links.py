"""What two brokers say about the connection between them, not over it: refusals, signs of life, streams, names.

The rest of the vocabulary stands in `peers`, and the same rules hold. Nothing here reaches the replication core.
"""

from __future__ import annotations

from typing import Any

from sluicemq.wire.fields import Message, binary, boolean, map_of_text, message, unsigned, wire_field

__all__ = ["Beat", "ClusterNamed", "PeerRefusal", "StreamWanted"]

_CLUSTER_ID_BYTES = 16


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
