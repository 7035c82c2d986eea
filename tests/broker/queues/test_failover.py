"""One fixed day of a queue, with the leader lost between any two entries, and any part of what was in flight with it.

Whatever the moment, the new leader must deliver every message that was confirmed and not settled, none of them to two
at once, and none that was settled.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import NamedTuple

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.outcomes import Granted, Published, Settled
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_RELEASE
from tests.broker.harness import Applied, Cluster

Address = tuple[int, int]


class Seen:
    """What clients could know: confirmed messages, confirmed settlements, and where every lease is."""

    def __init__(self) -> None:
        self.confirmed: set[Address] = set()
        self.settled: set[Address] = set()
        self.leases: dict[tuple[int, int, int], Address] = {}

    def follow(self, applied: Applied) -> None:
        entry, value = applied.entry, applied.outcome.value
        if isinstance(value, Published) and not value.duplicate:
            self.confirmed.update((value.zxid, index) for index in range(value.count))
        elif isinstance(entry, e.Grant):
            assert value == Granted([]), "nothing interferes with grants on this day but the end of sessions"
            tag = entry.first_tag
            for start in range(0, len(entry.runs), 3):
                zxid, first, count = entry.runs[start : start + 3]
                for index in range(first, first + count):
                    assert (zxid, index) not in self.leases.values(), "a message is leased twice"
                    assert (zxid, index) not in self.settled, "a settled message is delivered again"
                    self.leases[entry.session, entry.consumer, tag] = (zxid, index)
                    tag += 1
        elif isinstance(entry, e.Settle) and isinstance(value, Settled) and entry.verdict != VERDICT_HANDED_OVER:
            assert value.lost == [], "all verdicts on this day come in time"
            for first, last in zip(entry.tags[::2], entry.tags[1::2], strict=True):
                for tag in range(first, last + 1):
                    address = self.leases.pop((entry.session, entry.consumer, tag))
                    if entry.verdict == VERDICT_ACK:
                        self.settled.add(address)
        elif isinstance(entry, e.SessionClose):
            self.leases = {who: address for who, address in self.leases.items() if who[0] != entry.session}


class Day(NamedTuple):
    """The cluster, and what goes into the log: each step proposes entries that may stay in flight."""

    cluster: Cluster
    seen: Seen


def a_day(cluster: Cluster) -> Iterator[Callable[[], object]]:
    """Yield the steps of the day; each proposes one entry."""
    now = 1_000

    def propose(entry: e.Entry) -> Callable[[], object]:
        return functools.partial(cluster.propose, entry)

    yield propose(e.Declare(now, "/", "queue", "orders", {}))
    queue = cluster.epoch << 32 | cluster.counter
    yield propose(e.ProducerOpen(now, "/", "web", "ann"))
    producer = cluster.epoch << 32 | cluster.counter
    yield propose(e.SessionOpen(now, "/", "bob", "worker", b""))
    session = cluster.epoch << 32 | cluster.counter
    for sequence, count in enumerate((5, 1, 1, 1, 8), start=1):
        payload = b"x" * 10 * count
        yield propose(e.Publish(now, queue, producer, sequence, count, len(payload), None, payload))
    # Only what is applied can be dispatched.
    yield cluster.commit_all
    cluster.dispatcher.add_consumer(session, 1, queue, 6, 10**6)
    cluster.dispatcher.add_consumer(session, 2, queue, 5, 10**6)
    yield cluster.pick
    yield cluster.pick
    yield propose(e.Settle(now, session, 1, VERDICT_ACK, [2, 3]))
    yield propose(e.Settle(now, session, 1, VERDICT_HANDED_OVER, [4, 5]))
    yield propose(e.Settle(now, session, 1, VERDICT_NACK, [4, 4]))
    yield propose(e.Settle(now, session, 2, VERDICT_RELEASE, [2, 3]))
    yield propose(e.Settle(now, session, 2, VERDICT_NACK, [4, 5], 3_000))
    yield cluster.commit_all
    yield cluster.pick
    yield cluster.pick
    yield propose(e.Settle(now, session, 1, VERDICT_ACK, [1, 1, 5, 8]))
    yield propose(e.Clock(4_000, 10))
    yield cluster.commit_all
    yield cluster.pick
    yield propose(e.Settle(now, session, 2, e.EXPIRED, [1, 1]))
    yield propose(e.SessionClose(now, session, "lost"))
    yield cluster.commit_all
    yield lambda: None  # the day is over


def run_until(moment: int) -> Day | None:
    """Live the day up to a moment; None when it is over before."""
    cluster = Cluster()
    seen = Seen()
    perform = cluster._perform

    def watch(applied: Applied) -> None:
        seen.follow(applied)
        perform(applied)

    cluster._perform = watch  # type: ignore[method-assign]
    for number, step in enumerate(a_day(cluster)):
        if number == moment:
            return Day(cluster, seen)
        step()
    return None


MOMENTS = 27


def test_the_day_has_as_many_moments_as_are_tried() -> None:
    assert run_until(MOMENTS - 1) is not None
    assert run_until(MOMENTS) is None


@pytest.mark.parametrize("moment", range(MOMENTS))
def test_nothing_is_lost_and_nothing_leased_twice_wherever_the_leader_is_lost(moment: int) -> None:
    survivors = 0
    while True:
        day = run_until(moment)
        assert day is not None
        cluster, seen = day
        in_flight = len(cluster.in_flight)
        for _ in cluster.fail_over(survivors):
            pass
        assert not cluster.machine.sessions
        deliver_everything(cluster, seen)
        assert cluster.replay().state_hash() == cluster.machine.state_hash()
        survivors += 1
        if survivors > in_flight:
            break


def deliver_everything(cluster: Cluster, seen: Seen) -> None:
    """A consumer comes to the new leader and takes all there is; it must be all that is owed."""
    queue = cluster.machine.find_queue("/", "orders")
    owed = seen.confirmed - seen.settled
    if queue is None:
        assert not owed
        return
    cluster.apply(e.SessionOpen(1_000, "/", "bob", "worker", b""))
    (session,) = cluster.machine.sessions
    cluster.apply(e.Clock(10_000, 1_000))
    cluster.dispatcher.add_consumer(session, 1, queue.id, 3, 10**6)
    while (pick := cluster.pick()) is not None:
        last = pick.first_tag + pick.messages - 1
        cluster.apply(e.Settle(10_000, session, 1, VERDICT_ACK, [pick.first_tag, last]))
    assert seen.settled == seen.confirmed, "every confirmed message was settled once, by one of the two leaders"
    assert queue.messages == 0
