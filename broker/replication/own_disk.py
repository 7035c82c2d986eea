"""Whether a leader's own disk keeps up with the quorum's.

A leader commits nothing that it does not have durably itself (whoever applied it here could lose it in a crash). So one
that still talks, but whose disk hangs, would hold up everybody for as long as it hangs, though a quorum could go on
without it. It must not lead then. A disk that is only slower than the others', and gets there within the bound,
is no reason.

This module must not know messages, learners or what follows from it.
"""

from __future__ import annotations


class OwnDisk:
    """How long the leader's own disk has owed something that a quorum has.

    Args:
        patience_seconds: How long it may.

    """

    def __init__(self, patience_seconds: float) -> None:
        self._patience_seconds = patience_seconds
        self._owed_zxid = 0
        self._since: float | None = None

    def note(self, quorum_zxid: int, own_zxid: int, now: float) -> None:
        """A quorum has everything up to *quorum_zxid* durably by *now*, the leader itself up to *own_zxid*."""
        if self._since is not None and own_zxid >= self._owed_zxid:
            self._since = None  # that debt is paid; what is owed now is younger
        if self._since is None and quorum_zxid > own_zxid:
            self._owed_zxid, self._since = quorum_zxid, now

    def hangs(self, now: float) -> bool:
        """Say whether it has owed the same entry for longer than it may."""
        return self._since is not None and now - self._since >= self._patience_seconds
