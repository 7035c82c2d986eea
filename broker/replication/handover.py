"""The ordered end of a leadership: to let another replica lead, or to begin a new epoch oneself.

1. No proposal is accepted any more; what is under way goes on.
2. Everything is committed, and the next leader has all of it durably.
3. Every learner is told to turn to the next leader, without an election; the old leader turns to it too. Discovery
   follows as after any election, so nothing about safety depends on this being done right.

If the second step takes too long, proposals are accepted again and the request is refused. The new epoch with the same
leader is what happens before the counter of an epoch runs out, and when a voter has promised a later epoch than this
leader's to somebody who never led.

This module must not know messages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Handover:
    """A leadership that is about to end.

    Attributes:
        leader: Who is to lead next.
        deadline: When to give up.
        reference: Whom to tell, if somebody asked for it.
        reason: Why it ends.

    """

    leader: int
    deadline: float
    reference: object | None
    reason: str

    def ready(self, last_zxid: int, committed_zxid: int, acknowledged_zxid: int) -> bool:
        """Say whether the next leader, which has everything up to *acknowledged_zxid*, may take over."""
        return last_zxid == committed_zxid == acknowledged_zxid
