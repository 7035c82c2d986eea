"""Which ids a window may hold: a fingerprint of each in memory, and the number of the part of a chunk with its row.

Ten million ids must not take a dict's gigabyte, nor may every new id cost a look at the disk. So there is one number of
64 bits an id: the upper bits are the fingerprint, the lowest ones the part. They lie in sorted arrays of at most
`LEAF_MAX`, found by their uppermost bits through a directory (extendible hashing), because ids come as hashes: to
search so short an array, and to shift its end, is the work of C. About 9 bytes an id, 0.4 µs to look one up.

What it says is "perhaps": who finds a number looks into that part. It is derived from the rows, so it is in no image
and no digest. Entries of parts that are gone do no harm and are swept away bit by bit. This module must not know rows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

LEAF_MAX = 256
"""Most entries of one array, where the hashes are spread as they should be."""
LEAF_FILL = LEAF_MAX * 3 // 4
"""An array that has more entries of living parts is divided, not only swept."""
NUMBER_BITS = 24
"""Of ten million ids one in a hundred thousand meets the fingerprint of another, in the bits that are left."""
NUMBER_MASK = (1 << NUMBER_BITS) - 1
KEY_MASK = ((1 << 64) - 1) ^ NUMBER_MASK
"""The bits of a hash that count as its fingerprint."""


class WindowIndex:
    """The fingerprints of one window.

    Those who look many ids up at once go through `leaves` themselves: a call each would double what that costs. The
    leaf of a hash of 64 bits is `leaves[hash >> shift]`, and its entry there, if any, lies at
    `bisect_left(leaf, hash & KEY_MASK)`.

    Attributes:
        leaves: The directory: the sorted array for each value of the uppermost bits; neighbours may share one.
        shift: How many bits of a hash are not the uppermost ones.

    """

    __slots__ = ("_swept", "leaves", "shift")

    def __init__(self) -> None:
        self.leaves: list[array[int]] = [array("Q")]
        self.shift = 64
        self._swept = 0

    @classmethod
    def of_parts(cls, parts: Iterable[tuple[int, list[int]]], ids: int) -> WindowIndex:
        """Return the index of about so many *ids*: (number, hashes of its rows) of each part."""
        index = cls()
        bits = max((ids // (LEAF_MAX // 2)).bit_length() - 1, 0)
        index.shift = shift = 64 - bits
        index.leaves = leaves = [array("Q") for _ in range(1 << bits)]
        for number, hashes in parts:
            low = number & NUMBER_MASK
            for hash_ in hashes:
                leaves[hash_ >> shift].append(hash_ & KEY_MASK | low)
        for place, leaf in enumerate(leaves):
            leaves[place] = array("Q", sorted(leaf))
        return index

    def __len__(self) -> int:
        """How many entries there are, those of parts that are gone included; walks through all leaves."""
        return sum(map(len, self._distinct()))

    def add(self, hash_: int, number: int, first: int, ids: int) -> None:
        """Note that part *number* has a row of *hash_*; *first* and *ids* are as for `divide`."""
        leaf = self.leaves[hash_ >> self.shift]
        entry = hash_ & KEY_MASK | number & NUMBER_MASK
        leaf.insert(bisect_left(leaf, entry), entry)
        if len(leaf) >= LEAF_MAX:
            self.divide(hash_, number, first, ids)

    def numbers_of(self, hash_: int, first: int) -> list[int]:
        """Return the numbers of the parts, from *first* on, that may have a row of *hash_*, in ascending order but for
        those that are gone."""
        leaf = self.leaves[hash_ >> self.shift]
        key = hash_ & KEY_MASK
        numbers: list[int] = []
        for entry in leaf[bisect_left(leaf, key) :]:
            if entry & KEY_MASK != key:
                break
            numbers.append(first + ((entry - first) & NUMBER_MASK))
        return numbers

    def divide(self, hash_: int, number: int, first: int, ids: int) -> None:
        """Make room in the leaf of *hash_*, which is full.

        Args:
            hash_: Any hash that belongs to the leaf.
            number: The last part there is.
            first: The first part there is.
            ids: About how many ids the window holds; the directory never has more entries than that, whatever the
                hashes are.

        """
        place = hash_ >> self.shift
        leaf = self.leaves[place]
        self._sweep(leaf, number, first)
        if len(leaf) < LEAF_FILL:
            return
        low, high = self._span(place)
        if high - low == 1:
            if len(self.leaves) >= max(ids, 1):
                return  # somebody chose these ids to end up here: their leaf grows, nobody else's
            self.leaves = [same for each in self.leaves for same in (each, each)]
            self.shift -= 1
            low, high = 2 * low, 2 * high
        middle = (low + high) // 2
        cut = bisect_left(leaf, middle << self.shift)
        self.leaves[low:middle] = [leaf[:cut]] * (middle - low)
        self.leaves[middle:high] = [leaf[cut:]] * (high - middle)

    def sweep(self, leaves: int, number: int, first: int) -> None:
        """Drop what belongs to parts before *first* from so many leaves; the next call goes on behind them."""
        place = self._swept
        for _ in range(min(leaves, len(self.leaves))):
            if place >= len(self.leaves):
                place = 0
            leaf = self.leaves[place]
            self._sweep(leaf, number, first)
            place += 1
            while place < len(self.leaves) and self.leaves[place] is leaf:
                place += 1
        self._swept = place

    @staticmethod
    def _sweep(leaf: array[int], number: int, first: int) -> None:
        span = number - first
        kept = [entry for entry in leaf if (entry - first) & NUMBER_MASK <= span]
        if len(kept) < len(leaf):
            leaf[:] = array("Q", kept)

    def _span(self, place: int) -> tuple[int, int]:
        """Return from where to where the directory names the leaf that it names at *place*: a power of two, aligned."""
        leaf = self.leaves[place]
        size = 1
        while True:
            low = place & -(2 * size)
            if low + 2 * size > len(self.leaves) or self.leaves[low] is not leaf:
                break
            if self.leaves[low + 2 * size - 1] is not leaf:
                break
            size *= 2
        low = place & -size
        return low, low + size

    def _distinct(self) -> Iterable[array[int]]:
        before: array[int] | None = None
        for leaf in self.leaves:
            if leaf is not before:
                yield leaf
            before = leaf
