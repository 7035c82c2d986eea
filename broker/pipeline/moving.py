"""Messages that an operator chose are put on the road to where they shall go. Must not know sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.applying.moving import refuse_move
from sluicemq.broker.queues.entries_of_moving import DEAD, READY, Move
from sluicemq.wire.errors import InvalidRequest, LimitReached
from sluicemq.wire.messages import FOUND_DEAD, FOUND_READY

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.commit import OnApplied
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.queue import Queue

MOVED_RUNS_MAX = 256
"""Most runs that one request names: each costs the machine some tens of microseconds, and all are moved at once."""
STATES = {FOUND_READY: READY, FOUND_DEAD: DEAD}
"""Which messages can be moved."""


def move(
    road: Road,
    identity: str,
    numbered: tuple[int, int],
    queue: Queue,
    target: Queue | None,
    state: str,
    runs: list[int],
    on_applied: OnApplied,
    *,
    keep: bool,
) -> None:
    """Propose what an operator wants; what can be refused is refused here, and judged again when it is applied.

    Args:
        road: The leadership.
        identity: Who wants it: the producer must be theirs.
        numbered: Producer and sequence of the request.
        queue: Where the messages are.
        target: Where they shall go; None: nowhere.
        state: Which of the queue's they are.
        runs: Their places.
        on_applied: Hears the outcome.
        keep: Whether they stay where they are as well.

    Raises:
        InvalidRequest, LimitReached, Conflict: It cannot be.
        ProducerNotFound, ProducerFenced: The producer is nobody's, or somebody else's.

    """
    if state not in STATES:
        raise InvalidRequest(
            f"messages that are {state!r:.40} cannot be moved; those that are {' or '.join(STATES)} can"
        )
    if len(runs) // 4 > MOVED_RUNS_MAX:
        raise LimitReached(
            f"{len(runs) // 4} runs in one request; allowed are {MOVED_RUNS_MAX}: send several",
            retryable=False,
            limit="moved_runs_max",
            value=MOVED_RUNS_MAX,
        )
    producer, sequence = numbered
    road.produce.find_producer(queue.vhost, identity, producer)
    refusal = refuse_move(queue, target, keep=keep, state=STATES[state])
    if refusal is not None:
        raise refusal
    to = 0 if target is None else target.id
    if target is not None:
        road.space.refuse_growth("moving messages")
    entry = Move(road.clock.now_ms(), producer, sequence, queue.id, to, keep, STATES[state], runs)
    road.propose(entry, on_applied=on_applied)
