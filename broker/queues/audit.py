"""What only tests and operators' checks need of a machine: a digest of its state, and its invariants.

Both walk through the whole state. This module must not change anything.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import msgpack

from sluicemq.broker.queues.delayed_check import check_delayed
from sluicemq.broker.queues.routing import audit as topics
from sluicemq.broker.queues.runs import bytes_in, messages_in
from sluicemq.broker.queues.windows import windows_of

if TYPE_CHECKING:
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.window import IdWindow


_ready_of = itemgetter(1)


def state_hash(machine: Machine) -> bytes:
    """Return a digest of the whole state: equal for machines that will judge every further entry alike."""
    digest = hashlib.sha256()
    for part in _canonical(machine):
        digest.update(msgpack.packb(_digest_of(part) if isinstance(part, Iterator) else part))
    return digest.digest()


def _digest_of(pieces: Iterator[bytes | bytearray]) -> bytes:
    """Return the digest of rows that come in pieces: the same wherever they were cut; no index is ever whole."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.digest()


def _canonical(machine: Machine) -> Iterator[Any]:
    yield machine.applied_zxid, machine.log_time_ms, machine.id_moment
    for queue in machine.queues():
        yield from _canonical_queue(queue, machine)
    for session in machine.sessions.values():
        yield session.number, session.vhost, session.identity, session.client_name, session.resume_token
        yield session.opened_ms, session.closed
        yield sorted(session.settled.items())
        for consumer, table in session.leases.items():
            yield consumer, table.queue_id, table.last_tag
            yield list(table.pieces())
            yield sorted(table.ids.items())
    for producer in machine.producers:
        yield producer.number, producer.vhost, producer.name, producer.identity, producer.last, producer.receipts()
        yield producer.heard_ms
    yield sorted(machine.producers.fenced().items())
    for topic in machine.sources:
        yield from topics.canonical(topic)
        if topic.window is not None:
            yield topic.window.numbers()
            yield ids_of(topic.window, machine)
    yield from machine.policies.canonical()
    yield machine.schedules.canonical()
    yield from machine.halves.canonical()
    yield machine.cluster.frozen()


def _canonical_queue(queue: Queue, machine: Machine) -> Iterator[Any]:
    yield queue.id, queue.vhost, queue.name, sorted(queue.settings.items()), queue.created_ms
    yield queue.used_ms
    yield queue.paused, sorted(queue.declared)
    yield queue.leased, queue.published_total, queue.settled_total, queue.purged_total, queue.redelivered_total
    yield queue.expired_total, queue.dropped_total, queue.dead_total, queue.moved_total, queue.bytes
    yield queue.redriven_total, queue.discarded_total
    if queue.keys is not None:
        yield list(queue.keys.parked), sorted(queue.keys.waiting.items()), sorted(queue.keys.places.items())
    yield queue.notes.next_number, list(queue.notes.items())
    yield queue.dead.pieces()
    for priority, lane in queue.lanes.items():
        if lane.messages:
            yield priority, lane.expiry_ms
            yield lane.pieces()
    if queue.lanes.expiring is not None and queue.lanes.expiring.messages:
        yield queue.lanes.expiring.pieces()
    for kind, window in windows_of(queue):
        yield kind, window.numbers()
        yield ids_of(window, machine)
    yield list(queue.returned)
    yield queue.delayed.pieces()
    if queue.history is not None:
        yield queue.history.places()
        yield queue.history.runs.pieces()


def ids_of(window: IdWindow, machine: Machine) -> Iterator[bytes]:
    """Yield the rows of a window, each chunk with its number: where chunks begin decides when rows go."""
    read_back = None if machine.pool is None else machine.pool.read_back
    for number, rows in window.pieces(read_back):
        yield number.to_bytes(8, "little")
        yield bytes(rows)


def _check_windows(machine: Machine) -> None:
    read_back = None if machine.pool is None else machine.pool.read_back
    for queue in machine.queues():
        assert (queue.window is not None) == bool(queue.settings["dedup_window"]), "a window is kept where it is wanted"
        wanted = bool(queue.settings["settled_window"])
        assert (queue.settled_window is not None) == wanted, "settled ids are kept where they are wanted"
        for _, window in windows_of(queue):
            window.check(read_back)
    for topic in machine.sources:
        assert (topic.window is not None) == bool(topic.settings["dedup_window"]), "likewise of topics"
        if topic.window is not None:
            topic.window.check(read_back)


