"""Limits of a queue's length and bytes: batches that do not fit are refused, or older messages make room for them.

Ready, leased and delayed messages count, dead letters do not. Only ready ones can make room, those of the lowest
priority first. A batch is judged whole.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import notes
from sluicemq.broker.queues.applying.dying import die
from sluicemq.broker.queues.outcomes import Effect, Removed, Returned
from sluicemq.wire.errors import QueueFull

if TYPE_CHECKING:
    from sluicemq.broker.queues.chunks import Chunk
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run

DROPPED_AT_ONCE_MAX = 1_000  # frozen by the log's format: it shows in the state
"""Most messages that make room for one batch beyond as many as came; where a limit was lowered, each batch brings the
queue nearer to it."""
RETRY_SECONDS = 1.0
"""When a producer whose batch was refused may try again."""


def refuse_overflow(queue: Queue, messages: int, bytes_: int) -> QueueFull | None:
    """Return why so many messages more do not fit, where such are refused; None: they fit, or others make room."""
    settings = queue.settings
    if settings["overflow"] != "reject":
        return None
    length_max, bytes_max = settings["max_length"], settings["max_bytes"]
    if length_max is not None and queue.messages + messages > length_max:
        what = f"holds {queue.messages} messages of at most {length_max} (max_length)"
        fits = messages <= length_max
    elif bytes_max is not None and queue.held_bytes + bytes_ > bytes_max:
        what = f"holds {queue.held_bytes} bytes of at most {bytes_max} (max_bytes)"
        fits = bytes_ <= bytes_max
    else:
        return None
    advice = "try again when consumers have caught up" if fits else "it never takes as many at once: send smaller ones"
    return QueueFull(
        f"queue {queue.name!r:.300} {what}, so {messages} messages with {bytes_} bytes do not fit: {advice}",
        retryable=fits,
        retry_after=RETRY_SECONDS if fits else None,
        queue=queue.name,
        messages=queue.messages,
        max_length=length_max,
        max_bytes=bytes_max,
    )


def surplus(queue: Queue, came: int) -> tuple[int, int]:
    """Return how many messages, and about how many bytes, have to go after *came* came in, where others make room."""
    settings = queue.settings
    if settings["overflow"] == "reject":
        return 0, 0
    length_max, bytes_max = settings["max_length"], settings["max_bytes"]
    messages = 0 if length_max is None else max(queue.messages - length_max, 0)
    bytes_ = 0 if bytes_max is None else max(queue.held_bytes - bytes_max, 0)
    return min(messages, came + DROPPED_AT_ONCE_MAX), bytes_


def missing_of_room(queue: Queue, coming: int) -> list[Chunk]:
    """Return the chunks that are not in memory among those that making room for *coming* messages needs, at most."""
    settings = queue.settings
    if settings["overflow"] == "reject":
        return []
    if settings["max_bytes"] is not None:
        return queue.missing_head(coming + DROPPED_AT_ONCE_MAX)
    messages = queue.messages + coming - settings["max_length"]
    return queue.missing_head(min(messages, coming + DROPPED_AT_ONCE_MAX)) if messages > 0 else []


def make_room(machine: Machine, zxid: int, queue: Queue, came: int) -> list[Effect]:
    """Let messages go until the queue is within its limits, after *came* came in."""
    messages, bytes_ = surplus(queue, came)
    if not messages and not bytes_:
        return []
    runs = queue.drop_head(messages, bytes_, came + DROPPED_AT_ONCE_MAX)
    if not runs:
        return []  # only leased and delayed ones are there
    effects: list[Effect] = [Removed(queue.id, runs), *_rest(queue, runs[-1])]
    if queue.settings["overflow"] == "dead_letter":
        effects += die(machine, zxid, queue, runs, notes.OVERFLOW)
    else:
        queue.gone(runs, "dropped")
    return effects


def _rest(queue: Queue, last: Run) -> list[Effect]:
    """Return what the leader hears of a run that had come back and lost its front, *last*: its rest has a new place."""
    run = queue.returned.first_of(last.priority)
    if run is not None and (run.zxid, run.ready, run.first) == (last.zxid, last.ready, last.first + last.size):
        return [Returned(queue.id, [run])]
    return []
