"""A cluster without a leader for long says once who is missing, and what can be done."""

from __future__ import annotations

from sluicemq.broker.pipeline.ensemble.leaderless import LEADERLESS_SECONDS, Leaderless
from sluicemq.broker.replication.membership import Configuration, Member

THREE = Configuration(frozenset(Member(node, bytes([node]) * 16) for node in (1, 2, 3)))
LATER = LEADERLESS_SECONDS + 1.0


def test_it_is_said_once_who_is_missing_and_again_after_the_next_leader() -> None:
    leaderless = Leaderless()
    assert leaderless.look(100.0, None, THREE, {3}) is None
    assert leaderless.look(100.0 + LEADERLESS_SECONDS / 2, None, THREE, {3}) is None

    said = leaderless.look(100.0 + LATER, None, THREE, {3})

    assert said is not None
    assert said.startswith(f"nobody leads for {LATER:.0f} s: nodes 1, 2 vote and are not connected")
    assert "`sluicemq cluster force-new`" in said
    assert leaderless.look(500.0, None, THREE, {3}) is None, "once is enough"
    assert leaderless.look(501.0, 2, THREE, {2, 3}) is None
    assert leaderless.look(502.0, None, THREE, {3}) is None, "time begins anew"
    assert leaderless.look(502.0 + LATER, None, THREE, {3}) is not None


def test_with_a_majority_nobody_is_sent_to_the_last_resort() -> None:
    leaderless = Leaderless()
    leaderless.look(0.0, None, THREE, {1, 3})

    said = leaderless.look(LATER, None, THREE, {1, 3})

    assert said is not None
    assert "a majority of those that vote is connected" in said
    assert "force-new" not in said


def test_while_a_cluster_forms_and_while_somebody_leads_nothing_is_said() -> None:
    leaderless = Leaderless()
    for now in (0.0, LATER, 2 * LATER):
        assert leaderless.look(now, None, None, {1}) is None
    for now in (3 * LATER, 4 * LATER):
        assert leaderless.look(now, 2, THREE, {1}) is None
