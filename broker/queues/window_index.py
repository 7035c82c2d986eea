"""Which ids a window may hold: a fingerprint of each in memory, and the number of the part of a chunk with its row.

Ten million ids must not take a dict's gigabyte, nor may every new id cost a look at the disk. So there is one number of
64 bits an id: the upper bits are the fingerprint, the lowest ones the part. They lie in sorted arrays of at most
`LEAF_MAX`, found by their uppermost bits through a directory (extendible hashing), because ids come as hashes: to
search so short an array, and to shift its end, is the work of C. About 9 bytes an id, 0.4 µs to look one up.

What it says is "perhaps": who finds a number looks into that part. It is derived from the rows, so it is in no digest;
it is in images, because to make it anew from the rows takes 2 µs an id, while nobody may publish. Entries too many, of
parts that are gone or not there yet, do no harm: so it is packed while it changes, as long as nothing is left out. They
are swept away bit by bit, but for those of parts that an image still has. This module must not know rows.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LEAF_MAX = 256
"""Most entries of one array, where the hashes are spread as they should be."""
LEAF_FILL = LEAF_MAX * 3 // 4
"""An array that has more entries of living parts is divided, not only swept."""
NUMBER_BITS = 24
"""Of ten million ids one in a hundred thousand meets the fingerprint of another, in the bits that are left."""
NUMBER_MASK = (1 << NUMBER_BITS) - 1
KEY_MASK = ((1 << 64) - 1) ^ NUMBER_MASK
"""The bits of a hash that count as its fingerprint."""
PIECE_LEAVES = 64
"""Arrays that are packed together: about 0.1 MB."""
HASHES = 1 << 64

IndexPiece = tuple[bytes, bytes, bytes]
"""Neighbouring arrays of an index: by how many uppermost bits each goes, a byte each; how many entries each has, 4
bytes each; the entries."""


class WindowIndex:
    """The fingerprints of one window.

    Those who look many ids up at once go through `leaves` themselves: a call each would double what that costs. The
    leaf of a hash of 64 bits is `leaves[directory[hash >> shift]]`, and its entry there, if any, lies at
    `bisect_left(leaf, hash & KEY_MASK)`.

    Attributes:
        directory: The number of the leaf for each value of the uppermost bits; neighbours may share one. Numbers, for
            to double a list of 100,000 arrays takes a turn of the event loop: each of them is touched.
        leaves: The sorted arrays by number, in no order.
        shift: How many bits of a hash are not the uppermost ones.

    """

    __slots__ = ("_held", "_swept", "directory", "leaves", "shift")

    def __init__(self) -> None:
        self.directory: array[int] = array("I", [0])
        self.leaves: list[array[int]] = [array("Q")]
        self.shift = 64
        self._swept = 0
        self._held: WeakSet[HeldIndex] = WeakSet()

    def held(self, first: int) -> HeldIndex:
        """Return it as somebody needs it: as long as that object lives, what belongs to part *first* on stays."""
        held = HeldIndex(self, first)
        self._held.add(held)
        return held

    def _first_held(self, first: int) -> int:
        return min((first, *(held.first for held in self._held)))

    def pieces(self) -> Iterator[IndexPiece]:
        """Yield all entries; those that are added between two pieces may be in it, those that stay are in it."""
        begin = 0  # the lowest hash that is not packed; arrays are divided meanwhile, but never put together
        while begin < HASHES:
            depths, sizes = bytearray(), array("I")
            leaves: list[array[int]] = []
            while begin < HASHES and len(leaves) < PIECE_LEAVES:
                place = begin >> self.shift
                leaf = self.leaves[self.directory[place]]
                low, high = self._span(place)
                assert low == place, "arrays are divided where a piece ended, or behind that"
                depths.append(64 - self.shift - (high - low).bit_length() + 1)
                sizes.append(len(leaf))
                leaves.append(leaf)
                begin = high << self.shift
            yield bytes(depths), sizes.tobytes(), b"".join(leaves)

    @classmethod
    def of_pieces(cls, pieces: Iterable[IndexPiece]) -> WindowIndex:
        """Return the index that was packed."""
        index = cls()
        leaves = index.leaves
        leaves.clear()
        all_depths: list[int] = []
        for depths, packed_sizes, entries in pieces:
            sizes = array("I", packed_sizes)
            start = 0
            for depth, size in zip(depths, sizes, strict=True):
                leaf = array("Q", entries[start : start + 8 * size])
                start += 8 * size
                leaves.append(leaf)
                all_depths.append(depth)
            assert start == len(entries), "entries of an index and their counts agree"
        bits = max(all_depths)
        spans = [1 << (bits - depth) for depth in all_depths]
        assert sum(spans) == 1 << bits, "each hash belongs to one array"
        index.shift = 64 - bits
        index.directory = array("I", [number for number, span in enumerate(spans) for _ in range(span)])
        return index

    def __len__(self) -> int:
        """How many entries there are, those of parts that are gone included."""
        return sum(map(len, self.leaves))

    def add(self, hash_: int, number: int, first: int, ids: int) -> None:
        """Note that part *number* has a row of *hash_*; *first* and *ids* are as for `divide`."""
        leaf = self.leaves[self.directory[hash_ >> self.shift]]
        entry = hash_ & KEY_MASK | number & NUMBER_MASK
        leaf.insert(bisect_left(leaf, entry), entry)
        if len(leaf) >= LEAF_MAX:
            self.divide(hash_, number, first, ids)

    def numbers_of(self, hash_: int, first: int) -> list[int]:
        """Return the numbers of the parts, from *first* on, that may have a row of *hash_*, in ascending order but for
        those that are gone."""
        leaf = self.leaves[self.directory[hash_ >> self.shift]]
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
        old = self.directory[place]
        leaf = self.leaves[old]
        self._sweep(leaf, number, self._first_held(first))
        if len(leaf) < LEAF_FILL:
            return
        low, high = self._span(place)
        if high - low == 1:
            if len(self.directory) >= max(ids, 1):
                return  # somebody chose these ids to end up here: their leaf grows, nobody else's
            twice = self.directory * 2
            twice[::2] = twice[1::2] = self.directory
            self.directory = twice
            self.shift -= 1
            low, high = 2 * low, 2 * high
        middle = (low + high) // 2
        cut = bisect_left(leaf, middle << self.shift)
        self.leaves[old] = leaf[:cut]
        self.directory[middle:high] = array("I", [len(self.leaves)]) * (high - middle)
        self.leaves.append(leaf[cut:])

    def sweep(self, leaves: int, number: int, first: int) -> None:
        """Drop what belongs to parts before *first* from so many leaves; the next call goes on behind them."""
        place, first = self._swept, self._first_held(first)
        for _ in range(min(leaves, len(self.leaves))):
            if place >= len(self.leaves):
                place = 0
            self._sweep(self.leaves[place], number, first)
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
        directory = self.directory
        leaf = directory[place]
        size = 1
        while True:
            low = place & -(2 * size)
            if low + 2 * size > len(directory) or directory[low] != leaf or directory[low + 2 * size - 1] != leaf:
                break
            size *= 2
        low = place & -size
        return low, low + size


class HeldIndex:
    """An index that somebody is about to pack.

    Attributes:
        index: As it is now.
        first: The first part whose entries stay.

    """

    __slots__ = ("__weakref__", "first", "index")

    def __init__(self, index: WindowIndex, first: int) -> None:
        self.index = index
        self.first = first
