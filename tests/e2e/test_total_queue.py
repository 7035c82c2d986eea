"""The judge is shown a sound history and one broken history for each promise, and must tell them apart."""

from __future__ import annotations

from tests.e2e.total_queue import Ledger, Run, body_of, id_of

EPOCH = 3


def sound_history() -> Ledger:
    """One producer, two batches of two, a crash after the first delivery, which is repeated in the next epoch."""
    ledger = Ledger()
    ledger.sent(1, 1, first=0, count=2, at=1.0)
    ledger.confirmed(1, 1, zxid=0x10, at=2.0)
    ledger.sent(1, 2, first=2, count=2, at=1.5)
    ledger.confirmed(1, 2, zxid=0x11, at=5.0)
    ledger.delivered(1, 1, session=7, epoch=EPOCH, at=3.0, runs=[Run(1, 0, 2, 0x10, 0, 1)])
    ledger.verdict(1, 1, "ack")
    ledger.delivered(
        2, 1, session=9, epoch=EPOCH + 1, at=6.0, runs=[Run(1, 0, 2, 0x10, 0, 2), Run(1, 2, 2, 0x11, 0, 1)]
    )
    ledger.verdict(2, 1, "ack")
    ledger.settled(2, 1, at=7.0, lost=set())
    return ledger


def only_violation(ledger: Ledger) -> str:
    violations = ledger.violations()
    assert len(violations) == 1, violations
    return violations[0]


def test_a_sound_history_has_no_violation() -> None:
    ledger = sound_history()
    assert ledger.violations() == []
    assert ledger.sent_messages == ledger.confirmed_messages == 4
    assert ledger.delivered_messages == 6
    assert ledger.redelivered_messages == 2
    # At 4.0 the second batch waits for its confirm, and the first delivery for its settlement.
    assert ledger.in_flight(4.0) == (1, 1)
    assert ledger.in_flight(0.5) == (0, 0)


def test_a_confirmed_message_that_never_comes_out_is_lost() -> None:
    ledger = sound_history()
    ledger.sent(1, 3, first=4, count=1, at=8.0)
    assert ledger.violations() == [], "a batch that nobody confirmed may be lost"
    ledger.confirmed(1, 3, zxid=0x12, at=9.0)
    assert "lost" in only_violation(ledger)
    assert "message 4 of producer 1" in only_violation(ledger)


def test_a_message_whose_every_acknowledgement_came_too_late_is_lost() -> None:
    ledger = sound_history()
    ledger.settled(2, 1, at=7.0, lost={3})
    assert "message 3 of producer 1 of batch 2, delivered 1 times" in only_violation(ledger)


def test_a_message_that_nobody_sent_is_unexpected() -> None:
    ledger = sound_history()
    ledger.delivered(2, 2, session=9, epoch=EPOCH + 1, at=8.0, runs=[Run(1, 9, 1, 0x12, 0, 1)])
    assert "unexpected (nobody sent it)" in only_violation(ledger)


def test_a_body_that_nobody_makes_is_unexpected() -> None:
    ledger = sound_history()
    ledger.stranger("b'garbage'")
    assert "unexpected (a body" in only_violation(ledger)


def test_a_delivery_after_a_confirmed_acknowledgement_is_a_duplicate() -> None:
    ledger = sound_history()
    ledger.settled(1, 1, at=3.5, lost=set())
    assert "duplicate" in only_violation(ledger)
    assert "message 0 of producer 1" in only_violation(ledger)


def test_a_delivery_after_an_acknowledgement_that_lost_its_lease_is_none() -> None:
    ledger = sound_history()
    ledger.settled(1, 1, at=3.5, lost={0, 1})
    assert ledger.violations() == []


def test_a_delivery_after_a_nack_is_none() -> None:
    ledger = sound_history()
    ledger.verdict(1, 1, "nack")
    ledger.settled(1, 1, at=3.5, lost=set())
    assert ledger.violations() == []


def test_without_epochs_the_clock_tells_which_delivery_is_later() -> None:
    for confirmed_at, violations in ((6.5, 0), (5.5, 1)):
        ledger = sound_history()
        ledger.delivered(1, 1, session=0, epoch=0, at=3.0, runs=[Run(1, 0, 2, 0x10, 0, 0)])
        ledger.verdict(1, 1, "ack")
        ledger.settled(1, 1, at=confirmed_at, lost=set())
        assert len(ledger.violations()) == violations


def test_the_same_grant_at_two_consumers_is_a_double_grant() -> None:
    ledger = sound_history()
    ledger.delivered(1, 2, session=8, epoch=EPOCH + 1, at=6.0, runs=[Run(1, 2, 1, 0x11, 0, 1)])
    assert "double grant" in only_violation(ledger)


def test_a_message_at_two_positions_has_moved() -> None:
    ledger = sound_history()
    ledger.delivered(1, 1, session=7, epoch=EPOCH, at=3.0, runs=[Run(1, 0, 2, 0x0F, 0, 1)])
    assert "position" in only_violation(ledger)


def test_a_receipt_that_names_another_position_is_wrong() -> None:
    ledger = sound_history()
    ledger.confirmed(1, 1, zxid=0x0F, at=2.0)
    assert "position" in only_violation(ledger)


def test_a_later_message_at_an_earlier_position_breaks_the_order() -> None:
    ledger = sound_history()
    ledger.sent(1, 3, first=4, count=1, at=8.0)
    ledger.delivered(1, 2, session=8, epoch=EPOCH + 1, at=9.0, runs=[Run(1, 4, 1, 0x08, 0, 1)])
    assert "order (positions" in only_violation(ledger)


def test_first_grants_that_go_backwards_within_a_session_break_the_order() -> None:
    ledger = sound_history()
    ledger.sent(2, 1, first=0, count=1, at=1.0)
    ledger.delivered(2, 2, session=9, epoch=EPOCH + 1, at=8.0, runs=[Run(2, 0, 1, 0x0F, 0, 1)])
    assert "order (first grants" in only_violation(ledger)


def test_every_body_tells_whose_it_is_and_any_damage_shows() -> None:
    for counter in (0, 1, 17, 123_456):
        body = body_of(4, counter)
        assert id_of(body) == (4, counter)
        assert id_of(body[:-1]) is None
        assert id_of(b"\x00" + body) is None
        assert id_of(body + b"4:1;") is None
    assert id_of(b"") is None
