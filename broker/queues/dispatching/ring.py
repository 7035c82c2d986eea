"""A ring of virtual nodes: which consumer a key belongs to, so that few keys move when consumers come and go.

Each consumer stands at many points of a circle of 2^32, and a key belongs to whoever stands first at or behind the
key's own point. One that joins takes its share of the keys from all others alike and moves no other key; one that
leaves gives back only its own.

Points come from blake2b, so they lie as if by chance, whatever sessions and consumers are numbered; keys come as crc32c
of their text. With 64 points each, consumers of one weight get within about a quarter of their fair share of the keys.

What it costs, `python -m bench dispatch` measures: hashing for who joins, then one merge of all points, paid by the
first key after any number of changes. The ring holds about `POINTS_MAX` points: where weights or
consumers are many, all have half the points, a quarter and so on. This module must not know queues, credit or what is
in flight.
"""

from __future__ import annotations

from bisect import bisect_left
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluicemq.broker.queues.dispatching.consumers import Consumer

VIRTUAL_NODES = 64
"""Points of a consumer of weight 1."""
POINTS_MAX = 65_536
"""Points of all consumers together, about; each has one at least."""

_HASH_POINTS = 16
_POINTS_OF_HASH = Struct(f"<{_HASH_POINTS}I")
_SEAT_BITS = 32
_SEAT_MASK = (1 << _SEAT_BITS) - 1


class Ring:
    """Consumers on a ring."""

    __slots__ = ("_joining", "_left", "_points", "_seats", "_shift", "_weights")

    def __init__(self) -> None:
        self._seats: dict[int, Consumer] = {}  # by arrival, which no two consumers of a queue share
        self._weights = 0
        self._shift = 0  # all have so many times half the points
        self._points: list[int] = []  # point << 32 | arrival of who stands there, ascending
        # Who came and went since the points were put in order.
        self._joining: dict[int, Consumer] = {}
        self._left: set[int] = set()

    def __len__(self) -> int:
        return len(self._seats)

    def add(self, consumer: Consumer) -> None:
        """Let *consumer* have keys."""
        self._seats[consumer.arrival] = self._joining[consumer.arrival] = consumer
        self._weights += consumer.weight

    def remove(self, consumer: Consumer) -> None:
        """Let *consumer*, which is there, have none."""
        del self._seats[consumer.arrival]
        self._weights -= consumer.weight
        if self._joining.pop(consumer.arrival, None) is None:
            self._left.add(consumer.arrival)

    def owner(self, key: int) -> Consumer | None:
        """Return whom *key* belongs to; None when nobody is there."""
        if self._joining or self._left:
            self._refresh()
        points = self._points
        if not points:
            return None
        place = bisect_left(points, key << _SEAT_BITS)
        return self._seats[points[place if place < len(points) else 0] & _SEAT_MASK]

    def shares(self) -> dict[int, float]:
        """Return the share of all possible keys that belongs to each consumer, by arrival."""
        if self._joining or self._left:
            self._refresh()
        shares = dict.fromkeys(self._seats, 0.0)
        before = (self._points[-1] >> _SEAT_BITS) - (1 << 32) if self._points else 0
        for point in self._points:
            shares[point & _SEAT_MASK] += ((point >> _SEAT_BITS) - before) / (1 << 32)
            before = point >> _SEAT_BITS
        return shares

    def _refresh(self) -> None:
        joining, left, points = self._joining, self._left, self._points
        shift, wanted = self._shift, self._weights * VIRTUAL_NODES
        while wanted >> shift > POINTS_MAX:
            shift += 1
        # Points come back only well below the maximum: one consumer that comes and goes must not turn all of it over.
        while shift and wanted >> (shift - 1) <= POINTS_MAX // 2:
            shift -= 1
        if shift != self._shift:
            self._shift = shift
            points, joining, left = [], self._seats, set()
        if left:
            points = [point for point in points if point & _SEAT_MASK not in left]
        for arrival, consumer in joining.items():
            points += _points_of(consumer, arrival, max(1, (consumer.weight * VIRTUAL_NODES) >> shift))
        points.sort()  # what was there before is in order, so this is a merge
        self._points = points
        self._joining = {}
        self._left = set()


def _points_of(consumer: Consumer, arrival: int, count: int) -> list[int]:
    """Return the first *count* points of a consumer; a larger count adds to them and moves none."""
    name = b"%d.%d" % consumer.identity
    points: list[int] = []
    for block in range(-(-count // _HASH_POINTS)):
        digest = blake2b(name, digest_size=_POINTS_OF_HASH.size, salt=block.to_bytes(8, "little")).digest()
        points += _POINTS_OF_HASH.unpack(digest)
    return [point << _SEAT_BITS | arrival for point in points[:count]]
