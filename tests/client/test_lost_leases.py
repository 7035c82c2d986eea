"""The memory of lost leases: reasons, counts, and its bound."""

from sluicemq.client.lost_leases import EXPIRED, LOST_RANGES_MAX, LOST_REASONS_MAX, LostLeases, explain


def test_each_loss_keeps_its_reason():
    lost = LostLeases()
    assert not lost
    lost.add(1, 3, EXPIRED)
    lost.add(5, 5, "queue_deleted")
    assert [tag for tag in range(1, 8) if tag in lost] == [1, 2, 3, 5]
    assert lost.count(2, 9) == 3
    assert lost.reason_of([3, 3]) == EXPIRED
    assert lost.reason_of([4, 9]) == "queue_deleted"
    assert lost.reason_of([4, 4]) is None


def test_what_is_forgotten_is_still_known_to_be_lost():
    lost = LostLeases()
    for tag in range(1, 2 * LOST_RANGES_MAX + 4, 2):
        lost.add(tag, tag, EXPIRED if tag % 4 == 1 else "purged")
    assert 1 in lost
    assert lost.reason_of([1, 1]) is None
    assert lost.reason_of([7, 7]) == "purged"
    assert lost.count(1, 7) == 5, "all below the bound count, and two above it"


def test_a_broker_that_invents_reasons_costs_no_memory():
    lost = LostLeases()
    for number in range(10 * LOST_REASONS_MAX):
        lost.add(2 * number + 1, 2 * number + 1, f"reason {number}")
    reasons = {lost.reason_of([2 * number + 1] * 2) for number in range(10 * LOST_REASONS_MAX)}
    assert len(reasons) == LOST_REASONS_MAX
    assert "may be delivered again" in explain("reason 1")
