"""The broker's own figures, as STATISTICS and QUEUES give them. Reads only; names only ever get added."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sluicemq.broker.pipeline.keeping.disk_space import Level
from sluicemq.broker.queues.pauses import PAUSED_PUBLISH, paused_names
from sluicemq.broker.server.topics import settled_state, subscription_state, window_state

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.ground import Ground
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.server.listener import Server

ATTACHED_MAX = 100
"""Most consumers of a queue that are told one by one."""
PUBLISHING = {Level.OK: "open", Level.SLOW: "slowed", Level.LOW: "refused", Level.RESERVE: "refused"}
"""What a producer meets, by the level of the disk."""
QUEUE_STATE_BYTES = 4096
"""No state of a queue takes more: so a page is cut to what the client's frames can hold."""


def queue_state(road: Road, queue: Queue) -> dict[str, Any]:
    """Return the state of one queue as plain values, as the leader knows it.

    Messages that were sent to a consumer count as leased at once, also while the entry that says so is on its way to
    the disk. What was settled counts until its entry is applied, some milliseconds later, and so does the oldest age.
    """
    sent = road.dispatch.unapplied_messages(queue)
    return {
        **state_of(road.ground, queue, road.clock.now_ms()),
        "ready": queue.ready - sent,
        "leased": queue.leased + sent,
        "consumers": road.dispatch.consumer_count(queue.id),
        **road.shaping.state_of(queue),
    }


def state_of(ground: Ground, queue: Queue, now_ms: int = 0) -> dict[str, Any]:
    """Return what every broker knows of a queue once it has applied what a leader has; *now_ms* 0: the log's time."""
    now_ms = now_ms or ground.machine.log_time_ms
    oldest_ms = queue.oldest_published_ms
    age = 0.0 if oldest_ms is None else max(0, now_ms - oldest_ms) / 1000
    history = queue.history
    policy = ground.machine.policies.holds_for(queue.vhost, queue.name)
    retained_ms = None if history is None else history.oldest_published_ms
    return {
        "name": queue.name,
        "settings": dict(queue.settings),
        "ready": queue.ready,
        "leased": queue.leased,
        "delayed": queue.delayed.messages,
        "dead": queue.dead.messages,
        "publishing": "paused" if queue.paused & PAUSED_PUBLISH else PUBLISHING[ground.space.view.level],
        "published_total": queue.published_total,
        "settled_total": queue.settled_total,
        "redelivered_total": queue.redelivered_total,
        "dead_total": queue.dead_total,
        "redriven_total": queue.redriven_total,
        "discarded_total": queue.discarded_total,
        "expired_total": queue.expired_total,
        "dropped_total": queue.dropped_total,
        "moved_total": queue.moved_total,
        "purged_total": queue.purged_total,
        **window_state(queue.window),
        **settled_state(queue.settled_window),
        "oldest_age_seconds": age,
        "pinned_bytes": ground.reclaimer.pinned_bytes(queue.id),
        "retained": 0 if history is None else history.messages,
        "retained_bytes": 0 if history is None else history.bytes,
        "retained_age_seconds": 0.0 if retained_ms is None else max(0, now_ms - retained_ms) / 1000,
        "created_at": queue.created_ms,
        "paused": paused_names(queue.paused),
        "policy": "" if policy is None else policy.name,
        **subscription_state(ground.machine, queue.id),
    }


def attached(road: Road, queue: Queue) -> list[dict[str, Any]]:
    """Return how the first `ATTACHED_MAX` consumers of one queue stand, in the order in which they came."""
    found = []
    for consumer in road.dispatch.dispatcher.attached(queue.id)[:ATTACHED_MAX]:
        session = road.machine.sessions.get(consumer.session)
        found.append(
            {
                "session": consumer.session,
                "consumer": consumer.consumer,
                "client": "" if session is None else session.client_name,
                "weight": consumer.weight,
                "active": consumer.active,
                "in_flight": consumer.held_messages,
                "credit": consumer.credit_messages,
            }
        )
    return found


