"""What one message went through, read from the log entry by entry. Pure.

Entries name messages by their address, leases by session, consumer and tag; so whoever reads in order can follow one
message through all of its leases, in every queue that it is in. What an entry proposed and the machine refused does not
show in the log: a lease that was void, a verdict that came too late. This module must not know the log nor the machine.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues.entries_of_moving import Move
from sluicemq.broker.queues.entries_of_sessions import Resume
from sluicemq.broker.queues.entries_of_topics import FILL_NUMBERS, Fill, Unsubscribe
from sluicemq.broker.queues.entries_of_transactions import Resolve, Transaction
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_REJECT, VERDICT_RELEASE

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.queues.entries import Entry

VERDICTS = {
    VERDICT_ACK: "acknowledged",
    VERDICT_NACK: "nacked",
    VERDICT_RELEASE: "given_back",
    VERDICT_REJECT: "rejected",
    VERDICT_HANDED_OVER: "attempt_began",
    e.EXPIRED: "lease_expired",
    e.ABANDONED: "given_back",
    e.SETTLED_BEFORE: "settled_before",
}
"""What a verdict is called; `attempt_began` is no end of a lease."""
FINAL = frozenset(
    (
        *("acknowledged", "settled_before", "purged", "discarded", "cancelled"),
        *("queue_gone", "queue_deleted", "rolled_back"),
    )
)
"""After these nothing comes in that queue."""
DONE = frozenset(("acknowledged", "settled_before", "discarded", "cancelled"))
"""Of these there is no doubt: a transaction may be void, and a purge leaves what was held just then."""
EVENTS_MAX = 1_000
"""Most events that are told of one message; the first ones and the last ones are."""


class Event(NamedTuple):
    """Something that happened.

    Attributes:
        zxid: The entry that did it.
        at_ms: Its log time.
        what: What it was.
        queue: Number of the queue; 0: none in particular.
        facts: More about it, as plain values.

    """

    zxid: int
    at_ms: int
    what: str
    queue: int
    facts: dict[str, Any]


class Lease(NamedTuple):
    """A lease that the message is under, as far as the log says."""

    session: int
    consumer: int
    tag: int


class Life:
    """The life of the message *index* of the entry *zxid*.

    Attributes:
        events: What happened, in order.
        leases: The leases that have begun and not ended, each with the number of its queue.
        queues: Queues that it was seen in.
        ready: Entries that may have made it ready, newest last: where it may lie in a queue.
        left_out: Events that were too many.

    Args:
        zxid: The entry that published it.
        index: Its index there.
        all_known: Whether `queues` holds every queue that got the message when it was published.

    """

    def __init__(self, zxid: int, index: int, *, all_known: bool = False) -> None:
        self._all_known = all_known
        self.zxid = zxid
        self.index = index
        self.events: list[Event] = []
        self.leases: dict[Lease, int] = {}
        self.queues: dict[int, None] = {}
        self.ready: list[int] = [zxid]
        self.left_out = 0

    def tell(self, zxid: int, entry: Entry, what: str, queue: int = 0, **facts: Any) -> None:
        """Add an event."""
        if queue:
            self.queues[queue] = None
        if len(self.events) >= EVENTS_MAX:
            # The beginning says where it comes from, the end what holds it now.
            del self.events[EVENTS_MAX // 2]
            self.left_out += 1
        self.events.append(Event(zxid, entry.log_time_ms, what, queue, facts))

    def take(self, zxid: int, entry: Entry) -> None:
        """Look at the next entry of the log behind that which published the message."""
        taking = _TAKING.get(type(entry))
        if taking is not None:
            taking(self, zxid, entry)

    @property
    def is_over(self) -> bool:
        """Whether nothing more can come: each of its queues was told that it is done with, by somebody who held it."""
        if not self._all_known or self.leases:
            return False
        last = {event.queue: event for event in self.events if event.queue}
        return all(
            (event := last.get(queue)) is not None and event.what in DONE and "transaction" not in event.facts
            for queue in self.queues
        )

    @property
    def is_over_in(self) -> set[int]:
        """Queues in which the last that happened to it was an end."""
        last = {event.queue: event.what for event in self.events if event.queue}
        return {queue for queue, what in last.items() if what in FINAL}

    # --- entry by entry ---------------------------------------------------------------------------------------------

    def _grant(self, zxid: int, entry: e.Grant) -> None:
        step = 3 if type(entry) is e.Grant else 4
        tag = entry.first_tag
        flat = entry.runs
        for place in range(step - 3, len(flat), step):
            first, size = flat[place + 1], flat[place + 2]
            if flat[place] == self.zxid and first <= self.index < first + size:
                lease = Lease(entry.session, entry.consumer, tag + self.index - first)
                self.leases[lease] = entry.queue
                self.tell(zxid, entry, "leased", entry.queue, **lease._asdict())
            tag += size

    def _settle(self, zxid: int, entry: e.Settle) -> None:
        self._verdict(
            zxid, entry, entry.session, entry.consumer, entry.verdict, entry.tags, entry.due_time_ms, entry.reason
        )

    def _verdict(
        self,
        zxid: int,
        entry: Entry,
        session: int,
        consumer: int,
        verdict: int,
        tags: list[int],
        due_ms: int,
        reason: str,
    ) -> None:
        for lease, queue in list(self.leases.items()):
            if lease[:2] != (session, consumer) or not _has(tags, lease.tag):
                continue
            what = VERDICTS.get(verdict, "settled")
            facts: dict[str, Any] = {**lease._asdict(), "reason": reason}
            if due_ms and due_ms != e.BY_RETRY_POLICY:
                facts["due_ms"] = due_ms
            if type(entry) is Transaction:
                facts["transaction"] = zxid
            if verdict != VERDICT_HANDED_OVER:
                del self.leases[lease]
                self.ready.append(zxid)
            self.tell(zxid, entry, what, queue, **facts)

    def _transaction(self, zxid: int, entry: Transaction) -> None:
        try:
            verdicts = entry.verdicts()
        except ValueError:
            return
        for consumer, verdict, due_ms, tags, reason in verdicts:
            self._verdict(zxid, entry, entry.session, consumer, verdict, tags, due_ms, reason)

    def _session_close(self, zxid: int, entry: e.SessionClose) -> None:
        for lease, queue in list(self.leases.items()):
            if lease.session == entry.session:
                del self.leases[lease]
                self.tell(zxid, entry, "session_ended", queue, **lease._asdict(), reason=entry.reason)

    def _resume(self, zxid: int, entry: Resume) -> None:
        for lease, queue in list(self.leases.items()):
            if lease[:2] == (entry.session, entry.consumer) and not _has(entry.tags, lease.tag):
                del self.leases[lease]
                self.tell(zxid, entry, "given_back", queue, **lease._asdict(), reason=entry.reason)

    def names(self, flat: list[int]) -> bool:
        """Whether `[place, zxid, first, size, ...]` names the message."""
        return any(
            flat[place] == self.zxid and flat[place + 1] <= self.index < flat[place + 1] + flat[place + 2]
            for place in range(1, len(flat), 4)
        )

    def _cancel(self, zxid: int, entry: q.Cancel) -> None:
        if self.names(entry.runs):
            self.tell(zxid, entry, "cancelled", entry.queue)

    def _reschedule(self, zxid: int, entry: q.Reschedule) -> None:
        if self.names(entry.runs):
            self.ready.append(zxid)
            self.tell(zxid, entry, "rescheduled", entry.queue, due_ms=entry.due_ms)

    def _redrive(self, zxid: int, entry: q.Redrive) -> None:
        if self.names(entry.runs):
            self.ready.append(zxid)
            self.tell(zxid, entry, "redriven", entry.queue, to=entry.to)
            if entry.to:
                self.queues[entry.to] = None

    def _discard(self, zxid: int, entry: q.Discard) -> None:
        if self.names(entry.runs):
            self.tell(zxid, entry, "discarded", entry.queue)

    def _move(self, zxid: int, entry: Move) -> None:
        if self.names(entry.runs):
            self.ready.append(zxid)
            if entry.to:
                self.queues[entry.to] = None
                self.tell(zxid, entry, "copied" if entry.keep else "moved", entry.queue, to=entry.to)
            else:
                self.tell(zxid, entry, "purged", entry.queue)

    def _fill(self, zxid: int, entry: Fill) -> None:
        flat = entry.runs
        for place in range(0, len(flat), FILL_NUMBERS):
            if flat[place] == self.zxid and flat[place + 1] <= self.index < flat[place + 1] + flat[place + 2]:
                self.ready.append(zxid)
                self.tell(zxid, entry, "caught_up", entry.subscription)

    def _resolve(self, zxid: int, entry: Resolve) -> None:
        if entry.half == self.zxid:
            self.ready.append(zxid)
            self.tell(zxid, entry, "committed" if entry.commit else "rolled_back")

    def _purge(self, zxid: int, entry: e.Purge) -> None:
        if (
            entry.queue in self.queues
            and entry.queue not in self.leases.values()
            and entry.queue not in self.is_over_in
        ):
            self.tell(zxid, entry, "purged", entry.queue)

    def _queue_gone(self, zxid: int, entry: q.ExpireQueue) -> None:
        if entry.queue in self.queues and entry.queue not in self.is_over_in:
            self.tell(zxid, entry, "queue_gone", entry.queue)

    def _deleted(self, zxid: int, entry: e.Delete | Unsubscribe) -> None:
        if entry.queue in self.queues and entry.queue not in self.is_over_in:
            self.tell(zxid, entry, "queue_deleted", entry.queue, name=entry.name)

    def _forget(self, zxid: int, entry: e.Forget) -> None:
        ranges = zip(entry.entries[::2], entry.entries[1::2], strict=True)
        if any(first <= self.zxid <= last for first, last in ranges):
            self.tell(zxid, entry, "given_up", entry.queue, reason=entry.reason)


def _has(ranges: list[int], number: int) -> bool:
    """Whether *number* lies in one of the ranges `[first, last, ...]`."""
    return any(first <= number <= last for first, last in zip(ranges[::2], ranges[1::2], strict=True))


_TAKING: dict[type[Entry], Callable[[Life, int, Any], None]] = {
    e.Grant: Life._grant,
    e.GrantPlaced: Life._grant,
    e.GrantIdentified: Life._grant,
    e.Settle: Life._settle,
    e.SettleJudged: Life._settle,
    Transaction: Life._transaction,
    e.SessionClose: Life._session_close,
    Resume: Life._resume,
    q.Cancel: Life._cancel,
    q.Reschedule: Life._reschedule,
    q.Redrive: Life._redrive,
    q.Discard: Life._discard,
    Move: Life._move,
    Fill: Life._fill,
    Resolve: Life._resolve,
    e.Purge: Life._purge,
    q.ExpireQueue: Life._queue_gone,
    e.Delete: Life._deleted,
    Unsubscribe: Life._deleted,
    e.Forget: Life._forget,
}
"""What tells of messages, by class of entry."""
KINDS = frozenset(cls.KIND for cls in _TAKING)
"""Kinds of entries that may tell of a message; the others need not be decoded."""
