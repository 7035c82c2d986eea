"""What the simulator found, told again as one replica's story."""

from __future__ import annotations

from sluicemq.broker.replication import effects, events
from sluicemq.broker.replication.history import EpochRecord, Position, zxid_of
from sluicemq.broker.replication.membership import Member
from sluicemq.broker.replication.messages import (
    Ack,
    FollowerInfo,
    HandOver,
    Method,
    Phase,
    Propose,
    Role,
    SnapshotInstalled,
    Synchronize,
    Vote,
)
from tests.broker.replication.bench import LEADER, LINK, THIRD, THREE, ZERO, Bench, only, proposal, said

SNAPSHOT = Position(zxid_of(1, 7), b"snapshot")


def received(session: int, position: Position = SNAPSHOT) -> events.SnapshotReceived:
    return events.SnapshotReceived(LEADER, 2, session, position, THREE, zxid_of(1, 0))


def test_a_snapshot_that_is_faster_than_the_leaders_word_for_it_is_installed_when_the_word_comes() -> None:
    bench = Bench()
    session = bench.promise()
    assert not only(bench.step(received(session)), effects.InstallSnapshot)
    done = bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.SNAP, ZERO, 0))
    assert [one.position for one in only(done, effects.InstallSnapshot)] == [SNAPSHOT]
    assert [one.position for one in said(bench.disk(), SnapshotInstalled)] == [SNAPSHOT]


def test_an_early_snapshot_of_another_session_is_none() -> None:
    bench = Bench()
    session = bench.promise()
    bench.step(received(session - 1))
    done = bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.SNAP, ZERO, 0))
    assert not only(done, effects.InstallSnapshot)


def test_introductions_of_learners_that_promised_a_later_epoch_do_not_keep_a_leader_awake() -> None:
    bench = Bench()
    bench.lead()
    for turn in range(20):
        bench.now += 0.1
        for peer, number in LINK.items():
            bench.hear(peer, FollowerInfo(9, number, 50 + turn, Member(peer, b"first")))
        bench.step(events.Wake())
        if bench.status[0] is Role.LOOKING:
            break
    assert bench.status == (Role.LOOKING, Phase.ELECTION)
    assert bench.now <= 1.5, "leader_seconds and a ping"


def test_a_late_snapshot_of_an_attempt_that_was_given_up_does_not_take_away_what_was_acknowledged_since() -> None:
    bench = Bench()
    session = bench.promise()
    bench.step(received(session))
    bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.SNAP, ZERO, 0))
    bench.log.restart(SNAPSHOT, (zxid_of(1, 0), THREE))
    bench.disk()
    begun = bench.log.seal(zxid_of(2, 0), SNAPSHOT, EpochRecord(LEADER, THREE))
    bench.hear(LEADER, Propose(2, LINK[LEADER], session, SNAPSHOT, (begun,), 0))
    assert [one.zxid for one in said(bench.disk(), Ack)] == [begun.zxid]
    late = received(session, Position(zxid_of(1, 8), b"snapshot"))
    assert not only(bench.step(late), effects.InstallSnapshot)
    from_here = Position(zxid_of(2, 5), b"whatever")
    done = bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.SNAP, from_here, 0))
    assert not only(done, effects.InstallSnapshot), "(2, 0) was acknowledged and may be committed"
    done = bench.step(received(session, Position(zxid_of(2, 6), b"snapshot")))
    assert [one.position.zxid for one in only(done, effects.InstallSnapshot)] == [zxid_of(2, 6)]


def test_proposals_that_skip_a_counter_are_refused_and_no_assertion_falls() -> None:
    bench = Bench()
    session = bench.synchronize()
    skips = bench.entry(bench.log.last.zxid + 2)
    bench.hear(LEADER, proposal(bench, session, skips))
    assert bench.status == (Role.LOOKING, Phase.ELECTION)


def test_a_learner_that_was_handed_over_waits_for_the_next_leader_to_hear_of_it() -> None:
    bench = Bench()
    session = bench.synchronize()
    bench.hear(LEADER, HandOver(2, LINK[LEADER], session, THIRD))
    assert said(bench.disk(), FollowerInfo)
    follows = bench.notification(THIRD, Role.FOLLOWING, Vote(zxid_of(1, 9), LEADER))
    bench.hear(THIRD, follows)
    assert bench.replica.leader == THIRD, "it has not heard of it yet"
    bench.now += 2.0
    bench.step(events.Wake())
    assert bench.status[0] is Role.LOOKING, "but not for ever"


def test_a_learner_that_elected_somebody_who_follows_another_looks_again_at_once() -> None:
    bench = Bench()
    bench.follow()
    bench.hear(LEADER, bench.notification(LEADER, Role.FOLLOWING, Vote(zxid_of(1, 9), THIRD)))
    assert bench.status[0] is Role.LOOKING
