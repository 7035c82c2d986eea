"""Requests that became dead letters because their last attempt failed: whoever waits for the reply hears so at once.

Who gave the last attempt up did not reply, and may be dead. That a message is a request stands in its headers, which
the machine does not read: so they are read here, of messages with a lifetime alone, as every request has one; most of
them were delivered a moment ago and are in memory. What is too much to read is passed over, and who sent it waits for
its time to be over, as for a lost reply. Must not know sockets: whoever waits is told through `Requesters`.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

import trio

from sluicemq.broker.queues import notes
from sluicemq.wire.batch import Batch, Column
from sluicemq.wire.errors import RequestDied, SluiceError
from sluicemq.wire.messages import reply_address

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.bodies import Stored
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.outcomes import GivenUp
    from sluicemq.broker.queues.runs import Run
    from sluicemq.wire.messages import ReplyAddress

logger = logging.getLogger("sluicemq.given_up")

WAITING_MESSAGES_MAX = 10_000
"""Most messages that wait to be looked at."""
MESSAGES_AT_ONCE = 200
"""So many are looked at before others have their turn."""
MET = {
    notes.NACKED: "failed",
    notes.EXPIRED: "held it until its lease was over",
    notes.SESSION_ENDED: "ended with its consumer's connection",
}


class Requesters(Protocol):
    """Who sent requests, and may wait for their replies."""

    def fail(self, vhost: str, address: ReplyAddress, error: SluiceError, now_ms: int) -> None:
        """Tell whoever waits at *address* that no reply will come, and why."""


class GivenUpStage:
    """Tells requesters of this leader's dead requests.

    Attributes:
        requesters: Who is told; None: nobody can be.
        told_total: Requests whose senders were told.

    """

    def __init__(self, road: Road) -> None:
        self._road = road
        self._waiting: deque[GivenUp] = deque()
        self._messages = 0
        self._wake = trio.Event()
        self.requesters: Requesters | None = None
        self.told_total = 0

    def note(self, given_up: GivenUp) -> None:
        """Messages died, and somebody may wait for them."""
        messages = sum(run.size for run in given_up.runs)
        if self.requesters is None or self._messages + messages > WAITING_MESSAGES_MAX:
            return
        self._messages += messages
        self._waiting.append(given_up)
        self._wake.set()

    async def run(self) -> None:
        """Tell until cancelled."""
        while True:
            if not self._waiting:
                self._wake = trio.Event()
                await self._wake.wait()
            given_up = self._waiting.popleft()
            try:
                await self._tell(given_up)
            except SluiceError as error:
                logger.info("whether dead letters were requests cannot be read: %s", error)
            self._messages -= sum(run.size for run in given_up.runs)

    async def _tell(self, given_up: GivenUp) -> None:
        road = self._road
        queue = road.machine.queue(given_up.queue_id)
        if queue is None or road.machine.sources.topic_of(queue.id) is not None:
            return  # who asked a topic may have its reply from another of its subscriptions
        for run in given_up.runs:
            with road.bodies.reading():
                stored = (await road.bodies.load_to_show([run.zxid]))[run.zxid]
            if road.over:
                return
            for first in range(run.first, run.first + run.size, MESSAGES_AT_ONCE):
                count = min(MESSAGES_AT_ONCE, run.first + run.size - first)
                self._tell_of(stored, first, count, run, queue.vhost, queue.name, given_up)
                road.after_answers()
                await trio.lowlevel.checkpoint()

    def _tell_of(
        self, stored: Stored, first: int, count: int, run: Run, vhost: str, queue: str, given_up: GivenUp
    ) -> None:
        if not stored.batch.columns & Column.HEADERS or self.requesters is None:
            return
        now_ms = self._road.clock.now_ms()
        for headers in Batch(b"".join(stored.part_pieces(first, count))).headers or ():
            address = None if headers is None else reply_address(headers, run.published_ms)
            if address is not None:
                self.told_total += 1
                self.requesters.fail(vhost, address, _error(queue, run.attempts, given_up), now_ms)


def _error(queue: str, attempts: int, given_up: GivenUp) -> RequestDied:
    met = MET.get(given_up.met, "failed") + (f": {given_up.text}" if given_up.text else "")
    return RequestDied(
        f"the request became a dead letter of {queue!r:.300} after {attempts} attempts; the last one {met}",
        queue=queue,
        attempts=attempts,
        reason=given_up.text,
    )
