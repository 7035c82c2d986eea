"""The life of one message, as `Client.explain` tells it: plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias

from sluicemq.client.asking import Asking
from sluicemq.client.errors import InvalidRequest
from sluicemq.client.message import Message
from sluicemq.client.peeked import PeekedMessage
from sluicemq.client.receipts import Receipt
from sluicemq.wire import messages as m
from sluicemq.wire.positions import parse_position
from sluicemq.wire.settings import check_name

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Named: TypeAlias = str | Receipt | Message | PeekedMessage
"""What names a message by its position: the position itself, or what has one."""


@dataclass(frozen=True, slots=True)
class LifeEvent:
    """Something that happened to a message.

    Attributes:
        what: `accepted`, `leased`, `attempt_began`, `acknowledged`, `nacked`, `rejected`, `given_back`,
            `lease_expired`, `session_ended`, `rescheduled`, `cancelled`, `redriven`, `discarded`, `moved`, `copied`,
            `purged`, `queue_gone` (nobody used it), `queue_deleted`, `settled_before`, `committed`, `rolled_back`,
            `caught_up` or `given_up`.
        at: When: an aware UTC datetime, by the broker's clock.
        zxid: The entry of the log that did it.
        queue: In which queue; "" where that is gone, or it was in none.
        facts: More about it: `session`, `consumer`, `client` and `tag` of a lease, `reason`, `due_ms`, `to`.

    """

    what: str
    at: datetime
    zxid: int
    queue: str
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Explanation:
    """The life of one message.

    Attributes:
        position: Where it was stored.
        message_id: Its id.
        status: Where it is, or how it ended, in a few words.
        published_at: An aware UTC datetime, by the broker's clock.
        facts: As it was published: `zxid`, `producer`, `sequence`, `destination`, `key`, `subject`, `due_ms`, `ttl_ms`,
            `priority`, `body_bytes`; `duplicate_of` where the queue looks out for duplicates: "" says that it was the
            first with its id. `body_kept`: whether its body is still in the log.
        events: What happened to it, in order.
        places: Where it is now; a map each: `queue`, `state` ("ready", "leased", "delayed", "dead"), and more.
        complete: Whether the log reaches back to when it was published. Otherwise earlier events are missing.

    """

    position: str
    message_id: str
    status: str
    published_at: datetime
    facts: Mapping[str, Any]
    events: list[LifeEvent]
    places: list[Mapping[str, Any]]
    complete: bool


class ExplainCalls(Asking):
    """The call of a client that tells the life of one message; `Client` has it."""

    async def explain(
        self,
        message: Named | None = None,
        *,
        message_id: str | None = None,
        queue: str | None = None,
        key: str | None = None,
    ) -> Explanation:
        """Return the life of one message from the broker's log: accepted, each delivery, each verdict, and where it is.

        Args:
            message: Its position, or what has one: a receipt, a message.
            message_id: Its id instead: one that the broker gave, or one of a sender's own, which needs *queue*.
            queue: The queue or topic that it was published to.
            key: Its key, where the queue has `dedup_scope="key"`.

        Raises:
            MessageNotFound: No message is known by that name, or its batch is not in the log any more, or it was not
                published to *queue*.
            QueueNotFound: No queue of that name.

        """
        if (message is None) == (message_id is None):
            raise TypeError("name the message either by its position or by its message_id")
        zxid = index = 0
        if message is not None:
            position = message if isinstance(message, str) else getattr(message, "position", None)
            if not isinstance(position, str):
                kind = type(message).__name__
                raise TypeError(f"message must be a position or what has one, such as a receipt, not {kind}")
            _, zxid, index = parse_position(position)
        elif not message_id:
            raise InvalidRequest("message_id is empty")
        asked = m.Explain(
            zxid=zxid,
            index=index,
            message_id=message_id or "",
            name="" if queue is None else check_name(queue),
            key=key or "",
        )
        facts: dict[str, Any] = {"history_read_zxid": 0}
        while True:
            reply = await self._ask(asked)
            assert isinstance(reply, m.Explained)
            read_zxid, facts = facts["history_read_zxid"], reply.facts
            # Of a long log the broker reads a part for each question: it is asked again as long as it gets on.
            if facts["history_read_zxid"] <= read_zxid:
                break
        return Explanation(
            position=str(facts["position"]),
            message_id=str(facts["message_id"]),
            status=reply.status,
            published_at=_EPOCH + timedelta(milliseconds=facts["published_ms"]),
            facts=facts,
            events=[_event(row) for row in reply.events],
            places=list(reply.places),
            complete=bool(facts["history_complete"]),
        )


def _event(row: dict[str, Any]) -> LifeEvent:
    facts = {name: value for name, value in row.items() if name not in ("what", "at_ms", "zxid", "queue")}
    return LifeEvent(
        row["what"], _EPOCH + timedelta(milliseconds=row["at_ms"]), row["zxid"], row.get("queue", ""), facts
    )
