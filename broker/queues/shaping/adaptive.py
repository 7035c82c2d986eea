"""The adaptive rate: how many messages a second a service can take, found by how it copes with them.

Additive increase, multiplicative decrease: as long as messages are settled well and soon the rate grows, at first by
doubling, later by steps that begin small and become larger the longer all goes well. Once too many fail, or take too
long, it falls to a little below what was acknowledged of late; where many fail by no more than half at once. Messages
that were delivered before a change say nothing about it. Where a queue builds up at the service, the rate falls to the
pace at which it is worked off; where messages take too long by then, half of that goes until they do not. It grows only
where messages wait for it: else nobody knows whether it could.

A latency that is set and that the service cannot reach at any rate would let the rate fall for ever. So it is measured
against the shortest one that was seen, where there was next to nothing to do: less than twice that is not asked for.
Since a queue that never ends would raise the shortest one too, half of the rate goes for a moment now and then, as far
as it matters what it is; what messages take then, without taking longer and longer, is the service's own time.

It is told what happened and when, and must not know messages, nor who settles them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

RATE_FIRST = 10.0
"""Where it begins, within its bounds."""
INTERVAL_SECONDS = 0.5
"""How often it decides; a bit later where less than `SETTLED_MIN` messages were settled."""
SETTLED_MIN = 5
PATIENCE_SECONDS = 2.0
"""After so long a single settled message is evidence enough."""
DOUBLING = 2.0
STEP_SHARE = 0.01
"""The first steps of growth, as a share of what was acknowledged when it fell last."""
STEP_INTERVALS = 2
"""After so many steps they double."""
BEYOND_SHARE = 1.25
BEYOND_GROWTH = 1.3
"""Beyond so much of what was acknowledged then, the service is another one: the rate grows by this factor."""
DECREASE = 0.95
"""It falls to so much of what was acknowledged."""
DECREASE_MAX = 0.5
"""But to no less than so much of what it was,"""
USEFUL_SHARE = 0.5
"""Where no more than this succeed, of few, what succeeded says nothing either."""
LOADED_SHARE = 0.8
"""Where less of the rate was used, what was acknowledged says what was asked for, and nothing of what could be done."""
SURE = 20
"""unless so many were acknowledged and none failed: that is its pace then."""
FAILED_FREE = 1.0
"""A failure now and then is none of too much work."""
MEMORY = 0.5
"""So much of what was judged counts in the next interval too: few messages a second fail one by one."""
QUEUED_SHARE = 0.4
"""Messages that take longer than so much of the latency that is allowed, beyond the shortest that was seen, queue."""
CHANCE = 2.0
"""Of few messages some may be late by chance: so many times the root of their number."""
SHORTEST_GROWTH = 1.02
"""By so much the shortest latency is forgotten at each decision: services change."""
ALLOWED_FACTOR = 2.0
"""A latency that is set is taken to be so many times the shortest that was seen, where it is less: at no rate would
messages take less than that one,"""
ALLOWED_SECONDS_MIN = 0.03
"""or to be this long: messages go in slices, and those of a slice wait for each other."""
SLOW_SECONDS = 0.25
"""Of a service that takes longer than this nothing is counted until what was delivered before a change is done."""
PROBE_SECONDS = 20.0
PROBE_SHORTEST = 60.0
"""After so long, or so many times the shortest latency, that is measured anew where it decides."""
PROBE_LENGTH = 4.0
"""For so many times that,"""
PROBE_SECONDS_MIN = 0.4
"""and no less than this, the rate is half of itself: what queues at the service is worked off, and the rest tells."""
STEADY = 1.15
"""Messages that take no longer than so many times what others took just before do not queue."""
STEADY_MIN = 3
"""So many are evidence enough."""
NEAR_SHORTEST = 1.1
"""A latency up to so many times the shortest one is the same,"""
SHORTEST_MAX = 1.5
"""and more than so many times what was measured last is not believed unless it is measured anew,"""
LEARNED_MAX = 4.0
"""nor more than this at once: half of the rate may be just what the service does, and no less queues there."""
DRAIN_SHARE = 0.5
DRAIN_INTERVAL_SECONDS = 0.1
DRAIN_SECONDS_MAX = 4.0
DRAINED_SHARE = 0.6
"""A backlog is gone once messages take no longer than so much of the latency that is allowed."""


class AdaptiveRate:
    """The rate of one queue.

    Args:
        settings: A checked `delivery_adaptive`.
        now: The present time.

    Attributes:
        settings: As above.

    """

    def __init__(self, settings: Mapping[str, float | None], now: float) -> None:
        self._rate = RATE_FIRST
        self._known: float | None = None
        self._steps = 0
        self._changed_at = now
        self._draining_until: float | None = None
        self._wanted = False
        self._shortest = float("inf")
        self._measured = float("inf")
        self._measured_at = now
        self._drain_halves_at = now
        self._halves = [(0, 0.0), (0, 0.0)]
        self._probing = False
        self._judged = self._failed = 0.0
        self._begin(now)
        self.follow(settings)

    def follow(self, settings: Mapping[str, float | None]) -> None:
        """Keep to other bounds and targets."""
        self.settings = settings
        self._min, self._max = settings["min"] or 0.0, settings["max"] or 0.0
        self._latency = settings["latency"]
        self._failures = settings["failures"] or 0.0
        if self._latency is None:
            self._draining_until = None
        self._set(self._rate)

    @property
    def latency_allowed(self) -> float | None:
        """Seconds that messages may take, on the mean: what is set, or more where that cannot be; None: any."""
        if self._latency is None or self._shortest == float("inf"):
            return self._latency
        return max(self._latency, self._shortest * ALLOWED_FACTOR, ALLOWED_SECONDS_MIN)

    def _set(self, rate: float) -> None:
        self._rate = min(max(rate, self._min), self._max)

    def _begin(self, now: float) -> None:
        self._since = now
        self._delivered = self._acknowledged = self._settled = self._fresh = 0
        self._seconds = 0.0

    @property
    def rate(self) -> float:
        """Messages a second that may go now."""
        if self._draining_until is not None:
            return max(self._rate * DRAIN_SHARE, self._min)
        return self._rate

    @property
    def draining(self) -> bool:
        """Whether a backlog at the service is waited for."""
        return self._draining_until is not None

    def waited_for(self) -> None:
        """Messages wait for the rate."""
        self._wanted = True

    def delivered(self, messages: int) -> None:
        """So many messages were delivered."""
        self._delivered += messages

    def settled(self, messages: int, seconds: float, failed: bool, now: float) -> None:
        """So many messages were settled *seconds* after their delivery; *failed*: they will have to come again."""
        self._settled += messages
        if not failed:
            self._acknowledged += messages
        if self._draining_until is not None:
            later = now >= self._drain_halves_at
            count, taken = self._halves[later]
            self._halves[later] = count + messages, taken + messages * seconds
        if now - seconds < self._changed_at:
            return  # they were under way when it became what it is
        self._fresh += messages
        self._seconds += messages * seconds
        self._judged += messages
        if failed:
            self._failed += messages

    def look(self, now: float, out: int) -> bool:
        """Decide if it is time to, while so many messages are *out*; return whether the rate is another one."""
        elapsed = now - self._since
        if self._draining_until is not None:
            return elapsed >= DRAIN_INTERVAL_SECONDS and self._drain(elapsed, out, now)
        if SLOW_SECONDS < self._shortest < now - self._changed_at and self._since <= self._changed_at:
            self._begin(now)  # what was done until now was delivered before it changed
            return False
        latency = self._observed(elapsed, out, now)
        if latency is None:
            return False
        before = self.rate
        allowed = self.latency_allowed
        if self._failed > self._failures * self._judged + FAILED_FREE:
            self._decrease(elapsed, now)
        elif allowed is not None and latency > allowed:
            self._decrease(elapsed, now)
            self._begin_draining(now, max(DRAIN_SECONDS_MAX, 4 * allowed))
        elif self._is_probe_due(now):
            self._begin_draining(now, max(PROBE_SECONDS_MIN, PROBE_LENGTH * self._shortest), probing=True)
        elif self._is_behind(latency):
            self._fall_to_pace(elapsed, now)
        elif self._wanted and self._fresh:
            self._increase(now)
        self._wanted = False
        self._judged *= MEMORY
        self._failed *= MEMORY
        self._begin(now)
        return self.rate != before

    def _observed(self, elapsed: float, out: int, now: float) -> float | None:
        """Return how long messages take, those included that still do; None: too early to say."""
        enough = SETTLED_MIN if elapsed < PATIENCE_SECONDS else 1
        if elapsed < INTERVAL_SECONDS or self._settled < enough:
            return None
        # What is settled soon is known soon: only what is out, too, tells how long all of it takes.
        latency = max(self._seconds / self._fresh if self._fresh else 0.0, out * elapsed / self._settled)
        if latency <= self._measured * NEAR_SHORTEST:
            self._measured = min(self._measured, latency)
            self._measured_at = now
        self._shortest = min(self._shortest * SHORTEST_GROWTH, latency, self._measured * SHORTEST_MAX)
        return latency

    def _is_behind(self, latency: float) -> bool:
        """Return whether messages queue at the service."""
        allowed = self.latency_allowed
        if allowed is None:
            return False
        return latency > self._shortest + QUEUED_SHARE * max(allowed - self._shortest, 0.0)

    def _is_probe_due(self, now: float) -> bool:
        """Return whether the shortest latency, by which it is judged, was not seen for long."""
        if self._latency is None or self.latency_allowed == self._latency:
            return False
        return now - self._measured_at > max(PROBE_SECONDS, PROBE_SHORTEST * self._shortest)

    def _begin_draining(self, now: float, seconds: float, *, probing: bool = False) -> None:
        self._draining_until = now + seconds
        self._drain_halves_at = now + seconds / 2
        self._halves = [(0, 0.0), (0, 0.0)]
        self._probing = probing

    def _is_loaded(self, elapsed: float) -> bool:
        return self._delivered >= LOADED_SHARE * self._rate * elapsed

    def _fall_to_pace(self, elapsed: float, now: float) -> None:
        if not self._is_loaded(elapsed):
            return
        pace = self._acknowledged / elapsed
        self._steps = 0
        if self._known is None or self._settled < self._delivered - CHANCE * self._delivered**0.5:
            self._known = pace
            self._set(min(self._rate, max(pace, self._lowest())))
            self._changed_at = now

    def _decrease(self, elapsed: float, now: float) -> None:
        acknowledged = self._acknowledged / elapsed
        rate = min(max(acknowledged * DECREASE, self._lowest()), self._rate * DECREASE)
        if self._acknowledged <= USEFUL_SHARE * self._settled and self._settled < SURE:
            self._known = None  # a service that is dead, or nearly, says nothing of what it can do when it is back
        elif self._is_loaded(elapsed):
            self._known = max(acknowledged, rate)
        self._set(rate)
        self._steps = 0
        self._judged = self._failed = 0.0
        self._changed_at = now

    def _lowest(self) -> float:
        """Return how far the rate may fall at once."""
        sure = self._acknowledged >= SURE and not self._failed
        return 0.0 if sure else self._rate * DECREASE_MAX

    def _increase(self, now: float) -> None:
        if self._known is None:
            self._set(self._rate * DOUBLING)
            self._changed_at = now
        elif self._rate > self._known * BEYOND_SHARE:
            self._set(self._rate * BEYOND_GROWTH)
            self._changed_at = now
        else:
            self._set(self._rate + self._known * STEP_SHARE * 2 ** (self._steps // STEP_INTERVALS))
            self._steps += 1

    def _drain(self, elapsed: float, out: int, now: float) -> bool:
        assert self._draining_until is not None, "it drains"
        allowed = self.latency_allowed
        assert allowed is not None, "else nothing would be drained"
        drained = not self._probing and out * elapsed <= DRAINED_SHARE * allowed * self._settled
        if not drained and now >= self._draining_until:
            self._learn_shortest(now)
        if drained or now >= self._draining_until:
            self._draining_until = None
            self._changed_at = now
        self._begin(now)
        return not self.draining

    def _learn_shortest(self, now: float) -> None:
        """Take what messages took at half of the rate to be the service's own time, unless even so they queued."""
        (before, seconds_before), (after, seconds_after) = self._halves
        self._measured_at = now
        if before < STEADY_MIN or after < STEADY_MIN:
            return
        latency = seconds_after / after
        if latency <= STEADY * seconds_before / before:
            self._shortest = self._measured = min(latency, self._measured * LEARNED_MAX)
