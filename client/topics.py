"""Topics and subscriptions: what a client's calls about them ask the broker, and what comes back.

`TopicCalls` is the part of `Client` that is about topics. A temporary subscription ends with the connection, so it is
made anew, under its name, on every new one.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, Unpack

from sluicemq.client.asking import Asking
from sluicemq.client.errors import InvalidRequest, SluiceError
from sluicemq.client.session import Session
from sluicemq.wire import messages as m
from sluicemq.wire.fields import Message as WireMessage
from sluicemq.wire.positions import parse_position
from sluicemq.wire.routes import check_pattern
from sluicemq.wire.settings import (
    QueueSettings,
    TopicSettings,
    check_name,
    check_queue_settings,
    check_topic_settings,
)

log = logging.getLogger("sluicemq.client")

TOPICS_PER_PAGE = 1000
NOW: Literal["now"] = "now"
BEGINNING: Literal["beginning"] = "beginning"
_START_NOW, _START_BEGINNING, _START_TIME, _START_POSITION = range(4)


@dataclass(frozen=True, slots=True)
class Declaration:
    """What a declaration did.

    Attributes:
        outcome: `created`, `changed` or `unchanged`.
        changes: Setting -> (before, after).
        warnings: What may not have been meant, such as a `dead_letter` queue that does not exist (yet). They go to the
            log too.

    """

    outcome: str
    changes: Mapping[str, tuple[Any, Any]]
    warnings: tuple[str, ...] = field(default=(), kw_only=True)


@dataclass(frozen=True, slots=True)
class Subscription(Declaration):
    """What subscribing did, and what to consume.

    Attributes:
        name: Name of the queue that gets the messages: for `Client.consumer`.
        topic: The topic that the pattern belongs to.
        pattern: The pattern.
        temporary: Whether it ends with the connection; the client makes it anew on the next one.

    """

    name: str
    topic: str
    pattern: str
    temporary: bool


class TopicCalls(Asking):
    """The calls of a client that are about topics; `Client` has them."""

    async def declare_topic(self, name: str, **settings: Unpack[TopicSettings]) -> Declaration:
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
        checked = check_topic_settings(settings)
        reply = await self._ask(m.DeclareTopic(name=check_name(name, "topic"), settings=checked))
        assert isinstance(reply, m.Declared)
        return Declaration(reply.outcome, pairs_of(reply.changes), warnings=told(name, reply.warnings))

    async def delete_topic(self, name: str, *, force: bool = False) -> int:
        """Delete the topic, with what it delays and retains; return how many messages went.

        Args:
            name: The topic.
            force: Delete its subscriptions too, with all their messages; without it, it must have none.

        Raises:
            TopicNotFound: No topic of that name.
            TopicInUse: It has subscriptions, and not *force*.
            OutcomeUnknown: The connection broke before the answer.

        """
        request = m.DeleteTopic(name=check_name(name, "topic"), if_unused=not force)
        reply = await self._ask(request, repeatable=False)
        assert isinstance(reply, m.Deleted)
        return reply.messages

    async def topics(self) -> list[dict[str, Any]]:
        """Return the state of every topic, sorted by name.

        Keys: `name`, `settings`, `subscriptions` (how many), `published_total`, `unrouted_total` (messages that matched
        no subscription), `expired_total`, `cancelled_total`, `paused` ("publish", "deliver"), `delayed`, `retained`,
        `retained_bytes`, `retained_age_seconds`, `duplicates_total`, `dedup_ids` (as of `queue_info`), `pinned_bytes`
        and `created_at` (milliseconds since 1970).
        """
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            reply = await self._ask(m.ListTopics(after=after, count_max=TOPICS_PER_PAGE))
            assert isinstance(reply, m.Topics)
            found += reply.topics
            if not reply.more or not reply.topics:
                return found
            after = str(reply.topics[-1]["name"])

    async def subscribe(
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
        kind, at, index = _start_of(start)
        request = m.Subscribe(
            pattern=check_pattern(pattern),
            name="" if name is None else check_name(name, "subscription"),
            settings=check_queue_settings(settings),
            durable=name is not None,
            start=kind,
            start_at=at,
            start_index=index,
        )
        reply = await self._ask(request, repeatable=name is not None)
        assert isinstance(reply, m.Subscribed)
        if name is None:
            again = m.Subscribe(pattern=request.pattern, name=reply.name, settings=request.settings, durable=False)
            link = self._link()
            link.add(_Temporary(again, link.session))
        return Subscription(
            reply.outcome,
            pairs_of(reply.changes),
            reply.name,
            reply.topic,
            request.pattern,
            name is None,
            warnings=told(reply.name, reply.warnings),
        )

    async def unsubscribe(self, name: str) -> int:
        """Delete a subscription with its messages; return how many there were.

        Raises:
            QueueNotFound: No subscription of that name.
            OutcomeUnknown: The connection broke before the answer.

        """
        check_name(name, "subscription")
        link = self._link()
        for resident in link.residents():
            if isinstance(resident, _Temporary) and resident.name == name:
                link.remove(resident)
        reply = await self._ask(m.Unsubscribe(name=name), repeatable=False)
        assert isinstance(reply, m.Unsubscribed)
        return reply.messages


@dataclass(slots=True, eq=False)
class _Temporary:
    """A temporary subscription, seen over reconnects."""

    request: m.Subscribe
    made_on: Session | None

    @property
    def name(self) -> str:
        """Name of the subscription."""
        return self.request.name

    def session_opened(self, session: Session) -> None:
        """Make it anew, ahead of the consumers that want it."""
        if session is self.made_on or (session.opened is not None and session.opened.resumed):
            return

        def on_reply(_reply: WireMessage | None, _tail: memoryview | None, error: SluiceError | None) -> None:
            if error is not None and session.error is None:
                log.warning("the temporary subscription %r could not be made anew: %s", self.name, error)

        session.request(self.request, on_reply)

    def session_lost(self, error: SluiceError) -> None:
        """It is over; the next session brings another."""
        del error

    def failed(self, error: SluiceError) -> None:
        """No session will come any more."""
        del error

    def forked(self, error: SluiceError) -> None:
        """It is the parent's."""
        del error


def pairs_of(changes: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return changes as the wire has them as setting -> (before, after)."""
    return {setting: (before, after) for setting, (before, after) in changes.items()}


def told(name: str, warnings: Sequence[str]) -> tuple[str, ...]:
    """Return the warnings about a declaration of *name*, after they went to the log."""
    for warning in warnings:
        log.warning("%s: %s", name, warning)
    return tuple(warnings)


def _start_of(start: str | datetime) -> tuple[int, int, int]:
    if isinstance(start, datetime):
        if start.tzinfo is None:
            raise InvalidRequest("start is a datetime without time zone: which moment that is depends on the reader")
        return _START_TIME, max(0, round(start.timestamp() * 1000)), 0
    if start == NOW:
        return _START_NOW, 0, 0
    if start == BEGINNING:
        return _START_BEGINNING, 0, 0
    if not isinstance(start, str):
        raise TypeError(f"start must be 'now', 'beginning', a datetime or a position, not {type(start).__name__}")
    _group, zxid, index = parse_position(start)
    return _START_POSITION, zxid, index
