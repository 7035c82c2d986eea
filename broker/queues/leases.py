"""Leases: which messages a consumer holds, by delivery tag.

One table a consumer. A lease is a piece: a run with the tag of its first message. A thousand singly published
messages are a thousand pieces, so pieces lie in plain lists, sorted by tag, and a range of tags is a slice of them;
pieces are split only where a border of a range falls inside one. This module must not know queues, nor what a
verdict does.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from itertools import accumulate, islice
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.queues.runs import Run, messages_in, size_of
from sluicemq.broker.queues.tags import add_range, range_pairs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluicemq.broker.queues.lost import LostEntries

BLOCK_PIECES = 2_048
"""Pieces after which the next grant begins a new block, so that no list grows long enough to make cuts dear."""


class LeaseBlock:
    """Pieces with ascending tags: first tags, runs and marks in three lists of one length.

    A block that is *shared* with a frozen copy of its table is never changed any more: the table copies it first.
    """

    __slots__ = ("firsts", "handed", "runs", "shared")

    def __init__(self) -> None:
        self.firsts: list[int] = []
        self.runs: list[Run] = []
        self.handed = bytearray()
        self.shared = False

    def copied(self) -> LeaseBlock:
        """Return a block with the same pieces that is not shared."""
        block = LeaseBlock()
        block.firsts = self.firsts.copy()
        block.runs = self.runs.copy()
        block.handed = self.handed.copy()
        return block


def _first_tag(block: LeaseBlock) -> int:
    return block.firsts[0]


class FrozenLeases(NamedTuple):
    """A table as it was at one moment; the fields are those of `LeaseTable`."""

    session: int
    consumer: int
    queue_id: int
    last_tag: int
    blocks: tuple[LeaseBlock, ...]
    ids: dict[int, bytes]


class Taken(NamedTuple):
    """What `LeaseTable.take` took out.

    Attributes:
        runs: The runs whose leases are over, by tag.
        handed: One byte a run: 1 if its hand-over to user code had been reported.
        messages: How many messages they hold.
        lost: Ranges of tags that were named but held no lease.
        ids: The hashes of their ids, by tag, 16 bytes each, where they were granted with any.

    """

    runs: list[Run]
    handed: bytes | bytearray
    messages: int
    lost: list[int]
    ids: bytes = b""


class LeaseTable:
    """The leases of one consumer, all on messages of one queue.

    Attributes:
        session: Number of the session.
        consumer: Number of the consumer within it.
        queue_id: Number of the queue.
        messages: Messages under lease.
        last_tag: Highest tag that was ever granted through this table.
        ids: The hashes of the ids of messages under lease, by tag, as far as the queue wants them.
        frozen_for: Number of the last freeze that has what it needs of this table.

    """

    __slots__ = ("_blocks", "consumer", "frozen_for", "ids", "last_tag", "messages", "queue_id", "session")

    def __init__(self, session: int, consumer: int, queue_id: int) -> None:
        self.session = session
        self.consumer = consumer
        self.queue_id = queue_id
        self.messages = 0
        self.last_tag = 0
        self.frozen_for = 0
        self._blocks: list[LeaseBlock] = []
        self.ids: dict[int, bytes] = {}

    def frozen(self) -> FrozenLeases:
        """Return a copy that nothing changes any more; what it costs depends on the blocks, not on the leases."""
        for block in self._blocks:
            block.shared = True
        return FrozenLeases(
            self.session, self.consumer, self.queue_id, self.last_tag, tuple(self._blocks), self.ids.copy()
        )

    def restore(self, firsts: list[int], runs: list[Run], handed: bytes, last_tag: int) -> None:
        """Add a block from an image behind all others."""
        block = LeaseBlock()
        block.firsts, block.runs, block.handed = firsts, runs, bytearray(handed)
        self._blocks.append(block)
        self.messages += messages_in(runs)
        self.last_tag = last_tag

    def grant(self, first_tag: int, runs: Sequence[Run]) -> None:
        """Lease *runs*, whose messages have the tags from *first_tag* on."""
        assert first_tag > self.last_tag, "tags of a consumer ascend"
        firsts = list(accumulate(map(size_of, runs), initial=first_tag))
        next_tag = firsts.pop()
        blocks = self._blocks
        if not blocks or len(blocks[-1].runs) >= BLOCK_PIECES:
            blocks.append(LeaseBlock())
        block = self._own(len(blocks) - 1)
        block.firsts += firsts
        block.runs += runs
        block.handed += bytes(len(firsts))
        self.messages += next_tag - first_tag
        self.last_tag = next_tag - 1

    def take(self, tags: Sequence[int]) -> Taken:
        """End the leases of these ranges of tags, which ascend."""
        if len(tags) == 2:
            first, last = tags
            firsts, runs, handed = self._cut(first, last)
            messages = messages_in(runs)
            lost: list[int] = []
            if messages != last - first + 1:
                _add_gaps(lost, first, last, firsts, runs)
        else:
            runs, handed, messages, lost = [], bytearray(), 0, []
            for first, last in range_pairs(tags):
                firsts, part, marks = self._cut(first, last)
                held = messages_in(part)
                if held != last - first + 1:
                    _add_gaps(lost, first, last, firsts, part)
                runs += part
                handed += marks
                messages += held
        self.messages -= messages
        return Taken(runs, handed, messages, lost, self._take_ids(tags) if self.ids else b"")

    def _take_ids(self, tags: Sequence[int]) -> bytes:
        return b"".join(map(self.ids.pop, self.tags_with_ids(tags)))

    def tags_with_ids(self, tags: Sequence[int]) -> list[int]:
        """Return those of these ranges of tags, one by one, whose messages have ids."""
        found: list[int] = []
        for first, last in range_pairs(tags):
            if last - first <= len(self.ids):
                found += [tag for tag in range(first, last + 1) if tag in self.ids]
            else:  # a range may name far more than there is
                found += sorted(tag for tag in self.ids if first <= tag <= last)
        return found

    def look(self, tags: Sequence[int]) -> list[Run]:
        """Return the runs, or parts of them, that hold leases of these ranges of tags; nothing is changed."""
        found: list[Run] = []
        for first, last in range_pairs(tags):
            number = max(bisect_right(self._blocks, first, key=_first_tag) - 1, 0)
            for block in self._blocks[number:]:
                if block.firsts[0] > last:
                    break
                start = max(bisect_right(block.firsts, first) - 1, 0)
                for tag, run in zip(block.firsts[start:], block.runs[start:], strict=True):
                    if tag > last:
                        break
                    skipped = max(first - tag, 0)
                    size = min(last, tag + run.size - 1) - tag - skipped + 1
                    if size > 0:
                        found.append(run._replace(first=run.first + skipped, size=size))
        return found

    def mark(self, tags: Sequence[int]) -> list[int]:
        """Note that user code has these messages now; return the ranges that hold no lease."""
        lost: list[int] = []
        for first, last in range_pairs(tags):
            firsts: list[int] = []
            runs: list[Run] = []
            for block, start, end in self._slices(first, last):
                firsts += block.firsts[start:end]
                runs += block.runs[start:end]
                block.handed[start:end] = b"\x01" * (end - start)
            if messages_in(runs) != last - first + 1:
                _add_gaps(lost, first, last, firsts, runs)
        return lost

    def tags_of(self, lost: LostEntries) -> list[int]:
        """Return the ranges of tags whose messages were published by *lost* entries."""
        tags: list[int] = []
        for first, run, _ in self.pieces():
            if run.zxid in lost:
                add_range(tags, first, first + run.size - 1)
        return tags

    def ranges(self) -> list[int]:
        """Return the ranges of all tags that hold leases."""
        tags: list[int] = []
        for first, run, _ in self.pieces():
            add_range(tags, first, first + run.size - 1)
        return tags

    def pieces(self, from_tag: int = 0) -> Iterator[tuple[int, Run, int]]:
        """Yield (first tag, run, mark) of each lease, by tag; perhaps some that end before *from_tag*, but few."""
        begin = bisect_right(self._blocks, from_tag, key=_first_tag) - 1 if from_tag else 0
        for block in islice(self._blocks, max(begin, 0), None):
            yield from zip(block.firsts, block.runs, block.handed, strict=True)

    def _cut(self, first: int, last: int) -> tuple[list[int], list[Run], bytearray]:
        """Take the pieces with tags from *first* to *last* out: their first tags, runs and marks."""
        slices = self._slices(first, last)
        if len(slices) == 1:
            block, start, end = slices[0]
            taken = block.firsts[start:end], block.runs[start:end], block.handed[start:end]
            del block.firsts[start:end], block.runs[start:end], block.handed[start:end]
            if not block.runs:
                self._blocks.remove(block)
            return taken
        firsts: list[int] = []
        runs: list[Run] = []
        handed = bytearray()
        emptied = False
        for block, start, end in slices:
            firsts += block.firsts[start:end]
            runs += block.runs[start:end]
            handed += block.handed[start:end]
            del block.firsts[start:end], block.runs[start:end], block.handed[start:end]
            emptied = emptied or not block.runs
        if emptied:
            self._blocks = [block for block in self._blocks if block.runs]
        return firsts, runs, handed

    def _own(self, number: int) -> LeaseBlock:
        """Return a block to change it; one that is shared with a frozen copy is replaced by a copy first."""
        block = self._blocks[number]
        if block.shared:
            block = self._blocks[number] = block.copied()
        return block

    def _slices(self, first: int, last: int) -> list[tuple[LeaseBlock, int, int]]:
        """Return (block, start, end) of the pieces from *first* to *last*, after splitting at both borders.

        The blocks may be changed.
        """
        blocks = self._blocks
        if not blocks:
            return []
        number, start = self._border(first)
        number_end, end = self._border(last + 1)
        if number == number_end:
            return [(blocks[number], start, end)]
        slices = [(blocks[number], start, len(blocks[number].runs))]
        slices += [(block, 0, len(block.runs)) for block in map(self._own, range(number + 1, number_end))]
        slices.append((blocks[number_end], 0, end))
        return slices

    def _border(self, tag: int) -> tuple[int, int]:
        """Return block and index of the first piece at or behind *tag*; a piece that holds it inside is split."""
        blocks = self._blocks
        number = 0
        if len(blocks) > 1:
            number = max(bisect_right(blocks, tag, key=_first_tag) - 1, 0)
        block = self._own(number)
        firsts = block.firsts
        index = bisect_left(firsts, tag)
        if index:
            before = block.runs[index - 1]
            inside = tag - firsts[index - 1]
            if inside < before.size:
                block.runs[index - 1], rest = before.split(inside)
                block.runs.insert(index, rest)
                firsts.insert(index, tag)
                block.handed.insert(index, block.handed[index - 1])
        return number, index


def _add_gaps(lost: list[int], first: int, last: int, firsts: list[int], runs: list[Run]) -> None:
    """Add to *lost* the tags from *first* to *last* that no piece covers."""
    expected = first
    for start, run in zip(firsts, runs, strict=True):
        if start > expected:
            add_range(lost, expected, start - 1)
        expected = start + run.size
    if expected <= last:
        add_range(lost, expected, last)
