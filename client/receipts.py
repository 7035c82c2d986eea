"""What a producer gets once its messages are safe. Pure; made lazily: a thousand receipts cost as much as one."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple, overload

from sluicemq.client.errors import InvalidRequest
from sluicemq.wire.message_ids import default_message_id
from sluicemq.wire.messages import KNOWN_NUMBERS
from sluicemq.wire.positions import format_position

ACKS = ("quorum", "all", "leader")
"""Who has to have a message before it counts as sent; the place of each is its number in frames."""


def acks_number(acks: str) -> int:
    """Return the number of an acknowledgement level.

    Raises:
        InvalidRequest: There is no such level.

    """
    if acks not in ACKS:
        raise InvalidRequest(f"acks is {acks!r:.40}; it must be one of {', '.join(ACKS)}")
    return ACKS.index(acks)


def acks_name(number: int) -> str:
    """Return the level of a number; one that a newer broker knows is at least a quorum."""
    return ACKS[number] if number < len(ACKS) else ACKS[0]


class Confirmation(NamedTuple):
    """What the broker said about one batch, with what names its messages.

    Attributes:
        group: Group of brokers that holds it.
        zxid: Entry of the log that holds it.
        duplicate: Whether it was there before this send.
        producer: Number of the producer.
        sequence: The batch's number, counted by the producer.
        messages: How many messages it holds.
        message_ids: Ids that the sender gave, None where it gave none at all.
        known: Which messages were not stored, because others with their ids were, as PUBLISHED says it.
        known_bits: The same without where those are, likewise.
        acks: Which brokers have it: "quorum", "all" or "leader".
        id_base: Id of the first message, for those without one of their own; 0: forgotten.

    """

    group: int
    zxid: int
    duplicate: bool
    producer: int
    sequence: int
    messages: int
    message_ids: Sequence[str | None] | None
    known: Sequence[int] = ()
    known_bits: bytes = b""
    acks: str = "quorum"
    id_base: int = 0

    def is_known(self, index: int) -> bool:
        """Whether another message with the id of message *index* was stored before it."""
        if self.known_bits:
            return bool(self.known_bits[index // 8] >> index % 8 & 1)
        return bool(self.known) and self._original(index) is not None

    def place(self, index: int) -> tuple[int, int] | None:
        """Return zxid and index of message *index*, or of its original; None: nobody said where that is."""
        if self.known_bits:
            return None if self.is_known(index) else (self.zxid, index)
        original = self._original(index) if self.known else None
        return (self.zxid, index) if original is None else original

    def _original(self, index: int) -> tuple[int, int] | None:
        firsts = self.known[::KNOWN_NUMBERS]
        number = bisect_right(firsts, index) - 1
        if number < 0:
            return None
        first, count, zxid, original = self.known[number * KNOWN_NUMBERS : (number + 1) * KNOWN_NUMBERS]
        return (zxid, original + index - first) if index < first + count else None


class Receipt:
    """Proof that one message is durable and committed."""

    __slots__ = ("_confirmation", "_index")

    def __init__(self, confirmation: Confirmation, index: int) -> None:
        self._confirmation = confirmation
        self._index = index

    @property
    def position(self) -> str:
        """Where the message lies, of a duplicate by its id where the first one lies: an opaque text that never changes.

        Empty where that is not known: the broker's answer about very many duplicates must fit a frame.
        """
        place = self._confirmation.place(self._index)
        return "" if place is None else format_position(self._confirmation.group, *place)

    @property
    def stored_at(self) -> str:
        """Where this very message was stored, even if it is a duplicate of another by its id."""
        confirmation = self._confirmation
        return format_position(confirmation.group, confirmation.zxid, self._index)

    def known(self, known: Sequence[int], known_bits: bytes) -> Receipt:
        """Return the receipt where the broker said later which messages are duplicates, as PUBLISHED says it."""
        return Receipt(self._confirmation._replace(known=known, known_bits=known_bits), self._index)

    @property
    def message_id(self) -> str:
        """The id that the sender gave, else the one that every message gets."""
        confirmation = self._confirmation
        given = confirmation.message_ids[self._index] if confirmation.message_ids is not None else None
        if given is not None:
            return given
        return default_message_id(confirmation.id_base, self._index)

    @property
    def duplicate(self) -> bool:
        """Whether the message was safe before, at this very position: the send had been repeated, or another message
        with its id was stored within the queue's or topic's `dedup_window`."""
        return self._confirmation.duplicate or self._confirmation.is_known(self._index)

    @property
    def acks(self) -> str:
        """Which brokers have it on disk: "quorum", "all", or with acks="leader" perhaps only the "leader"."""
        return self._confirmation.acks

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Receipt):
            return NotImplemented
        return self.position == other.position

    def __hash__(self) -> int:
        return hash(self.position)

    def __repr__(self) -> str:
        return f"Receipt(position={self.position!r}, message_id={self.message_id!r}, duplicate={self.duplicate})"


class Receipts(Sequence[Receipt]):
    """The receipts of one `send_many`, in the order of its messages; each is made when it is asked for."""

    __slots__ = ("_confirmation", "_indices")

    def __init__(self, confirmation: Confirmation, indices: range | None = None) -> None:
        self._confirmation = confirmation
        self._indices = range(confirmation.messages) if indices is None else indices

    @property
    def duplicate(self) -> bool:
        """Whether the whole batch was safe before."""
        return self._confirmation.duplicate

    def __len__(self) -> int:
        return len(self._indices)

    @overload
    def __getitem__(self, index: int) -> Receipt: ...
    @overload
    def __getitem__(self, index: slice) -> Receipts: ...
    def __getitem__(self, index: int | slice) -> Receipt | Receipts:
        if isinstance(index, slice):
            return Receipts(self._confirmation, self._indices[index])
        return Receipt(self._confirmation, self._indices[index])

    def __iter__(self) -> Iterator[Receipt]:
        confirmation = self._confirmation
        return (Receipt(confirmation, index) for index in self._indices)

    def __repr__(self) -> str:
        return f"<Receipts of {len(self)} messages, duplicate={self.duplicate}>"
