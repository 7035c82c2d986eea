"""For how long silence is borne: longer where leaders are given up although they live.

On a machine with too little processor, or over a slow network, answers take longer than a leader's patience. Then the
leader steps down, the same one is elected, and steps down again: much work, and nothing is served. So whoever has led
and has given up for silence, twice within a short time, is more patient the next time: its patience doubles, and that
of whoever follows it, because the leader tells its factor with the epoch and with every ping. Once a quorum has
answered as quickly as it should for a while, the factor halves again.

Only where more patience would have helped, or the next leader that dies is missed late for nothing: a leader that was
cut off, or stood still itself, for longer than the most patience was rightly given up, however often that happens. So
giving up counts when a quorum is heard again before the most patience would have been over.

What may never be otherwise: a learner is at least as patient as the leader that counts it, so that the leader has
stopped before another one is sought. It holds because a learner hears the factor before it is counted, and within an
epoch the leader's factor only falls: its own first, the learners' with the next ping.

That elections back off as one after the other fails is older than this (Raft, section 9.3, chooses a timeout far above
the time of a broadcast; here it is found). Pure: the time is an argument. This module must not know messages.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

from sluicemq.broker.replication.options import Options

FACTOR_MAX = 4
"""Most patience: links that are silent for longer than this makes of `follower_seconds` end anyway."""
AGAIN_SECONDS = 20.0
"""Giving up twice within so long is no accident."""
CALM_SECONDS = 10.0
"""After so long without strain the factor halves."""
FORGET_SECONDS = 60.0
"""A factor that was told or found so long ago says nothing of the present."""


@dataclass(slots=True)
class _Doubt:
    """This replica has given up at *since*; if a quorum is heard until *until*, more patience would have helped."""

    since: float
    until: float
    is_quorum: Callable[[set[int]], bool]
    heard: set[int] = field(default_factory=set)


class Patience:
    """Of one replica, across its roles.

    Args:
        options: The times that are multiplied.

    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._factor = 1
        self._since = -math.inf
        self._gave_up_at = -math.inf
        self._strained_at = -math.inf
        self._doubt: _Doubt | None = None

    @property
    def leader_seconds_max(self) -> float:
        """For how long the most patient leader waits for a word of a quorum."""
        return self._options.leader_seconds * FACTOR_MAX

    def factor(self, now: float) -> int:
        """Return by how much all patience is multiplied: 1 to `FACTOR_MAX`."""
        return self._factor if now - self._since < FORGET_SECONDS else 1

    def leader_seconds(self, now: float) -> float:
        """Return for how long a leader waits for a word of a quorum."""
        return self._options.leader_seconds * self.factor(now)

    def follower_seconds(self, factor: int) -> float:
        """Return for how long a learner waits for a word of a leader that told it this factor."""
        return self._options.follower_seconds * factor

    def discovery_seconds(self, now: float) -> float:
        """Return how long a leader may take to gather a quorum of promises."""
        return self._options.discovery_seconds * self.factor(now)

    def told(self, factor: int, now: float) -> None:
        """A leader says how patient it is; one that knows of less trouble does not wipe out what was learnt here."""
        if factor >= self.factor(now):
            self._set(factor, now)

    def gave_up(self, now: float, seconds: float, is_quorum: Callable[[set[int]], bool]) -> None:
        """This replica led, ran all the time, and did not hear a quorum for too long.

        Args:
            now: The time.
            seconds: For how long it would have waited, if its factor were 1.
            is_quorum: Whether these nodes, with this one, are one.

        """
        self._doubt = _Doubt(now, now + (FACTOR_MAX - self.factor(now)) * seconds, is_quorum)

    @property
    def doubts(self) -> bool:
        """Whether it matters who is `heard`."""
        return self._doubt is not None

    def heard(self, node: int, now: float) -> None:
        """Take note that *node* has said something: if a quorum has in time, it was only slow."""
        doubt = self._doubt
        if doubt is None:
            return
        doubt.heard.add(node)
        if now >= doubt.until or doubt.is_quorum(doubt.heard):
            self._settle(doubt, now)

    def elected(self, now: float) -> None:
        """This replica is to lead, which a quorum wants; from now on its factor only falls."""
        if self._doubt is not None:
            self._settle(self._doubt, now)

    def established(self, now: float) -> None:
        """This replica begins to lead: nothing is known yet of how quick its quorum is."""
        self._strained_at = now

    def led(self, now: float, *, strained: bool) -> None:
        """This replica leads; *strained* says that a quorum is slower than a factor of 1 would bear."""
        self._factor = self.factor(now)  # what is forgotten must not come back: within an epoch it only falls
        if strained:
            self._since = self._strained_at = now
        elif self._factor > 1 and now - self._strained_at >= CALM_SECONDS:
            self._set(self._factor // 2, now)
            self._strained_at = now

    def _settle(self, doubt: _Doubt, now: float) -> None:
        """A quorum is back: with more patience there would have been no election, if it is in time."""
        self._doubt = None
        if now >= doubt.until:
            return
        if doubt.since - self._gave_up_at <= AGAIN_SECONDS:
            self._set(min(FACTOR_MAX, 2 * self.factor(now)), now)
        self._gave_up_at = doubt.since

    def _set(self, factor: int, now: float) -> None:
        self._factor, self._since = factor, now
