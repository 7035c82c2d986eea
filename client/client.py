"""`connect` and the client: the door through which users come, and the owner of every background task."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Mapping
from datetime import datetime
from types import TracebackType
from typing import Any, Literal, Self, Unpack

import anyio

from sluicemq.client.cluster import ClusterCalls
from sluicemq.client.consumer import (
    CREDIT_BYTES_DEFAULT,
    CREDIT_DEFAULT,
    CREDIT_MAX,
    LEASE_SECONDS_DEFAULT,
    LEASE_SECONDS_MIN,
    MAX_LEASE_SECONDS_DEFAULT,
    Consumer,
    OnLeaseLost,
)
from sluicemq.client.dead_letters import DeadLetterCalls
from sluicemq.client.delays import DelayCalls
from sluicemq.client.dialing import open_socket
from sluicemq.client.errors import ClientClosed, InvalidRequest, ProtocolError, SluiceError, another
from sluicemq.client.operators import OperatorCalls
from sluicemq.client.options import Body, Delivery, Duration, count_of, seconds_of
from sluicemq.client.outgoing import Pending
from sluicemq.client.parts import Parts
from sluicemq.client.peeked import PeekedMessage, peeked_messages
from sluicemq.client.policies import PolicyCalls
from sluicemq.client.producer import SEND_SECONDS, Producer, attributes_of, enter
from sluicemq.client.publisher import Publisher
from sluicemq.client.receipts import Receipt, Receipts, acks_number
from sluicemq.client.reconnect import Link
from sluicemq.client.replay import START, Replay, border_of
from sluicemq.client.request_calls import RequestCalls
from sluicemq.client.requesting import Requests
from sluicemq.client.resend import resend
from sluicemq.client.runtime import Stream
from sluicemq.client.schedules import ScheduleCalls
from sluicemq.client.session import Identity
from sluicemq.client.tls import TlsStream
from sluicemq.client.topics import Declaration, TopicCalls, pairs_of, told
from sluicemq.client.transaction_calls import TransactionCalls, TransactionParts
from sluicemq.client.url import Address, parse_url
from sluicemq.wire import messages as m
from sluicemq.wire.settings import QueueSettings, check_name, check_queue_settings
from sluicemq.wire.version import VERSION

log = logging.getLogger("sluicemq.client")

HEARTBEAT_SECONDS_MAX = 3600.0
QUEUES_PER_PAGE = 1000
CREDIT_BYTES_MAX = 2**40


class Client(
    TopicCalls,
    DeadLetterCalls,
    DelayCalls,
    PolicyCalls,
    ScheduleCalls,
    ClusterCalls,
    TransactionCalls,
    RequestCalls,
    OperatorCalls,
):
    """A connection to a broker or a cluster; made by `connect`, used with `async with`.

    It owns its background tasks and outlives single connections. Its methods may be called from any task of the loop.
    """

    _consumer_type: type[Consumer] = Consumer

    def __init__(
        self,
        url: str,
        *,
        name: str | None,
        connect_timeout: Duration,
        close_timeout: Duration,
        heartbeat: Duration,
        request_timeout: Duration,
        tls: ssl.SSLContext | None,
    ) -> None:
        self._url = parse_url(url)
        self._name = check_name(name, "client") if name is not None else ""
        self._connect_seconds = seconds_of(connect_timeout, "connect_timeout")
        self._close_seconds = seconds_of(close_timeout, "close_timeout")
        self._heartbeat_seconds = seconds_of(heartbeat, "heartbeat", maximum=HEARTBEAT_SECONDS_MAX)
        self._request_seconds = seconds_of(request_timeout, "request_timeout")
        if tls is not None and not isinstance(tls, ssl.SSLContext):
            raise TypeError(f"tls must be an ssl.SSLContext, not {type(tls).__name__}")
        self._tls = tls
        self._parts: Parts | None = None
        self._closed = False

    # --- queues ---------------------------------------------------------------------------------------------------

    async def declare_queue(self, name: str, **settings: Unpack[QueueSettings]) -> Declaration:
        """Make the queue as described, or converge the existing one to it.

        Args:
            name: 1 to 255 bytes.
            settings: See `QueueSettings`; a setting that is not given keeps its value, or gets its default.

        Returns:
            What was created or changed.

        Raises:
            UnknownOption: No such setting.
            InvalidRequest: A name or value that is not allowed.
            QueueConflict: The queue exists and cannot be changed like that while it lives.

        """
        checked = check_queue_settings(settings)
        reply = await self._ask(m.DeclareQueue(name=check_name(name), settings=checked))
        assert isinstance(reply, m.Declared)
        return Declaration(reply.outcome, pairs_of(reply.changes), warnings=told(name, reply.warnings))

    async def delete_queue(self, name: str, *, if_empty: bool = False) -> int:
        """Delete the queue with its messages; return how many there were.

        Raises:
            QueueNotFound: No queue of that name.
            Conflict: *if_empty*, and it holds messages.
            OutcomeUnknown: The connection broke before the answer.

        """
        reply = await self._ask(m.DeleteQueue(name=check_name(name), if_empty=if_empty), repeatable=False)
        assert isinstance(reply, m.Deleted)
        return reply.messages

    async def purge_queue(self, name: str) -> int:
        """Drop every message of the queue that is ready or delayed; return how many. Leased and retained ones stay.

        Raises:
            QueueNotFound: No queue of that name.
            OutcomeUnknown: The connection broke before the answer.

        """
        reply = await self._ask(m.PurgeQueue(name=check_name(name)), repeatable=False)
        assert isinstance(reply, m.Purged)
        return reply.messages

    async def queues(self) -> list[dict[str, Any]]:
        """Return the state of every queue, sorted by name; keys as for `queue_info`, without `attached`."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            reply = await self._ask(m.ListQueues(after=after, count_max=QUEUES_PER_PAGE))
            assert isinstance(reply, m.Queues)
            found += reply.queues
            if not reply.more or not reply.queues:
                return found
            after = str(reply.queues[-1]["name"])

    async def queue_info(self, name: str) -> dict[str, Any]:
        """Return the state of one queue.

        The page docs/figures.md describes every key. The totals add up: `published_total` (arrivals, so a dead letter
        that came or returned here counts) = `ready` + `leased` + `delayed` + `dead` + `settled_total` + `purged_total`
        + `expired_total` + `dropped_total` + `moved_total`; and `dead_total` = `dead` + `redriven_total` +
        `discarded_total`. What is under way may be missing.

        Raises:
            QueueNotFound: No queue of that name.

        """
        reply = await self._ask(m.QueueInfo(name=check_name(name)))
        assert isinstance(reply, m.Queues)
        if len(reply.queues) != 1:
            raise ProtocolError(f"the broker described {len(reply.queues)} queues instead of one")
        return reply.queues[0]

    async def peek(self, name: str, count: int = 10, skip: int = 0) -> list[PeekedMessage]:
        """Look at ready messages without changing anything.

        Args:
            name: The queue.
            count: Most messages to return. Where they do not fit one answer the rest is asked for, and what comes and
                goes meanwhile may be seen twice or not at all.
            skip: How many ready messages to pass over.

        Raises:
            QueueNotFound: No queue of that name.

        """
        check_name(name)
        skip = count_of(skip, "skip", minimum=0, maximum=2**64 - 1)
        count_of(count, "count")
        found: list[PeekedMessage] = []
        while len(found) < count:
            link = self._link()
            request = m.Peek(name=name, skip=skip + len(found), count_max=count - len(found))
            answer = await link.request(request, timeout=self._request_seconds)
            peeked = answer.message
            assert isinstance(peeked, m.Peeked)
            group = 0 if link.session is None or link.session.welcome is None else link.session.welcome.group_id
            page = peeked_messages(peeked.runs, answer.tail, group, name, peeked.topic, peeked.destinations)
            if not page:
                break
            found += page
        return found

    def replay(
        self, queue: str, from_: str | datetime = START, to: str | datetime | None = None, *, follow: bool = False
    ) -> Replay:
        """Return what the queue retains, to be read with `async for`: also what is settled, without leases.

        Needs the setting `retention`. Nothing changes by it, and any number of replays read beside each other and
        beside consumers. It goes on after a reconnect where it was. Messages come in the order in which they became
        visible: prepared ones as of their commit, and those that a topic delays once they are ready. A queue retains
        at once also what it delays, and what is cancelled there.

        Args:
            queue: The queue.
            from_: Begin with this position (the message is included, with all that became visible since it was
                stored), with what became visible at this time (an aware datetime) or later, or with the oldest message
                that is retained: "start".
            to: End before this position or time; None: with the newest message when the replay begins.
            follow: Wait for what is published later, until *to* if that is given. Then no timeout ends it.

        Raises while iterating:
            QueueNotFound: No queue of that name.
            RetentionOff: The queue retains nothing.
            PositionExpired: Not everything from there on is retained any more, or not when its turn came; its
                `oldest_position` is where to begin instead.
            MessageNotFound: The next messages were given up when the broker's log was repaired; its `next_position` is
                where to go on.

        """
        parts = self._alive()
        if not isinstance(follow, bool):
            raise TypeError(f"follow must be True or False, not {type(follow).__name__}")
        begin, end = border_of(from_, "from_"), None if to is None else border_of(to, "to")
        return Replay(parts.runtime, parts.link, check_name(queue), begin, end, follow, self._request_seconds)

    async def statistics(self) -> dict[str, Any]:
        """Return the figures of the broker that leads, by name; the page docs/figures.md describes every one."""
        reply = await self._ask(m.Statistics())
        assert isinstance(reply, m.StatisticsResult)
        return reply.values

    # --- producers and consumers ----------------------------------------------------------------------------------

    def producer(
        self,
        destination: str,
        name: str | None = None,
        *,
        timeout: Duration = SEND_SECONDS,
        acks: str = "quorum",
        when_limited: Literal["wait", "raise"] = "wait",
    ) -> Producer:
        """Return a producer for *destination*, to be entered with `async with`.

        Args:
            destination: Name of the queue.
            name: A name fences the older producer of the same name: that one must stop.
            timeout: How long a send may take in all, reconnecting included, unless the send says otherwise.
            acks: When a message counts as sent, unless the send says otherwise: "quorum" of the brokers have it on
                disk; "all" of them, where the receipt says "quorum" after 5 seconds in which one was away; or only the
                "leader", unsafe: what it confirmed is lost if it dies for good, or even if only another one leads.
            when_limited: What becomes of a send that the destination's `publish_limit` does not take now: "wait" sends
                it again when the broker says, within its time; "raise" raises `PublishLimited` at once.

        Raises:
            InvalidRequest: A name, *acks* or *when_limited* that is not allowed.

        """
        parts = self._alive()
        if when_limited not in ("wait", "raise"):
            raise InvalidRequest(f'when_limited is {when_limited!r:.40}; it must be "wait" or "raise"')
        publisher = Publisher(
            parts.runtime,
            parts.timers,
            parts.link,
            "" if name is None else check_name(name, "producer"),
            acks=acks_number(acks),
            waits_limits=when_limited == "wait",
        )
        seconds = seconds_of(timeout, "timeout")
        return Producer(
            publisher, check_name(destination, "destination"), seconds, self._close_seconds, parts.publishers
        )

    async def send(
        self,
        destination: str,
        body: Body,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        timeout: Duration = SEND_SECONDS,
        *,
        acks: str = "quorum",
        **delivery: Unpack[Delivery],
    ) -> Receipt:
        """Send one message and wait until it is durable; arguments and errors as for `Producer.send`.

        All such sends share one producer, and travel together like those of a producer.
        """
        parts = self._alive()
        publisher = parts.shared_publisher()
        if destination not in parts.checked_destinations:
            check_name(destination, "destination")
            parts.remember_destination(destination)
        pending = Pending(publisher.now() + seconds_of(timeout, "timeout"))
        attributes = attributes_of(key, subject, headers, message_id, **delivery)
        acks_wanted = acks_number(acks)
        await publisher.ready()
        enter(publisher, pending, destination, body, attributes, acks_wanted)
        confirmation = await publisher.wait(pending)
        return Receipt(confirmation, pending.index)

    async def resend(self, error: SluiceError, timeout: Duration = SEND_SECONDS) -> Receipts:
        """Find out what became of messages whose send ended in `OutcomeUnknown`, sending them again if need be.

        They go out under the producer number and sequence of the first time, so that the broker stores them once: if
        it has them, it answers with their original positions. Single sends travel in a batch with others, which is
        sent again as a whole. The error keeps these messages in memory as long as you keep it. It may come from a
        client that is closed meanwhile, if this one is the same user on the same virtual host.

        Args:
            error: What `send`, `send_many` or a submitted receipt raised: `OutcomeUnknown`, or the `ClientClosed`
                that says the same. Of several errors of one producer, resend those with lower `sequence` first.
            timeout: Seconds or timedelta for everything, reconnecting included.

        Returns:
            The receipts of what the error stands for: one for a send, all for a `send_many`. `duplicate` says
            that they were stored before.

        Raises:
            OutcomeUnknown: Still no answer; call it again with the new error or the old one.
            ProducerNotFound: The broker has forgotten the producer: look into the queue, or send anew where a
                duplicate does no harm.
            ProducerFenced: A newer producer of its name has taken over.
            SequenceGap: Neither these messages nor earlier ones of the producer are stored: resend those first.
            Conflict: Another task is resending the same messages.
            InvalidRequest: The error holds no messages, for example because it was pickled.
            SluiceError: The broker refused them for good, as for a send: they are not stored.

        """
        if not isinstance(error, SluiceError):
            raise TypeError(f"error must be the OutcomeUnknown of a send, not {type(error).__name__}")
        return await resend(self._link(), error, seconds_of(timeout, "timeout"))

    def consumer(
        self,
        queue: str,
        *,
        credit: int = CREDIT_DEFAULT,
        credit_bytes: int = CREDIT_BYTES_DEFAULT,
        lease: Duration = LEASE_SECONDS_DEFAULT,
        auto_renew: bool = True,
        max_lease: Duration = MAX_LEASE_SECONDS_DEFAULT,
        name: str | None = None,
        weight: int = 1,
        on_lease_lost: OnLeaseLost | None = None,
    ) -> Consumer:
        """Return a consumer of *queue*, to be entered with `async with`.

        Args:
            queue: Name of the queue.
            credit: Most messages that the broker delivers ahead of their settlement; 1 to 1,000,000.
            credit_bytes: Most bytes of them; at least one message comes however large it is.
            lease: How long a message is ours before it must be settled or renewed.
            auto_renew: Renew the leases of all messages that are held, as long as the event loop runs.
            max_lease: Renewal of a message that user code has stops after so long.
            name: Shown by the broker's tools.
            weight: Its share where dispatch="weighted" or ordering="key", its rank in mode="failover"; 1 to 1,000.
            on_lease_lost: See `Consumer.on_lease_lost`.

        Raises:
            TypeError: An argument has the wrong type.
            InvalidRequest: An argument is out of range.
            ClientClosed: The client is closed.

        """
        parts = self._alive()
        if not isinstance(auto_renew, bool):
            raise TypeError(f"auto_renew must be True or False, not {type(auto_renew).__name__}")
        if on_lease_lost is not None and not callable(on_lease_lost):
            raise TypeError(f"on_lease_lost must be callable or None, not {type(on_lease_lost).__name__}")
        return self._consumer_type(
            parts.runtime,
            parts.timers,
            parts.link,
            check_name(queue),
            name="" if name is None else check_name(name, "consumer"),
            weight=count_of(weight, "weight", maximum=m.CONSUMER_WEIGHT_MAX),
            credit=count_of(credit, "credit", maximum=CREDIT_MAX),
            credit_bytes=count_of(credit_bytes, "credit_bytes", maximum=CREDIT_BYTES_MAX),
            lease_seconds=seconds_of(lease, "lease", minimum=LEASE_SECONDS_MIN),
            auto_renew=auto_renew,
            max_lease_seconds=seconds_of(max_lease, "max_lease"),
            on_lease_lost=on_lease_lost,
            request_seconds=self._request_seconds,
            close_seconds=self._close_seconds,
            by_number=parts.by_number,
            replying=parts.replying,
        )

    # --- life -----------------------------------------------------------------------------------------------------

    def _alive(self) -> Parts:
        parts = self._parts
        if parts is None or self._closed:
            raise ClientClosed("the client is closed" if self._closed else "the client is not open: enter it first")
        if parts.link.failure is not None:
            raise another(parts.link.failure)
        return parts

    def _link(self) -> Link:
        return self._alive().link

    def _requests(self) -> Requests:
        return self._alive().requests

    def _shared_publisher(self) -> Publisher:
        return self._alive().shared_publisher()

    def _transaction_parts(self) -> TransactionParts:
        return self._alive().transactions

    async def __aenter__(self) -> Self:
        if self._parts is not None:
            raise ClientClosed("a client is entered once: call connect() again")
        parts = self._parts = Parts(self._url.addresses, self._identity(), self._open_stream, self._request_seconds)
        await parts.start()
        try:
            with anyio.move_on_after(self._connect_seconds):
                await parts.link.connected()
        except BaseException:
            await self._stop(parts)  # noqa: ASYNC102 - bounded by close_timeout
            raise
        if parts.link.session is None:
            problem = parts.link.unreachable()
            await self._stop(parts)
            raise problem
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send what waits, at most `close_timeout` seconds; then everything that still waits gets `ClientClosed`."""
        parts = self._parts
        assert parts is not None
        self._closed = True
        try:
            if parts.link.failure is None and parts.link.session is not None:
                with anyio.move_on_after(self._close_seconds, shield=True):
                    await parts.flush()
        finally:
            await self._stop(parts)  # noqa: ASYNC102 - bounded by close_timeout

    async def _stop(self, parts: Parts) -> None:
        self._closed = True
        parts.link.fail(ClientClosed("the client is closed"))
        await parts.stop()

    def _identity(self) -> Identity:
        url = self._url
        return Identity(self._name, VERSION, url.user, url.password, url.vhost, self._heartbeat_seconds)

    async def _open_stream(self, address: Address) -> Stream:
        parts = self._parts
        assert parts is not None
        host, port = address
        stream = parts.runtime.stream(await open_socket(parts.runtime, host, port))
        return stream if self._tls is None else TlsStream(stream, self._tls, host)


def connect(
    url: str,
    *,
    name: str | None = None,
    connect_timeout: Duration = 10.0,
    close_timeout: Duration = 2.0,
    heartbeat: Duration = 10.0,
    request_timeout: Duration = 30.0,
    tls: ssl.SSLContext | None = None,
) -> Client:
    """Return a client for `async with connect(url) as client:`; works on trio and on asyncio.

    Args:
        url: `sluicemq://[user:password@]host:port[,host:port...][/vhost]`; the one that leads is looked for.
        name: Shown by the broker's tools.
        connect_timeout: Seconds (or a timedelta, as everywhere) until the first connection must stand.
        close_timeout: Most seconds that leaving waits for verdicts and sends under way.
        heartbeat: Seconds between signs of life that we propose, at most 3,600; 0 = none.
        request_timeout: Seconds that any other call than a send waits for its answer.
        tls: An SSLContext: encrypt, and check the broker's certificate as the context says.

    Raises on entering:
        ConnectionFailed: No broker could be reached in time; each address stands in the text with its cause.
        AuthenticationFailed: The broker does not take these credentials.
        VersionMismatch: No common protocol version.
        InvalidRequest: The URL or an option is wrong (raised at once).
    """
    return Client(
        url,
        name=name,
        connect_timeout=connect_timeout,
        close_timeout=close_timeout,
        heartbeat=heartbeat,
        request_timeout=request_timeout,
        tls=tls,
    )
