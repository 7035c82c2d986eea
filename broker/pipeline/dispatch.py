"""Stage 6, dispatch: ready messages go to consumers within their credit.

The pure `Dispatcher` decides who gets what; this stage finds the bodies, appends the GRANT that records the decision
and hands the frames to the consumer's session. It sends at once and does not wait for the GRANT's commit: what the
grant is based on is committed, and a verdict on it stands behind it in the log (design section 3).
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

import trio

from sluicemq.broker.queues.dispatch import Dispatcher
from sluicemq.broker.queues.entries import Grant

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.dispatch import Pick
    from sluicemq.broker.queues.runs import Run

UPCOMING_RUNS = 512
"""How many runs ahead a cold read looks."""


class Recipient(Protocol):
    """What dispatch needs of a consumer's session."""

    def deliver(self, consumer: int, first_tag: int, runs: list[int], parts: Sequence[bytes | memoryview]) -> None:
        """Send the messages; called only while `takes_more` is true."""

    def takes_more(self) -> bool:
        """Whether the session's outgoing buffer has room."""

    def consumer_ended(self, consumer: int, queue_name: str) -> None:
        """Tell the client that the consumer's queue is gone."""


class _Consumer(NamedTuple):
    recipient: Recipient
    lease_seconds: float


class DispatchStage:
    """Who consumes what on this leader, and the work of sending it."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self.dispatcher = Dispatcher(road.machine)
        self._consumers: dict[tuple[int, int], _Consumer] = {}
        self._consumers_of_queue: dict[int, set[tuple[int, int]]] = {}
        self._queues_of_session: dict[int, dict[int, int]] = {}
        self._dirty: dict[int, None] = {}
        self._loading: set[int] = set()
        self._load_requests: list[int] = []
        self._load_wanted = trio.Event()
        self.paused = False
        self.delivered_messages_total = 0

    # --- consumers --------------------------------------------------------------------------------------------

    def add_consumer(
        self,
        recipient: Recipient,
        session: int,
        consumer: int,
        queue_id: int,
        *,
        credit_messages: int,
        credit_bytes: int,
        lease_seconds: float,
    ) -> None:
        """Start delivering messages of the queue to *recipient*."""
        self.dispatcher.add_consumer(session, consumer, queue_id, credit_messages, credit_bytes)
        self._consumers[session, consumer] = _Consumer(recipient, lease_seconds)
        self._consumers_of_queue.setdefault(queue_id, set()).add((session, consumer))
        self._queues_of_session.setdefault(session, {})[consumer] = queue_id
        self.wake(queue_id)

    def remove_consumer(self, session: int, consumer: int) -> None:
        """Deliver nothing more to the consumer; its leases stay."""
        if self._consumers.pop((session, consumer), None) is None:
            return
        self.dispatcher.remove_consumer(session, consumer)
        queue_id = self._queues_of_session[session][consumer]
        consumers = self._consumers_of_queue[queue_id]
        consumers.discard((session, consumer))
        if not consumers:
            del self._consumers_of_queue[queue_id]

    def set_credit(self, session: int, consumer: int, credit_messages: int, credit_bytes: int) -> None:
        """Replace the consumer's limits."""
        self.dispatcher.set_credit(session, consumer, credit_messages, credit_bytes)
        self._wake(session, consumer)

    def consumer_count(self, queue_id: int) -> int:
        """Return how many consumers the queue has on this leader."""
        return len(self._consumers_of_queue.get(queue_id, ()))

    def queue_of(self, session: int, consumer: int) -> int | None:
        """Return the queue that the consumer consumes, or consumed before it was cancelled."""
        return self._queues_of_session.get(session, {}).get(consumer)

    def retry_delay(self, session: int, consumer: int) -> float:
        """Return the seconds that a nack without a delay means for the consumer's queue."""
        queue_id = self.queue_of(session, consumer)
        queue = None if queue_id is None else self._road.machine.queue(queue_id)
        return 0.0 if queue is None else float(queue.settings["retry_delay"])

    # --- what makes work --------------------------------------------------------------------------------------

    def ready(self, queue_id: int) -> None:
        """The queue has something to dispatch, or a consumer that may take more."""
        self._dirty[queue_id] = None

    def returned(self, queue_id: int, runs: Sequence[Run]) -> None:
        """Messages came back to their former place."""
        self.dispatcher.returned(queue_id, runs)
        self._dirty[queue_id] = None

    def wake(self, queue_id: int) -> None:
        """Like `ready`, from outside of `Road.advance`: dispatch soon."""
        self._dirty[queue_id] = None
        self._road.again()

    def settled(self, session: int, consumer: int, messages: int, bytes_: int) -> None:
        """Credit came back."""
        self.dispatcher.settled(session, consumer, messages, bytes_)
        self._wake(session, consumer)

    def _wake(self, session: int, consumer: int) -> None:
        queue_id = self.queue_of(session, consumer)
        if queue_id is not None:
            self.wake(queue_id)

    def queue_gone(self, queue_id: int, name: str) -> None:
        """The queue was deleted: its consumers end."""
        for session, consumer in sorted(self._consumers_of_queue.get(queue_id, ())):
            recipient = self._consumers[session, consumer].recipient
            self.remove_consumer(session, consumer)
            recipient.consumer_ended(consumer, name)
        self.dispatcher.queue_gone(queue_id)
        self._dirty.pop(queue_id, None)

    def session_gone(self, session: int) -> None:
        """The session ended: nothing more is delivered to its consumers."""
        for consumer in list(self._queues_of_session.get(session, ())):
            self.remove_consumer(session, consumer)
        self._queues_of_session.pop(session, None)

    # --- the work ---------------------------------------------------------------------------------------------

    def run(self, deadline: float) -> bool:
        """Send what may be sent until *deadline* (`time.perf_counter`); return whether some is left."""
        if self.paused:
            return False
        dirty = self._dirty
        while dirty:
            queue_id = next(iter(dirty))
            del dirty[queue_id]
            while queue_id not in self._loading and self._dispatch_once(queue_id):
                if time.perf_counter() >= deadline:
                    # To the end of the line, so that one busy queue does not starve the others.
                    dirty[queue_id] = None
                    return True
        return False

    def _dispatch_once(self, queue_id: int) -> bool:
        """Send one frame of the queue's messages; return whether there may be more to send."""
        missing = self._missing(queue_id)
        if missing:
            self._loading.add(queue_id)
            self._load_requests.append(queue_id)
            self._load_wanted.set()
            return False
        pick = self.dispatcher.next_grant(queue_id, self._takes_more, self._is_loaded)
        if pick is None:
            return False
        self._send(queue_id, pick)
        return True

    def _takes_more(self, session: int, consumer: int) -> bool:
        return self._consumers[session, consumer].recipient.takes_more()

    def _is_loaded(self, zxid: int) -> bool:
        return self._road.bodies.get(zxid) is not None

    def _missing(self, queue_id: int) -> bool:
        if not self.dispatcher.has_taker(queue_id, self._takes_more):
            return False
        upcoming = self.dispatcher.upcoming(queue_id, 1)
        return bool(upcoming) and self._road.bodies.get(upcoming[0]) is None

    def _send(self, queue_id: int, pick: Pick) -> None:
        road = self._road
        numbers: list[int] = []
        granted: list[int] = []
        parts: list[bytes | memoryview] = []
        size = 0
        count = 0
        for run in pick.runs:
            stored = road.bodies.get(run.zxid)
            assert stored is not None
            whole = run.first == 0 and run.count == stored.batch.count
            part = stored.batch.data if whole else stored.batch.part(run.first, run.count)
            parts.append(part)
            numbers += (
                run.zxid,
                run.first,
                run.count,
                len(part),
                stored.published_ms,
                stored.producer,
                stored.sequence,
                run.deliveries + 1,
                run.attempts,
            )
            granted += (run.zxid, run.first, run.count)
            size += len(part)
            count += run.count
        recipient, lease_seconds = self._consumers[pick.session, pick.consumer]
        entry = Grant(road.clock.now_ms(), queue_id, pick.session, pick.consumer, pick.first_tag, granted)
        road.propose(entry, lazy=True)
        road.settle.granted(
            pick.session, pick.consumer, pick.first_tag, pick.first_tag + count - 1, pick.bytes, lease_seconds
        )
        recipient.deliver(pick.consumer, pick.first_tag, numbers, parts)
        self.delivered_messages_total += count

    async def load_cold_bodies(self) -> None:
        """Read bodies that are not in memory, for queues that wait for them, until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                await self._load_wanted.wait()
                self._load_wanted = trio.Event()
                requests, self._load_requests = self._load_requests, []
                for queue_id in requests:
                    nursery.start_soon(self._load, queue_id)

    async def _load(self, queue_id: int) -> None:
        try:
            await self._road.bodies.load(self.dispatcher.upcoming(queue_id, UPCOMING_RUNS))
        except Exception as error:  # noqa: BLE001 - a log that cannot be read ends the broker with its reason
            self._road.fail(error)
            return
        self._loading.discard(queue_id)
        self._dirty[queue_id] = None
        self._road.advance()
