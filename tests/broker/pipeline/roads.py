"""Roads for tests: a whole pipeline on the simulated disk, with producers and consumers in the same process.

Two kinds: `open_road` is the product as it is, with the log's thread; `SteppedAppend` lets a test say when the log's
thread would write and sync, so that a run depends on nothing but its seed. Clients speak to the stages as the server's
sessions do, without sockets.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from sluicemq.broker.pipeline.append import AppendStage
from sluicemq.broker.pipeline.road import LoneRoad, Road
from sluicemq.broker.pipeline.sessions import Ending
from sluicemq.storage.log import SegmentLog
from sluicemq.storage.options import LogOptions
from sluicemq.storage.pagefile import PageFile
from sluicemq.wire import messages as m
from sluicemq.wire.batch import Batch, encode_batch
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.wire.errors import SluiceError

OPTIONS = LogOptions(segment_bytes=4 << 20, initial_bytes=1 << 20, spares_max=1)
"""A test that waits for longer than this hangs: something was not woken."""


@dataclass(frozen=True, slots=True)
class Received:
    """One message as it was delivered."""

    consumer: int
    tag: int
    zxid: int
    index: int
    deliveries: int
    body: bytes


class Client:
    """A session without a socket: what the road knows of a client.

    Attributes:
        session: Its number, once opened.
        received: Messages delivered, in order.
        lost: (consumer, tags, reason) of leases that ended unasked.
        ended: (consumer, error) of consumers that the broker ended.
        room: What `takes_more` answers.

    """

    def __init__(self, road: Road) -> None:
        self.road = road
        self.session = 0
        self.room = True
        self.gone = False
        self.received: list[Received] = []
        self.frames: list[tuple[int, int]] = []
        self.lost: list[tuple[int, list[int], str]] = []
        self.ended: list[tuple[int, SluiceError]] = []
        self._next_consumer = 1
        self._changed = trio.Event()
        self.on_deliver: Callable[[list[Received]], None] | None = None

    # --- what the road calls ----------------------------------------------------------------------------------

    def deliver(
        self,
        consumer: int,
        first_tag: int,
        runs: list[int],
        parts: Sequence[bytes | memoryview],
        destinations: Sequence[str] = (),
        notes: Sequence[dict[str, Any]] = (),
    ) -> None:
        """Decode and keep."""
        del destinations, notes
        assert not self.gone, "nothing is sent to a session that has ended"
        tag = first_tag
        fresh = []
        tail = memoryview(b"".join(parts))
        for start in range(0, len(runs), m.RUN_NUMBERS):
            zxid, first, count, size, _ms, _producer, _sequence, deliveries, _attempts = runs[
                start : start + m.RUN_NUMBERS
            ]
            batch = Batch(bytes(tail[:size]))
            tail = tail[size:]
            assert batch.count == count
            for place, body in enumerate(batch.bodies):
                fresh.append(Received(consumer, tag, zxid, first + place, deliveries, bytes(body)))
                tag += 1
        assert not tail
        self.frames.append((consumer, tag - first_tag))
        self.received += fresh
        self._notify()
        if self.on_deliver is not None:
            self.on_deliver(fresh)

    def takes_more(self) -> bool:
        """Say what the test wants."""
        return self.room

    def consumer_ended(self, consumer: int, error: SluiceError) -> None:
        """Keep."""
        assert not self.gone
        self.ended.append((consumer, error))
        self._notify()

    def leases_lost(self, consumer: int, tags: list[int], reason: str) -> None:
        """Keep."""
        assert not self.gone, "nobody tells a session that has ended"
        self.lost.append((consumer, tags, reason))
        self._notify()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- what a test does -------------------------------------------------------------------------------------

    async def open(self, resume_token: bytes = b"") -> Client:
        """Open the session; with a token it is kept when the client dies."""
        outcome = await ask(self.road.produce.open_session, "/", "anonymous", "test", resume_token)
        self.opened(outcome.value.session)
        return self

    def opened(self, session: int) -> None:
        """Take the session number."""
        self.session = session
        self.road.settle.add_owner(session, self)

    def consume(
        self, queue: Queue, *, credit: int = 100, credit_bytes: int = 1 << 30, lease_seconds: float = 600.0
    ) -> int:
        """Start a consumer and return its number."""
        consumer = self._next_consumer
        self._next_consumer += 1
        self.road.dispatch.add_consumer(
            self,
            self.session,
            consumer,
            queue.id,
            credit_messages=credit,
            credit_bytes=credit_bytes,
            lease_seconds=lease_seconds,
        )
        return consumer

    def cancel(self, consumer: int) -> None:
        """Cancel a consumer; its leases stay."""
        self.road.dispatch.remove_consumer(self.session, consumer)

    async def settle(
        self, consumer: int, tags: list[int], verdict: int = m.VERDICT_ACK, delay: float | None = None
    ) -> list[int]:
        """Settle and return what was lost."""
        outcome = await ask(self.road.settle.settle, self.session, consumer, verdict, tags, delay, "")
        assert outcome.error is None, outcome.error
        lost: list[int] = outcome.value.lost
        return lost

    def leave(self) -> None:
        """End as a connection does."""
        self.gone = True
        self.road.dispatch.session_gone(self.session)
        self.road.settle.release_session(self.session)
        self.road.produce.close_session(self.session, "left")

    def die(self) -> None:
        """End as the connection of a killed process does, whose session is kept for a while."""
        self.gone = True
        self.road.sessions.attach(self.session, self)
        self.road.sessions.leave(self.session, self, "connection closed by the client", Ending.CLOSED)

    def taken_over(self) -> None:
        """Nobody comes back here."""
        raise AssertionError("somebody came back to a session of a client that has no connections")

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until *condition* holds; looked at whenever the road tells the client something."""
        with trio.fail_after(WAIT_SECONDS):
            while not condition():
                await self._changed.wait()

    async def take(self, count: int) -> list[Received]:
        """Return everything received once it is at least *count* messages."""
        await self.until(lambda: len(self.received) >= count)
        return self.received


