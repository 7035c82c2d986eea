"""Which stretches of the log may have changed a message: a few numbers a stretch, noted as entries are applied.

An entry that leases or moves messages names them by the entry that published them, and one that settles them by the
consumer's tags. Of each stretch of `STRETCH_ENTRIES` entries or `STRETCH_BYTES` bytes the index keeps between which
publishing entries lie those that were named, and which tags of which consumers. So a life is told by reading the few
stretches that may be part of it. Exact where queues are first in, first out; where old messages come again and again
among new ones it names more stretches than need be, never fewer.

Stretches make chapters, which say the same of all of theirs together. Where many chapters are known, only they stay in
memory, and the stretches of some; those of the others are made again from the log when somebody asks. So are chapters
of what was written before the start: history may be long, and a start reads none of it.

It is local, kept in memory only, and reaches as far back as the whole files of the log do. Must not know what entries
do.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import OrderedDict
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues.entries_of_moving import Move
from sluicemq.broker.queues.entries_of_sessions import Resume
from sluicemq.broker.queues.entries_of_topics import FILL_NUMBERS, Fill, Unsubscribe
from sluicemq.broker.queues.entries_of_transactions import Prepare, Resolve, Transaction

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from sluicemq.broker.pipeline.explaining.life import Life
    from sluicemq.broker.queues.entries import Entry

STRETCH_ENTRIES = 256
"""Most entries of one stretch."""
STRETCH_BYTES = 1024 * 1024
"""A stretch ends when it holds so many bytes of batches."""
CONSUMERS_MAX = 64
"""Most consumers whose tags are kept apart in one stretch; with more, the stretch is read for all of them."""
CHAPTER_STRETCHES = 256
"""Most stretches of one chapter."""
CHAPTER_BYTES = 64 * 1024 * 1024
"""A chapter ends when it holds so many bytes of batches."""
NAMES_MAX = 1_000
"""Most sessions, and most queues, that are kept apart in one chapter."""
STRETCHES_MAX = 40_000
"""Most stretches that are in memory, some 500 bytes each and 32 a consumer; those of other chapters are read again when
they are wanted."""
CHAPTERS_MAX = 16_384
"""Most chapters, some 1,000 bytes each and 32 a consumer; the oldest are forgotten too."""
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

    def may_tell(self, life: Life) -> bool:
        """Whether it may tell of a message."""
        return (
            self.low <= life.zxid <= self.high
            or any(self.may_settle(*lease) for lease in life.leases)
            or bool(self.queues and (0 in self.queues or not self.queues.isdisjoint(life.queues)))
        )

    def absorb(self, other: Stretch) -> None:
        """Tell of all that *other*, which follows and is not packed yet, tells of."""
        self.last = other.last
        self.bytes += other.bytes
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)
        if other.queues:
            self.queues = {*self.queues, *other.queues}
            if len(self.queues) > NAMES_MAX:
                self.queues = {0}
        if other.sessions:
            self.sessions = {*self.sessions, *other.sessions}
        if other.tags is None or len(self.sessions) > NAMES_MAX:
            self.tags, self.sessions = None, _NOBODY
        elif self.tags is not None:
            for (session, consumer), span in other.tags.items():
                self.settle(session, consumer, list(span))

    def name(self, zxids: list[int]) -> None:
        """Note that messages of these entries were named."""
        if zxids:
            self.low, self.high = min(self.low, min(zxids)), max(self.high, max(zxids))

    def settle(self, session: int, consumer: int, tags: list[int]) -> None:
        """Note that tags, ranges of them, were settled."""
        if not tags or self.tags is None:
            return
        key = session, consumer
        low, high = self.tags.get(key, (_NONE, 0))
        self.tags[key] = min(low, tags[0]), max(high, tags[-1])
        if len(self.tags) > CONSUMERS_MAX:
            self.tags = None


class Chapter:
    """Stretches that follow one another, and what they tell of as one: a few numbers that stay when they are forgotten.

    Attributes:
        behind: The entry that it begins behind: it knows of everything from there to `last`.
        all: What they may tell of, together; of one that is still written not yet of the last stretch.
        stretches: They; None: forgotten, they are in the log.
        open: Whether it is still written.

    """

    __slots__ = ("all", "behind", "open", "stretches")

    def __init__(self, behind: int) -> None:
        self.behind = behind
        self.all = Stretch(behind + 1)
        self.stretches: list[Stretch] | None = []
        self.open = True

    @property
    def last(self) -> int:
        """The last entry that it knows."""
        return self.stretches[-1].last if self.stretches else self.all.last

    def close(self) -> None:
        """Nothing follows: the last stretch counts too."""
        if self.open and self.stretches:
            self.all.absorb(self.stretches[-1])
            self.stretches[-1].pack()
        self.all.pack()
        self.open = False

    @property
    def is_full(self) -> bool:
        """Whether another stretch would be too much."""
        assert self.stretches is not None, "what is written is not forgotten"
        return len(self.stretches) >= CHAPTER_STRETCHES or self.all.bytes >= CHAPTER_BYTES

    def begin(self, zxid: int) -> Stretch:
        """Begin a stretch with this entry."""
        assert self.stretches is not None, "what is written is not forgotten"
        if self.stretches:
            self.all.absorb(self.stretches[-1])
            self.stretches[-1].pack()
        stretch = Stretch(zxid)
        self.stretches.append(stretch)
        return stretch


class Writer:
    """Writes one chapter, entry by entry.

    Args:
        behind: It begins behind this entry.
        whole: Never mind how many there are.

    """

    def __init__(self, behind: int, *, whole: bool = False) -> None:
        self.chapter = Chapter(behind)
        self._whole = whole
        self._stretch: Stretch | None = None
        self._left = 0

    def note(self, zxid: int, entry: Entry | None, batch_bytes: int = 0) -> bool:
        """Note an entry, or that there is one with so many bytes of messages; return False where the chapter is full.

        Then nothing was noted.
        """
        stretch = self._stretch
        if self._left <= 0 or stretch is None:
            if self.chapter.is_full and not self._whole:
                self.chapter.close()
                return False
            self._stretch = stretch = self.chapter.begin(zxid)
            self._left = STRETCH_ENTRIES
        self._left -= 1
        stretch.last = zxid
        stretch.bytes += batch_bytes
        noting = None if entry is None else _NOTING.get(type(entry))
        if noting is not None:
            noting(stretch, entry)
        if stretch.bytes >= STRETCH_BYTES:
            self._left = 0
        return True


class Gap(NamedTuple):
    """Entries of which nothing is known: those behind *behind*, up to *last*."""

    behind: int
    last: int


class LogIndex:
    """The chapters of the log that were applied since the start, and those in front that were read meanwhile."""

    def __init__(self) -> None:
        self.chapters: list[Chapter] = []
        self._writer: Writer | None = None
        # Chapters whose stretches are in memory and need not be, the least recently used one first.
        self._used: OrderedDict[int, Chapter] = OrderedDict()
        self._stretches = 0

    def note(self, zxid: int, entry: Entry) -> None:
        """An entry was applied."""
        writer = self._writer
        if writer is not None and writer.note(zxid, entry):
            return
        behind = zxid - 1
        if writer is not None:
            behind = writer.chapter.last
            self._remember(writer.chapter)
        self._writer = writer = Writer(behind)
        writer.note(zxid, entry)
        self.chapters.append(writer.chapter)
        if len(self.chapters) > CHAPTERS_MAX:
            self._forget(self.chapters.pop(0))

    # --- reading ----------------------------------------------------------------------------------------------------

    def part_behind(self, zxid: int, last_zxid: int) -> Chapter | Gap | None:
        """Return what knows of the entries behind *zxid*, or how far nothing does; None: *last_zxid* is reached."""
        if zxid >= last_zxid:
            return None
        place = bisect_right(self.chapters, zxid, key=_behind)
        before = self.chapters[place - 1] if place else None
        if before is not None and before.last > zxid:
            return before
        begins = 0 if before is None else before.last
        return Gap(begins, self.chapters[place].behind if place < len(self.chapters) else last_zxid)

    def put(self, chapter: Chapter) -> None:
        """Take in what was read from the log, unless it is known meanwhile."""
        place = bisect_right(self.chapters, chapter.behind, key=_behind)
        before = self.chapters[place - 1] if place else None
        following = self.chapters[place] if place < len(self.chapters) else None
        if before is not None and before.behind == chapter.behind and before.last == chapter.last:
            if before.stretches is None:
                before.stretches = chapter.stretches  # it was forgotten
                self._remember(before)
            return
        begins, ends = 0 if before is None else before.last, chapter.last if following is None else following.behind
        if begins <= chapter.behind and chapter.last <= ends:
            self.chapters.insert(place, chapter)
            self._remember(chapter)

    def use(self, chapter: Chapter) -> None:
        """The stretches of a chapter are read: keep them rather than others'."""
        if id(chapter) in self._used:
            self._used.move_to_end(id(chapter))

    def forget_before(self, zxid: int) -> None:
        """Entries up to *zxid* can be read no more, or not all of them."""
        while self.chapters and self.chapters[0].last <= zxid and not self.chapters[0].open:
            self._forget(self.chapters.pop(0))

    def _remember(self, chapter: Chapter) -> None:
        assert chapter.stretches is not None, "it was just written"
        self._used[id(chapter)] = chapter
        self._stretches += len(chapter.stretches)
        while self._stretches > STRETCHES_MAX and len(self._used) > 1:
            self._forget(next(iter(self._used.values())))

    def _forget(self, chapter: Chapter) -> None:
        if self._used.pop(id(chapter), None) is not None:
            assert chapter.stretches is not None, "it is kept"
            self._stretches -= len(chapter.stretches)
        chapter.all.last = chapter.last
        chapter.stretches = None


def _behind(chapter: Chapter) -> int:
    return chapter.behind


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


def _note_queue(stretch: Stretch, entry: e.Purge | e.Forget | q.ExpireQueue | e.Delete | Unsubscribe) -> None:
    stretch.queues = {*stretch.queues, entry.queue}


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
    e.Delete: _note_queue,
    Unsubscribe: _note_queue,
}
"""What tells of messages, by class of entry."""
NOTED_KINDS = frozenset(cls.KIND for cls, noting in _NOTING.items() if noting is not _note_publish)
"""Kinds of entries of which more is noted than how large they are."""