def check(machine: Machine) -> None:
    """Assert every invariant of *machine*."""
    due = {}
    _check_windows(machine)
    for queue in machine.queues():
        assert machine.find_queue(queue.vhost, queue.name) is queue, "a queue is found by its name"
        _check_counts(queue)
        _check_runs(queue, machine.applied_zxid, any(True for _ in machine.sources))
        if queue.next_due_ms is not None:
            due[queue.id] = queue.next_due_ms
        for (session, consumer), table in queue.leases.items():
            assert machine.sessions[session].leases[consumer] is table, "a lease belongs to a session that lives"
    topics.check(machine)
    due.update((topic.id, topic.next_due_ms) for topic in machine.sources if topic.next_due_ms is not None)
    if machine.policies.next_due_ms is not None:
        due[machine.policies.id] = machine.policies.next_due_ms
    assert machine.due_times() == due, "the index of due times names the first one of each queue"
    for holder in machine.sessions.values():
        for consumer, table in holder.leases.items():
            found = machine.queue(table.queue_id)
            assert found is not None, "leases go with their queue"
            assert found.leases[holder.number, consumer] is table, "a queue knows who holds its messages"
    machine.producers.check()
    machine.halves.check()


def _check_counts(queue: Queue) -> None:
    for lane in queue.lanes:
        assert lane.messages == messages_in(lane.runs()), "messages of a lane are counted"
        assert len(lane) == len(lane.runs()), "runs of a lane are counted"
        assert bool(lane.messages) == (lane.head < lane.tail), "the first run of a lane is no hole"
    assert queue.returned.messages == messages_in(queue.returned), "returned messages are counted"
    check_delayed(queue.delayed)
    assert (queue.history is None) == (queue.settings["retention"] is None), "a history is kept where it is wanted"
    if queue.history is not None:
        queue.history.check()
    leased = 0
    for table in queue.leases.values():
        held = messages_in(run for _, run, _ in table.pieces())
        assert held == table.messages > 0, "a table counts its leases, and goes with the last"
        leased += held
    assert queue.leased == leased, "leased messages are counted"
    here = queue.messages + queue.dead.messages
    gone = queue.settled_total + queue.purged_total + queue.expired_total + queue.dropped_total + queue.moved_total
    assert queue.published_total == here + gone, (
        "every published message is exactly one of ready, leased, delayed, dead or gone, and that in one way"
    )
    assert queue.dead_total == queue.dead.messages + queue.redriven_total + queue.discarded_total, (
        "every dead letter lies aside, was tried again, or was dropped"
    )
    _check_notes(queue)


def _check_notes(queue: Queue) -> None:
    living = [run for lane in queue.lanes for run in lane.runs()]
    living += [*queue.returned, *queue.delayed.runs(), *queue.leased_runs()]
    counts: dict[int, list[int]] = {number: [0, 0] for number, _ in queue.notes.items()}
    for index, runs in enumerate((living, queue.dead.runs())):
        for run in runs:
            if run.note:
                assert run.note in counts, "a message names a note that exists"
                counts[run.note][index] += run.size
    for number, note in queue.notes.items():
        assert [note.living, note.dead] == counts[number] != [0, 0], (
            "a note counts its messages, and goes with the last"
        )
    assert queue.bytes is None or queue.bytes == bytes_in(living), "bytes are counted"


def _check_runs(queue: Queue, applied_zxid: int, strangers: bool) -> None:
    """Assert that runs are in order; *strangers* may have come from several subscriptions of a topic."""
    runs = list(queue.returned)
    for priority, lane in queue.lanes.items():
        found = lane.runs()
        readies = [run.ready for run in found]
        assert readies == sorted(readies), "a lane is in the order in which messages became ready"
        assert all(run.priority == priority for run in found), "each priority has a lane of its own"
        runs += found
    runs += [run._replace(ready=run.zxid) for run in queue.delayed.runs()]  # theirs is when they are due
    dead = queue.dead.runs()
    assert dead == sorted(dead, key=_ready_of), "dead letters are in the order in which they died"
    runs += dead
    for table in queue.leases.values():
        next_tag = 1
        for first_tag, run, mark in table.pieces():
            assert first_tag >= next_tag, "tags ascend"
            assert mark in (0, 1), "a lease is marked or not"
            next_tag = first_tag + run.size
            runs.append(run)
        assert next_tag <= table.last_tag + 1, "no tag lies beyond the last one granted"
        held = {first + offset for first, run, _ in table.pieces() for offset in range(run.size)}
        assert held >= table.ids.keys(), "only leased messages have ids in their table"
    runs.sort()
    for run in runs:
        assert run.size > 0, "a run holds messages"
        assert run.first + run.size <= run.batch_count, "a run lies within its batch"
        assert run.zxid <= run.ready <= applied_zxid, "a message becomes ready when or after it is published"
        assert run.attempts <= run.deliveries, "an attempt needs a delivery"
    by_address = sorted(runs, key=lambda run: (run.zxid, run.first))
    for before, run in itertools.pairwise(by_address):
        apart = before.zxid < run.zxid or before.first + before.size <= run.first
        assert apart or strangers, "a message is at one place only, unless it died in several subscriptions"
