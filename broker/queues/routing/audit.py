"""What only tests and operators' checks need of topics: their part of a digest, and their invariants; see `audit`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues.delayed_check import check_delayed
from sluicemq.broker.queues.runs import messages_in
from sluicemq.wire.routes import below

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.routing.topic import Topic


def canonical(topic: Topic) -> Iterator[Any]:
    """Yield all that decides on what the topic does next."""
    yield topic.id, topic.vhost, topic.name, sorted(topic.settings.items()), topic.created_ms
    yield topic.published_total, topic.unrouted_total, topic.expired_total, topic.cancelled_total, topic.paused
    yield sorted(topic.bindings.values()), sorted(topic.keyed)
    yield topic.routes.next_number, list(topic.routes.items())
    yield topic.delayed.pieces()
    if topic.history is not None:
        yield topic.history.places()
        yield topic.history.runs.pieces()
    for number, filling in sorted(topic.fillings.items()):
        yield number, filling.next, filling.end_zxid, filling.done
        yield filling.held.pieces()


def check(machine: Machine) -> None:
    """Assert every invariant of topics and subscriptions."""
    bound = 0
    for topic in machine.sources:
        assert machine.sources.find(topic.vhost, topic.name) is topic, "a topic is found by its name"
        assert machine.queue(topic.id) is None, "a number is that of a queue or of a topic"
        name = machine.first_queue_from(topic.vhost, topic.name)
        assert name is None, "no topic is above a queue, and none has the name of one"
        bound += len(topic.bindings)
        _check_bindings(machine, topic)
        _check_routes(topic)
    assert machine.sources.subscriptions() == bound, "a subscription belongs to one topic"
    for queue in machine.queues():
        owner = machine.sources.owner_of(queue.vhost, queue.name)
        assert owner is None or below(owner.name, queue.name) is None, "no queue is below a topic"


def _check_bindings(machine: Machine, topic: Topic) -> None:
    for number, binding in topic.bindings.items():
        assert (binding.queue, binding.topic) == (number, topic.id), "a binding knows whom it binds"
        queue = machine.queue(number)
        assert queue is not None, "a queue that is bound exists"
        assert queue.vhost == topic.vhost, "a subscription is where its topic is"
        assert machine.sources.topic_of(number) is topic, "a subscription knows its topic"
        assert (number in topic.keyed) == (queue.settings["ordering"] == "key"), "a topic knows who wants keys"
        if binding.session:
            assert binding.session in machine.sessions, "a temporary subscription goes with its session"
            assert number in machine.sources.temporary_of(binding.session), "a session knows what goes with it"
    assert set(topic.fillings) <= set(topic.bindings), "only who is bound catches up"
    for filling in topic.fillings.values():
        assert filling.done or topic.history is not None, "there is something to catch up with"
        assert filling.held.messages == messages_in(filling.held.runs()), "held messages are counted"
        assert all(run.ready > filling.end_zxid for run in filling.held.runs()), (
            "what is held became ready behind the subscription: it may have been delayed, or prepared before"
        )
    wanted = any(not filling.done for filling in topic.fillings.values())
    assert topic.history is None or topic.history.held == wanted, "what somebody still has to read does not go"


def _check_routes(topic: Topic) -> None:
    assert (topic.history is None) == (topic.settings["retention"] is None), "a history is kept where it is wanted"
    check_delayed(topic.delayed)
    if topic.history is not None:
        topic.history.check()
    messages: dict[int, int] = {}
    for run in topic.delayed.runs():
        if run.note:
            messages[run.note] = messages.get(run.note, 0) + run.size
    assert messages == {number: count for number, _, count in topic.routes.items()}, "routes count their messages"
