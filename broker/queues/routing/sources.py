"""All topics, and who is bound to which: the part of the machine that decides where a message goes.

Queues, subscriptions and topics share one namespace within a vhost: no queue may lie below a topic and no topic above a
queue, so a destination is never ambiguous. Topics may lie below each other; the longest name that owns a destination
gets the message, and only that. This module must not know entries or what queues hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from sluicemq.broker.queues.pauses import PAUSED_DELIVER
from sluicemq.wire.errors import NameConflict
from sluicemq.wire.routes import below

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.routing.filling import Filling
    from sluicemq.broker.queues.routing.topic import Binding, Topic


class Sources:
    """What messages are published to beside queues: topics, so far."""

    def __init__(self) -> None:
        self._topics: dict[int, Topic] = {}
        self._names: dict[str, SortedDict[str, Topic]] = {}
        self._topic_of: dict[int, Topic] = {}
        # Queues that go with a session, by its number.
        self._temporary: dict[int, set[int]] = {}
        # Topics whose subscriptions deliver nothing.
        self._held_back: set[int] = set()

    def __len__(self) -> int:
        return len(self._topics)

    def __iter__(self) -> Iterator[Topic]:
        """Yield all topics of all vhosts, oldest first."""
        return iter(list(self._topics.values()))

    # --- questions -------------------------------------------------------------------------------------------------

    def get(self, topic_id: int) -> Topic | None:
        """Return the topic of this number, if it exists."""
        return self._topics.get(topic_id)

    def find(self, vhost: str, name: str) -> Topic | None:
        """Return the topic of exactly this name, if it exists."""
        names = self._names.get(vhost)
        return None if names is None else names.get(name)

    def owner_of(self, vhost: str, name: str) -> Topic | None:
        """Return the topic that owns *name*: the longest one that it is, or lies below of."""
        names = self._names.get(vhost)
        if names is None:
            return None
        while True:
            topic: Topic | None = names.get(name)
            if topic is not None:
                return topic
            name, dot, _ = name.rpartition(".")
            if not dot:
                return None

    def listed(self, vhost: str, after: str = "", count_max: int | None = None) -> list[Topic]:
        """Return the topics of a vhost sorted by name, those behind the name *after*, at most *count_max*."""
        names = self._names.get(vhost)
        if names is None:
            return []
        start = names.bisect_right(after)
        return list(names.values()[start : None if count_max is None else start + count_max])

    def topic_of(self, queue_id: int) -> Topic | None:
        """Return the topic that the queue is a subscription of; None where it is none."""
        return self._topic_of.get(queue_id)

    def binding_of(self, queue_id: int) -> Binding | None:
        """Return how the queue is bound; None where it is no subscription."""
        topic = self._topic_of.get(queue_id)
        return None if topic is None else topic.bindings[queue_id]

    def filling_of(self, queue_id: int) -> Filling | None:
        """Return how far the queue has caught up with what its topic retains; None where it has, or need not."""
        topic = self._topic_of.get(queue_id)
        return None if topic is None else topic.fillings.get(queue_id)

    def held_for(self, queue_id: int) -> int:
        """Return how many messages follow in this queue once it has caught up: they are shaped for it already."""
        filling = self.filling_of(queue_id)
        return 0 if filling is None else filling.held.messages

    def temporary_of(self, session: int) -> list[int]:
        """Return the numbers of the queues that go with the session, ascending."""
        return sorted(self._temporary.get(session, ()))

    def holds_back(self, queue_id: int) -> bool:
        """Return whether the queue is a subscription of a topic of which nothing is delivered now."""
        if not self._held_back:
            return False
        topic = self._topic_of.get(queue_id)
        return topic is not None and topic.id in self._held_back

    def subscriptions(self) -> int:
        """Return how many queues are bound."""
        return len(self._topic_of)

    def refuse_queue(self, vhost: str, name: str) -> NameConflict | None:
        """Return why no queue may have this name, if a topic stands in the way."""
        topic = self.owner_of(vhost, name)
        if topic is None:
            return None
        what = "is the name of a topic" if topic.name == name else f"lies below the topic {topic.name!r:.300}"
        return NameConflict(
            f"{name!r:.300} {what}, so no queue can have it: what is published there goes to the topic's "
            "subscriptions; choose a name outside of it",
            name=name,
            taken_by=topic.name,
        )

    @staticmethod
    def refuse_topic(name: str, queue: str | None) -> NameConflict | None:
        """Return why no topic may have this name, if *queue*, the first one from that name on, stands in the way."""
        if queue is None or below(name, queue) is None:
            return None
        what = "is the name of a queue" if queue == name else f"lies above the queue {queue!r:.300}"
        return NameConflict(
            f"{name!r:.300} {what}, so no topic can have it: choose another name, or delete the queue",
            name=name,
            taken_by=queue,
        )

    # --- changes ---------------------------------------------------------------------------------------------------

    def add(self, topic: Topic) -> None:
        """Take up a topic, with those that are bound to it."""
        self._topics[topic.id] = topic
        self._names.setdefault(topic.vhost, SortedDict())[topic.name] = topic
        for binding in topic.bindings.values():
            self._note(topic, binding)
        self.pause_changed(topic)

    def pause_changed(self, topic: Topic) -> None:
        """Follow what of a topic is paused."""
        if topic.paused & PAUSED_DELIVER:
            self._held_back.add(topic.id)
        else:
            self._held_back.discard(topic.id)

    def remove(self, topic: Topic) -> None:
        """Forget a topic that nobody is bound to."""
        assert not topic.bindings, "the subscriptions of a topic go before it does"
        del self._topics[topic.id]
        self._held_back.discard(topic.id)
        names = self._names[topic.vhost]
        del names[topic.name]
        if not names:
            del self._names[topic.vhost]

    def bind(self, topic: Topic, binding: Binding, keyed: bool) -> None:
        """Bind a queue to the topic, or give it another pattern."""
        topic.bind(binding, keyed)
        self._note(topic, binding)

    def _note(self, topic: Topic, binding: Binding) -> None:
        self._topic_of[binding.queue] = topic
        if binding.session:
            self._temporary.setdefault(binding.session, set()).add(binding.queue)

    def unbind(self, queue_id: int) -> None:
        """Forget the queue, which goes, if it is a subscription."""
        topic = self._topic_of.pop(queue_id, None)
        if topic is None:
            return
        session = topic.bindings[queue_id].session
        if session:
            queues = self._temporary[session]
            queues.discard(queue_id)
            if not queues:
                del self._temporary[session]
        topic.unbind(queue_id)

    def settings_changed(self, queue_id: int, keyed: bool) -> None:
        """Note whether the queue is ordered by key, where that matters."""
        topic = self._topic_of.get(queue_id)
        if topic is not None:
            topic.set_keyed(queue_id, keyed)
