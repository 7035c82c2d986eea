"""What each request of an open session does: unpack it, ask for permission, hand it to a stage, shape the reply.

One function a request, and the table `HANDLERS`. Must not decide about messages: stages and the machine do.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.queues.outcomes import ProducerOpened
from sluicemq.broker.server import cluster, looking, operating, replying, resuming, topics, transactions
from sluicemq.broker.server.answering import reply_with
from sluicemq.broker.server.authorization import authorize
from sluicemq.broker.server.cautions import cautions_of
from sluicemq.broker.server.client_session import answer_ping
from sluicemq.broker.server.dead_letters import discard, list_dead, redrive
from sluicemq.broker.server.duplicates import told
from sluicemq.broker.server.handshake import authenticate_peer, hello, open_session
from sluicemq.broker.server.replaying import replay
from sluicemq.broker.server.resuming import CONSUMERS_MAX, CREDIT_BYTES_MAX, CREDIT_MESSAGES_MAX
from sluicemq.broker.server.showing import PEEK_MESSAGES_MAX, SLICE_SECONDS, show_ready, topic_name
from sluicemq.broker.server.stale_reads import look_at_messages, look_at_queues
from sluicemq.broker.server.statistics import QUEUE_STATE_BYTES, attached, queue_state, statistics_of
from sluicemq.wire import messages as m
from sluicemq.wire.errors import ConsumerNotFound, InvalidRequest, LimitReached

if TYPE_CHECKING:
    from sluicemq.broker.queues.outcomes import Outcome, Published
    from sluicemq.broker.server.client_session import ClientSession, Handler
    from sluicemq.wire.fields import Message

PRODUCERS_MAX = 1_000
"""Most producers that one connection may have open, those that it opened before and that outlived it not counted."""
LIST_QUEUES_MAX = 1000


# --- queues ---------------------------------------------------------------------------------------------------


def declare_queue(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """DECLARE_QUEUE: make or converge; with *check_only* say what would happen."""
    del tail
    assert isinstance(message, m.DeclareQueue)
    authorize(session.identity, "declare", (session.vhost, "queue", message.name))
    cautions = partial(cautions_of, session.road.machine, session.vhost, message.name, message.settings)
    if message.check_only:
        outcome, changes = session.road.produce.plan_queue(session.vhost, message.name, message.settings)
        session.reply(correlation, m.Declared(outcome, changes, cautions()))
        return
    session.road.produce.declare_queue(
        session.vhost,
        message.name,
        message.settings,
        reply_with(session, correlation, lambda value: m.Declared(value.outcome, value.changes, cautions())),
    )


def delete_queue(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """DELETE_QUEUE."""
    del tail
    assert isinstance(message, m.DeleteQueue)
    authorize(session.identity, "delete", (session.vhost, "queue", message.name))
    session.road.produce.delete_queue(
        session.vhost,
        message.name,
        message.if_empty,
        reply_with(session, correlation, lambda value: m.Deleted(value.count)),
    )


def purge_queue(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """PURGE_QUEUE."""
    del tail
    assert isinstance(message, m.PurgeQueue)
    authorize(session.identity, "purge", (session.vhost, "queue", message.name))
    session.road.produce.purge_queue(
        session.vhost, message.name, reply_with(session, correlation, lambda value: m.Purged(value.count))
    )


async def list_queues(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """LIST_QUEUES: one page, sorted by name."""
    del tail
    assert isinstance(message, m.ListQueues)
    authorize(session.identity, "list", (session.vhost, "vhost", session.vhost))
    fitting = session.connection.frame_bytes_max // QUEUE_STATE_BYTES - 1
    count_max = max(1, min(message.count_max, LIST_QUEUES_MAX, fitting))
    queues = session.road.machine.queues_of(session.vhost, message.after, count_max + 1)
    page = []
    started = time.perf_counter()
    for queue in queues[:count_max]:
        page.append(queue_state(session.road, queue))
        if time.perf_counter() - started > SLICE_SECONDS:
            await trio.lowlevel.checkpoint()
            started = time.perf_counter()
    session.reply(correlation, m.Queues(page, len(queues) > count_max))


def queue_info(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """QUEUE_INFO: one queue."""
    del tail
    assert isinstance(message, m.QueueInfo)
    authorize(session.identity, "info", (session.vhost, "queue", message.name))
    queue = session.road.produce.find_queue(session.vhost, message.name)
    state = {**queue_state(session.road, queue), "attached": attached(session.road, queue)}
    session.reply(correlation, m.Queues([state]))


async def peek(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """PEEK: ready messages, read without any change; bounded in messages and bytes."""
    del tail
    assert isinstance(message, m.Peek)
    authorize(session.identity, "peek", (session.vhost, "queue", message.name))
    road = session.road
    queue = road.produce.find_queue(session.vhost, message.name)
    with road.bodies.reading():
        runs = await road.peek(queue.id, message.skip, min(message.count_max, PEEK_MESSAGES_MAX))
        topic = topic_name(road.machine, queue.id)
        shown = await show_ready(road.bodies, runs, session.connection.frame_bytes_max, topic)
    session.reply(correlation, m.Peeked(shown.numbers, shown.destinations, topic), shown.parts)


# --- producers ------------------------------------------------------------------------------------------------


def open_producer(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """OPEN_PRODUCER."""
    del tail
    assert isinstance(message, m.OpenProducer)
    authorize(session.identity, "open", (session.vhost, "producer", message.name))
    _refuse_producer_beyond_limit(session)

    answer = reply_with(session, correlation, lambda value: m.ProducerOpened(value.producer))

    def opened(outcome: Outcome) -> None:
        session.producers_opening -= 1
        if isinstance(outcome.value, ProducerOpened):
            session.producers.add(outcome.value.producer)
        answer(outcome)

    session.road.produce.open_producer(session.vhost, message.name, session.identity, opened)
    session.producers_opening += 1


def _refuse_producer_beyond_limit(session: ClientSession) -> None:
    if len(session.producers) + session.producers_opening < PRODUCERS_MAX:
        return
    # Others may have fenced or closed some of them meanwhile; looked up only here, where it matters.
    known = session.road.machine.producers
    session.producers = {number for number in session.producers if known.get(number) is not None}
    if len(session.producers) + session.producers_opening >= PRODUCERS_MAX:
        raise LimitReached(
            f"one connection may have {PRODUCERS_MAX} producers open: close those that are done, or connect once more",
            limit="session_producers_max",
            value=PRODUCERS_MAX,
        )


def close_producer(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """CLOSE_PRODUCER."""
    del tail
    assert isinstance(message, m.CloseProducer)
    session.road.produce.close_producer(
        session.vhost,
        session.identity,
        message.producer,
        reply_with(session, correlation, lambda _value: m.ProducerClosed()),
    )
    session.producers.discard(message.producer)


def publish(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """PUBLISH: one batch; PUBLISHED follows when it is durable, committed and judged."""
    assert isinstance(message, m.Publish)
    authorize(session.identity, "publish", (session.vhost, "queue", message.destination))
    if message.acks > m.ACKS_LEADER:
        raise InvalidRequest(f"acks is {message.acks}; known are 0 (quorum), 1 (all) and 2 (leader)", acks=message.acks)
    session.road.produce.publish(
        session.vhost,
        session.identity,
        message.destination,
        message.producer,
        message.sequence,
        tail,
        reply_with(session, correlation, lambda value: published(value, session.connection.frame_bytes_max)),
        message.acks,
    )


def published(value: Published, frame_bytes_max: int) -> Message:
    """Return the answer to a PUBLISH, which fits a frame of so many bytes however many duplicates there are."""
    known, bits = told(value.known, value.count, frame_bytes_max)
    return m.Published(value.zxid, value.duplicate, known, bits, value.acks, value.id_base)


# --- consumers ------------------------------------------------------------------------------------------------


def consume(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """CONSUME: CONSUMING goes out before the first DELIVER."""
    assert isinstance(message, m.Consume)
    authorize(session.identity, "consume", (session.vhost, "queue", message.queue))
    session.road.produce.refuse_when_stopping()
    if not 1 <= message.weight <= m.CONSUMER_WEIGHT_MAX:
        raise InvalidRequest(f"the weight of a consumer is 1 to {m.CONSUMER_WEIGHT_MAX}, not {message.weight}")
    if session.is_subscribing_to(message.queue):
        # The SUBSCRIBE that makes it came just before: a client that is back sends both at once.
        session.waiting_consumes.append((consume, message, correlation))
        return
    queue = session.road.produce.find_queue(session.vhost, message.queue)
    if len(session.consumers) >= CONSUMERS_MAX:
        raise LimitReached(
            f"one session may have {CONSUMERS_MAX} consumers", limit="consumers_max", value=CONSUMERS_MAX
        )
    dispatch = session.road.dispatch
    dispatch.refuse_second(queue)
    consumer = session.next_consumer
    session.next_consumer += 1
    session.consumers[consumer] = queue.id
    dispatch.add_consumer(
        session,
        session.session,
        consumer,
        queue.id,
        credit_messages=min(message.credit_messages, CREDIT_MESSAGES_MAX),
        credit_bytes=min(message.credit_bytes, CREDIT_BYTES_MAX),
        lease_seconds=message.lease_seconds,
        frame_bytes_max=session.connection.frame_bytes_max,
        weight=message.weight,
    )
    # Nothing is delivered before this goes out: dispatch has its turn after the session's.
    topic = session.road.machine.sources.topic_of(queue.id)
    active = dispatch.is_active(session.session, consumer)
    session.reply(correlation, m.Consuming(consumer, active, "" if topic is None else topic.name))


def _known(session: ClientSession, consumer: int) -> None:
    if not 0 < consumer < session.next_consumer:
        raise ConsumerNotFound(f"this session has had no consumer {consumer}", consumer=consumer)


def credit(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """CREDIT: replace the limits."""
    del correlation, tail
    assert isinstance(message, m.Credit)
    _known(session, message.consumer)
    if message.consumer in session.consumers:
        session.road.dispatch.set_credit(
            session.session,
            message.consumer,
            min(message.credit_messages, CREDIT_MESSAGES_MAX),
            min(message.credit_bytes, CREDIT_BYTES_MAX),
        )


def settle(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """SETTLE: a verdict on tags; SETTLED follows when it is committed."""
    del tail
    assert isinstance(message, m.Settle)
    _known(session, message.consumer)
    session.road.settle.settle(
        session.session,
        message.consumer,
        message.verdict,
        message.tags,
        message.delay_seconds,
        message.reason,
        reply_with(session, correlation, lambda value: m.Settled(value.lost)),
    )


def extend(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """EXTEND: new deadlines; answered at once, as deadlines live on the leader."""
    del tail
    assert isinstance(message, m.Extend)
    _known(session, message.consumer)
    lost = session.road.settle.extend(session.session, message.consumer, message.tags, message.seconds)
    session.reply(correlation, m.Extended(lost))


def cancel_consumer(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """CANCEL_CONSUMER: nothing more is delivered; leases stay."""
    del tail
    assert isinstance(message, m.CancelConsumer)
    _known(session, message.consumer)
    session.consumers.pop(message.consumer, None)
    session.road.dispatch.remove_consumer(session.session, message.consumer)
    session.reply(correlation, m.ConsumerCancelled())


# --- operators ------------------------------------------------------------------------------------------------


def statistics(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """STATISTICS: the broker's own figures."""
    del message, tail
    authorize(session.identity, "statistics", (session.vhost, "vhost", session.vhost))
    session.reply(correlation, m.StatisticsResult(statistics_of(session.server)))


