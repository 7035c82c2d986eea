"""What must stay small: windows and queues while a run lasts (I18), disks (E4) and whatever is open (E7) at its end.

The caps are those of the options that the core and the machine were given. This module only looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.replication.effects import Append
from sluicemq.broker.replication.history import show_zxid, window_bytes
from sluicemq.broker.replication.leading import Leading
from sluicemq.storage import SegmentLog, SnapshotStore
from tests.sim import snapshots
from tests.sim.driver import Process
from tests.sim.log_thread import HANGS_SECONDS_MAX, LogThread
from tests.sim.service import Lead
from tests.sim.world import Violation, World

if TYPE_CHECKING:
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.replication.membership import Configuration
    from sluicemq.broker.replication.messages import AckEpoch, Propose
    from sluicemq.storage import LogOptions
    from tests.disk import SimulatedDisk
    from tests.sim.node import Node

KIB = 1024
OVER_BYTES = 12 * KIB
"""The largest entry of a client, and a few of the core's own."""
SLACK_BYTES = 64 * KIB
"""Superblock, indexes, headers, and the one segment that is always prepared or kept beside."""


def check_proposal(process: Process, peer: int, message: Propose) -> None:
    """A leader sends entries: neither the message nor the window of the learner may grow beyond its cap."""
    options = process.node.settings.replica
    size_bytes = window_bytes(message.entries)
    if len(message.entries) > 1 and size_bytes > options.message_bytes_max:
        raise _too_much(process, "the entries of one message", size_bytes, options.message_bytes_max)
    leading = process.replica._state
    learner = leading.learners.get(peer) if isinstance(leading, Leading) else None
    if learner is None:
        return
    # One entry beyond it, for one that is larger than the window must get through too.
    cap = options.window_bytes_max + window_bytes(message.entries[:1])
    process.truth.weighed["I18"] += 2 * learner.progress.in_flight_bytes > cap  # the window fills
    if learner.progress.in_flight_bytes > cap:
        raise _too_much(process, f"the window of node {peer}", learner.progress.in_flight_bytes, cap)


def check_rows(process: Process, message: AckEpoch) -> None:
    """A learner tells its log in so many rows at most."""
    cap = process.node.settings.replica.epoch_rows_max
    if len(message.ends) > cap:
        raise _too_much(process, "rows of epochs", len(message.ends), cap)


def check_queue(process: Process, effect: Append) -> None:
    """Entries were handed to the disk: neither they nor what is uncommitted may pile up."""
    options = process.node.settings.replica
    waiting = sum(window_bytes(each.entries) for each in process.thread.waiting() if isinstance(each, Append))
    # A leadership that has ended may leave as much in the queue as was uncommitted then.
    cap = options.uncommitted_bytes_max + options.window_bytes_max + OVER_BYTES
    if waiting > cap:
        raise _too_much(process, "what waits for the disk", waiting, cap)
    leading = process.replica._state
    if isinstance(leading, Leading) and leading.broadcast is not None:
        # The last one in, and the records of the core itself, which must not be refused.
        cap = options.uncommitted_bytes_max + OVER_BYTES
        if leading.broadcast.uncommitted_bytes > cap:
            raise _too_much(process, "what is uncommitted", leading.broadcast.uncommitted_bytes, cap)


def check_machine(node: Node, machine: Machine) -> None:
    """The tables of the state are below their caps."""
    limits = machine.limits
    producers = machine.producers._producers
    figures = [
        ("producers", len(producers), limits.producers_max),
        ("sessions", len(machine.sessions), limits.sessions_max),
        ("queues", sum(1 for _ in machine.queues()), limits.queues_max),
        ("receipts", max((len(one._receipts) for one in producers.values()), default=0), limits.receipts_max),
    ]
    for what, value, cap in figures:
        if value > cap:
            raise Violation(f"I18 memory: node {node.number} holds {value} {what}, the cap is {cap}")


def _too_much(process: Process, what: str, value: int, cap: int) -> Violation:
    where = f"node {process.node.number} at {show_zxid(process.memory.last.zxid)}"
    return Violation(f"I18 memory: {what} takes {value}, the cap is {cap} ({where})")


# --- at the end ------------------------------------------------------------------------------------------------------


def check_rest(world: World, nodes: dict[int, Node]) -> None:
    """E7: when everything is done, nothing waits, and nothing of former lives is left."""
    for node in nodes.values():
        process = node.process
        assert process is not None
        lead = process.service.lead
        leading = process.replica._state
        left = {
            "effects in the disk's queue": len(process.thread.waiting()),
            "streams of snapshots": len(process._streams),
            "proposals that wait": len(lead._waiting) if lead is not None else 0,
            "uncommitted bytes": leading.broadcast.uncommitted_bytes
            if isinstance(leading, Leading) and leading.broadcast is not None
            else 0,
            "deleted files that are open": len([one for one in node.disk._nameless if one.handles > 0]),
        }
        for what, value in left.items():
            if value:
                raise Violation(f"E7 leak: node {node.number} has {value} {what} left")
    for when, action in world.waiting():
        owner = getattr(action, "__self__", None)
        if isinstance(owner, Process):
            over = not owner.alive
        elif isinstance(owner, LogThread):
            over = owner.stopped
        else:
            over = isinstance(owner, Lead) and owner.over
        # A timer of somebody who has ended may still come, once, and finds it over.
        if over and when > world.now + HANGS_SECONDS_MAX:
            raise Violation(f"E7 leak: {action} of a life that is over is due at {when:.3f} s, now is {world.now:.3f}")


def check_space(
    node: Node,
    disk: SimulatedDisk,
    log: SegmentLog,
    machine: Machine,
    configuration: tuple[int, Configuration],
    options: LogOptions,
) -> None:
    """E4 and E7: with everything acknowledged and compacted, a node keeps one snapshot and one segment, nothing open.

    Closes the log, which is that of a start without a process.
    """
    store = SnapshotStore(disk, log.cluster_id)
    if machine.applied_zxid == log.last_zxid:
        snapshots.take(machine, log, store, configuration)
        store.keep(1)
        log.begin_at(machine.applied_zxid)
        for file in log.live_files():
            log.reclaim(file.first_sequence, file.last_sequence)
        image = snapshots.read_newest(store)
        assert image is not None, "a snapshot was just taken"
        # Segments are kept as spares, one at most; the active one may be larger than the rest for one large entry.
        snapshot_bytes = sum(len(data) for _, data in image.sections)
        cap = (2 + options.spares_max) * max(options.segment_bytes, 2 * log.entry_bytes_max) + snapshot_bytes
        if disk.used_bytes() > cap + SLACK_BYTES:
            raise Violation(
                f"E4 space: node {node.number} takes {disk.used_bytes()} bytes for nothing, the cap is {cap}"
            )
    log.close()
    left = [inode.name for inode in [*disk._names.values(), *disk._nameless] if inode.handles > 0]
    if left:
        raise Violation(f"E7 leak: node {node.number} has closed its log, but {', '.join(left)} is open")
