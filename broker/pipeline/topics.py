"""Topics and subscriptions, as far as requests ask for them: validated once, and made entries, like all of stage 1.

What can be refused on the applied state is refused here, early and typed; the machine judges again at apply. Must not
know sockets: replies leave through callbacks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from sluicemq.broker.pipeline import grouping
from sluicemq.broker.pipeline.shaping import refuse_unknown_zone
from sluicemq.broker.queues.entries import Declare, Delete
from sluicemq.broker.queues.entries_of_topics import (
    START_BEGINNING,
    START_NOW,
    START_POSITION,
    Subscribe,
    Unsubscribe,
)
from sluicemq.wire.batch import DELIVERY_COLUMNS, Column
from sluicemq.wire.errors import InvalidRequest, PositionExpired, RetentionOff, TopicNotFound
from sluicemq.wire.routes import below, check_pattern, literal_prefix
from sluicemq.wire.settings import (
    TOPIC,
    check_name,
    check_own_dead_letter,
    check_queue_settings,
    check_topic_settings,
    compare_settings,
)

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.history import Place
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.wire.batch import Batch

OnOutcome = Callable[[Any], None]


class Start(NamedTuple):
    """With which messages a subscription begins.

    Attributes:
        kind: One of the entry's `START_*`, or `AT_TIME`.
        at: A zxid, or a time in milliseconds.
        offset: Index within the batch.

    """

    kind: int
    at: int = 0
    offset: int = 0


AT_TIME = 3
"""Kind of a start with what was published then or later; becomes a position."""
FROM_NOW = Start(START_NOW)


class TopicStage:
    """Makes entries of requests that are about topics."""

    def __init__(self, road: Road) -> None:
        self._road = road
        # Topics that were about to get a subscription that is ordered by key: batches need their keys from then on,
        # also those that are proposed before the subscription is applied.
        self._keyed: set[tuple[str, str]] = set()

    def find_topic(self, vhost: str, name: str) -> Topic:
        """Return the topic.

        Raises:
            TopicNotFound: None of that name.

        """
        topic = self._road.machine.sources.find(vhost, name)
        if topic is None:
            raise TopicNotFound(f"there is no topic {name!r:.300}; declare it first", topic=name)
        return topic

    def groups_of(self, topic: Topic, destination: str, batch: Batch, now_ms: int) -> tuple[list[int], list[str]]:
        """Return the groups and routes of a checked batch that is published to *destination*, which *topic* owns.

        Raises:
            InvalidRequest: A route has too many words.

        """
        columns = batch.columns
        rest = below(topic.name, destination)
        assert rest is not None, "a destination lies below its topic"
        with_keys = columns & Column.KEYS and (
            topic.keyed
            or (topic.vhost, topic.name) in self._keyed
            or self._road.machine.policies.orders_by_key(topic.vhost)
        )
        if not rest and not with_keys and not columns & (DELIVERY_COLUMNS | Column.SUBJECTS):
            return [], []
        numbers, texts = grouping.routes_of(batch, rest)
        return grouping.groups_of(batch, now_ms, with_keys=bool(with_keys), routes=numbers), texts

    def note_order(self, vhost: str, name: str, settings: dict[str, Any]) -> None:
        """Note that a queue that may be a subscription is about to be declared."""
        queue = self._road.machine.find_queue(vhost, name)
        topic = None if queue is None else self._road.machine.sources.topic_of(queue.id)
        if topic is not None and settings.get("ordering") == "key":
            self._keyed.add((vhost, topic.name))

    # --- topics ----------------------------------------------------------------------------------------------------

    def declare(self, vhost: str, name: str, settings: dict[str, Any], on_outcome: OnOutcome) -> None:
        """Make a topic or converge it.

        Raises:
            InvalidRequest: A bad name or setting.
            ResourceLow: The reserve of the disk is in use, and there is no such topic yet.

        """
        road = self._road
        road.produce.refuse_when_stopping()
        check_name(name, "topic")
        checked = check_topic_settings(settings)
        if road.machine.sources.find(vhost, name) is None:
            road.space.refuse_growth("making a topic")
        road.propose(Declare(road.clock.now_ms(), vhost, TOPIC, name, checked), on_applied=on_outcome)

    def plan(self, vhost: str, name: str, settings: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return what `declare` would do: the outcome, and each change as name -> [before, after].

        Raises:
            InvalidRequest: A bad name or setting.
            NameConflict: A queue stands in the way.

        """
        check_name(name, "topic")
        checked = check_topic_settings(settings)
        machine = self._road.machine
        topic = machine.sources.find(vhost, name)
        if topic is None:
            refusal = machine.sources.refuse_topic(name, machine.first_queue_from(vhost, name))
            if refusal is not None:
                raise refusal
        return compare_settings(None if topic is None else topic.settings, checked)[:2]

    def delete(self, vhost: str, name: str, if_unused: bool, on_outcome: OnOutcome) -> None:
        """Delete a topic, with its subscriptions if there are any, unless *if_unused*.

        Raises:
            TopicNotFound: None of that name.

        """
        self.find_topic(vhost, name)
        road = self._road
        road.propose(Delete(road.clock.now_ms(), vhost, TOPIC, name, if_unused), on_applied=on_outcome)

    # --- subscriptions ---------------------------------------------------------------------------------------------

    def topic_of_pattern(self, vhost: str, pattern: str) -> Topic:
        """Return the topic that owns what the pattern matches.

        Raises:
            TopicNotFound: None does, as far as the words before the first wildcard say.

        """
        prefix = literal_prefix(pattern)
        topic = self._road.machine.sources.owner_of(vhost, prefix) if prefix else None
        if topic is None:
            raise TopicNotFound(
                f"the pattern {pattern!r:.300} begins with the name of no topic; declare it first, and begin the "
                "pattern with its name",
                topic=prefix,
            )
        return topic

    async def place_of(self, topic: Topic, start: Start) -> Start:
        """Return a start by time as one by position.

        Raises:
            RetentionOff: The topic retains nothing.
            PositionExpired: Not everything from that time on is retained any more.

        """
        if start.kind != AT_TIME:
            return start
        history = topic.history
        if history is None:
            raise RetentionOff(
                f"topic {topic.name!r:.300} retains no messages, so a subscription can only begin now: declare it with "
                "the setting retention, and what is published from then on can be caught up with",
                queue=topic.name,
                setting="retention",
            )
        if history.has_lost_since(start.at):
            raise PositionExpired(
                f"topic {topic.name!r:.300} does not retain everything from that time on any more: begin at the "
                "beginning of what it retains, and know that something is missing",
                queue=topic.name,
                oldest_published_at=history.oldest_published_ms,
            )
        place: Place = await self._road.look(lambda: history.place_at(start.at))
        return Start(START_POSITION, *place) if place.zxid else Start(START_BEGINNING)

    def subscribe(
        self,
        vhost: str,
        topic: Topic,
        pattern: str,
        name: str,
        settings: dict[str, Any],
        session: int,
        start: Start,
        on_outcome: OnOutcome,
    ) -> None:
        """Make a subscription or converge it; *session* is the one that it ends with, 0: none.

        Raises:
            InvalidRequest: A bad name, pattern or setting.
            ResourceLow: The reserve of the disk is in use, and there is no such subscription yet.

        """
        road = self._road
        road.produce.refuse_when_stopping()
        rest = below(topic.name, check_pattern(pattern))
        assert rest is not None, "the topic owns the pattern"
        if name:
            check_name(name, "subscription")
        checked = check_queue_settings(settings)
        refuse_unknown_zone(checked)
        check_own_dead_letter(name, checked)
        if checked.get("dedup_window"):
            raise InvalidRequest(
                "dedup_window is no setting of a subscription: declare the topic with it, and a duplicate goes to none "
                "of its subscriptions"
            )
        if not name or road.machine.find_queue(vhost, name) is None:
            road.space.refuse_growth("making a subscription")
        if checked.get("ordering") == "key":
            self._keyed.add((vhost, topic.name))
        entry = Subscribe(road.clock.now_ms(), vhost, topic.name, rest, name, checked, session, *start)
        road.propose(entry, on_applied=on_outcome)

    def unsubscribe(self, vhost: str, name: str, on_outcome: OnOutcome) -> None:
        """Delete a subscription with its messages.

        Raises:
            QueueNotFound: None of that name.

        """
        road = self._road
        queue = road.produce.find_queue(vhost, name)
        road.propose(Unsubscribe(road.clock.now_ms(), vhost, name, queue.id), on_applied=on_outcome)
