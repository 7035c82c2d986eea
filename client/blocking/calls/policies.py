"""Calls as PolicyCalls has them.

Made by a test from `sluicemq.client.policies`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

from sluicemq.client.blocking.calls._base import Base
from sluicemq.wire.settings import QueueSettings


class PolicyCalls(Base):
    """These calls of the client."""

    def pause_queue(self, name: str, *, publish: bool = False, deliver: bool = False) -> None:
        """Pause a queue until `resume_queue`, also beyond restarts of the broker.

        Args:
            name: Name of the queue.
            publish: Refuse messages with `QueuePaused`, which clients meet by trying again as long as a send may take.
            deliver: Deliver nothing more. Consumers stay, and settle what they have.

        Raises:
            QueueNotFound: No queue of that name.
        """
        self._io.call(self._inner.pause_queue, name, publish=publish, deliver=deliver)

    def resume_queue(self, name: str, *, publish: bool = True, deliver: bool = True) -> None:
        """End what `pause_queue` began, or only one of both.

        Raises:
            QueueNotFound: No queue of that name.
        """
        self._io.call(self._inner.resume_queue, name, publish=publish, deliver=deliver)

    def pause_topic(self, name: str, *, publish: bool = False, deliver: bool = False) -> None:
        """Pause a topic until `resume_topic`, also beyond restarts of the broker.

        Args:
            name: Name of the topic.
            publish: Refuse messages with `QueuePaused`, as `pause_queue` does. What is delayed goes on when it is due.
            deliver: Let none of its subscriptions deliver anything, also those that come. They go on collecting.

        Raises:
            TopicNotFound: No topic of that name.
        """
        self._io.call(self._inner.pause_topic, name, publish=publish, deliver=deliver)

    def resume_topic(self, name: str, *, publish: bool = True, deliver: bool = True) -> None:
        """End what `pause_topic` began, or only one of both.

        Raises:
            TopicNotFound: No topic of that name.
        """
        self._io.call(self._inner.resume_topic, name, publish=publish, deliver=deliver)

    def unpark(self, name: str, keys: Iterable[str]) -> int:
        """Let keys of a queue go on that stopped because of a message (`poison_key="park"`); return how many had.

        Args:
            name: Name of the queue.
            keys: The keys; several texts, also where it is only one.

        Raises:
            QueueNotFound: No queue of that name.
            TypeError: A single text instead of several, or something that is no text.
        """
        return self._io.call(self._inner.unpark, name, keys)

    def set_policy(self, name: str, pattern: str, *, order: int = 0, **settings: Unpack[QueueSettings]) -> str:
        """Give settings to all queues whose names match, as far as they were declared without them.

        Queues follow within moments, also those that are declared later.

        Args:
            name: The policy's name; another one of that name is replaced.
            pattern: Which queues, by their dotted names: `*` is one word, `#` any number of words.
            order: Of several policies that match, only that with the largest order holds; of those the first by name.
            settings: See `QueueSettings`.

        Returns:
            `created`, `changed` or `unchanged`. What may not have been meant goes to the log, such as a `dedup_window`
            for subscriptions: a message is judged once, by the window of its topic.

        Raises:
            UnknownOption: No such setting.
            InvalidRequest: A name, pattern or value that is not allowed, or no settings at all.
        """
        return self._io.call(self._inner.set_policy, name, pattern, order=order, **settings)

    def delete_policy(self, name: str) -> bool:
        """Drop a policy; return whether there was one. Its queues follow those that are left, or the defaults."""
        return self._io.call(self._inner.delete_policy, name)

    def policies(self) -> list[dict[str, Any]]:
        """Return all policies sorted by name: `name`, `pattern`, `order`, `settings`."""
        return self._io.call(self._inner.policies)
