"""One client process of the kill rounds: `python -m tests.e2e.kill_worker ROLE NUMBER URL QUEUE JOURNAL SEED`.

Works until a line comes in on standard input (or its end, when whoever started it died), then finishes what it has
begun and exits with 0. Survives the broker: it reconnects, and a producer resends what was not confirmed with the same
producer number and the same sequence. On the bare protocol; `kill_worker_library` does the same with the library.
"""

from __future__ import annotations

import abc
import contextlib
import random
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path

from sluicemq.wire import messages as m
from sluicemq.wire.errors import SluiceError
from tests.e2e.journal import Journal
from tests.e2e.total_queue import Run, body_of, id_of
from tests.e2e.wire_client import DeliveredMessage, Delivery, WireClient

WINDOW_BATCHES = 16
BATCH_MESSAGES_MAX = 40
CREDIT_MESSAGES = 300
LEASE_SECONDS = 1.0
"""Short, since some deliveries are never settled: their leases end by the clock."""
SETTLEMENTS_MAX = 8
RECONNECT_SECONDS = 0.02
TURN_SECONDS = 0.05
FINISH_SECONDS_MAX = 60.0
VERDICTS = {"ack": m.VERDICT_ACK, "nack": m.VERDICT_NACK, "release": m.VERDICT_RELEASE}


def listen_for_stop() -> threading.Event:
    """Return an event that is set when standard input says something or ends."""
    stopping = threading.Event()

    def listen() -> None:
        sys.stdin.readline()
        stopping.set()

    threading.Thread(target=listen, daemon=True).start()
    return stopping


def runs_of(messages: list[DeliveredMessage], journal: Journal) -> list[Run]:
    """Return what was delivered as runs; write down bodies that no producer makes."""
    runs: list[Run] = []
    for message in messages:
        found = id_of(message.body)
        if found is None:
            journal.stranger(message.body)
            # Keep the places of the others within the delivery: an id that nobody sends.
            found = (-1, message.tag)
        producer, counter = found
        if runs:
            last = runs[-1]
            if (producer, counter, message.zxid, message.index, message.deliveries) == (
                last.producer,
                last.first + last.count,
                last.zxid,
                last.first_index + last.count,
                last.deliveries,
            ):
                runs[-1] = Run(producer, last.first, last.count + 1, last.zxid, last.first_index, last.deliveries)
                continue
        runs.append(Run(producer, counter, 1, message.zxid, message.index, message.deliveries))
    return runs


class Worker(abc.ABC):
    """What producers and consumers have in common: connect again and again until the work is done."""

    def __init__(self, number: int, url: str, queue: str, journal: Journal, seed: int) -> None:
        self.number = number
        self.url = url
        self.queue = queue
        self.journal = journal
        self.random = random.Random(seed)
        self.stopping = listen_for_stop()

    def run(self) -> None:
        """Work until stopped and finished."""
        finish_by: float | None = None
        while not self.finished():
            if self.stopping.is_set():
                finish_by = finish_by or time.monotonic() + FINISH_SECONDS_MAX
                if time.monotonic() > finish_by:
                    raise TimeoutError(f"not finished after {FINISH_SECONDS_MAX} s")
            try:
                with WireClient(self.url, timeout=10.0) as client:
                    self.journal.connected(client.opened.session)
                    self.work(client)
            except (ConnectionError, SluiceError, OSError) as error:
                self.journal.trouble(repr(error))
                if isinstance(error, SluiceError) and not error.retryable:
                    raise
                threading.Event().wait(RECONNECT_SECONDS)

    @abc.abstractmethod
    def finished(self) -> bool:
        """Whether there is nothing left to do."""

    @abc.abstractmethod
    def work(self, client: WireClient) -> None:
        """Work on one connection until finished or until it breaks."""


