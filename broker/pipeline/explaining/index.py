"""Which stretches of the log may have changed a message: a few numbers a stretch, noted as entries are applied.

An entry that leases or moves messages names them by the entry that published them, and one that settles them by the
consumer's tags. Of each stretch of `STRETCH_ENTRIES` entries or `STRETCH_BYTES` bytes the index keeps between which
publishing entries lie those that were named, and which tags of which consumers. So a life is told by reading the few
stretches that may be part of it. Exact where queues are first in, first out; where old messages come again and again
among new ones it names more stretches than need be, never fewer.

It is local, kept in memory only, and reaches as far back as the log proper does. Must not know what entries do.
"""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues.entries_of_moving import Move
from sluicemq.broker.queues.entries_of_sessions import Resume
from sluicemq.broker.queues.entries_of_topics import FILL_NUMBERS, Fill, Unsubscribe
from sluicemq.broker.queues.entries_of_transactions import Prepare, Resolve, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from typing import Any

    from sluicemq.broker.queues.entries import Entry

STRETCH_ENTRIES = 256
"""Most entries of one stretch."""
STRETCH_BYTES = 1024 * 1024
"""A stretch ends when it holds so many bytes of batches."""
CONSUMERS_MAX = 64
"""Most consumers whose tags are kept apart in one stretch; with more, the stretch is read for all of them."""
STRETCHES_MAX = 40_000
"""Most stretches that are kept, some 500 bytes each and 32 a consumer; older ones are forgotten, as if their entries
were gone."""
_NONE = 1 << 64
_CONSUMER = struct.Struct("=QQ")
_NOBODY: frozenset[int] = frozenset()


class Stretch:
    """Some entries that follow one another.

    Attributes:
        first: The first of them.
        last: The last of them.
        low: The lowest entry whose messages were named, and *high* the highest; *low* > *high*: none were.
        tags: The lowest and highest tags that were settled, by (session, consumer); None: of anybody, or it is packed.
        sessions: Sessions that ended, or came back.
        queues: Queues of which all messages may have gone at once; 0: of any.

    """

    __slots__ = ("_consumers", "_spans", "bytes", "first", "high", "last", "low", "queues", "sessions", "tags")

    def __init__(self, first: int) -> None:
        self.first = self.last = first
        self.bytes = 0
        self.low, self.high = _NONE, 0
        self.tags: dict[tuple[int, int], tuple[int, int]] | None = {}
        self.sessions: set[int] | frozenset[int] = _NOBODY
        self.queues: set[int] | frozenset[int] = _NOBODY
        # Once packed: consumers, and their tags in the same order. As a dict they are eight times as large.
        self._consumers: bytes | None = None
        self._spans = b""

    def pack(self) -> None:
        """Nothing is added any more: take less memory."""
        if self.tags is not None:
            self._consumers = b"".join([_CONSUMER.pack(*key) for key in self.tags])
            self._spans = b"".join([_CONSUMER.pack(*span) for span in self.tags.values()])
            self.tags = None

    def _span_of(self, session: int, consumer: int) -> tuple[int, ...] | None:
        """Return the lowest and highest tag of a consumer that were settled."""
        tags = self.tags  # read in another thread than it is packed in
        if tags is not None:
            return tags.get((session, consumer))
        if self._consumers is None:
            return 0, _NONE
        wanted = _CONSUMER.pack(session, consumer)
        place = self._consumers.find(wanted)
        while place > 0 and place % _CONSUMER.size:  # it lies across two of them
            place = self._consumers.find(wanted, place + 1)
        return None if place < 0 else _CONSUMER.unpack_from(self._spans, place)

    def may_name(self, zxid: int) -> bool:
        """Whether messages of the entry *zxid* may have been named."""
        return self.low <= zxid <= self.high

    def may_settle(self, session: int, consumer: int, tag: int) -> bool:
        """Whether this lease may have ended."""
        if session in self.sessions:
            return True
        span = self._span_of(session, consumer)
        return span is not None and span[0] <= tag <= span[1]

    def name(self, zxids: list[int]) -> None:
        """Note that messages of these entries were named."""
        if zxids:
            self.low, self.high = min(self.low, min(zxids)), max(self.high, max(zxids))

    def settle(self, session: int, consumer: int, tags: list[int]) -> None:
        """Note that tags, ranges of them, were settled."""
        if self.tags is None or not tags:
            return
        key = session, consumer
        low, high = self.tags.get(key, (_NONE, 0))
        self.tags[key] = min(low, tags[0]), max(high, tags[-1])
        if len(self.tags) > CONSUMERS_MAX:
            self.tags = None


