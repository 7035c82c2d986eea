"""What entries about topics change, for a freeze: see `freeze`, "What the entries change"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.applying.dying import dead_letter_queue

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.broker.queues import entries_of_topics as t
    from sluicemq.broker.queues.freeze import Freeze
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.routing.topic import Topic


def keep_topic(freeze: Freeze, topic: Topic | None) -> None:
    """Keep the topic, if it is older than the freeze."""
    if topic is not None and topic.id <= freeze.zxid:
        freeze.keep(topic)


def keep_queue(freeze: Freeze, machine: Machine, number: int) -> None:
    """Keep the queue, if it is older than the freeze, and that to which its messages go when they make room."""
    queue = machine.queue(number)
    for kept in (queue, None if queue is None else dead_letter_queue(machine, queue)):
        if kept is not None and kept.id <= freeze.zxid:
            freeze.keep(kept)


def published(freeze: Freeze, machine: Machine, topic: Topic, entry: e.Publish) -> None:
    """A batch comes to the topic: it goes to those that match."""
    arrived(freeze, machine, topic, entry.routes if isinstance(entry, e.PublishGrouped) else ())


def arrived(freeze: Freeze, machine: Machine, topic: Topic, routes: Iterable[str]) -> None:
    """Messages of these routes come to the topic, and some without any."""
    keep_topic(freeze, topic)
    for route in {"", *routes}:
        for number in topic.match(route):
            keep_queue(freeze, machine, number)


def released(freeze: Freeze, machine: Machine, topic: Topic, items_max: int) -> None:
    """What the topic delayed becomes ready: it goes to those that match."""
    keep_topic(freeze, topic)
    for run in topic.delayed.look_due(machine.log_time_ms, items_max):
        for number in topic.match(topic.routes.text(run.note)):
            keep_queue(freeze, machine, number)


def dropped(freeze: Freeze, machine: Machine, number: int) -> None:
    """A queue goes: its topic loses it, and sessions lose their tables of it."""
    keep_queue(freeze, machine, number)
    keep_topic(freeze, machine.sources.topic_of(number))
    queue = machine.queue(number)
    if queue is not None:
        for session, _ in queue.leases:
            if session <= freeze.zxid:
                freeze.keep(machine.sessions.get(session))


def declared(freeze: Freeze, machine: Machine, vhost: str, name: str) -> None:
    """Settings of a topic change, or of a subscription whose topic knows about its order."""
    keep_topic(freeze, machine.sources.find(vhost, name))
    queue = machine.find_queue(vhost, name)
    if queue is not None:
        keep_topic(freeze, machine.sources.topic_of(queue.id))


def deleted(freeze: Freeze, machine: Machine, topic: Topic) -> None:
    """A topic goes, with its subscriptions."""
    keep_topic(freeze, topic)
    for number in topic.bindings:
        dropped(freeze, machine, number)


def subscribe(freeze: Freeze, machine: Machine, entry: t.Subscribe) -> None:
    """A topic gets a subscription, or one changes."""
    keep_topic(freeze, machine.sources.find(entry.vhost, entry.topic))
    queue = machine.find_queue(entry.vhost, entry.name)
    if queue is not None:
        keep_queue(freeze, machine, queue.id)


def unsubscribe(freeze: Freeze, machine: Machine, entry: t.Unsubscribe) -> None:
    """A subscription goes."""
    queue = machine.find_queue(entry.vhost, entry.name)
    if queue is not None:
        dropped(freeze, machine, queue.id)


def fill(freeze: Freeze, machine: Machine, entry: t.Fill) -> None:
    """A subscription gets messages, and its topic notes how far it is."""
    keep_queue(freeze, machine, entry.subscription)
    keep_topic(freeze, machine.sources.topic_of(entry.subscription))
