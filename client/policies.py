"""What operators do to queues: pause and resume them, let parked keys go on, and give settings by policies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Unpack

from sluicemq.client.asking import Asking
from sluicemq.client.options import count_of
from sluicemq.client.topics import told
from sluicemq.wire import messages as m
from sluicemq.wire.routes import check_pattern
from sluicemq.wire.settings import TOPIC, QueueSettings, check_name, check_queue_settings

PAGE = 1_000
ORDER_MAX = 0xFFFF_FFFF
UNPARK_MAX = 1_000
"""Most keys in one request; more go in several."""


class PolicyCalls(Asking):
    """The calls of a client that are about pauses and policies."""

    async def pause_queue(self, name: str, *, publish: bool = False, deliver: bool = False) -> None:
        """Pause a queue until `resume_queue`, also beyond restarts of the broker.

        Args:
            name: Name of the queue.
            publish: Refuse messages with `QueuePaused`, which clients meet by trying again as long as a send may take.
            deliver: Deliver nothing more. Consumers stay, and settle what they have.

        Raises:
            QueueNotFound: No queue of that name.

        """
        await self._ask(m.AlterQueue(check_name(name), pause_publish=publish or None, pause_deliver=deliver or None))

    async def resume_queue(self, name: str, *, publish: bool = True, deliver: bool = True) -> None:
        """End what `pause_queue` began, or only one of both.

        Raises:
            QueueNotFound: No queue of that name.

        """
        await self._ask(
            m.AlterQueue(
                check_name(name),
                pause_publish=False if publish else None,
                pause_deliver=False if deliver else None,
            )
        )

    async def pause_topic(self, name: str, *, publish: bool = False, deliver: bool = False) -> None:
        """Pause a topic until `resume_topic`, also beyond restarts of the broker.

        Args:
            name: Name of the topic.
            publish: Refuse messages with `QueuePaused`, as `pause_queue` does. What is delayed goes on when it is due.
            deliver: Let none of its subscriptions deliver anything, also those that come. They go on collecting.

        Raises:
            TopicNotFound: No topic of that name.

        """
        await self._ask(m.AlterQueue(check_name(name, "topic"), TOPIC, publish or None, deliver or None))

    async def resume_topic(self, name: str, *, publish: bool = True, deliver: bool = True) -> None:
        """End what `pause_topic` began, or only one of both.

        Raises:
            TopicNotFound: No topic of that name.

        """
        pauses = (False if publish else None, False if deliver else None)
        await self._ask(m.AlterQueue(check_name(name, "topic"), TOPIC, *pauses))

    async def unpark(self, name: str, keys: Iterable[str]) -> int:
        """Let keys of a queue go on that stopped because of a message (`poison_key="park"`); return how many had.

        Args:
            name: Name of the queue.
            keys: The keys; several texts, also where it is only one.

        Raises:
            QueueNotFound: No queue of that name.
            TypeError: A single text instead of several, or something that is no text.

        """
        if isinstance(keys, str):
            raise TypeError(f"keys are several texts: write [{keys!r:.80}] for this one")
        queue, wanted, freed = check_name(name), list(keys), 0
        for key in wanted:
            if not isinstance(key, str):
                raise TypeError(f"a key is text, not {type(key).__name__}: {key!r:.80}")
        for start in range(0, len(wanted), UNPARK_MAX):
            reply = await self._ask(m.AlterQueue(queue, unpark=wanted[start : start + UNPARK_MAX]))
            assert isinstance(reply, m.Altered)
            before, after = reply.changes.get("parked", (0, 0))
            freed += before - after
        return freed

    async def set_policy(self, name: str, pattern: str, *, order: int = 0, **settings: Unpack[QueueSettings]) -> str:
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
        checked = check_queue_settings(settings)
        count_of(len(checked), "the number of settings of a policy")
        message = m.Policy(
            check_name(name, "policy"), check_pattern(pattern), count_of(order, "order", minimum=0), checked
        )
        reply = await self._ask(message)
        assert isinstance(reply, m.PolicySet)
        told(name, reply.warnings)
        return reply.outcome

    async def delete_policy(self, name: str) -> bool:
        """Drop a policy; return whether there was one. Its queues follow those that are left, or the defaults."""
        reply = await self._ask(m.Policy(check_name(name, "policy")))
        assert isinstance(reply, m.PolicySet)
        return reply.outcome == "dropped"

    async def policies(self) -> list[dict[str, Any]]:
        """Return all policies sorted by name: `name`, `pattern`, `order`, `settings`."""
        found: list[dict[str, Any]] = []
        while True:
            reply = await self._ask(m.ListPolicies(found[-1]["name"] if found else "", PAGE))
            assert isinstance(reply, m.Policies)
            found += reply.policies
            if not reply.more or not reply.policies:
                return found