class LogIndex:
    """The stretches of the log that were applied since the start, and those in front that were read meanwhile."""

    def __init__(self) -> None:
        self.stretches: deque[Stretch] = deque()
        self._left = 0

    @property
    def first_zxid(self) -> int | None:
        """The first entry that it knows."""
        return self.stretches[0].first if self.stretches else None

    def note(self, zxid: int, entry: Entry) -> None:
        """An entry was applied."""
        if self._left <= 0:
            if self.stretches:
                self.stretches[-1].pack()
            self.stretches.append(Stretch(zxid))
            if len(self.stretches) > STRETCHES_MAX:
                self.stretches.popleft()
            self._left = STRETCH_ENTRIES
        self._left -= 1
        stretch = self.stretches[-1]
        stretch.last = zxid
        noting = _NOTING.get(type(entry))
        if noting is not None:
            noting(stretch, entry)
            if stretch.bytes >= STRETCH_BYTES:
                self._left = 0

    def put_in_front(self, stretches: Iterable[Stretch]) -> None:
        """Take in stretches that lie in front of all others, and were read from the log."""
        for stretch in reversed(list(stretches)):
            if len(self.stretches) < STRETCHES_MAX and (not self.stretches or stretch.last < self.stretches[0].first):
                self.stretches.appendleft(stretch)

    def forget_before(self, zxid: int) -> None:
        """The log begins behind *zxid*: stretches of what was before can be read no more."""
        while self.stretches and self.stretches[0].last <= zxid:
            self.stretches.popleft()


def _note_publish(stretch: Stretch, entry: e.Publish) -> None:
    stretch.bytes += len(entry.payload)


def _note_grant(stretch: Stretch, entry: e.Grant) -> None:
    stretch.name(entry.runs[::3])


def _note_placed(
    stretch: Stretch, entry: e.GrantPlaced | q.Cancel | q.Reschedule | q.Redrive | q.Discard | Move
) -> None:
    stretch.name(entry.runs[1::4])


def _note_settle(stretch: Stretch, entry: e.Settle) -> None:
    stretch.settle(entry.session, entry.consumer, entry.tags)


def _note_fill(stretch: Stretch, entry: Fill) -> None:
    stretch.name(entry.runs[::FILL_NUMBERS])


def _note_transaction(stretch: Stretch, entry: Transaction) -> None:
    stretch.bytes += len(entry.payload)
    try:
        for settlement in entry.verdicts():
            stretch.settle(entry.session, settlement.consumer, settlement.tags)
    except ValueError:
        return  # it was refused


def _note_prepare(stretch: Stretch, entry: Prepare) -> None:
    stretch.bytes += len(entry.payload)


def _note_resolve(stretch: Stretch, entry: Resolve) -> None:
    stretch.name([entry.half])


def _note_session(stretch: Stretch, entry: e.SessionClose | Resume) -> None:
    stretch.sessions = {*stretch.sessions, entry.session}


def _note_queue(stretch: Stretch, entry: e.Purge | e.Forget | q.ExpireQueue) -> None:
    stretch.queues = {*stretch.queues, entry.queue}


def _note_name(stretch: Stretch, entry: e.Delete | Unsubscribe) -> None:
    del entry
    stretch.queues = {*stretch.queues, 0}


_NOTING: dict[type[Entry], Callable[[Stretch, Any], None]] = {
    e.Publish: _note_publish,
    e.PublishGrouped: _note_publish,
    e.PublishIdentified: _note_publish,
    e.Grant: _note_grant,
    e.GrantPlaced: _note_placed,
    e.GrantIdentified: _note_placed,
    e.Settle: _note_settle,
    e.SettleJudged: _note_settle,
    q.Cancel: _note_placed,
    q.Reschedule: _note_placed,
    q.Redrive: _note_placed,
    q.Discard: _note_placed,
    Move: _note_placed,
    Transaction: _note_transaction,
    Prepare: _note_prepare,
    Resolve: _note_resolve,
    Fill: _note_fill,
    e.SessionClose: _note_session,
    Resume: _note_session,
    e.Purge: _note_queue,
    e.Forget: _note_queue,
    q.ExpireQueue: _note_queue,
    e.Delete: _note_name,
    Unsubscribe: _note_name,
}
"""What tells of messages, by class of entry."""
