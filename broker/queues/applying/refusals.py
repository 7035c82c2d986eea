"""What several kinds of entries refuse in the same words, and tags gathered for those who lose them."""

from __future__ import annotations

from sluicemq.broker.queues.outcomes import Outcome
from sluicemq.broker.queues.tags import add_range
from sluicemq.wire.errors import InvalidRequest, LimitReached, QueueNotFound, SessionNotFound


def add_tags(tags: list[int], first: int, count: int) -> None:
    """Add *count* tags from *first* on to the ranges in *tags*."""
    if count:
        add_range(tags, first, first + count - 1)


def check_object_kind(object_kind: str) -> None:
    """Raise InvalidRequest unless objects of this kind exist."""
    if object_kind not in ("queue", "topic"):
        raise InvalidRequest(f"{object_kind!r} is no kind of object; known are: queue, topic")


def queue_not_found(queue_id: int) -> QueueNotFound:
    """Return the refusal for a queue that is gone."""
    return QueueNotFound("the queue was deleted meanwhile; declare it again", queue_id=queue_id)


def session_not_found(session: int) -> SessionNotFound:
    """Return the refusal for a session that is over."""
    return SessionNotFound(f"session {session} has ended", session=session)


def limit_reached(what: str, value: int) -> Outcome:
    """Return the refusal of one more of *what*."""
    return Outcome(
        None, LimitReached(f"there are {value} {what} already, and no more are allowed", limit=what, value=value)
    )
