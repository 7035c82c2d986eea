"""How much may be on its way to one learner, in which state."""

from __future__ import annotations

import itertools

import pytest

from sluicemq.broker.replication.history import ENTRY_OVERHEAD_BYTES, Entry, Position, zxid_of
from sluicemq.broker.replication.progress import Progress, ProgressState

ENTRY_BYTES = 100 - ENTRY_OVERHEAD_BYTES
START = Position(zxid_of(1, 0), b"chain")


def entry(counter: int, length_bytes: int = ENTRY_BYTES) -> Entry:
    return Entry(zxid_of(1, counter), zxid_of(1, counter - 1), b"chain", length_bytes, None)


def replicating(window_bytes_max: int = 1_000, message_bytes_max: int = 400) -> Progress:
    progress = Progress(window_bytes_max, message_bytes_max)
    progress.probe(START)
    progress.acknowledge(START.zxid)
    return progress


def test_a_probed_learner_gets_one_message_until_it_answers() -> None:
    progress = Progress(1_000, 400)
    progress.probe(START)
    assert progress.room_bytes == 400
    progress.send([entry(1)])
    assert (progress.state, progress.room_bytes) == (ProgressState.PROBE, 0)
    progress.acknowledge(START.zxid)
    assert (progress.state, progress.room_bytes) == (ProgressState.REPLICATE, 400)


def test_a_learner_that_waits_for_a_snapshot_gets_nothing() -> None:
    progress = replicating()
    progress.send([entry(1)])
    progress.await_snapshot()
    assert (progress.room_bytes, progress.in_flight_bytes) == (0, 0)
    progress.installed(Position(zxid_of(1, 7), b"chain"))
    assert (progress.state, progress.acknowledged_zxid, progress.room_bytes) == (
        ProgressState.REPLICATE,
        zxid_of(1, 7),
        400,
    )


def test_the_window_fills_with_what_is_sent_and_empties_with_what_is_acknowledged() -> None:
    progress = replicating()
    for counter in range(1, 11):
        assert progress.room_bytes == min(400, 1_000 - 100 * (counter - 1))
        progress.send([entry(counter)])
    assert progress.room_bytes == 0
    progress.acknowledge(zxid_of(1, 4))
    assert (progress.in_flight_bytes, progress.room_bytes) == (600, 400)
    progress.acknowledge(zxid_of(1, 3))
    assert (progress.acknowledged_zxid, progress.in_flight_bytes) == (zxid_of(1, 4), 600)
    progress.acknowledge(zxid_of(1, 10))
    assert progress.idle


def test_an_entry_larger_than_the_window_gets_through_alone() -> None:
    progress = replicating()
    progress.send([entry(1, 5_000)])
    assert progress.room_bytes == 0
    progress.acknowledge(zxid_of(1, 1))
    assert progress.room_bytes == 400


def test_nothing_is_read_for_a_learner_twice_at_a_time() -> None:
    progress = replicating()
    progress.reading = True
    assert progress.room_bytes == 0


@pytest.mark.parametrize("counter", [1, 3])
def test_a_gap_and_a_repetition_are_mistakes_of_the_leader(counter: int) -> None:
    progress = replicating()
    progress.send([entry(1)])
    with pytest.raises(AssertionError, match="B1"):
        progress.send([entry(counter)])


def test_every_way_of_sending_and_acknowledging_keeps_the_window() -> None:
    """All sequences of seven steps, each sends up to two entries or acknowledges one of those under way."""
    for steps in itertools.product(("send 1", "send 2", "ack oldest", "ack newest"), repeat=7):
        progress, last, in_flight = replicating(window_bytes_max=500), 0, []
        for step in steps:
            if step.startswith("send"):
                wanted = int(step[-1])
                if progress.room_bytes >= 100 * wanted:
                    progress.send([entry(last + place) for place in range(1, wanted + 1)])
                    last += wanted
                    in_flight.append((last, wanted))
            elif in_flight:
                place = 0 if step == "ack oldest" else len(in_flight) - 1
                progress.acknowledge(zxid_of(1, in_flight[place][0]))
                del in_flight[: place + 1]
            expected = 100 * sum(count for _, count in in_flight)
            assert progress.in_flight_bytes == expected <= 500
            assert progress.acknowledged_zxid <= progress.sent.zxid == zxid_of(1, last)
            assert progress.idle == (not in_flight)