def statistics_of(server: Server) -> dict[str, Any]:
    """Return the figures of the whole broker."""
    road = server.road
    assert road is not None, "only clients of a leader ask"
    times = os.times()
    log = road.log.statistics()
    reclaimed = road.reclaimer.figures()
    return {
        "node_id": road.node_id,
        "epoch": road.epoch,
        "last_zxid": road.log.last_zxid,
        "committed_zxid": road.commit.committed_zxid,
        "entries_total": road.entries_total,
        "transactions_prepared": len(road.machine.halves),
        "transactions_parked": road.machine.halves.parked,
        "fsyncs_total": log.syncs,
        "appends_total": log.writes,
        "log_bytes": log.log_bytes,
        "segments": log.segments,
        "spare_segments": log.spares,
        "live_files": log.live_files,
        "live_bytes": log.live_bytes,
        "live_bytes_alive": reclaimed.live_bytes,
        "live_bytes_pinned": reclaimed.pinned_bytes,
        "history_bytes": reclaimed.history_bytes,
        "reclaim_working": road.reclaimer.working,
        "reclaim_passes_total": reclaimed.passes,
        "reclaim_abandoned_total": reclaimed.abandoned,
        "reclaim_dropped_bytes_total": reclaimed.dropped_bytes,
        "reclaim_read_bytes_total": reclaimed.read_bytes,
        "reclaim_written_bytes_total": reclaimed.written_bytes,
        "reclaim_replaced_bytes_total": reclaimed.replaced_bytes,
        "disk_state": road.space.view.level.value,
        "disk_free_bytes": road.space.view.free_bytes,
        "disk_free_bytes_min": road.space.free_bytes_min,
        "disk_low_total": road.space.low_total,
        **_snapshot_figures(road),
        **_scrub_figures(road),
        "published_messages_total": road.produce.published_messages_total,
        "delivered_messages_total": road.dispatch.delivered_messages_total,
        "settled_messages_total": road.settle.acknowledged_messages_total,
        "mailboxes": len(server.mailboxes),
        "replies_total": server.mailboxes.passed_total,
        "replies_late_total": server.mailboxes.late_total,
        "replies_dropped_total": server.mailboxes.dropped_total,
        "replies_held": server.mailboxes.held,
        "connections": len(server.sessions),
        "sessions": len(road.machine.sessions),
        "queues": len(road.machine.queues()),
        "topics": len(road.machine.sources),
        "subscriptions": road.machine.sources.subscriptions(),
        "consumers": sum(len(session.consumers) for session in server.sessions),
        "cpu_user_seconds": times.user,
        "cpu_system_seconds": times.system,
        "memory_resident_bytes": resident_bytes(),
        "uptime_seconds": time.monotonic() - server.started_monotonic,
        "loop_stall_seconds_max": road.turns.longest_seconds,
        "loop_turn_cpu_seconds_max": road.turns.longest_cpu_seconds,
    }


def _scrub_figures(road: Road) -> dict[str, Any]:
    """Return what the scrub has found, and what was mended whoever found it; nothing where neither is done."""
    figures: dict[str, Any] = {} if road.pager is None else {"pages_mended_total": road.pager.mended_total}
    if road.scrub is not None:
        scrubbed = road.scrub.figures
        figures |= {
            "scrub_passes_total": scrubbed.passes,
            "scrub_read_bytes_total": scrubbed.read_bytes,
            "scrub_damaged_total": scrubbed.damaged,
        }
    return figures


def _snapshot_figures(road: Road) -> dict[str, Any]:
    """What the last start did, and what snapshots cost since."""
    restart = road.restart
    figures: dict[str, Any] = {
        "recovery_snapshot_zxid": 0 if restart.snapshot is None else restart.snapshot.zxid,
        "recovery_snapshots_rejected": len(restart.rejected),
        "recovery_replayed_entries": restart.replayed_entries,
        "recovery_replayed_bytes": restart.replayed_bytes,
        "recovery_seconds": restart.load_seconds + restart.replay_seconds,
    }
    if road.snapshots is not None:
        known = road.snapshots.figures
        figures |= {
            "snapshots_total": known.taken,
            "snapshots_failed_total": known.failed,
            "snapshot_zxid": known.zxid,
            "snapshot_bytes": known.bytes,
            "snapshot_seconds": known.seconds,
            "snapshot_slice_seconds_max": known.longest_slice_seconds,
        }
    return figures


def resident_bytes() -> int:
    """Return the resident memory of this process; 0 where the system does not tell."""
    try:
        pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        import resource
        import sys

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
