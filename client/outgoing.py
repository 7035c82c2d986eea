"""A batch on its way out: the messages collected for one destination, and who waits for them. Pure.

It must not know sequences' rules (`sending_window`), sessions or loops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from sluicemq.client.errors import SluiceError
from sluicemq.client.receipts import Confirmation
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.columns import BATCH_VALUES_MAX, check_values
from sluicemq.wire.messages import ACKS_QUORUM

MESSAGE_OVERHEAD_BYTES = 5
"""Most bytes that msgpack puts in front of one value."""
NUMBER_BYTES_MAX = 9
"""Most bytes of a number as msgpack writes it."""
BATCH_OVERHEAD_BYTES = 96
"""Header, column lengths and list heads of a batch."""


class Attributes(NamedTuple):
    """What accompanies a body, where anything does; *due*, *ttl* and *priority* as they travel, in milliseconds."""

    key: str | None
    subject: str | None
    headers: Mapping[str, Any] | None = None
    message_id: str | None = None
    due: int | None = None
    ttl: int | None = None
    priority: int | None = None


NO_ATTRIBUTES = Attributes(None, None)


class Values(NamedTuple):
    """What counts against the limit of values that one batch may have beside its bodies.

    Attributes:
        columns: One bit for each column beside the bodies; a column has a value for every message of the batch.
        header_items: Items of all headers, and of the maps and lists within them.

    """

    columns: int
    header_items: int


def values_of(attributes: Attributes) -> Values:
    """Return what one message brings; its headers must be such as can travel."""
    if attributes is NO_ATTRIBUTES:
        return _NO_VALUES
    columns = sum(1 << place for place, value in enumerate(attributes) if value is not None)
    items = 0
    containers: list[Any] = [] if attributes.headers is None else [attributes.headers]
    while containers:
        container = containers.pop()
        items += len(container) or 1
        values = container.values() if isinstance(container, Mapping) else container
        containers += [value for value in values if isinstance(value, (Mapping, list, tuple))]
    return Values(columns, items)


def check_message_values(attributes: Attributes) -> None:
    """Refuse a message that no batch can take, not even one of its own.

    Raises:
        BatchTooLarge: Its headers have too many items.

    """
    columns, items = values_of(attributes)
    check_values(columns.bit_count() + items)


_NO_VALUES = Values(0, 0)


class Pending:
    """One send that waits for its receipt (or, with `send_many`, for those of a whole batch).

    Attributes:
        handle: The waiting task; belongs to the runtime.
        deadline: Time after which it waits no longer.
        batch: The batch that it is part of, or None while it waits for room in the window.
        index: Its place in that batch, known once confirmed.
        confirmation: Set once the broker confirmed.
        error: Set once it failed.

    """

    __slots__ = ("batch", "confirmation", "deadline", "error", "handle", "index")

    def __init__(self, deadline: float) -> None:
        self.handle: Any = None
        self.deadline = deadline
        self.batch: OutgoingBatch | None = None
        self.index = 0
        self.confirmation: Confirmation | None = None
        self.error: SluiceError | None = None


class OutgoingBatch:
    """Messages for one destination that travel, and are stored, together.

    Attributes:
        destination: Name of the queue.
        whole: Made by one `send_many`: takes no other message, and one pending stands for all.
        acks: Whose disks confirm it, a number as it travels.
        bodies: The messages; empty if *whole*, as they are packed at once.
        pendings: Who waits; one for each body, or a single one if *whole*.
        size_bytes: Upper bound of its encoded size.
        producer: Number of the producer under which it was sent, 0 before.
        sequence: Number that it was sent with, 0 before.
        admissible: The broker said that it takes as many messages, when it refused more.
        awaiting: Sent on the current connection and not answered.
        stale: Sent on an earlier connection and not answered there: it may be stored already.
        refusal: Why it is known not to be stored, once that is known.

    """

    __slots__ = (
        "_attributes", "_columns", "_encoded", "_header_items", "_whole_count", "acks", "admissible", "awaiting",
        "bodies", "destination", "pendings", "producer", "refusal", "sequence", "size_bytes", "stale", "whole",
    )  # fmt: skip

    def __init__(self, destination: str, *, whole: bool = False, acks: int = ACKS_QUORUM) -> None:
        self.destination = destination
        self.whole = whole
        self.acks = acks
        self.bodies: list[bytes] = []
        self.pendings: list[Pending] = []
        self.size_bytes = BATCH_OVERHEAD_BYTES
        self.producer = 0
        self.sequence = 0
        self.awaiting = False
        self.admissible = False
        self.stale = False
        self.refusal: SluiceError | None = None
        self._attributes: list[Attributes] | None = None
        self._columns = 0
        self._whole_count = 0
        self._encoded: bytes | None = None
        self._header_items = 0

    @property
    def count(self) -> int:
        """How many messages it holds."""
        return self._whole_count if self.whole else len(self.bodies)

    def has_room_for(self, attributes: Attributes) -> bool:
        """Whether one message more leaves the batch within `BATCH_VALUES_MAX`."""
        if attributes is NO_ATTRIBUTES and not self._columns:
            return True
        columns, items = values_of(attributes)
        values = (len(self.bodies) + 1) * (self._columns | columns).bit_count() + self._header_items + items
        return values <= BATCH_VALUES_MAX

    def add(self, body: bytes, attributes: Attributes, pending: Pending, size_bytes: int) -> None:
        """Append one message."""
        if attributes is not NO_ATTRIBUTES or self._attributes is not None:
            if self._attributes is None:
                self._attributes = [NO_ATTRIBUTES] * len(self.bodies)
            self._attributes.append(attributes)
        if attributes is not NO_ATTRIBUTES:
            columns, items = values_of(attributes)
            self._columns |= columns
            self._header_items += items
        self.bodies.append(body)
        self.pendings.append(pending)
        self.size_bytes += size_bytes
        pending.batch = self

    def fill(self, bodies: list[bytes], attributes: list[Attributes] | None, pending: Pending) -> None:
        """Become the batch of one `send_many`; it is packed at once, which tells its size and checks its values.

        Raises:
            BatchTooLarge: More than any broker takes.
            InvalidRequest: A value that cannot travel.

        """
        self._attributes = attributes
        self.bodies = bodies
        self._encoded = self.encode()
        self.bodies = []  # the packed ones are enough
        self._whole_count = len(bodies)
        self.pendings = [pending]
        self.size_bytes = len(self._encoded)
        pending.batch = self

    def withdraw(self, pending: Pending) -> int:
        """Take the messages of *pending* out again; return their size."""
        index = self.pendings.index(pending)
        del self.pendings[index]
        pending.batch = None
        if self.whole:
            return self.size_bytes
        body = self.bodies.pop(index)
        attributes = self._attributes.pop(index) if self._attributes is not None else NO_ATTRIBUTES
        size = message_size(body, attributes)
        self.size_bytes -= size
        return size

    def split(self, count: int) -> OutgoingBatch:
        """Keep the first *count* messages, and return a batch of all others; only where each has its own pending."""
        assert not self.whole, "what was sent as one batch stays one"
        rest = OutgoingBatch(self.destination, acks=self.acks)
        attributes = self._attributes or [NO_ATTRIBUTES] * len(self.bodies)
        moved = list(zip(self.bodies, attributes, self.pendings, strict=True))[count:]
        for body, row, pending in moved:
            size = message_size(body, row)
            rest.add(body, row, pending, size)
            self.size_bytes -= size
        del self.bodies[count:], self.pendings[count:]
        if self._attributes is not None:
            del self._attributes[count:]
        return rest

    def encode(self) -> bytes:
        """Return the batch as it travels."""
        columns = self._attributes
        if self._encoded is not None:
            return self._encoded
        if columns is None:
            return encode_batch(self.bodies)
        return encode_batch(
            self.bodies,
            keys=_column([item.key for item in columns]),
            subjects=_column([item.subject for item in columns]),
            headers=_column([item.headers for item in columns]),
            message_ids=self.message_ids,
            due_times=_column([item.due for item in columns]),
            ttls=_column([item.ttl for item in columns]),
            priorities=_column([item.priority for item in columns]),
        )

    @property
    def message_ids(self) -> Sequence[str | None] | None:
        """The ids that the sender gave, or None if it gave none."""
        if self._attributes is None:
            return None
        return _column([item.message_id for item in self._attributes])


def message_size(body: bytes, attributes: Attributes) -> int:
    """Return the most bytes that one message adds to a batch."""
    size = len(body) + MESSAGE_OVERHEAD_BYTES
    if attributes is NO_ATTRIBUTES:
        return size
    # A None in a column that another message opened is one byte; seven columns.
    size += len(attributes)
    for number in (attributes.due, attributes.ttl, attributes.priority):
        if number is not None:
            size += NUMBER_BYTES_MAX
    for text in (attributes.key, attributes.subject, attributes.message_id):
        if text is not None:
            size += len(text.encode()) + MESSAGE_OVERHEAD_BYTES
    if attributes.headers is not None:
        size += packed_headers_size(attributes.headers)
    return size


def packed_headers_size(headers: Mapping[str, Any]) -> int:
    """Return the size of *headers* as they travel.

    Raises:
        InvalidRequest: A value that msgpack cannot carry.

    """
    return len(encode_batch([b""], headers=[headers]))


def _column(values: list[Any]) -> list[Any] | None:
    return values if any(value is not None for value in values) else None
