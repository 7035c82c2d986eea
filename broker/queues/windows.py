"""Which windows the settings of a queue or topic ask for, and how those that exist follow them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues.window import IdWindow
from sluicemq.wire.settings import DEDUP_IDS_MAX, DEDUP_SCOPES

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sluicemq.broker.queues.chunks import ChunkPool
    from sluicemq.broker.queues.queue import Queue

PUBLISHED, SETTLED = range(2)
"""What the ids of a window are of: messages that were published, or acknowledged."""
ITEMS_PER_CHUNK = 100
"""As so many items of a CLOCK entry counts a chunk of ids that goes: frozen by the log's format."""


def followed(
    window: IdWindow | None, settings: Mapping[str, Any], kind: int, log_time_ms: int, pool: ChunkPool | None
) -> IdWindow | None:
    """Return the window that *settings* ask for: *window* itself, changed, where there is one that can go on.

    Another scope begins with an empty window: what is in the old one says nothing about it.
    """
    seconds: float = settings["settled_window" if kind == SETTLED else "dedup_window"]
    scope = DEDUP_SCOPES.index(settings["dedup_scope"])
    if window is not None and (not seconds or window.scope != scope):
        window.clear()
        window = None
    if not seconds:
        return None
    age_ms = max(round(seconds * 1000), 1)
    ids_max = DEDUP_IDS_MAX if kind == SETTLED else settings["dedup_count"] or DEDUP_IDS_MAX
    if window is None:
        return IdWindow(scope, age_ms, ids_max, pool)
    if (age_ms, ids_max) != (window.age_ms, window.ids_max):
        window.limit(age_ms, ids_max, log_time_ms)
    return window


def follow_windows(queue: Queue, log_time_ms: int, pool: ChunkPool | None) -> None:
    """Let a queue have the windows that its settings ask for; ids of before stay where they can."""
    settings = queue.settings
    if settings["dedup_window"] or queue.window is not None:
        queue.window = followed(queue.window, settings, PUBLISHED, log_time_ms, pool)
    if settings["settled_window"] or queue.settled_window is not None:
        queue.settled_window = followed(queue.settled_window, settings, SETTLED, log_time_ms, pool)


def windows_of(queue: Queue) -> Iterator[tuple[int, IdWindow]]:
    """Yield kind and window of the windows that a queue has."""
    if queue.window is not None:
        yield PUBLISHED, queue.window
    if queue.settled_window is not None:
        yield SETTLED, queue.settled_window


def expire_ids_of(queue: Queue, log_time_ms: int) -> int:
    """Let ids of a queue go that are too old by now; return how many items of a CLOCK entry that takes."""
    return sum(expired_items(window, log_time_ms) for _, window in windows_of(queue))


def expired_items(window: IdWindow | None, log_time_ms: int) -> int:
    """Let ids of *window* go that are too old by now; return how many items of a CLOCK entry that takes."""
    if window is None or not 0 < window.look_ms <= log_time_ms:
        return 0
    return 1 + ITEMS_PER_CHUNK * window.expire(log_time_ms)
