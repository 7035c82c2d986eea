"""How many producers there may be, and that nobody pushes out another's by opening many."""

from __future__ import annotations

import pytest

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.entries import decode_entry
from sluicemq.broker.queues.machine import Machine, MachineLimits
from sluicemq.broker.queues.outcomes import Outcome, ProducerOpened, Published
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import LimitReached, ProducerNotFound

LIMITS = MachineLimits(producers_max=4, identity_producers_max=3, producer_silence_ms=1_000)


class Life:
    """A machine at work."""

    def __init__(self) -> None:
        self.machine = Machine(LIMITS)
        self.zxid = 0
        self.now = 10_000
        self.records: list[tuple[int, int, int, bytes, bytes]] = []
        self.apply(e.Declare(self.now, "/", "queue", "orders", {}))

    def apply(self, entry: e.Entry) -> Outcome:
        self.zxid += 1
        self.records.append((self.zxid, entry.KIND, entry.VERSION, entry.header(), bytes(entry.payload)))
        outcome = self.machine.apply(self.zxid, entry)
        self.machine.check()
        return outcome

    def open(self, identity: str, name: str = "") -> int:
        """Open a producer and return its number; raises what was answered."""
        outcome = self.apply(e.ProducerOpen(self.now, "/", name, identity))
        if outcome.error is not None:
            raise outcome.error
        assert isinstance(outcome.value, ProducerOpened)
        return outcome.value.producer

    def publish(self, producer: int, sequence: int) -> Outcome:
        payload = encode_batch([b"x"])
        return self.apply(e.Publish(self.now, 1, producer, sequence, 1, 1, payload=payload))

    def known(self) -> list[int]:
        return sorted(producer.number for producer in self.machine.producers)


def test_one_identity_is_refused_at_its_limit_and_pushes_out_nobody() -> None:
    life = Life()
    bob = life.open("bob")
    anns = [life.open("ann") for _ in range(3)]
    with pytest.raises(LimitReached, match=r"'ann' has 3 producers, no more are allowed") as caught:
        life.open("ann")

    assert (caught.value.limit, caught.value.value) == ("identity_producers_max", 3)
    assert life.known() == [bob, *anns]


def test_all_identities_together_are_refused_at_the_limit_of_all() -> None:
    life = Life()
    numbers = [life.open(identity) for identity in ("ann", "ann", "bob", "bob")]
    with pytest.raises(LimitReached) as caught:
        life.open("eve")

    assert (caught.value.limit, caught.value.value) == ("producers_max", 4)
    assert life.known() == numbers


def test_at_the_limit_of_an_identity_its_own_longest_silent_producer_goes_and_no_others() -> None:
    life = Life()
    bob = life.open("bob")
    first, second, third = (life.open("ann") for _ in range(3))
    life.now += 999
    assert isinstance(life.publish(first, 1).value, Published)
    with pytest.raises(LimitReached):
        life.open("ann")
    life.now += 1
    new = life.open("ann")

    assert life.known() == [bob, first, third, new], "the second was silent longest, though the first is older"
    assert isinstance(life.publish(second, 1).error, ProducerNotFound)
    assert life.open("ann"), "the third was silent as long as the second"
    with pytest.raises(LimitReached):
        life.open("ann")
    assert first in life.known(), "it spoke a millisecond ago"


def test_at_the_limit_of_all_whoever_was_silent_longest_goes() -> None:
    life = Life()
    numbers = [life.open(identity) for identity in ("ann", "ann", "bob", "bob")]
    life.now += 1_000
    new = life.open("eve")

    assert life.known() == [*numbers[1:], new]


def test_who_takes_over_a_name_needs_no_room() -> None:
    life = Life()
    numbers = [life.open("ann", name) for name in ("a", "b", "c")]
    numbers.append(life.open("bob", "d"))
    again = life.open("ann", "b")
    assert life.known() == [numbers[0], numbers[2], numbers[3], again]

    with pytest.raises(LimitReached, match="'ann' has 3"):
        life.open("ann", "d")
    assert life.open("bob", "b"), "ann has one less"
    assert life.open("ann", "d"), "so there is room for her again"


def test_closing_a_producer_makes_room() -> None:
    life = Life()
    first, *_ = (life.open("ann") for _ in range(3))
    life.apply(e.ProducerClose(life.now, first))

    assert life.open("ann")


def test_an_old_log_is_judged_as_it_was_when_it_was_written() -> None:
    """Version 1 never refused: who was silent longest went, however short that was."""
    life = Life()
    for _ in range(4):
        header = e.ProducerOpen(life.now, "/", "", "ann").header()
        old = decode_entry(e.ProducerOpen.KIND, 1, header)
        assert life.apply(old).error is None
    first = life.known()[0]
    old = decode_entry(e.ProducerOpen.KIND, 1, e.ProducerOpen(life.now, "/", "web", "ann").header())
    assert life.apply(old).error is None

    assert first not in life.known()
    assert len(life.known()) == 4
    again = Machine(LIMITS)
    for zxid, kind, version, header, payload in life.records:
        again.apply(zxid, decode_entry(kind, version, header, payload))
    assert again.state_hash() == life.machine.state_hash()


def test_both_versions_are_written_as_they_were_read() -> None:
    header = e.ProducerOpen(1, "/", "web", "ann").header()
    for version, kind in ((1, e.ProducerOpenUnlimited), (2, e.ProducerOpen)):
        entry = decode_entry(4, version, header)
        assert (type(entry), entry.VERSION, entry.header()) == (kind, version, header)


def test_the_silence_of_a_producer_is_part_of_the_state() -> None:
    """Machines that will judge the next producer differently must not look alike."""
    life = Life()
    other = Life()
    life.open("ann")
    other.now += 1
    other.open("ann")
    for one in (life, other):
        one.apply(e.Clock(20_000, 1))
    assert life.machine.state_hash() != other.machine.state_hash()
