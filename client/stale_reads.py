"""Looking at queues through any broker: one that only follows, or while nobody leads. What it shows may be old.

A client proper talks to the leader, whose answers hold. This needs no leader and opens no session: each call asks the
brokers one after the other and takes the first answer, with a mark that says who answered and how stale that may be.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from sluicemq.client.asking_any import ASK_SECONDS, Told, ask_any
from sluicemq.client.errors import ProtocolError
from sluicemq.client.options import Duration, count_of, seconds_of
from sluicemq.client.peeked import PeekedMessage, peeked_messages
from sluicemq.client.url import parse_url
from sluicemq.wire import messages as m
from sluicemq.wire.fields import Message as WireMessage
from sluicemq.wire.settings import check_name

__all__ = ["StalePeek", "StaleReads"]

QUEUES_PER_PAGE = 1_000


class StalePeek(NamedTuple):
    """Ready messages as some broker knows them.

    Attributes:
        messages: In the order of the queue.
        stale: Who answered, and how old that may be; see `StaleReads`.

    """

    messages: list[PeekedMessage]
    stale: dict[str, Any]


class StaleReads:
    """Reads of a cluster that any of its brokers answers, whether it leads or not.

        reads = StaleReads("sluicemq://10.0.0.2:7650,10.0.0.3:7650")
        info = await reads.queue_info("orders")
        if info["stale"]["heard_seconds"] > 10: ...

    Each row has the key `stale`, a map: `node` (who answered), `role` ("leading", "following", "observing",
    "looking"), `leader` (0: it knows none), `applied_zxid` (the last entry that it has applied), `heard_seconds` (for
    how long it has not heard of a leader; 0.0 if it leads, None if it never has). What a row says was true when the
    cluster was there in its log, and some of it may have changed since.

    Args:
        url: `sluicemq://HOST:PORT[,HOST:PORT...]`; brokers are asked in this order.
        name: Shown by the broker's tools.
        timeout: How long each broker may take to answer; seconds or timedelta.

    Raises:
        InvalidRequest: The URL is none.

    """

    def __init__(self, url: str, *, name: str = "", timeout: Duration = ASK_SECONDS) -> None:
        self._url = parse_url(url)
        self._name = name
        self._seconds = seconds_of(timeout, "timeout")

    async def queues(self) -> list[dict[str, Any]]:
        """Return the state of every queue, sorted by name; keys as for `queue_info`. Large lists take several answers.

        Raises:
            ConnectionFailed: No broker answers; each stands in the text with its cause.
            SluiceError: The brokers refuse to answer.

        """
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            seen = await self._ask(m.LookAtQueues(vhost=self._url.vhost, after=after, count_max=QUEUES_PER_PAGE))
            found += _marked(seen)
            if not seen.more or not seen.queues:
                return found
            after = str(seen.queues[-1]["name"])

    async def queue_info(self, name: str) -> dict[str, Any]:
        """Return the state of one queue.

        Its keys are those of `Client.queue_info`, without what only a leader knows: consumers, pace and limits, see
        docs/figures.md; and `stale`, see the class. `ready` counts what a leader may have sent to a consumer already.

        Raises:
            QueueNotFound: No queue of that name, as far as the brokers know that answer.
            ConnectionFailed: No broker answers; each stands in the text with its cause.
            SluiceError: The brokers refuse to answer.

        """
        seen = await self._ask(m.LookAtQueues(vhost=self._url.vhost, name=check_name(name)))
        if len(seen.queues) != 1:
            raise ProtocolError(f"the broker described {len(seen.queues)} queues instead of one")
        return _marked(seen)[0]

    async def peek(self, name: str, count: int = 10, skip: int = 0) -> StalePeek:
        """Look at ready messages of a queue without changing anything; a leader may have sent them out already.

        Args:
            name: The queue.
            count: Most messages to return; the broker may return fewer.
            skip: How many ready messages to pass over.

        Raises:
            QueueNotFound: No queue of that name, as far as the brokers know that answer.
            ConnectionFailed: No broker answers; each stands in the text with its cause.
            SluiceError: The brokers refuse to answer.

        """
        request = m.LookAtMessages(
            vhost=self._url.vhost,
            name=check_name(name),
            skip=count_of(skip, "skip", minimum=0, maximum=2**64 - 1),
            count_max=count_of(count, "count"),
        )
        told = await self._tell(request)
        seen = told.message
        if not isinstance(seen, m.MessagesSeen):
            raise ProtocolError(f"the broker answered with {type(seen).__name__}")
        messages = peeked_messages(seen.runs, told.tail, told.group_id, name, seen.topic, seen.destinations)
        return StalePeek(messages, seen.mark)

    async def _ask(self, request: m.LookAtQueues) -> m.QueuesSeen:
        answer = (await self._tell(request)).message
        if not isinstance(answer, m.QueuesSeen):
            raise ProtocolError(f"the broker answered with {type(answer).__name__}")
        return answer

    async def _tell(self, request: WireMessage) -> Told:
        return await ask_any(self._url, request, name=self._name, seconds=self._seconds)


def _marked(seen: m.QueuesSeen) -> list[dict[str, Any]]:
    return [{**row, "stale": seen.mark} for row in seen.queues]
