"""Quorums, also of old and new voters together: exhaustively, against the definition."""

from __future__ import annotations

import itertools

import pytest

from sluicemq.broker.replication.membership import (
    Configuration,
    Member,
    is_majority,
    reached_by_majority,
    reached_by_quorum,
    with_voter,
    without_voter,
)


def members(*nodes: int) -> frozenset[Member]:
    return frozenset(Member(node, b"first") for node in nodes)


def subsets(nodes: range) -> list[tuple[int, ...]]:
    return [chosen for size in range(len(nodes) + 1) for chosen in itertools.combinations(nodes, size)]


def test_two_majorities_of_one_group_always_share_a_member() -> None:
    for count in range(1, 8):
        nodes = range(1, count + 1)
        majorities = [set(chosen) for chosen in subsets(nodes) if is_majority(nodes, chosen)]
        assert majorities, f"all {count} are a majority"
        assert all(one & other for one in majorities for other in majorities)
        assert all(len(one) >= count // 2 + 1 for one in majorities)


def test_quorums_of_every_single_change_meet_those_before_and_after_it() -> None:
    """For each step of old, both, new: any quorum of one step shares a member with any quorum of the next."""
    for old in subsets(range(1, 6))[1:]:
        for node in range(1, 7):
            before = Configuration(members(*old))
            member = Member(node, b"first")
            if node in old and len(old) == 1:
                continue
            both = without_voter(before, node) if node in old else with_voter(before, member)
            after = both.settled()
            assert after.next_voters is None
            assert len(after.voters ^ before.voters) == 1
            everybody = range(1, 7)
            quorums = [
                [set(chosen) for chosen in subsets(everybody) if step.is_quorum(members(*chosen))]
                for step in (before, both, after)
            ]
            for step, following in ((0, 1), (1, 2)):
                assert all(one & other for one in quorums[step] for other in quorums[following])


def test_a_new_incarnation_takes_the_place_of_the_old_one_with_quorums_of_both() -> None:
    before = Configuration(members(1, 2, 3))
    again = Member(3, b"second")
    both = with_voter(before, again)
    assert both.settled().voters == members(1, 2) | {again}
    assert not both.is_quorum({again, Member(1, b"first")})
    assert both.is_quorum(members(1, 2))


def test_the_zxid_reached_by_a_quorum_is_the_highest_that_one_holds() -> None:
    """All positions of up to five members, with all kinds of configurations, against the definition."""
    configurations = [
        Configuration(members(1)),
        Configuration(members(1, 2)),
        Configuration(members(1, 2, 3)),
        Configuration(members(1, 2, 3, 4, 5)),
        Configuration(members(1, 2, 3), members(1, 2, 3, 4)),
        Configuration(members(1, 2, 3, 4), members(1, 2, 3)),
        Configuration(members(1, 2, 3), members(3, 4, 5)),
    ]
    for zxids in itertools.product((0, 5, 6, 7), repeat=5):
        reached = {Member(node, b"first"): zxid for node, zxid in enumerate(zxids, 1)}
        for configuration in configurations:
            expected = max(
                zxid
                for zxid in (0, 5, 6, 7)
                if configuration.is_quorum([member for member, other in reached.items() if other >= zxid])
            )
            assert reached_by_quorum(configuration, reached) == expected


def test_a_member_that_was_never_heard_counts_as_having_nothing() -> None:
    reached = {Member(1, b"first"): 9}
    assert reached_by_majority(members(1, 2, 3), reached) == 0
    assert reached_by_majority(members(1), reached) == 9


@pytest.mark.parametrize("voters", [frozenset(), members(1) | {Member(1, b"second")}])
def test_a_configuration_that_could_never_work_is_refused(voters: frozenset[Member]) -> None:
    with pytest.raises(ValueError, match="vot"):
        Configuration(voters)
    with pytest.raises(ValueError, match="vot"):
        Configuration(members(1), voters)
