"""Calls as TopicCalls has them.

Made by a test from `sluicemq.client.topics`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Unpack

from sluicemq.client.blocking.calls._base import Base
from sluicemq.client.topics import NOW, Declaration, Subscription
from sluicemq.wire.settings import QueueSettings, TopicSettings


class TopicCalls(Base):
    """These calls of the client."""

    def declare_topic(self, name: str, **settings: Unpack[TopicSettings]) -> Declaration:
        """Make the topic as described, or converge the existing one to it.

        A topic owns its name and everything below it: with the topic `orders` one publishes to `orders`,
        `orders.eu.paid` and so on.

        Args:
            name: 1 to 255 bytes; dots divide it into words.
            settings: See `TopicSettings`; a setting that is not given keeps its value, or gets its default.

        Returns:
            What was created or changed.

        Raises:
            UnknownOption: No such setting.
            InvalidRequest: A name or value that is not allowed.
            NameConflict: It is the name of a queue, or a queue lies below it.
        """
        return self._io.call(self._inner.declare_topic, name, **settings)

    def delete_topic(self, name: str, *, force: bool = False) -> int:
        """Delete the topic, with what it delays and retains; return how many messages went.

        Args:
            name: The topic.
            force: Delete its subscriptions too, with all their messages; without it, it must have none.

        Raises:
            TopicNotFound: No topic of that name.
            TopicInUse: It has subscriptions, and not *force*.
            OutcomeUnknown: The connection broke before the answer.
        """
        return self._io.call(self._inner.delete_topic, name, force=force)

    def topics(self) -> list[dict[str, Any]]:
        """Return the state of every topic, sorted by name.

        Keys: `name`, `settings`, `subscriptions` (how many), `published_total`, `unrouted_total` (messages that matched
        no subscription), `expired_total`, `cancelled_total`, `paused` ("publish", "deliver"), `delayed`, `retained`,
        `retained_bytes`, `retained_age_seconds`, `duplicates_total`, `dedup_ids` (as of `queue_info`), `pinned_bytes`
        and `created_at` (milliseconds since 1970).
        """
        return self._io.call(self._inner.topics)

    def subscribe(
        self, pattern: str, name: str | None = None, *, start: str | datetime = NOW, **settings: Unpack[QueueSettings]
    ) -> Subscription:
        """Get what is published to a topic, as far as it matches; consume it as the queue that this returns.

        Args:
            pattern: Begins with the topic's name; dotted words, of which `*` stands for exactly one and `#` for any
                number, none included: `orders.*.paid`, `orders.#`.
            name: Name of the subscription: it stays until `unsubscribe`, and consumers share it. Its pattern and
                settings converge to those given. None: a temporary one that ends with this client, or when the
                connection breaks; the client makes it anew, and what was published meanwhile is missed.
            start: "now"; or "beginning": with all that the topic retains; or an aware datetime: with what became
                visible then or later; or a position: with that message, and all that became visible since it was
                stored. Does not matter if the subscription exists.
            settings: Of the queue, see `QueueSettings`.

        Returns:
            The subscription.

        Raises:
            TopicNotFound: The pattern begins with the name of no topic.
            NameConflict: The name is that of a queue or another topic's subscription, or lies below a topic.
            RetentionOff: It shall begin in the past, and the topic retains nothing.
            PositionExpired: Not everything from there on is retained any more.
            QueueConflict: It exists and cannot be changed like that while it lives.
            InvalidRequest: A pattern, name, start or setting that is not allowed.
        """
        return self._io.call(self._inner.subscribe, pattern, name, start=start, **settings)

    def unsubscribe(self, name: str) -> int:
        """Delete a subscription with its messages; return how many there were.

        Raises:
            QueueNotFound: No subscription of that name.
            OutcomeUnknown: The connection broke before the answer.
        """
        return self._io.call(self._inner.unsubscribe, name)