def close(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """CLOSE: the connection's state says it all; reading ends."""
    del session, message, correlation, tail


HANDLERS: dict[type[Message], Handler] = {
    m.Hello: hello,
    m.Authenticate: authenticate_peer,
    m.Open: open_session,
    m.Ping: answer_ping,
    m.Close: close,
    m.DeclareQueue: declare_queue,
    m.DeleteQueue: delete_queue,
    m.PurgeQueue: purge_queue,
    m.ListQueues: list_queues,
    m.QueueInfo: queue_info,
    m.Peek: peek,
    m.Replay: replay,
    m.OpenProducer: open_producer,
    m.CloseProducer: close_producer,
    m.Publish: publish,
    m.Consume: consume,
    m.Credit: credit,
    m.Settle: settle,
    m.Extend: extend,
    m.CancelConsumer: cancel_consumer,
    m.ListDead: list_dead,
    m.Redrive: redrive,
    m.Discard: discard,
    m.Statistics: statistics,
    m.ClusterStatus: cluster.cluster_status,
    m.LookAtQueues: look_at_queues,
    m.LookAtMessages: look_at_messages,
    m.AddNode: cluster.add_node,
    m.RemoveNode: cluster.remove_node,
    m.PromoteNode: cluster.promote_node,
    m.TransferLead: cluster.transfer_lead,
    m.DeclareTopic: topics.declare_topic,
    m.DeleteTopic: topics.delete_topic,
    m.Subscribe: topics.subscribe,
    m.Unsubscribe: topics.unsubscribe,
    m.ListTopics: topics.list_topics,
    **looking.HANDLERS,
    **operating.HANDLERS,
    **replying.HANDLERS,
    **resuming.HANDLERS,
    **transactions.HANDLERS,
}
"""Handler by message; PONG has none: that it came is all it says."""
