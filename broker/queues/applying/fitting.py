"""Messages that come into a queue from elsewhere become what they have to be there: of its order and its lifetime."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.runs import Run, joined

if TYPE_CHECKING:
    from sluicemq.broker.queues.queue import Queue


def fitted(queue: Queue, runs: list[Run], now_ms: int) -> list[Run]:
    """Return *runs*, ready now, as they are in this queue: with keys where it is ordered by them, and with its ttl."""
    settings = queue.settings
    if settings["ordering"] == "key":
        if any(run.priority for run in runs):
            runs = [run._replace(priority=0) for run in runs]
    elif any(run.key for run in runs):
        runs = joined([run._replace(key=0) for run in runs])
    if settings["ttl"] is not None:
        expires_ms = now_ms + round(float(settings["ttl"]) * 1000)
        runs = joined([run._replace(expires_ms=min(run.expires_ms or expires_ms, expires_ms)) for run in runs])
    return runs
