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
        frozen_for: Number of the last freeze that has what it needs of this session.

    """

    number: int
    vhost: str
    identity: str
    client_name: str
    resume_token: bytes
    opened_ms: int
    leases: dict[int, LeaseTable] = dataclasses.field(default_factory=dict)
    frozen_for: int = 0

    def frozen(self) -> tuple[LeaseTable, ...]:
        """Return the tables that the session has now; all else of it never changes."""
        return tuple(self.leases.values())
