"""Calls as Client has them.

Made by a test from `sluicemq.client.client`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal, Unpack

from sluicemq.client.blocking.calls._base import Base
from sluicemq.client.blocking.consumer import Consumer
from sluicemq.client.blocking.producer import Producer
from sluicemq.client.blocking.reading import Replay
from sluicemq.client.consumer import (
    CREDIT_BYTES_DEFAULT,
    CREDIT_DEFAULT,
    LEASE_SECONDS_DEFAULT,
    MAX_LEASE_SECONDS_DEFAULT,
    OnLeaseLost,
)
from sluicemq.client.errors import SluiceError
from sluicemq.client.options import Duration
from sluicemq.client.peeked import PeekedMessage
from sluicemq.client.producer import SEND_SECONDS
from sluicemq.client.receipts import Receipts
from sluicemq.client.replay import START
from sluicemq.client.topics import Declaration
from sluicemq.wire.settings import QueueSettings


class QueueCalls(Base):
    """These calls of the client."""

    def declare_queue(self, name: str, **settings: Unpack[QueueSettings]) -> Declaration:
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
        return self._io.call(self._inner.declare_queue, name, **settings)

    def delete_queue(self, name: str, *, if_empty: bool = False) -> int:
        """Delete the queue with its messages; return how many there were.

        Raises:
            QueueNotFound: No queue of that name.
            Conflict: *if_empty*, and it holds messages.
            OutcomeUnknown: The connection broke before the answer.
        """
        return self._io.call(self._inner.delete_queue, name, if_empty=if_empty)

    def purge_queue(self, name: str) -> int:
        """Drop every message of the queue that is ready or delayed; return how many. Leased and retained ones stay.

        Raises:
            QueueNotFound: No queue of that name.
            OutcomeUnknown: The connection broke before the answer.
        """
        return self._io.call(self._inner.purge_queue, name)

    def queues(self) -> list[dict[str, Any]]:
        """Return the state of every queue, sorted by name; keys as for `queue_info`, without `attached`."""
        return self._io.call(self._inner.queues)

    def queue_info(self, name: str) -> dict[str, Any]:
        """Return the state of one queue.

        The page docs/figures.md describes every key. The totals add up: `published_total` (arrivals, so a dead letter
        that came or returned here counts) = `ready` + `leased` + `delayed` + `dead` + `settled_total` + `purged_total`
        + `expired_total` + `dropped_total` + `moved_total`; and `dead_total` = `dead` + `redriven_total` +
        `discarded_total`. What is under way may be missing.

        Raises:
            QueueNotFound: No queue of that name.
        """
        return self._io.call(self._inner.queue_info, name)

    def peek(self, name: str, count: int = 10, skip: int = 0) -> list[PeekedMessage]:
        """Look at ready messages without changing anything.

        Args:
            name: The queue.
            count: Most messages to return. Where they do not fit one answer the rest is asked for, and what comes and
                goes meanwhile may be seen twice or not at all.
            skip: How many ready messages to pass over.

        Raises:
            QueueNotFound: No queue of that name.
        """
        return self._io.call(self._inner.peek, name, count, skip)

    def replay(
        self, queue: str, from_: str | datetime = START, to: str | datetime | None = None, *, follow: bool = False
    ) -> Replay:
        """Return what the queue retains, to be read with `for`: also what is settled, without leases.

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
        return Replay(self._io, self._io.run(self._inner.replay, queue, from_, to, follow=follow))

    def statistics(self) -> dict[str, Any]:
        """Return the figures of the broker that leads, by name; the page docs/figures.md describes every one."""
        return self._io.call(self._inner.statistics)

    def producer(
        self,
        destination: str,
        name: str | None = None,
        *,
        timeout: Duration = SEND_SECONDS,
        acks: str = "quorum",
        when_limited: Literal["wait", "raise"] = "wait",
    ) -> Producer:
        """Return a producer for *destination*, to be entered with `with`.

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
        return Producer(
            self._io,
            self._io.run(
                self._inner.producer, destination, name, timeout=timeout, acks=acks, when_limited=when_limited
            ),
        )

    def resend(self, error: SluiceError, timeout: Duration = SEND_SECONDS) -> Receipts:
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
        return self._io.call(self._inner.resend, error, timeout)

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
        """Return a consumer of *queue*, to be entered with `with`.

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
        return Consumer(
            self._io,
            self._io.run(
                self._inner.consumer,
                queue,
                credit=credit,
                credit_bytes=credit_bytes,
                lease=lease,
                auto_renew=auto_renew,
                max_lease=max_lease,
                name=name,
                weight=weight,
                on_lease_lost=on_lease_lost,
            ),
        )
