"""Gates: how many messages of each queue with a limit may go now, and when more may.

A gate is asked before each pick and told after it. Where nothing may go it names when to ask again, and all gates
together name the earliest: so one timer serves all queues, and nothing is polled. What comes back by settlement needs
no time: the dispatcher hears of it. This module must not know consumers, nor what the clock is.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.queues.shaping.adaptive import AdaptiveRate
from sluicemq.broker.queues.shaping.buckets import Bucket
from sluicemq.wire.shaping import RatePlan, rate_plan

if TYPE_CHECKING:
    from typing import Any

    from sluicemq.broker.queues.queue import Queue

PLENTY = 1 << 60
"""As good as no limit."""
SAME_SECONDS = 1e-4
PLAN_SECONDS = 900.0
"""A rate that depends on the time of day is looked up again at every quarter of an hour: clocks change at one."""

LocalTime = Callable[[str], tuple[int, float]]
"""Returns the day of the week, 0 for Monday, and the seconds of that day, in the time zone of this name."""


class Room(NamedTuple):
    """What may go.

    Attributes:
        messages: Most messages to one consumer,
        bytes: and most bytes, so that others get their share.
        all_messages: Most messages to all of them.

    """

    messages: int
    bytes: int
    all_messages: int


CLOSED, OPEN = Room(0, 0, 0), Room(PLENTY, PLENTY, PLENTY)
_SHAPING = ("delivery_rate", "delivery_bytes_rate", "max_concurrency", "delivery_adaptive")


def is_shaped(settings: dict[str, Any]) -> bool:
    """Whether a queue with these settings has a gate."""
    return any(settings[name] is not None for name in _SHAPING)


class Gate:
    """The gate of one queue.

    Attributes:
        queue: The queue; read, never changed.
        concurrency: Most messages that may be out; None: no limit.
        adaptive: The rate that is found; None where the queue does not ask for it.
        due: When to ask again, as all gates know it; None while nobody waits.

    """

    __slots__ = (
        "_bytes",
        "_bytes_share",
        "_gates",
        "_messages",
        "_plan",
        "_plan_until",
        "_share",
        "adaptive",
        "concurrency",
        "due",
        "queue",
        "settings",
    )

    def __init__(self, gates: Gates, queue: Queue, fresh: bool) -> None:
        self._gates = gates
        self.queue = queue
        self.due: float | None = None
        self.concurrency: int | None = None
        self.adaptive: AdaptiveRate | None = None
        self._messages: Bucket | None = None
        self._bytes: Bucket | None = None
        self._share = self._bytes_share = 0
        self._plan: RatePlan | None = None
        self._plan_until = math.inf
        self.settings: dict[str, Any] = {}
        self.follow_settings(fresh)

    def follow_settings(self, fresh: bool = True) -> None:
        """Take the queue's settings over. What was saved stays saved; a new limit begins with all it may save.

        *fresh*: Whether nobody delivered before; else what another leader may have delivered just now counts.
        """
        settings, now = self.queue.settings, self._gates.now
        self.settings = settings
        self.concurrency = settings["max_concurrency"]
        since = math.inf if fresh else max(now - self._gates.began, 0.0)
        self._plan = None if settings["delivery_rate"] is None else rate_plan(settings["delivery_rate"])
        adaptive = settings["delivery_adaptive"]
        if adaptive is None:
            self.adaptive = None
        elif self.adaptive is None:
            self.adaptive = AdaptiveRate(adaptive, now)
        elif self.adaptive.settings != adaptive:
            self.adaptive.follow(adaptive)
        rate = self._wanted_rate(now)
        self._messages = self._bucket(self._messages, rate, settings["delivery_burst"], since)
        self._bytes = self._bucket(self._bytes, settings["delivery_bytes_rate"], None, since)

    def _bucket(self, known: Bucket | None, rate: float | None, burst: int | None, since: float) -> Bucket | None:
        if rate is None:
            return None
        now = self._gates.now
        if known is None:
            return Bucket(rate, burst, now, level=since if math.isinf(since) else since * rate)
        known.change(rate, burst, now)
        return known

    def _wanted_rate(self, now: float) -> float | None:
        """Return the rate that holds now: that of the plan, and no more than what the service can take."""
        planned = self._planned_rate(now)
        if self.adaptive is None:
            return planned
        return self.adaptive.rate if planned is None else min(planned, self.adaptive.rate)

    def _planned_rate(self, now: float) -> float | None:
        """Return the rate that the plan gives now, and note until when it does."""
        self._plan_until = math.inf
        plan = self._plan
        if plan is None:
            return None
        if plan.is_steady:
            return plan.windows[0].rate
        day, seconds = self._gates.local_time(plan.zone)
        minute = int(seconds) // 60
        ends = [PLAN_SECONDS - seconds % PLAN_SECONDS]
        ends += [edge * 60 - seconds for window in plan.windows for edge in (window.begin, window.end)]
        self._plan_until = now + min(end for end in ends if end > 0)
        return plan.rate_at(day, minute)

    @property
    def rate(self) -> float | None:
        """Messages a second that may go now; None: no limit."""
        if self._plan_until <= self._gates.now:
            self._follow_plan()
        return None if self._messages is None or math.isinf(self._messages.rate) else self._messages.rate

    def _follow_plan(self) -> None:
        rate = self._wanted_rate(self._gates.now)
        if self._messages is not None and rate is not None and rate != self._messages.rate:
            self._messages.change(rate, self.settings["delivery_burst"], self._gates.now)

    def room(self, planned: int, takers: int) -> Room:
        """Return what may go now, shared among so many *takers*.

        Where that is nothing, and time alone will change it, the gate is due then. *planned* messages are picked while
        the queue still counts them as ready.
        """
        most = PLENTY
        if self.concurrency is not None:
            most = self.concurrency - self.queue.leased - planned
            if most <= 0:
                return self._closed(math.inf)
        now = self._gates.now
        adaptive = self.adaptive
        if (adaptive is not None and adaptive.look(now, self.queue.leased + planned)) or self._plan_until <= now:
            self._follow_plan()
        bucket = self._messages
        if bucket is not None:
            tokens = bucket.room(now)
            if tokens < 1:
                if adaptive is not None:
                    adaptive.waited_for()
                return self._closed(min(bucket.wait(1.0, now), self._plan_until))
            most = min(most, PLENTY if tokens == math.inf else int(tokens))
        bytes_most = PLENTY
        bucket = self._bytes
        if bucket is not None:
            tokens = bucket.room(now)
            if tokens < 1:
                return self._closed(bucket.wait(1.0, now))
            bytes_most = int(tokens)
        # What is there when the gate opens is dealt in equal shares, not in ever smaller ones of what is left.
        self._share = max(self._share, most // (2 * takers) if self._share else most // takers, 1)
        self._bytes_share = max(
            self._bytes_share, bytes_most // (2 * takers) if self._bytes_share else bytes_most // takers, 1
        )
        return Room(min(most, self._share), min(bytes_most, self._bytes_share), most)

    def _closed(self, due: float) -> Room:
        self._share = self._bytes_share = 0
        self._gates.wake(self, due)
        return CLOSED

    def rests(self) -> None:
        """Note that the queue has nothing to give, or nobody to give it to; a gate that is closed is waited for."""
        if self._share:
            for bucket in (self._messages, self._bytes):
                if bucket is not None:
                    bucket.rest()

    def took(self, messages: int, bytes_: int) -> None:
        """Note a pick."""
        if self.adaptive is not None:
            self.adaptive.delivered(messages)
        if self._messages is not None:
            self._messages.take(messages)
        if self._bytes is not None:
            self._bytes.take(bytes_)


class Gates:
    """The gates of all queues that have one.

    Args:
        local_time: Returns the day and the time in a time zone.
        began_ms: When this leadership began, in log time: from queues that are younger nobody delivered before.

    Attributes:
        now: The time of what is asked next; whoever asks sets it.
        began: When this leadership began, on the same clock: what was delivered before is unknown.
        local_time: As above.

    """

    def __init__(self, local_time: LocalTime, began_ms: int = 0) -> None:
        self.local_time = local_time
        self.now = self.began = 0.0
        self._began_ms = began_ms
        self._gates: dict[int, Gate] = {}
        self._due: list[tuple[float, int]] = []

    def __len__(self) -> int:
        return len(self._gates)

    def begin(self, now: float) -> None:
        """The leadership begins."""
        self.now = self.began = now

    def find(self, queue_id: int) -> Gate | None:
        """Return the gate of a queue, if it has one."""
        return self._gates.get(queue_id)

    def of(self, queue: Queue) -> Gate | None:
        """Return the gate that the settings of *queue* want, as they are now; None: all may go."""
        known = self._gates.get(queue.id)
        if not is_shaped(queue.settings):
            if known is not None:
                self.forget(queue.id)
            return None
        if known is None:
            known = self._gates[queue.id] = Gate(self, queue, queue.created_ms >= self._began_ms)
        elif known.settings is not queue.settings:
            known.follow_settings()
        return known

    def forget(self, queue_id: int) -> None:
        """The queue is gone, or has no limit any more."""
        gate = self._gates.pop(queue_id, None)
        if gate is not None:
            gate.due = None

    def wake(self, gate: Gate, due: float) -> None:
        """Let *gate* be due; infinity: never. The same time, found again, differs in its last digits."""
        if due < math.inf and (gate.due is None or due < gate.due - SAME_SECONDS):
            gate.due = due
            heapq.heappush(self._due, (due, gate.queue.id))

    @property
    def next_due(self) -> float | None:
        """When the first gate is due; None: none waits."""
        due = self._due
        while due:
            at, queue_id = due[0]
            gate = self._gates.get(queue_id)
            if gate is not None and gate.due == at:
                return at
            heapq.heappop(due)
        return None

    def take_due(self, now: float) -> list[int]:
        """Return the queues whose gates are due by *now*; each is due no more."""
        found: list[int] = []
        while (at := self.next_due) is not None and at <= now:
            queue_id = heapq.heappop(self._due)[1]
            self._gates[queue_id].due = None
            found.append(queue_id)
        return found
