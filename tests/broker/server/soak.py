"""A long, disorderly day at the port, which must end with empty queues: nobody may wait for a wake-up that never comes.

    python -m tests.broker.server.soak --seconds 60 --seed 1

Sessions consume, cancel, die without a word, nack, release, let leases expire, change their credit down to nothing,
stop reading for a while, purge, delete queues and declare them again. Buffers are tiny, so that sessions are full most
of the time, and so is the cache, so that most bodies come from disk. Then the disorder ends, a few well-behaved
consumers stay, and everything that is left must reach them within seconds, without a push from outside.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from unittest import mock

import trio

from sluicemq.broker.server import outbound as outbound_module
from sluicemq.wire import messages as m
from sluicemq.wire.errors import NotFound, SluiceError
from tests.broker.server.talk import Peer, Refused, open_port
from tests.patience import WAIT_SECONDS

QUEUES = ("orders", "mails", "logs")
DRAIN_SECONDS = WAIT_SECONDS
DEEDS_MIN = 20
"""A day goes on until more batches than this were published, and more messages received, however slow the machine."""


class Day:
    """One seed.

    Attributes:
        published: Batches confirmed.
        received: Messages delivered.

    """

    def __init__(self, seed: int, seconds: float) -> None:
        self.rng = random.Random(seed)
        self.seconds = seconds
        self.published = 0
        self.received = 0
        self.deeds = 0

    async def run(self) -> None:
        """Live through the day and see that everything drains."""
        with mock.patch.object(outbound_module, "OUTBOUND_BYTES_MAX", 20_000):
            async with open_port(send_bytes=8192, cache_bytes_max=50_000) as port:
                self.port = port
                keeper = await port.connect()
                for name in QUEUES:
                    await keeper.declare(name, retry_delay=0.05)
                async with trio.open_nursery() as nursery:
                    for name in QUEUES:
                        nursery.start_soon(self._produce, name)
                    for _ in range(6):
                        nursery.start_soon(self._disorder)
                    await trio.sleep(self.seconds)
                    with trio.move_on_after(WAIT_SECONDS):
                        while min(self.published, self.received) <= DEEDS_MIN:  # noqa: ASYNC110 - many count
                            await trio.sleep(0.05)
                    nursery.cancel_scope.cancel()
                await self._drain(keeper)

    async def _produce(self, name: str) -> None:
        rng = self.rng
        peer = await self.port.connect()
        producer, sequence = await peer.open_producer(), 0
        while True:
            try:
                bodies = [rng.randbytes(rng.choice((10, 10, 300, 3000))) for _ in range(rng.choice((1, 1, 10, 50)))]
                await peer.publish(producer, sequence + 1, bodies, name)
                sequence += 1
                self.published += 1
            except NotFound:
                await peer.declare(name, retry_delay=0.05)
            await trio.sleep(rng.random() * 0.004)

    async def _disorder(self) -> None:
        """Be one client after the other, none of them polite."""
        rng = self.rng
        while True:
            peer = await self.port.connect(receive_bytes=4096)
            consumers: dict[int, str] = {}
            try:
                for _ in range(rng.randint(5, 60)):
                    self.deeds += 1
                    await rng.choices(self.DEEDS, self.WEIGHTS)[0](self, peer, consumers)
            except (Refused, NotFound):
                pass
            finally:
                peer.reading.set()
                self.received += len(peer.deliveries)
                with trio.CancelScope(shield=True):
                    await peer.stream.aclose()

    # --- deeds ------------------------------------------------------------------------------------------------

    async def consume(self, peer: Peer, consumers: dict[int, str]) -> None:
        name = self.rng.choice(QUEUES)
        credit = self.rng.choice((0, 1, 10, 1000))
        number = await peer.consume(name, credit=credit, lease_seconds=self.rng.choice((0.05, 0.3, 60.0)))
        consumers[number] = name

    async def cancel(self, peer: Peer, consumers: dict[int, str]) -> None:
        if consumers:
            number = self.rng.choice(list(consumers))
            del consumers[number]
            await peer.ask(m.CancelConsumer(number))

    async def credit(self, peer: Peer, consumers: dict[int, str]) -> None:
        if consumers:
            number = self.rng.choice(list(consumers))
            await peer.send(m.Credit(number, self.rng.choice((0, 1, 50, 500)), self.rng.choice((1, 1 << 20))))

    async def settle(self, peer: Peer, consumers: dict[int, str]) -> None:
        del consumers
        if not peer.deliveries:
            await trio.sleep(0.002)
            return
        consumer, tag, _ = self.rng.choice(peer.deliveries)
        verdict = self.rng.choice((m.VERDICT_ACK,) * 6 + (m.VERDICT_NACK, m.VERDICT_RELEASE, m.VERDICT_HANDED_OVER))
        first = max(1, tag - self.rng.choice((0, 10, 1000)))
        await peer.send(m.Settle(consumer, verdict, [first, tag], self.rng.choice((None, 0.0, 0.02))))

    async def stop_reading(self, peer: Peer, consumers: dict[int, str]) -> None:
        del consumers
        peer.reading = trio.Event()
        await trio.sleep(self.rng.random() * 0.03)
        peer.reading.set()

    async def look(self, peer: Peer, consumers: dict[int, str]) -> None:
        del consumers
        await peer.send(m.Peek(self.rng.choice(QUEUES), 0, 1000))

    async def purge(self, peer: Peer, consumers: dict[int, str]) -> None:
        del consumers
        await peer.send(m.PurgeQueue(self.rng.choice(QUEUES)))

    async def delete(self, peer: Peer, consumers: dict[int, str]) -> None:
        name = self.rng.choice(QUEUES)
        await peer.ask(m.DeleteQueue(name))
        await peer.declare(name, retry_delay=0.05)
        for number in [number for number, queue in consumers.items() if queue == name]:
            del consumers[number]

    DEEDS = (settle, consume, credit, cancel, stop_reading, look, purge, delete)
    WEIGHTS = (40, 8, 8, 3, 6, 2, 0.3, 0.3)

    # --- the end ----------------------------------------------------------------------------------------------

    async def _drain(self, keeper: Peer) -> None:
        """Take everything that is left, as one well-behaved client with a small credit a queue."""
        road = self.port.road
        peer = await self.port.connect()
        acks: list[m.Settle] = []
        woken = trio.Event()

        def acknowledge(message: m.Deliver, bodies: list[bytes]) -> None:
            acks.append(
                m.Settle(message.consumer, m.VERDICT_ACK, [message.first_tag, message.first_tag + len(bodies) - 1])
            )
            woken.set()

        peer.on_deliver = acknowledge
        for name in QUEUES:
            try:
                await peer.consume(name, credit=20)
            except SluiceError:
                await keeper.declare(name)
        with trio.move_on_after(DRAIN_SECONDS):
            while any(queue.messages for queue in road.machine.queues()):
                with trio.move_on_after(0.05):
                    await woken.wait()
                woken = trio.Event()
                while acks:
                    await peer.send(acks.pop())
        left = {queue.name: (queue.ready, queue.leased, queue.delayed.messages) for queue in road.machine.queues()}
        assert not any(sum(counts) for counts in left.values()), (
            f"ready, leased and delayed messages that nobody was woken for: {left}; "
            f"sessions of the broker: {len(self.port.server.sessions)}"
        )
        await road.wait_idle()
        assert not road.dispatch._loading, "no queue waits for bodies any more"
        assert not road.dispatch._held_back, "no session waits for room any more"
        assert not len(road.settle._outstanding), "no lease is kept that the machine does not know"
        self.received += len(peer.deliveries)


def run_day(seed: int, seconds: float) -> Day:
    """Run one seed; an AssertionError says what did not drain."""
    day = Day(seed, seconds)
    trio.run(day.run)
    return day


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    ends_at = time.monotonic() + options.seconds
    seed = options.seed
    while time.monotonic() < ends_at:
        day = run_day(seed, 5.0)
        print(
            f"seed {seed}: {day.published} batches, {day.received} messages delivered, {day.deeds} deeds; all drained"
        )
        seed += 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
