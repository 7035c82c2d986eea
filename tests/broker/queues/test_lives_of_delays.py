"""Random lives of delayed messages against a dict: published, cancelled, put off, made ready, over downtimes.

Beside the dict two machines apply the same log, one of which pages by chance and is rebuilt from its image now and
then. After every step they agree, and every message is exactly one of ready, delayed or gone.
"""

from __future__ import annotations

import random

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues.image import load
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Cancelled, Clocked, Outcome
from sluicemq.broker.queues.runs import Run
from sluicemq.wire.errors import QueuePaused
from tests.broker.paged import WhimsicalPager, make_chunks_small

STEPS = 150
DOWNTIME_MS = 400_000_000


def addresses(runs: list[Run]) -> list[tuple[int, int]]:
    return [(run.zxid, run.first + offset) for run in runs for offset in range(run.size)]


class Lives:
    """The dict: (zxid, index) -> [when it is due, in which order it came]; and what is ready, in order."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.pager = WhimsicalPager(random.Random(seed + 1))
        self.paging = Machine(pool=self.pager.pool)
        self.plain = Machine()
        self.zxid = 0
        self.now = 1_000
        self.arrivals = self.sequence = 0
        self.waiting: dict[tuple[int, int], tuple[int, int]] = {}
        self.ready: list[tuple[int, int]] = []
        self.gone = 0
        self.paused = False
        self.queue = self.do(e.Declare(self.now, "/", "queue", "orders", {})) and self.zxid
        self.do(e.ProducerOpen(self.now, "/", "", ""))
        self.producer = self.zxid

    def do(self, entry: e.Entry) -> Outcome:
        self.zxid += 1
        outcome = self.pager.apply(self.paging, self.zxid, entry)
        again = self.plain.apply(self.zxid, entry)
        assert (again.value, type(again.error), again.effects) == (outcome.value, type(outcome.error), outcome.effects)
        return outcome

    def arrive(self, due_ms: int, address: tuple[int, int]) -> None:
        self.arrivals += 1
        self.waiting[address] = (due_ms, self.arrivals)

    # --- what happens --------------------------------------------------------------------------------------------

    def publish(self) -> None:
        """A batch whose messages are due when they like, few of them or so many that they are placed in bulk."""
        count = self.rng.choice((1, 3, 20, 40))
        times = [self.now + self.rng.randrange(-20, 400) for _ in range(count)]
        groups = [number for due_ms in times for number in (1, due_ms, 0, 0, 0, 0)]
        fields = self.now, self.queue, self.producer, self.sequence + 1, count, 10, None, b"x" * 10
        outcome = self.do(e.PublishGrouped(*fields, groups))
        if self.paused:
            assert isinstance(outcome.error, QueuePaused)
            return
        assert outcome.error is None
        self.sequence += 1
        self.ready += [(self.zxid, index) for index, due_ms in enumerate(times) if due_ms <= self.now]
        for index, due_ms in sorted(enumerate(times), key=lambda item: item[1]):
            if due_ms > self.now:
                self.arrive(due_ms, (self.zxid, index))

    def some(self) -> list[int]:
        """A few that wait, with when they are due; now and then wrongly."""
        chosen = self.rng.sample(sorted(self.waiting), min(len(self.waiting), self.rng.randint(1, 4)))
        flat: list[int] = []
        for zxid, index in chosen:
            wrong = self.rng.random() < 0.1
            flat += (self.waiting[zxid, index][0] + wrong, zxid, index, 1)
        return flat

    def found(self, flat: list[int]) -> list[tuple[int, int]]:
        named = [(flat[at], (flat[at + 1], flat[at + 2])) for at in range(0, len(flat), 4)]
        return [address for due_ms, address in named if self.waiting[address][0] == due_ms]

    def cancel(self) -> None:
        flat = self.some()
        gone = self.found(flat)
        assert self.do(q.Cancel(self.now, self.queue, flat)).value == Cancelled(len(gone))
        for address in gone:
            del self.waiting[address]
        self.gone += len(gone)

    def reschedule(self) -> None:
        flat = self.some()
        moved = self.found(flat)
        due_ms = self.now + self.rng.randrange(-50, 400)
        assert self.do(q.Reschedule(self.now, self.queue, flat, due_ms)).value == Cancelled(len(moved))
        before = {address: self.waiting.pop(address) for address in moved}
        if due_ms > self.now:
            for address in sorted(moved):
                self.arrive(due_ms, address)
        else:
            # By due time; of those of one time in the order in which they were named.
            self.ready += sorted(moved, key=lambda address: before[address][0])

    def clock(self) -> None:
        """Time goes on, now and then by days: whatever was due meanwhile comes in due order, some at a time."""
        self.now += self.rng.choice((0, 5, 40, 40, DOWNTIME_MS if self.rng.random() < 0.1 else 1))
        items_max = self.rng.choice((1, 7, 1_000))
        value = self.do(e.Clock(self.now, items_max)).value
        assert isinstance(value, Clocked)
        due = sorted((when, address) for address, when in self.waiting.items() if when[0] <= self.now)
        assert min(len(due), items_max) <= value.messages <= len(due), "an item is a run, which has a message at least"
        for _, address in due[: value.messages]:
            del self.waiting[address]
            self.ready.append(address)

    def pause(self) -> None:
        self.paused = self.rng.random() < 0.4
        self.do(q.Alter(self.now, "/", "queue", "orders", {"pause_publish": self.paused}))

    def reload(self) -> None:
        """A broker starts from a snapshot."""
        sections = self.paging.freeze().pack(lambda: True)
        self.paging = load(sections, self.pager.new_pool())

    # --- what must hold ------------------------------------------------------------------------------------------

    def check(self) -> None:
        self.paging.check()
        assert self.paging.state_hash() == self.plain.state_hash()
        for machine in (self.paging, self.plain):
            queue = machine.queue(self.queue)
            assert queue is not None
            by_due = sorted(self.waiting, key=lambda address: self.waiting[address])
            assert addresses(queue.delayed.runs()) == by_due
            assert queue.published_total == len(self.waiting) + len(self.ready) + self.gone
        assert addresses(self.plain.peek(self.queue, 0, 10**6)) == self.ready


@pytest.mark.parametrize("seed", range(12))
def test_delayed_messages_live_as_a_dict_says(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    make_chunks_small(monkeypatch, (2, 3, 8, 16)[seed % 4])
    lives = Lives(seed)
    steps = [lives.publish] * 4 + [lives.cancel, lives.reschedule] * 2 + [lives.clock] * 4 + [lives.pause, lives.reload]
    for _ in range(STEPS):
        lives.rng.choice(steps)()
        lives.check()
    assert lives.gone
    assert lives.ready
