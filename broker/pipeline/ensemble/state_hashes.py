"""A digest of the machine that costs next to nothing, taken by every broker after the same entries.

The digest of a whole state costs as much as the state is large, which an event loop cannot afford while it serves. What
is hashed here is what every entry moves, counts and sums by queue, and how far producers are; and a share of what the
queues hold, another one each time (`contents`). A machine that has judged one entry differently shows it there. Nothing
of it depends on what lies in memory and what on pages.
"""

from __future__ import annotations

import hashlib
from itertools import islice
from typing import TYPE_CHECKING, Any

import msgpack

from sluicemq.broker.pipeline.ensemble.contents import contents
from sluicemq.broker.replication.agreement import StateHash

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.sequences import Producer
    from sluicemq.storage.files import Directory

LOOKED_AT_MAX = 500
"""Most queues, sessions, producers and topics that each digest takes in: which queues moves on from digest to digest,
producers are those that were heard last."""
DIGEST_BYTES = 16
TURN_BITS = 12
"""Places of the log between which so many bits differ have turns of their own."""


def state_hash(machine: Machine, zxid: int) -> StateHash:
    """Return the digest of *machine*, which has just applied the entry *zxid*."""
    queues = machine.queues()
    parts = {
        "time": [machine.applied_zxid, machine.log_time_ms],
        "brokers": machine.cluster.frozen(),
        "queues": [len(queues), [_counts(queue) for queue in _some(queues, zxid)]],
        "sessions": [len(machine.sessions), sorted(islice(machine.sessions, LOOKED_AT_MAX))],
        "producers": [len(machine.producers), [_heard(one) for one in _latest(machine)]],
        "topics": [(topic.id, topic.name, topic.published_total) for topic in islice(machine.sources, LOOKED_AT_MAX)],
        **contents(machine, zxid >> TURN_BITS),
    }
    digests = tuple((name, _digest(value)) for name, value in parts.items())
    return StateHash(zxid, _digest([digest for _, digest in digests]), digests)


def _counts(queue: Any) -> tuple[Any, ...]:
    return (
        queue.id,
        queue.name,
        queue.ready,
        queue.leased,
        queue.messages,
        queue.bytes,
        queue.published_total,
        queue.settled_total,
        queue.purged_total,
        queue.redelivered_total,
        queue.expired_total,
        queue.dropped_total,
        queue.dead_total,
        queue.moved_total,
        queue.notes.next_number,
    )


def _heard(producer: Producer) -> tuple[int, ...]:
    return producer.number, producer.last, producer.receipt(producer.last), producer.heard_ms


def _latest(machine: Machine) -> Iterable[Producer]:
    return islice(reversed(machine.producers), LOOKED_AT_MAX)


def _some(queues: list[Any], zxid: int) -> Iterable[Any]:
    """Return at most `LOOKED_AT_MAX` of them; others the next time."""
    if len(queues) <= LOOKED_AT_MAX:
        return queues
    start = (zxid >> TURN_BITS) * LOOKED_AT_MAX % len(queues)
    return [*queues[start : start + LOOKED_AT_MAX], *queues[: max(0, start + LOOKED_AT_MAX - len(queues))]]


def _digest(value: Any) -> bytes:
    return hashlib.blake2b(msgpack.packb(value), digest_size=DIGEST_BYTES).digest()


def dump_of(machine: Machine, directory: Directory) -> str:
    """Write an image of *machine* beside the log, for whoever looks for what went wrong; return where. Blocks."""
    name = f"diverged-{machine.applied_zxid:016x}"
    pieces: list[bytes] = []
    for kind, data in machine.freeze().pack(lambda: True):
        pieces += (kind.to_bytes(4, "little"), len(data).to_bytes(8, "little"), data)
    try:
        if name in directory.names():
            directory.unlink(name)
        file = directory.open(name, create=True)
        try:
            file.pwritev([b"".join(pieces)], 0)
            file.sync()
        finally:
            file.close()
    except OSError as error:
        return f"no file, because none could be written: {error}"
    return directory.path_of(name)