class Producer(Worker):
    """Keeps a window of unconfirmed batches full."""

    producer = 0
    counter = 0
    sequence = 0

    def __init__(self, number: int, url: str, queue: str, journal: Journal, seed: int) -> None:
        super().__init__(number, url, queue, journal, seed)
        self.unconfirmed: OrderedDict[int, list[bytes]] = OrderedDict()

    def finished(self) -> bool:
        """Stopped, and everything is confirmed."""
        return self.stopping.is_set() and not self.unconfirmed

    def work(self, client: WireClient) -> None:
        """Resend what is unconfirmed, in order, then send more."""
        if not self.producer:
            self.producer = client.open_producer()
        waiting = {
            client.send_publish(self.queue, self.producer, sequence, bodies): sequence
            for sequence, bodies in self.unconfirmed.items()
        }
        while not self.finished():
            while len(self.unconfirmed) < WINDOW_BATCHES and not self.stopping.is_set():
                sequence = self._next_batch()
                bodies = self.unconfirmed[sequence]
                waiting[client.send_publish(self.queue, self.producer, sequence, bodies)] = sequence
            try:
                client.pump(time.monotonic() + TURN_SECONDS)
            except TimeoutError:
                continue
            for correlation in [number for number in waiting if client.has_reply(number)]:
                published = client.reply_to(correlation).message
                assert isinstance(published, m.Published)
                sequence = waiting.pop(correlation)
                del self.unconfirmed[sequence]
                self.journal.confirmed(self.number, sequence, published.zxid, published.duplicate)

    def _next_batch(self) -> int:
        self.sequence += 1
        count = self.random.randint(1, BATCH_MESSAGES_MAX)
        self.journal.sends(self.number, self.sequence, self.counter, count)
        bodies = [body_of(self.number, self.counter + place) for place in range(count)]
        self.unconfirmed[self.sequence] = bodies
        self.counter += count
        return self.sequence


class Consumer(Worker):
    """Acknowledges most deliveries, gives some back, forgets some."""

    delivery_count = 0

    def __init__(self, number: int, url: str, queue: str, journal: Journal, seed: int) -> None:
        super().__init__(number, url, queue, journal, seed)
        self.settling: dict[int, tuple[int, Delivery]] = {}

    def finished(self) -> bool:
        """Stopped, and every verdict is confirmed."""
        return self.stopping.is_set() and not self.settling

    def work(self, client: WireClient) -> None:
        """Consume."""
        # Leases of the session before are gone with it; so are verdicts that nobody confirmed.
        self.settling.clear()
        epoch = client.opened.epoch
        consumer = client.consume(self.queue, credit=CREDIT_MESSAGES, lease_seconds=LEASE_SECONDS)
        while not self.finished():
            with contextlib.suppress(TimeoutError):
                client.pump(time.monotonic() + TURN_SECONDS)
            while client.deliveries and len(self.settling) < SETTLEMENTS_MAX:
                delivery = client.deliveries.popleft()
                self.delivery_count += 1
                number = self.delivery_count
                runs = runs_of(delivery.messages, self.journal)
                self.journal.delivered(self.number, number, client.opened.session, epoch, runs)
                verdict = self.random.choices(("ack", "nack", "release", "forget"), (91, 3, 3, 3))[0]
                self.journal.verdict(self.number, number, verdict)
                if verdict == "forget":
                    continue
                delay = 0.0 if verdict == "nack" else None
                settle = m.Settle(consumer, VERDICTS[verdict], delivery.tags, delay)
                self.settling[client.send(settle)] = (number, delivery)
            for correlation in [number for number in self.settling if client.has_reply(number)]:
                settled = client.reply_to(correlation).message
                assert isinstance(settled, m.Settled)
                number, delivery = self.settling.pop(correlation)
                self.journal.settled(self.number, number, places_of(settled.lost, delivery))


def places_of(ranges: list[int], delivery: Delivery) -> list[int]:
    """Return places within the delivery, for ranges of its tags."""
    return [
        tag - delivery.first_tag
        for first, last in zip(ranges[::2], ranges[1::2], strict=True)
        for tag in range(first, last + 1)
    ]


def main(arguments: list[str]) -> int:
    """Run one worker."""
    role, number, url, queue, journal, seed = arguments
    kind = {"producer": Producer, "consumer": Consumer}[role]
    kind(int(number), url, queue, Journal(Path(journal)), int(seed)).run()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