async def ask(function: Callable[..., None], *arguments: Any) -> Outcome:
    """Call a stage's request function and return the outcome that it reports."""
    answered = trio.Event()
    answers: list[Outcome] = []

    def on_outcome(outcome: Outcome) -> None:
        answers.append(outcome)
        answered.set()

    function(*arguments, on_outcome)
    with trio.fail_after(WAIT_SECONDS):
        await answered.wait()
    assert len(answers) == 1
    return answers[0]


async def declare(road: Road, name: str = "orders", **settings: Any) -> Queue:
    """Declare a queue and return it."""
    outcome = await ask(road.produce.declare_queue, "/", name, settings)
    assert outcome.error is None, outcome.error
    return road.produce.find_queue("/", name)


async def open_producer(road: Road) -> int:
    """Return a new producer's number."""
    producer: int = (await ask(road.produce.open_producer, "/", "", "anonymous")).value.producer
    return producer


async def publish(road: Road, producer: int, sequence: int, bodies: Sequence[bytes], queue: str = "orders") -> Outcome:
    """Publish a batch and return the outcome."""
    return await ask(
        road.produce.publish, "/", "anonymous", queue, producer, sequence, memoryview(encode_batch(bodies))
    )


@asynccontextmanager
async def running(road: LoneRoad) -> AsyncIterator[None]:
    """Run *road*, which has begun then, and stop it in order, whatever happens meanwhile."""
    async with trio.open_nursery() as nursery:
        try:
            await road.begin()
            nursery.start_soon(road.run)
            yield
        finally:
            with trio.CancelScope(shield=True):
                await road.stop()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def open_road(
    disk: SimulatedDisk | None = None,
    *,
    cache_bytes_max: int = 64 << 20,
    options: LogOptions = OPTIONS,
    expect_failure: bool = False,
    index_memory_bytes_max: int | None = None,
    session_grace_seconds: float = 10.0,
) -> AsyncIterator[LoneRoad]:
    """Run a road with its threads; fails the test when the road fails, unless that is expected.

    With *index_memory_bytes_max* long queues lie on pages of the same disk.
    """
    disk = disk or SimulatedDisk(1)
    log = SegmentLog.open(disk, options=options)
    failures: list[BaseException] = []
    pages = None
    if index_memory_bytes_max is not None:
        pages = PageFile.open(disk, cluster_id=log.cluster_id)
        pages.adopt({})
    road = LoneRoad(
        log,
        node_id=1,
        cache_bytes_max=cache_bytes_max,
        on_failure=failures.append,
        pages=pages,
        index_memory_bytes_max=index_memory_bytes_max or 0,
        session_grace_seconds=session_grace_seconds,
    )
    try:
        async with running(road):
            yield road
            if not road.failed:
                with trio.fail_after(WAIT_SECONDS):
                    await road.wait_idle()
        if not expect_failure and failures:
            raise failures[0]
        if not failures:
            road.machine.check()
    finally:
        if not failures:
            log.close()
        if pages is not None:
            pages.close()


class SteppedAppend(AppendStage):
    """The append stage without its threads: a test says when they would work, and nothing happens in between."""

    def start(self) -> None:
        """Only learn the event loop."""
        self._token = trio.lowlevel.current_trio_token()

    async def stop(self) -> None:
        """Write and sync what is left."""
        self.step()
        self.sync_now()

    def step(self) -> bool:
        """Write one group, and sync it if anybody waits; return whether there was one."""
        if self._inbox.empty():
            return False
        self._write_group(self._inbox.get_nowait())
        return True

    def sync_now(self) -> None:
        """Sync what was written lazily."""
        if self._unsynced_since is not None:
            self._sync()

    @property
    def waiting(self) -> bool:
        """Whether something is submitted and not written."""
        return not self._inbox.empty()
