"""What the machine keeps about the brokers: who votes, as bytes, and where each is reached.

So that a snapshot holds it, and everybody who applies the same entries knows the same. This module must not know what
the bytes mean, nor who leads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

NODES_MAX = 1_000
"""Most brokers whose addresses are kept; frozen by the log's format, see `MachineLimits`."""


class FrozenCluster(NamedTuple):
    """All of it, which nothing changes."""

    configuration_zxid: int
    configuration: bytes
    addresses: tuple[tuple[int, str], ...]


class Cluster:
    """Who votes, and where brokers are reached.

    Attributes:
        configuration_zxid: The entry that said last who votes; 0 for none.
        configuration: What it said; empty for nothing.
        addresses: `host:port` by the number of the broker.
        removed: Numbers of brokers that were removed, and not added since: they are not noted again by themselves.

    """

    def __init__(self) -> None:
        self.configuration_zxid = 0
        self.configuration = b""
        self.addresses: dict[int, str] = {}
        self.removed: set[int] = set()

    def configured(self, zxid: int, configuration: bytes) -> None:
        """The entry *zxid* says who votes."""
        self.configuration_zxid, self.configuration = zxid, configuration

    def moved(self, node: int, address: str) -> bool:
        """Note where a broker is reached; return whether there was room."""
        if not address:
            self.addresses.pop(node, None)
            self.removed.add(node)
            if len(self.removed) > NODES_MAX:
                self.removed.remove(min(self.removed))
            return True
        if node in self.addresses or len(self.addresses) < NODES_MAX:
            self.addresses[node] = address
            self.removed.discard(node)
        else:
            return False
        return True

    def frozen(self) -> FrozenCluster:
        """Return everything as it is now."""
        known = {**dict.fromkeys(self.removed, ""), **self.addresses}
        return FrozenCluster(self.configuration_zxid, self.configuration, tuple(sorted(known.items())))

    def restore(self, configuration_zxid: int, configuration: bytes, addresses: Iterable[tuple[int, str]]) -> None:
        """Take over what an image held."""
        self.configured(configuration_zxid, configuration)
        known = dict(addresses)
        self.addresses = {node: address for node, address in known.items() if address}
        self.removed = {node for node, address in known.items() if not address}
