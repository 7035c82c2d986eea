"""Messages that were delivered and not handed out yet. Pure.

Frames are kept as they came; a run is looked into when its turn comes, a column is decoded when it is asked for. So a
batch of a thousand messages costs one decoding of one column.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

from sluicemq.client.errors import ProtocolError
from sluicemq.client.tag_ranges import FlatRanges, TagRanges, pairs
from sluicemq.wire.batch import Batch
from sluicemq.wire.messages import RUN_NUMBERS

NO_HEADERS: Mapping[str, Any] = MappingProxyType({})


class Run:
    """Messages that were published together and delivered together.

    Attributes:
        owner: Whoever settles them; opaque here.
        first_tag: Delivery tag of the first.
        count: How many.
        zxid: Entry of the log that holds them.
        first_index: Index of the first in that entry.
        published_ms: When, in milliseconds since 1970.
        producer: Number of the producer.
        id_base: Id of the batch's first message.
        deliveries: How often they were delivered, this time included.
        attempts: How many attempts are known to have begun before.
        bodies: The payloads.
        destination: Where they were published to, if that was below a topic; else "".
        note: Why they came back, or died elsewhere, as it travels; None where the broker says nothing.

    """

    __slots__ = (
        "_batch",
        "_headers",
        "_keys",
        "_message_ids",
        "_subjects",
        "attempts",
        "bodies",
        "count",
        "deliveries",
        "destination",
        "first_index",
        "first_tag",
        "id_base",
        "note",
        "owner",
        "producer",
        "published_ms",
        "zxid",
    )  # fmt: skip

    def __init__(self, owner: Any, first_tag: int, numbers: list[int], data: memoryview, destination: str = "") -> None:
        self.owner = owner
        self.destination = destination
        self.note: Mapping[str, Any] | None = None
        self.first_tag = first_tag
        (
            self.zxid, self.first_index, self.count, _bytes, self.published_ms, self.producer, self.id_base,
            self.deliveries, self.attempts,
        ) = numbers  # fmt: skip
        batch = Batch(data)
        if batch.count != self.count:
            raise ProtocolError(f"a run of {self.count} messages came with a batch of {batch.count}")
        self._batch = batch
        self.bodies = batch.bodies
        self._keys: list[str | None] | None = None
        self._subjects: list[str | None] | None = None
        self._headers: list[dict[str, Any] | None] | None = None
        self._message_ids: list[str | None] | None = None

    def key(self, offset: int) -> str | None:
        """Return the key of message *offset*."""
        if self._keys is None:
            self._keys = self._batch.keys or [None] * self.count
        return self._keys[offset]

    def subject(self, offset: int) -> str | None:
        """Return the subject of message *offset*."""
        if self._subjects is None:
            self._subjects = self._batch.subjects or [None] * self.count
        return self._subjects[offset]

    def headers(self, offset: int) -> Mapping[str, Any]:
        """Return the headers of message *offset*, read-only."""
        if self._headers is None:
            self._headers = self._batch.headers or [None] * self.count
        headers = self._headers[offset]
        return NO_HEADERS if headers is None else MappingProxyType(headers)

    def message_id(self, offset: int) -> str | None:
        """Return the id that the sender gave to message *offset*, if it gave one."""
        if self._message_ids is None:
            self._message_ids = self._batch.message_ids or [None] * self.count
        return self._message_ids[offset]


class Slice(NamedTuple):
    """Messages *start* to *stop* - 1 of a run."""

    run: Run
    start: int
    stop: int


_NO_NOTES: Mapping[int, Mapping[str, Any]] = MappingProxyType({})


def _by_run(notes: Sequence[Mapping[str, Any]], runs: int) -> dict[int, Mapping[str, Any]]:
    """Return the note of each run that has one; what makes no sense says nothing."""
    found: dict[int, Mapping[str, Any]] = {}
    for note in notes:
        ranges = note.get("runs")
        if isinstance(ranges, list) and len(ranges) % 2 == 0 and all(isinstance(each, int) for each in ranges):
            for first, last in pairs(ranges):
                found.update(dict.fromkeys(range(max(first, 0), min(last + 1, runs)), note))
    return found


class _Delivery:
    """One DELIVER frame of which something is left."""

    __slots__ = ("destinations", "next_tag", "notes", "numbers", "position", "start", "tail")

    def __init__(
        self,
        first_tag: int,
        numbers: list[int],
        tail: memoryview,
        destinations: Sequence[str],
        notes: Sequence[Mapping[str, Any]],
    ) -> None:
        self.notes = _by_run(notes, len(numbers) // RUN_NUMBERS) if notes else _NO_NOTES
        self.destinations = destinations
        self.next_tag = first_tag
        self.numbers = numbers
        self.tail = tail
        self.position = 0
        self.start = 0


class DeliveryBuffer:
    """The messages of one consumer on one session, in the order of their tags.

    Attributes:
        count: How many there are to hand out.
        next_tag: Tag of the next one to hand out; every lower one was handed out or lost.
        last_tag: The highest tag that was ever delivered.

    """

    def __init__(self, owner: Any) -> None:
        self.count = 0
        self.next_tag = 1
        self.last_tag = 0
        self._owner = owner
        self._deliveries: deque[_Delivery] = deque()
        self._run: Run | None = None
        self._offset = 0
        self._lost = TagRanges()

    def add(
        self,
        first_tag: int,
        numbers: list[int],
        tail: memoryview,
        destinations: Sequence[str] = (),
        notes: Sequence[Mapping[str, Any]] = (),
    ) -> int:
        """Append what one DELIVER frame brought; return how many messages.

        Raises:
            ProtocolError: Tags that do not follow, or a tail that does not match.

        """
        count = sum(numbers[2::RUN_NUMBERS])
        if first_tag != self.last_tag + 1:
            raise ProtocolError(f"a delivery begins with tag {first_tag} after tag {self.last_tag}")
        if sum(numbers[3::RUN_NUMBERS]) != len(tail) or not count or 0 in numbers[2::RUN_NUMBERS]:
            raise ProtocolError(f"a delivery of {count} messages whose runs do not match its tail of {len(tail)} bytes")
        self.last_tag += count
        self.count += count
        self._deliveries.append(_Delivery(first_tag, numbers, tail, destinations, notes))
        return count

    def go_on(self, next_tag: int) -> None:
        """Expect the next delivery to begin with *next_tag*: those between were never delivered here."""
        self.last_tag = max(self.last_tag, next_tag - 1)

    def take_one(self) -> tuple[Run, int] | None:
        """Return the next message as (run, offset), or None if there is none."""
        while self.count:
            run = self._run
            if run is None:
                run = self._next_run()
            offset = self._offset
            self._offset = offset + 1
            if offset + 1 >= run.count:
                self._run = None
            tag = self.next_tag
            self.next_tag = tag + 1
            # What was lost has left the count already.
            if not self._lost or not self._lost.take(tag, tag):
                self.count -= 1
                return run, offset
        return None

    def take(self, messages_max: int) -> list[Slice]:
        """Return the next messages, at most *messages_max*."""
        taken: list[Slice] = []
        while self._lost and messages_max and self.count:
            # Rare: go one by one around what was lost.
            one = self.take_one()
            if one is None:
                return taken
            run, offset = one
            if taken and taken[-1].run is run and taken[-1].stop == offset:
                taken[-1] = Slice(run, taken[-1].start, offset + 1)
            else:
                taken.append(Slice(run, offset, offset + 1))
            messages_max -= 1
        while messages_max and self.count:
            run = self._run or self._next_run()
            start = self._offset
            size = min(messages_max, run.count - start)
            stop = start + size
            taken.append(Slice(run, start, stop))
            self._offset = stop
            if stop >= run.count:
                self._run = None
            self.count -= size
            self.next_tag += size
            messages_max -= size
        return taken

    def _next_run(self) -> Run:
        delivery = self._deliveries[0]
        position = delivery.position
        numbers = delivery.numbers[position : position + RUN_NUMBERS]
        end = delivery.start + numbers[3]
        destination = ""
        if delivery.destinations:
            number = position // RUN_NUMBERS
            destination = delivery.destinations[number] if number < len(delivery.destinations) else ""
        self.next_tag = delivery.next_tag
        data = delivery.tail[delivery.start : end]
        run = self._run = Run(self._owner, delivery.next_tag, numbers, data, destination)
        if delivery.notes:
            run.note = delivery.notes.get(position // RUN_NUMBERS)
        self._offset = 0
        delivery.next_tag += numbers[2]
        delivery.start = end
        delivery.position = position + RUN_NUMBERS
        if delivery.position >= len(delivery.numbers):
            self._deliveries.popleft()
        return run

    def lose(self, ranges: FlatRanges) -> int:
        """Never hand out the tags in *ranges*, each of which is named once; return how many were still here."""
        lost = 0
        for first, last in pairs(ranges):
            low = max(first, self.next_tag)
            if low <= last:
                self._lost.add(low, last)
                lost += last - low + 1
        self.count -= lost
        return lost

    def clear(self) -> None:
        """Forget everything that was not handed out."""
        self.count = 0
        self.next_tag = self.last_tag + 1
        self._deliveries.clear()
        self._run = None
        self._lost.clear()
