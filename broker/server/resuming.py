"""RESUME_CONSUMER and RESUMED: a client came back to its session, and says what it goes on with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.pipeline.dispatch import ConsumerOptions
from sluicemq.broker.pipeline.settle import TAGS_SPAN_MAX
from sluicemq.broker.queues.outcomes import Resumed
from sluicemq.broker.queues.tags import ranges_problem
from sluicemq.broker.server.authorization import authorize
from sluicemq.wire import messages as m
from sluicemq.wire.errors import ConsumerNotFound, InvalidRequest, LimitReached, SluiceError

if TYPE_CHECKING:
    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.server.client_session import ClientSession, Handler
    from sluicemq.wire.fields import Message

RESUMED_RANGES_MAX = 4_096
"""Most ranges of tags that one consumer goes on with: judging them takes some milliseconds."""
CONSUMERS_MAX = 10_000
"""Most consumers of one session."""
CREDIT_MESSAGES_MAX = 100_000
"""Most messages that one consumer may hold, whatever credit it asks for."""
CREDIT_BYTES_MAX = 1024 * 1024 * 1024
"""Most bytes likewise."""


def resume_consumer(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """RESUME_CONSUMER: CONSUMER_RESUMED goes out before the first DELIVER, when it is committed what is kept."""
    del tail
    assert isinstance(message, m.ResumeConsumer)
    authorize(session.identity, "consume", (session.vhost, "queue", message.queue))
    road = session.road
    road.produce.refuse_when_stopping()
    consumer = message.consumer
    if not 0 < consumer < session.next_consumer:
        raise ConsumerNotFound(f"this session has had no consumer {consumer}", consumer=consumer)
    if consumer in session.resumed or consumer in session.consumers:
        raise InvalidRequest(f"consumer {consumer} is here already; it is resumed once a connection")
    if not 1 <= message.weight <= m.CONSUMER_WEIGHT_MAX:
        raise InvalidRequest(f"the weight of a consumer is 1 to {m.CONSUMER_WEIGHT_MAX}, not {message.weight}")
    _check_tags(message.tags)
    queue = road.produce.find_queue(session.vhost, message.queue)
    if len(session.consumers) >= CONSUMERS_MAX:
        raise LimitReached(
            f"one session may have {CONSUMERS_MAX} consumers", limit="consumers_max", value=CONSUMERS_MAX
        )

    def resumed(outcome: Outcome) -> None:
        if outcome.error is not None:
            session.refuse(correlation, outcome.error)
        elif not session.left:
            assert isinstance(outcome.value, Resumed)
            _resumed(session, message, correlation, queue, outcome.value)

    road.sessions.resume_consumer(session.session, consumer, queue, message.tags, message.lease_seconds, resumed)
    session.resumed.add(consumer)


def _resumed(session: ClientSession, message: m.ResumeConsumer, correlation: int, queue: Queue, value: Resumed) -> None:
    road = session.road
    last_tag = max(message.last_tag, value.last_tag)
    if message.cancelled:
        road.dispatch.remove_consumer(session.session, message.consumer)
        session.reply(correlation, m.ConsumerResumed(last_tag + 1, value.lost, value.settled, active=False))
        return
    if road.machine.queue(queue.id) is not queue:
        # It was deleted meanwhile, and all that was leased with it.
        session.refuse(correlation, road.produce.queue_not_found(message.queue))
        return
    options = ConsumerOptions(
        min(message.credit_messages, CREDIT_MESSAGES_MAX),
        min(message.credit_bytes, CREDIT_BYTES_MAX),
        message.lease_seconds,
        session.connection.frame_bytes_max,
        message.weight,
    )
    try:
        next_tag = road.sessions.reattach(session, session.session, message.consumer, queue, options, last_tag)
    except SluiceError as error:
        road.sessions.give_up(session.session, message.consumer)
        session.refuse(correlation, error)
        return
    session.consumers[message.consumer] = queue.id
    topic = road.machine.sources.topic_of(queue.id)
    session.reply(
        correlation,
        m.ConsumerResumed(
            next_tag,
            value.lost,
            value.settled,
            road.dispatch.is_active(session.session, message.consumer),
            "" if topic is None else topic.name,
        ),
    )


def _check_tags(tags: list[int]) -> None:
    problem = ranges_problem(tags) if tags else None
    if problem is None and len(tags) > 2 * RESUMED_RANGES_MAX:
        problem = f"{len(tags) // 2} tag ranges; allowed are {RESUMED_RANGES_MAX}"
    if problem is None and tags and tags[-1] - tags[0] >= TAGS_SPAN_MAX:
        problem = f"tags {tags[0]} to {tags[-1]}; allowed is a span of {TAGS_SPAN_MAX}"
    if problem is not None:
        raise InvalidRequest(problem)


def all_resumed(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """RESUMED: the consumers that the client did not name are over, and what they hold goes back."""
    del message, correlation, tail
    session.road.sessions.let_go(session.session, {*session.resumed, *session.consumers})


HANDLERS: dict[type[Message], Handler] = {
    m.ResumeConsumer: resume_consumer,
    m.Resumed: all_resumed,
}
"""Handler by message."""
