"""What an operator is told of a cluster that has no leader for long: who is missing, and what can be done.

Pure: the clock is an argument. This module must not know how leaders are found.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from sluicemq.broker.replication.membership import Configuration

LEADERLESS_SECONDS = 60.0
"""An election takes a second, a machine that starts again longer: so long nobody need be told."""


class Leaderless:
    """Of one process; tells once for each time without a leader."""

    def __init__(self) -> None:
        self._since: float | None = None
        self._told = False

    def look(
        self, now: float, leader: int | None, configuration: Configuration | None, reachable: Collection[int]
    ) -> str | None:
        """Return what is to be said now, if anything.

        Args:
            now: Seconds by a clock that never jumps.
            leader: Who leads, or is about to.
            configuration: Who votes; None: nobody has said so yet, and a cluster is still forming.
            reachable: Numbers of the brokers that are there, this one among them.

        """
        if leader is not None or configuration is None:
            self._since, self._told = None, False
            return None
        if self._since is None:
            self._since = now
        if self._told or now - self._since < LEADERLESS_SECONDS:
            return None
        self._told = True
        missing = sorted({voter.node for voter in configuration.everybody} - set(reachable))
        if configuration.is_quorum([voter for voter in configuration.everybody if voter.node in reachable]):
            return (
                f"nobody leads for {now - self._since:.0f} s, though a majority of those that vote is connected: "
                "look into their logs"
            )
        return (
            f"nobody leads for {now - self._since:.0f} s: nodes {', '.join(map(str, missing))} vote and are not "
            "connected, and without a majority nothing is confirmed; start them. Only if too many of their disks are "
            "lost for good: `sluicemq cluster force-new` makes a new cluster of one that is left"
        )
