"""Up to where the other brokers have the log: what this one should keep, so that they can read on in it.

A broker that finds its place in the log no more is sent a snapshot with all that lives, which may be everything; and
while that is on its way the log goes on. So the log of a leader begins no later than where the others are, as long as
there is room. This module must not know what begins when, nor how much room there is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.replication.messages import Role
from sluicemq.broker.replication.progress import ProgressState

if TYPE_CHECKING:
    from sluicemq.broker.replication.replica import Replica


class ReadingOn:
    """What is known of the others' logs; of a voter that is away, what it had when it was heard last."""

    def __init__(self) -> None:
        self._reached: dict[int, int] = {}

    def needed_after(self, replica: Replica, start_zxid: int) -> int | None:
        """Return the entry behind which somebody reads on; None where this broker does not lead, or nobody said.

        Args:
            replica: This broker.
            start_zxid: Where its log begins.

        """
        if replica.role is not Role.LEADING or replica.configuration is None:
            return None
        self.note(replica, start_zxid)
        reached = self._reached
        nodes = {voter.node for voter in replica.configuration.everybody} | set(replica.learners)
        return min((reached[node] for node in nodes if node in reached), default=None)

    def note(self, replica: Replica, start_zxid: int) -> None:
        """Note how far those are who are here; to be called before one of them leaves."""
        reached = self._reached
        for node, learner in replica.learners.items():
            if learner.progress is ProgressState.SNAPSHOT:
                # It reads on behind what is being sent, and nothing was forgotten since.
                reached[node] = max(start_zxid, reached.get(node, 0))
            elif learner.acknowledged_zxid:
                reached[node] = learner.acknowledged_zxid
