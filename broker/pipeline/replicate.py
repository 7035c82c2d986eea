"""Stage 3, replicate: who has what durably, and therefore what is committed.

With one broker the quorum is itself; the rule is the same for five: committed is the highest zxid that a majority of
the voters has durably (Junqueira, Reed, Serafini: "Zab", DSN 2011, phase 3; the rule that only entries of the own
epoch are counted comes with the election). Pure: no trio, no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable


class Quorum:
    """Durable positions of the voters.

    Args:
        voters: Node ids of all voters, this broker among them.

    """

    def __init__(self, voters: Iterable[int]) -> None:
        self._durable = dict.fromkeys(voters, 0)
        if not self._durable:
            raise ValueError("a quorum needs at least one voter")
        self._place = len(self._durable) // 2

    def durable(self, node_id: int, zxid: int) -> int:
        """Note that *node_id* has everything up to *zxid* durably; return the zxid up to which all is committed.

        Positions are cumulative and never go back; an older one changes nothing.
        """
        if zxid > self._durable[node_id]:
            self._durable[node_id] = zxid
        return self.committed()

    def committed(self) -> int:
        """Return the highest zxid that a majority has durably."""
        return sorted(self._durable.values(), reverse=True)[self._place]
