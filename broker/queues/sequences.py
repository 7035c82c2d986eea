"""Producers: numbers, names and sequences, so that a batch that is sent again is stored once.

A producer numbers its batches from 1. The next number is accepted, one that was accepted before gets the receipt of
that time, one beyond the next is a gap. A name belongs to one producer at a time: a newer one fences the older.

Producers outlive their connections, because what was sent before a break may be sent again after it. So they are
bounded in number, and nobody may push out another's by opening many: a producer is forgotten for a new one's sake only
after a long silence, else the new one is refused. This module must not know queues or batches.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sluicemq.wire.errors import (
    InvalidRequest,
    LimitReached,
    ProducerFenced,
    ProducerNotFound,
    SequenceGap,
    SluiceError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class _Sequenced(Protocol):
    """An entry of a producer."""

    @property
    def producer(self) -> int: ...
    @property
    def sequence(self) -> int: ...


class FrozenProducer(NamedTuple):
    """A producer as it was at one moment: the fields of `Producer`, *receipts* and *id_bases* its rings as they lie."""

    number: int
    vhost: str
    name: str
    identity: str
    last: int
    turn: int
    heard_ms: int
    fenced: tuple[int, ...]
    receipts: bytes
    id_bases: bytes


class Producer:
    """One producer.

    Attributes:
        number: Its number: the zxid of the entry that opened it.
        vhost: Its vhost.
        name: Its name, or "" for none.
        identity: Who opened it.
        last: Highest sequence accepted; 0 before the first.
        turn: When it was heard last, among all producers: those with a lower turn are forgotten first.
        heard_ms: Log time of that.
        fenced: Whom this producer and its predecessors took the name from, oldest first.
        frozen_for: Number of the last freeze that has what it needs of this producer.

    """

    __slots__ = (
        "_id_bases",
        "_receipts",
        "fenced",
        "frozen_for",
        "heard_ms",
        "identity",
        "last",
        "name",
        "number",
        "turn",
        "vhost",
    )

    def __init__(self, number: int, vhost: str, name: str, identity: str, heard_ms: int) -> None:
        self.number = number
        self.vhost = vhost
        self.name = name
        self.identity = identity
        self.heard_ms = heard_ms
        self.last = 0
        self.turn = 0
        self.fenced: tuple[int, ...] = ()
        self.frozen_for = 0
        self._receipts = array("Q")  # a ring, as long as its limit once that many were accepted
        self._id_bases = array("Q")  # likewise: the id of each batch's first message

    @classmethod
    def thawed(cls, frozen: FrozenProducer) -> Producer:
        """Return the producer that *frozen* is a copy of."""
        producer = cls(frozen.number, frozen.vhost, frozen.name, frozen.identity, frozen.heard_ms)
        producer.last = frozen.last
        producer.turn = frozen.turn
        producer.fenced = frozen.fenced
        producer._receipts.frombytes(frozen.receipts)
        producer._id_bases.frombytes(frozen.id_bases)
        return producer

    def frozen(self) -> FrozenProducer:
        """Return a copy that nothing changes any more."""
        return FrozenProducer(
            self.number,
            self.vhost,
            self.name,
            self.identity,
            self.last,
            self.turn,
            self.heard_ms,
            self.fenced,
            self._receipts.tobytes(),
            self._id_bases.tobytes(),
        )

    def receipt(self, sequence: int) -> int:
        """Return the zxid of the batch *sequence*, or 0 when it is too long ago."""
        length = len(self._receipts)
        return self._receipts[(sequence - 1) % length] if sequence > self.last - length else 0

    def id_base(self, sequence: int) -> int:
        """Return the id of the first message of the batch *sequence*, or 0 when it is too long ago."""
        length = len(self._id_bases)
        return self._id_bases[(sequence - 1) % length] if self.last - length < sequence <= self.last else 0

    def record(self, zxid: int, receipts_max: int, id_base: int = 0) -> None:
        """Note that the next batch was accepted as *zxid*."""
        if len(self._receipts) < receipts_max:
            self._receipts.append(zxid)
            self._id_bases.append(id_base)
        else:
            self._receipts[self.last % receipts_max] = zxid
            self._id_bases[self.last % receipts_max] = id_base
        self.last += 1

    def receipts(self) -> list[tuple[int, int]]:
        """Return all known receipts with the ids of their first messages, oldest first."""
        start = self.last - len(self._receipts) + 1
        return [(self.receipt(sequence), self.id_base(sequence)) for sequence in range(start, self.last + 1)]


class Producers:
    """All producers, least recently used first.

    Args:
        producers_max: Most producers.
        receipts_max: Receipts remembered for each producer.
        fenced_max: Fenced numbers remembered for each name.
        identity_producers_max: Most producers of one identity.
        silence_ms: After so many milliseconds of log time without a word a producer may be forgotten for a new one's
            sake.

    """

    def __init__(
        self,
        producers_max: int,
        receipts_max: int,
        fenced_max: int,
        *,
        identity_producers_max: int,
        silence_ms: int,
    ) -> None:
        self._producers_max = producers_max
        self._identity_producers_max = identity_producers_max
        self._silence_ms = silence_ms
        self._receipts_max = receipts_max
        self._fenced_max = fenced_max
        self._producers: OrderedDict[int, Producer] = OrderedDict()
        # The same producers by identity, each least recently used first.
        self._of_identity: dict[str, OrderedDict[int, Producer]] = {}
        self._turn = 0
        self._names: dict[tuple[str, str], Producer] = {}
        self._fenced: dict[int, tuple[str, str]] = {}

    def __len__(self) -> int:
        return len(self._producers)

    def __iter__(self) -> Iterator[Producer]:
        return iter(self._producers.values())

    def __reversed__(self) -> Iterator[Producer]:
        """Go through all producers, those that were heard last first."""
        return reversed(self._producers.values())

    def get(self, number: int) -> Producer | None:
        """Return the producer of this number, if it is known and not fenced."""
        return self._producers.get(number)

    def unordered(self) -> list[Producer]:
        """Return all producers in any order: 40 times faster than in order, which `Producer.turn` tells too."""
        return list(dict.values(self._producers))

    def restore(self, producers: Iterable[Producer]) -> None:
        """Take over *producers* from an image, in any order; there must be none yet."""
        assert not self._producers, "producers are restored once"
        for turn, producer in enumerate(sorted(producers, key=attrgetter("turn")), 1):
            producer.turn = self._turn = turn
            self._add(producer)
            if producer.name:
                key = (producer.vhost, producer.name)
                self._names[key] = producer
                self._fenced.update(dict.fromkeys(producer.fenced, key))

    def fenced(self) -> dict[int, tuple[str, str]]:
        """Return vhost and name of every fenced number that is remembered."""
        return dict(self._fenced)

    def make_room(self, vhost: str, name: str, identity: str, now_ms: int) -> LimitReached | None:
        """Forget who was silent for long, where there is no room for one more; return the error where nobody was.

        Whoever has the name already makes room itself.
        """
        fenced = self._names.get((vhost, name)) if name else None
        own = self._of_identity.get(identity)
        count = 0 if own is None or (fenced is not None and fenced.identity == identity) else len(own)
        if own is not None and count >= self._identity_producers_max and not self._forget_silent(own, now_ms):
            limit = self._identity_producers_max
            return self._no_room(f"{identity!r:.300} has {count} producers", "identity_producers_max", limit)
        count = len(self._producers)
        if fenced is None and count >= self._producers_max and not self._forget_silent(self._producers, now_ms):
            return self._no_room(f"there are {count} producers", "producers_max", self._producers_max)
        return None

    def _forget_silent(self, producers: OrderedDict[int, Producer], now_ms: int) -> bool:
        silent = next(iter(producers.values()))
        return silent.heard_ms + self._silence_ms <= now_ms and self.close(silent.number)

    def _no_room(self, what: str, limit: str, value: int) -> LimitReached:
        return LimitReached(
            f"{what}, no more are allowed, and each was heard of within {self._silence_ms / 60_000:g} minutes: close "
            "those that are done, or publish through fewer",
            limit=limit,
            value=value,
        )

    def open(self, number: int, vhost: str, name: str, identity: str, now_ms: int) -> Producer:
        """Add a producer; fences the one that has the same name. Beyond the limit the one that was silent longest is
        forgotten: old entries of the log were judged like that, new ones come after `make_room`."""
        producer = Producer(number, vhost, name, identity, now_ms)
        if name:
            key = (vhost, name)
            known = self._names.get(key)
            if known is not None:
                self._drop(known)
                fenced = (*known.fenced, known.number)
                if len(fenced) > self._fenced_max:
                    del self._fenced[fenced[0]]
                    fenced = fenced[1:]
                self._fenced[known.number] = key
                producer.fenced = fenced
            self._names[key] = producer
        self._add(producer)
        self._turn = producer.turn = self._turn + 1
        if len(self._producers) > self._producers_max:
            self.close(next(iter(self._producers)))
        return producer

    def close(self, number: int) -> bool:
        """Forget a producer, and its name with whom the name has fenced; return whether it was known."""
        producer = self._producers.get(number)
        if producer is None:
            return False
        self._drop(producer)
        if producer.name:
            for fenced in self._names.pop((producer.vhost, producer.name)).fenced:
                del self._fenced[fenced]
        return True

    def _add(self, producer: Producer) -> None:
        self._producers[producer.number] = producer
        self._of_identity.setdefault(producer.identity, OrderedDict())[producer.number] = producer

    def _drop(self, producer: Producer) -> None:
        del self._producers[producer.number]
        own = self._of_identity[producer.identity]
        del own[producer.number]
        if not own:
            del self._of_identity[producer.identity]

    def judge(self, number: int, sequence: int, now_ms: int) -> Producer | int | SluiceError:
        """Judge a batch: the producer when it is the next one, its old zxid when it is a duplicate, or an error.

        A duplicate whose receipt was forgotten gets 0. Accepting is a second step (`Producer.record`), because a
        batch that is refused for another reason burns no sequence.
        """
        producer = self._producers.get(number)
        if producer is None:
            return self.unknown(number)
        self._producers.move_to_end(number)
        self._of_identity[producer.identity].move_to_end(number)
        producer.heard_ms = now_ms
        self._turn = producer.turn = self._turn + 1
        expected = producer.last + 1
        if sequence == expected:
            return producer
        if sequence > expected:
            return SequenceGap(
                f"batch {sequence} of producer {number} came ahead of its predecessors; resend from {expected}",
                expected=expected,
                sequence=sequence,
            )
        if sequence < 1:
            return InvalidRequest("a producer numbers its batches from 1")
        return producer.receipt(sequence)

    def record(self, producer: Producer, zxid: int, id_base: int = 0) -> None:
        """Accept the next batch of *producer* as *zxid*; *id_base* is the id of its first message."""
        producer.record(zxid, self._receipts_max, id_base)

    def id_base(self, entry: _Sequenced) -> int:
        """Return the id of the first message of a batch that was accepted before; 0 when that is too long ago."""
        producer = self._producers.get(entry.producer)
        return 0 if producer is None else producer.id_base(entry.sequence)

    def unknown(self, number: int) -> SluiceError:
        """Return the error for a number that `get` does not know: fenced, or not found."""
        key = self._fenced.get(number)
        if key is not None:
            return ProducerFenced(
                f"a newer producer took over the name {key[1]!r}; producer {number} must stop", producer=number
            )
        return ProducerNotFound(
            f"producer {number} was closed, or forgotten after a long silence; open a new one", producer=number
        )

    def check(self) -> None:
        """Assert that names, numbers and limits agree."""
        assert len(self._producers) <= self._producers_max, "producers are bounded"
        for identity, own in self._of_identity.items():
            expected = [producer for producer in self if producer.identity == identity]
            assert list(own.values()) == expected, "an identity's producers stand in the order of all"
        assert sum(map(len, self._of_identity.values())) == len(self._producers), "each producer has one identity"
        heard = [producer.heard_ms for producer in self]
        assert heard == sorted(heard), "who was heard of last stands last"
        turn = 0
        fenced: dict[int, tuple[str, str]] = {}
        for producer in self._producers.values():
            assert turn < producer.turn <= self._turn, "turns ascend in the order of the producers"
            turn = producer.turn
            if producer.name:
                key = (producer.vhost, producer.name)
                assert self._names[key] is producer, "a name has one producer"
                fenced.update(dict.fromkeys(producer.fenced, key))
            else:
                assert not producer.fenced, "who has no name fences nobody"
        assert len(self._names) == sum(1 for producer in self if producer.name), "the producer of a name is known"
        assert fenced == self._fenced, "a fenced number is remembered while its name lives"
