"""Sessions: who is connected, in the log's eyes, and which leases go when a session ends.

This module must not know connections.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluicemq.broker.queues.leases import LeaseTable


@dataclasses.dataclass(slots=True)
class Session:
    """One session.

    Attributes:
        number: Its number: the zxid of the entry that opened it.
        vhost: Its vhost.
        identity: Who opened it.
        client_name: What the client calls itself.
        resume_token: Secret with which it could be resumed; a provision.
        opened_ms: Log time of its opening.
        leases: The tables of its consumers that hold messages, by consumer.

    """

    number: int
    vhost: str
    identity: str
    client_name: str
    resume_token: bytes
    opened_ms: int
    leases: dict[int, LeaseTable] = dataclasses.field(default_factory=dict)
