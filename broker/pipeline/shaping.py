"""Peak shaving on the leader: the gates of its queues, their one timer, and the time of day.

What may go is decided in `broker.queues.shaping`, which knows no clock. Must not know consumers or sockets.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, tzinfo
from functools import lru_cache
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.pipeline.zones import zone_named
from sluicemq.broker.queues.queue import Queue
from sluicemq.broker.queues.shaping.admission import Admission, Admissions
from sluicemq.broker.queues.shaping.deliveries import Deliveries
from sluicemq.broker.queues.shaping.gates import Gates
from sluicemq.wire.errors import InvalidRequest, PublishLimited
from sluicemq.wire.shaping import rate_plan

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.queues.shaping.admission import Limiter, Refusal

logger = logging.getLogger("sluicemq.shaping")


class ShapingStage:
    """What bounds deliveries and publishes on this leader.

    Attributes:
        gates: What the dispatcher asks.
        admissions: What was published of late where that is limited.

    """

    def __init__(self, road: Road) -> None:
        self._road = road
        self.gates = Gates(self._local_time, began_ms=road.clock.now_ms())
        self.admissions = Admissions()
        self._deliveries = Deliveries()
        self._timer = road.timer(self._next_due, self._fire)

    def begin(self) -> None:
        """The leadership begins: what another one delivered just before counts as if it had used up every burst."""
        self.gates.begin(trio.current_time())

    def start(self, nursery: trio.Nursery) -> None:
        """Run the timer in *nursery*."""
        nursery.start_soon(self._timer.run)

    def look(self) -> None:
        """Somebody is about to ask the gates."""
        if len(self.gates):
            self.gates.now = trio.current_time()

    def looked(self) -> None:
        """The gates were asked: one may be due earlier than planned."""
        if len(self.gates):
            self._timer.changed(self.gates.next_due)

    def delivered(self, queue_id: int, session: int, consumer: int, first_tag: int, last_tag: int) -> None:
        """Messages of a queue were sent; to be told only where anybody asks how long they take."""
        gate = self.gates.find(queue_id)
        if gate is not None and gate.adaptive is not None:
            self._deliveries.delivered(queue_id, session, consumer, first_tag, last_tag, trio.current_time())

    def settled(self, session: int, consumer: int, tags: list[int], failed: bool | None) -> None:
        """These tags were settled; *failed*: their messages come again; None: that says nothing about the service."""
        if not self._deliveries:
            return
        now = trio.current_time()
        queue_id, messages, seconds = self._deliveries.take(session, consumer, tags, now)
        gate = self.gates.find(queue_id)
        if messages and failed is not None and gate is not None and gate.adaptive is not None:
            gate.adaptive.settled(messages, seconds, failed, now)

    def session_gone(self, session: int) -> None:
        """Nothing that the session has will be settled by it."""
        self._deliveries.forget(session)

    def admission(self, wanted: Sequence[tuple[Queue | Topic, int]]) -> Admission:
        """Return the right to publish so many messages to each of these; it counts once it is used.

        Raises:
            PublishLimited: One of them takes no more for now.

        """
        now = self._road.clock.now_ms() / 1000
        machine = self._road.machine
        self.admissions.forget_unless(lambda id_: (machine.queue(id_) or machine.sources.get(id_)) is not None)
        admitted: list[tuple[Limiter, int]] = []
        for target, messages in wanted:
            said = target.settings["publish_limit"]
            if said is None:
                continue
            known = self.admissions.of(target.id, said, now)
            refusal = known.limiter.refuse(messages, now)
            if refusal is not None:
                known.refused_total += 1
                raise self._limited(target, messages, said, refusal)
            admitted.append((known.limiter, messages))
        return Admission(admitted, now)

    def _limited(self, target: Queue | Topic, messages: int, said: str, refusal: Refusal) -> PublishLimited:
        now, most, seconds = refusal
        ever = most is None or messages <= most
        advice = (
            f"all of them in {seconds:.3g} seconds"
            if ever
            else f"and never more than {most} at once: send them in smaller batches"
        )
        return PublishLimited(
            f"{target.KIND} {target.name!r:.300} takes {said}: of these {messages} messages {now} could be published "
            f"now, {advice}",
            retryable=ever,
            retry_after=seconds,
            destination=target.name,
            messages=messages,
            messages_now=now,
            messages_max=most,
            waiting=target.ready if isinstance(target, Queue) else None,
            drain_seconds=self._road.metering.pace(target).drain_seconds if isinstance(target, Queue) else None,
        )

    def state_of(self, queue: Queue) -> dict[str, Any]:
        """Return what operators see of a queue's pace and limits."""
        pace = self._road.metering.pace(queue)
        state: dict[str, Any] = {
            "arrival_rate": round(pace.arriving, 3),
            "delivery_rate": round(pace.delivering, 3),
            "drain_seconds": None if pace.drain_seconds is None else round(pace.drain_seconds, 3),
        }
        self.look()
        gate = self.gates.of(queue)  # also where nobody has consumed yet
        if gate is not None:
            state["delivery_rate_now"] = None if gate.rate is None else round(gate.rate, 3)
            if gate.adaptive is not None and gate.adaptive.latency_allowed is not None:
                state["delivery_latency_allowed"] = round(gate.adaptive.latency_allowed, 4)
        if queue.settings["publish_limit"] is not None:
            known = self.admissions.find(queue.id)
            state["publish_refused_total"] = 0 if known is None else known.refused_total
        return state

    def queue_gone(self, queue_id: int) -> None:
        """The queue was deleted."""
        self.admissions.forget(queue_id)

    def _next_due(self) -> float | None:
        return self.gates.next_due

    def _fire(self) -> None:
        dispatcher = self._road.dispatch.dispatcher
        for queue_id in self.gates.take_due(trio.current_time()):
            dispatcher.ready(queue_id)
        self._road.again()

    def _local_time(self, zone: str) -> tuple[int, float]:
        seconds = self._road.clock.now_ms() / 1000
        local = datetime.fromtimestamp(seconds, _zone_or_utc(zone))
        return local.weekday(), local.hour * 3_600 + local.minute * 60 + local.second + local.microsecond / 1e6


def refuse_unknown_zone(settings: Mapping[str, Any]) -> None:
    """Refuse a delivery rate in a time zone that this machine does not know.

    Raises:
        InvalidRequest: It is one.

    """
    rate = settings.get("delivery_rate")
    if isinstance(rate, str):
        zone = rate_plan(rate).zone
        if zone_named(zone) is None:
            raise InvalidRequest(
                f"delivery_rate: {zone!r:.80} is no time zone that this broker knows: write UTC, or a name such as "
                "Europe/Berlin"
            )


@lru_cache(maxsize=100)
def _zone_or_utc(name: str) -> tzinfo:
    zone = zone_named(name)
    if zone is None:
        logger.warning("this machine does not know the time zone %s of a delivery rate: taken as UTC", name)
    return zone or UTC
