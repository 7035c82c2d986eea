"""Calls that wait for their answer, as Client has them.

Made by a test from `sluicemq.client.client`, see `tests/client/blocking/facade.py`; do not edit.
"""

from __future__ import annotations

from typing import Any, Unpack

from sluicemq.client.blocking.calls._base import Base
from sluicemq.client.errors import SluiceError
from sluicemq.client.options import Duration
from sluicemq.client.peeked import PeekedMessage
from sluicemq.client.producer import SEND_SECONDS
from sluicemq.client.receipts import Receipts
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
        """Return the state of every queue, sorted by name; keys as for `queue_info`."""
        return self._io.call(self._inner.queues)

    def queue_info(self, name: str) -> dict[str, Any]:
        """Return the state of one queue.

        Its keys: `name`, `settings`, `ready`, `leased`, `delayed`, `dead`, `consumers`, `oldest_age_seconds`,
        `created_at` (milliseconds since 1970), `paused` ("publish", "deliver"), `policy`, `publishing` ("open",
        "paused", or as the disk allows "slowed", "refused"), `pinned_bytes` (dead bytes kept on disk by the oldest
        unsettled message), `retained` (with `_bytes`, `_age_seconds`), `attached`: how each consumer stands; and
        totals, which add up: `published_total` (arrivals, so a dead letter that came or returned here counts) =
        ready + leased + delayed + dead + `settled_total` + `purged_total` + `expired_total` + `dropped_total` (by
        max_length, max_bytes) + `moved_total` (to another queue); `dead_total` (deaths here that lay aside) = dead +
        `redriven_total` + `discarded_total`. `redelivered_total` counts deliveries, `duplicates_total` what was
        confirmed by its id without being stored (of `dedup_ids` ids), `settled_before_total` what was settled without
        being delivered, because its id was acknowledged before (of `settled_ids`). What is under way may be missing.

        Raises:
            QueueNotFound: No queue of that name.
        """
        return self._io.call(self._inner.queue_info, name)

    def peek(self, name: str, count: int = 10, skip: int = 0) -> list[PeekedMessage]:
        """Look at ready messages without changing anything.

        Args:
            name: The queue.
            count: Most messages to return; the broker may return fewer.
            skip: How many ready messages to pass over.

        Raises:
            QueueNotFound: No queue of that name.
        """
        return self._io.call(self._inner.peek, name, count, skip)

    def statistics(self) -> dict[str, Any]:
        """Return the broker's own figures by name: counters since its start, CPU seconds, bytes."""
        return self._io.call(self._inner.statistics)

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
