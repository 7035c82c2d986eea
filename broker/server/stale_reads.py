"""LOOK_AT_QUEUES and LOOK_AT_MESSAGES: any broker shows what it has applied, and says how far behind that may be.

For whoever would rather know something old than nothing, while nobody leads, or would not burden the leader. Reads the
machine and changes nothing; must not take the road, which only a leader has.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import trio

from sluicemq.broker.server.authorization import authorize
from sluicemq.broker.server.showing import PEEK_MESSAGES_MAX, SLICE_SECONDS, Shown, show_ready, topic_name
from sluicemq.broker.server.statistics import QUEUE_STATE_BYTES, state_of
from sluicemq.wire import messages as m
from sluicemq.wire.errors import QueueNotFound, SluiceError, Unavailable
from sluicemq.wire.settings import check_name

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.ground import Ground
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.server.client_session import ClientSession
    from sluicemq.wire.fields import Message

RETRY_SECONDS = 0.5
MARK_BYTES = 256
"""Room that a mark takes in a frame."""


async def look_at_queues(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """LOOK_AT_QUEUES: one queue, or one page of them, sorted by name."""
    del tail
    assert isinstance(message, m.LookAtQueues)
    vhost = check_name(message.vhost, "vhost")
    ground = ground_of(session)
    if message.name:
        authorize(session.identity, "info", (vhost, "queue", message.name))
        queue = _queue_of(ground, vhost, message.name)
        session.reply(correlation, m.QueuesSeen([state_of(ground, queue)], mark_of(session)))
        return
    authorize(session.identity, "list", (vhost, "vhost", vhost))
    fitting = session.connection.frame_bytes_max // QUEUE_STATE_BYTES - 1
    count_max = max(1, min(message.count_max, m.STALE_QUEUES_PAGE_MAX, fitting))
    queues = ground.machine.queues_of(vhost, message.after, count_max + 1)
    page: list[dict[str, Any]] = []
    mark = mark_of(session)  # before: others have their turn between the rows, and none may be older than this says
    started = time.perf_counter()
    for queue in queues[:count_max]:
        page.append(state_of(ground, queue))
        if time.perf_counter() - started > SLICE_SECONDS:
            await trio.lowlevel.checkpoint()
            started = time.perf_counter()
    session.reply(correlation, m.QueuesSeen(page, mark, len(queues) > count_max))


async def look_at_messages(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """LOOK_AT_MESSAGES: ready messages, as PEEK shows them."""
    del tail
    assert isinstance(message, m.LookAtMessages)
    vhost = check_name(message.vhost, "vhost")
    ground = ground_of(session)
    authorize(session.identity, "peek", (vhost, "queue", message.name))
    queue = _queue_of(ground, vhost, message.name)
    topic = topic_name(ground.machine, queue.id)
    mark = mark_of(session)  # before: what is looked at next is no older
    try:
        shown = await _ready(ground, queue, message, session.connection.frame_bytes_max - MARK_BYTES, topic)
    except SluiceError:
        if ground_of(session) is ground:
            raise
        raise Unavailable("another state has taken the place of this broker's", retry_after=RETRY_SECONDS) from None
    session.reply(correlation, m.MessagesSeen(shown.numbers, mark, shown.destinations, topic), shown.parts)


async def _ready(ground: Ground, queue: Queue, message: m.LookAtMessages, frame_bytes_max: int, topic: str) -> Shown:
    with ground.bodies.reading():
        count_max = min(message.count_max, PEEK_MESSAGES_MAX)
        runs = await ground.look(lambda: ground.machine.peek(queue.id, message.skip, count_max))
        return await show_ready(ground.bodies, runs, frame_bytes_max, topic)


def _queue_of(ground: Ground, vhost: str, name: str) -> Queue:
    queue = ground.machine.find_queue(vhost, name)
    if queue is None:
        raise QueueNotFound(f"as far as this broker knows there is no queue {name!r:.300}", name=name)
    return queue


def ground_of(session: ClientSession) -> Ground:
    """Return what there is to look at; raises Unavailable while a snapshot takes its place."""
    cluster = session.server.cluster
    if cluster is not None and cluster.exchanging:
        raise Unavailable("a snapshot takes the place of everything that this broker has", retry_after=RETRY_SECONDS)
    return session.server.ground


def mark_of(session: ClientSession) -> dict[str, Any]:
    """Return how stale what this broker shows may be; see QUEUES_SEEN."""
    server, cluster = session.server, session.server.cluster
    applied_zxid = server.ground.machine.applied_zxid
    if cluster is None:
        node = server.ground.node_id
        return {"node": node, "role": "leading", "leader": node, "applied_zxid": applied_zxid, "heard_seconds": 0.0}
    figures = cluster.figures
    return {
        "node": cluster.identity.node,
        "role": figures.role,
        "leader": figures.leader,
        "applied_zxid": applied_zxid,
        "heard_seconds": cluster.heard_seconds,
    }
