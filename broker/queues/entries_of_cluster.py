"""Entries about the brokers themselves: who votes, and where each is reached.

Shapes and numbers only, as in `entries`. Who votes is the replication core's business: to the machine it is bytes that
it keeps, so that a snapshot holds them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

from sluicemq.broker.queues.entry import Entry, number, pack
from sluicemq.wire.fields import Check, text, unsigned

ADDRESS_BYTES_MAX = 300
"""Most bytes of an address, `host:port`."""


@dataclasses.dataclass(frozen=True, slots=True)
class Membership(Entry):
    """From here on others vote.

    Attributes:
        payload: Who, as the replication core's shell writes it.

    """

    KIND = 17
    CHECKS: ClassVar[tuple[Check, ...]] = (number,)

    payload: bytes | memoryview = dataclasses.field(default=b"", repr=False)

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms)

    @classmethod
    def from_fields(cls, fields: list[Any], payload: bytes | memoryview) -> Self:
        """Return the entry with these checked *fields*; used by `decode_entry`."""
        (log_time_ms,) = fields
        return cls(log_time_ms, payload)


@dataclasses.dataclass(frozen=True, slots=True)
class NodeAddress(Entry):
    """A broker is reached at *address*; empty: it is none of the cluster any more."""

    KIND = 47
    CHECKS: ClassVar[tuple[Check, ...]] = (number, unsigned(32), text(ADDRESS_BYTES_MAX))

    node: int
    address: str

    def header(self) -> bytes:
        """Return the header's bytes."""
        return pack(self.log_time_ms, self.node, self.address)
