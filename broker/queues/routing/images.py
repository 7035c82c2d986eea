"""Topics within an image: how a frozen one is written down, and how they are put together again.

The sections of topics come before those of queues, because who reads only what is alive must know which queues share
their messages; their indexes come behind. The format stands in `sections`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues import sections as s
from sluicemq.broker.queues.delayed import DelayedRuns
from sluicemq.broker.queues.fifo import RunFifo
from sluicemq.broker.queues.history import History, RetainedRuns
from sluicemq.broker.queues.routing.filling import Filling, numbers_of
from sluicemq.broker.queues.routing.topic import Binding, FrozenTopic, Topic

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.chunks import ChunkPool, FifoImage
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue


def rows_of(topic: FrozenTopic) -> Iterator[tuple[int, tuple[Any, ...], int]]:
    """Yield (kind of section, row, bytes beyond the usual) of all that a topic is but its indexes."""
    yield s.TOPICS, topic[: len(s.LAYOUTS[s.TOPICS].columns)], 0
    fillings = {filling.queue: numbers_of(filling) for filling in topic.fillings}
    for binding in topic.bindings:
        # Arguments belong to other kinds of sources, which will come.
        yield s.BINDINGS, (*binding, None, fillings.get(binding.queue)), len(binding.pattern)
    for number, text, messages in topic.routes:
        yield s.ROUTES, (topic.id, number, text, messages), len(text)


def indexes_of(topic: FrozenTopic) -> Iterator[tuple[int, int, FifoImage]]:
    """Yield (number of the topic or subscription, place, index) of each index that is not empty."""
    if topic.delayed is not None:
        yield topic.id, s.DELAYED, topic.delayed
    if topic.history is not None and topic.history.messages:
        yield topic.id, s.RETAINED, topic.history
    for filling in topic.fillings:
        if filling.held.messages:
            yield filling.queue, s.HELD, filling.held


class TopicLoader:
    """Puts the topics of an image together, section by section.

    Attributes:
        topics: By number.

    """

    def __init__(self, pool: ChunkPool | None) -> None:
        self._pool = pool
        self.topics: dict[int, Topic] = {}
        self._bindings: list[Binding] = []
        self._fillings: dict[int, Filling] = {}

    def read_topics(self, columns: dict[str, Any]) -> None:
        """Take a section `topics`."""
        for id_, kind, vhost, name, settings, created_ms, *rest in zip(*columns.values(), strict=True):
            assert kind == Topic.KIND, "a source is a topic"
            topic = Topic(id_, vhost, name, settings, created_ms, self._pool)
            topic.published_total, topic.unrouted_total, topic.expired_total, topic.cancelled_total = rest[:4]
            topic.paused, places, topic.routes.next_number = rest[4:]
            if places is not None:
                topic.history = History.restored(topic.settings["retention"], places, self._pool)
            self.topics[id_] = topic

    def read_bindings(self, columns: dict[str, Any]) -> None:
        """Take a section `bindings`; the queues come later."""
        for *binding, arguments, numbers in zip(*columns.values(), strict=True):
            assert arguments is None, "a topic binds without arguments"
            bound = Binding._make(binding)
            self._bindings.append(bound)
            if numbers is not None:
                self._fillings[bound.queue] = Filling.restored(bound.queue, numbers, self._pool)

    def read_routes(self, columns: dict[str, Any]) -> None:
        """Take a section `routes`."""
        for topic_id, *route in zip(*columns.values(), strict=True):
            self.topics[topic_id].routes.put(*route)

    def place(self, number: int, place: int, image: FifoImage) -> bool:
        """Take an index, if it is one of a topic or of a subscription that catches up; return whether it is."""
        topic = self.topics.get(number)
        if place == s.HELD:
            self._fillings[number].held = RunFifo.restored(image, self._pool)
        elif topic is None:
            return False
        elif place == s.DELAYED:
            topic.delayed = DelayedRuns.restored(image, self._pool)
        else:
            assert place == s.RETAINED, "an index of a topic is of a place that is known"
            assert topic.history is not None, "retained runs belong to a topic that retains"
            topic.history.runs = RetainedRuns.restored(image, self._pool)
        return True

    @property
    def messages(self) -> int:
        """Messages in all indexes but those of what is retained."""
        held = sum(filling.held.messages for filling in self._fillings.values())
        return held + sum(topic.delayed.messages for topic in self.topics.values())

    def finish(self, machine: Machine, queues: dict[int, Queue]) -> None:
        """Give all of them to the machine, whose queues and sessions are there."""
        for binding in self._bindings:
            keyed = queues[binding.queue].settings["ordering"] == "key"
            self.topics[binding.topic].bind(binding, keyed)
            filling = self._fillings.get(binding.queue)
            if filling is not None:
                self.topics[binding.topic].begin_filling(filling)
        for topic in self.topics.values():
            machine.sources.add(topic)
            machine.due_changed(topic)
