"""One replica, event by event: what leaves when, what is dropped, and what stops it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from sluicemq.broker.replication import effects, events
from sluicemq.broker.replication.history import Position, zxid_of
from sluicemq.broker.replication.membership import Member
from sluicemq.broker.replication.messages import (
    Ack,
    AckEpoch,
    Commit,
    FollowerInfo,
    HandOver,
    Method,
    NewEpoch,
    Notification,
    Phase,
    Ping,
    Pong,
    Role,
    Synchronize,
    Vote,
)
from sluicemq.broker.replication.replica import Replica
from tests.broker.replication.bench import LEADER, LINK, ME, THIRD, THREE, ZERO, Bench, only, proposal, said

# --- what is durable before what leaves


def test_no_vote_leaves_before_the_disk_is_at_rest() -> None:
    bench = Bench()
    assert only(bench.seen, effects.Join)
    for peer, number in LINK.items():
        bench.step(events.PeerUp(peer, number))
    assert not said(bench.seen, Notification)
    assert {one.vote for one in said(bench.disk(), Notification)} == {Vote(zxid_of(1, 2), ME)}


def test_a_promise_is_durable_before_it_is_given() -> None:
    bench = Bench()
    session = bench.follow()
    done = bench.hear(LEADER, NewEpoch(2, LINK[LEADER], session))
    assert only(done, effects.SavePromise)
    assert not said(done, AckEpoch)
    (acknowledged,) = said(bench.disk(), AckEpoch)
    assert acknowledged.promised
    assert acknowledged.ends == (ZERO, bench.log.last)


def test_entries_are_durable_before_they_are_acknowledged_once_for_all() -> None:
    bench = Bench()
    session = bench.synchronize()
    assert said(bench.seen, Ack)[-1].zxid == zxid_of(1, 2)
    seen = len(said(bench.seen, Ack))
    for counter in range(3):
        bench.hear(LEADER, proposal(bench, session, bench.entry(zxid_of(2, counter))))
    assert len(said(bench.seen, Ack)) == seen
    assert [one.zxid for one in said(bench.disk(), Ack)] == [zxid_of(2, 2)]


def test_only_what_the_disk_has_answered_for_is_acknowledged() -> None:
    bench = Bench()
    session = bench.synchronize()
    bench.unanswered.clear()
    for counter in range(3):
        bench.hear(LEADER, proposal(bench, session, bench.entry(zxid_of(2, counter))))
    first, second, _ = bench.unanswered
    assert [one.zxid for one in said(bench.step(events.Persisted(first)), Ack)] == [zxid_of(2, 0)]
    assert [one.zxid for one in said(bench.step(events.Persisted(second)), Ack)] == [zxid_of(2, 1)]


def test_a_truncation_is_durable_before_it_is_acknowledged() -> None:
    bench = Bench()
    session = bench.follow()
    bench.hear(LEADER, NewEpoch(2, LINK[LEADER], session))
    bench.disk()
    position = bench.log.entries[0].position
    done = bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.TRUNC, position, 0))
    assert only(done, effects.Truncate)[0].position == position
    assert not said(done, Ack)
    assert [one.zxid for one in said(bench.disk(), Ack)] == [position.zxid]


def test_a_leader_promises_before_it_asks_for_promises_and_counts_itself_only_when_durable() -> None:
    bench = Bench(entries=9)
    bench.disk()
    for peer, number in LINK.items():
        bench.step(events.PeerUp(peer, number))
    for peer in LINK:
        bench.hear(peer, bench.notification(peer, Role.LOOKING, Vote(zxid_of(1, 8), ME)))
    assert bench.replica.role is Role.LEADING
    done = bench.hear(THIRD, FollowerInfo(1, LINK[THIRD], 5, Member(THIRD, b"first")))
    assert [one.epoch for one in only(done, effects.SavePromise)] == [2]
    assert not said(done, NewEpoch)
    assert [one.epoch for one in said(bench.disk(), NewEpoch)] == [2]
    done = bench.hear(THIRD, AckEpoch(2, LINK[THIRD], 5, True, (ZERO, bench.log.last)))
    assert only(done, effects.Append)[0].entries[0].zxid == zxid_of(2, 0)
    done = bench.hear(THIRD, Ack(2, LINK[THIRD], 5, zxid_of(1, 8)))
    (read,) = only(bench.seen, effects.ReadEntries)
    bench.step(events.EntriesRead(THIRD, 5, read.after, (bench.log.entries[-1],)))
    bench.hear(THIRD, Ack(2, LINK[THIRD], 5, zxid_of(2, 0)))
    assert bench.status == (Role.LEADING, Phase.SYNCHRONIZATION), "two have it, but one of them not durably"
    done = bench.disk()
    assert only(done, effects.Committed) == [effects.Committed(zxid_of(2, 0))]
    assert bench.status[1] is Phase.BROADCAST


def test_a_learner_commits_only_what_is_durable_here() -> None:
    bench = Bench()
    session = bench.synchronize()
    bench.hear(LEADER, proposal(bench, session, bench.entry(zxid_of(2, 0))))
    done = bench.hear(LEADER, Commit(2, LINK[LEADER], session, zxid_of(2, 0)))
    assert only(done, effects.Committed) == [effects.Committed(zxid_of(1, 2))]
    assert only(bench.disk(), effects.Committed) == [effects.Committed(zxid_of(2, 0))]
    assert bench.status[1] is Phase.BROADCAST


# --- what is dropped


@pytest.mark.parametrize("stale", [{"session": 0}, {"epoch": 1}, {"connection": 29}])
def test_a_message_of_another_session_epoch_or_connection_changes_nothing(stale: dict) -> None:
    bench = Bench()
    session = bench.synchronize()
    last = bench.replica.last
    assert bench.hear(LEADER, replace(proposal(bench, session, bench.entry(zxid_of(2, 0))), **stale)) == []
    assert bench.replica.last == last


def test_who_is_not_the_leader_is_not_listened_to() -> None:
    bench = Bench()
    session = bench.synchronize()
    assert (
        bench.hear(THIRD, replace(proposal(bench, session, bench.entry(zxid_of(2, 0))), connection=LINK[THIRD])) == []
    )


def test_an_answer_of_the_disk_from_before_the_step_down_is_ignored() -> None:
    bench = Bench()
    session = bench.synchronize()
    (stale,) = only(bench.hear(LEADER, proposal(bench, session, bench.entry(zxid_of(2, 0)))), effects.Append)
    bench.step(events.PeerDown(LEADER, LINK[LEADER]))
    assert bench.replica.role is Role.LOOKING
    assert bench.step(events.Persisted(stale.token)) == []
    assert bench.replica.durable_zxid == zxid_of(1, 2)


def test_commits_mean_nothing_before_the_log_is_in_line() -> None:
    bench = Bench()
    session = bench.follow()
    bench.hear(LEADER, NewEpoch(2, LINK[LEADER], session))
    bench.disk()
    done = bench.hear(LEADER, Ping(2, LINK[LEADER], session, 1, zxid_of(2, 5)))
    assert said(done, Pong)
    assert not only(done, effects.Committed)


def test_a_later_promise_is_kept() -> None:
    bench = Bench(promised_epoch=5)
    session = bench.follow()
    done = bench.hear(LEADER, NewEpoch(4, LINK[LEADER], session))
    assert bench.replica.role is Role.LOOKING
    assert not said(done, AckEpoch)
    assert bench.replica.promised_epoch == 5


def test_an_epoch_is_promised_to_one_leader_only() -> None:
    bench = Bench(promised_epoch=5)
    session = bench.follow()
    (acknowledged,) = said(bench.hear(LEADER, NewEpoch(5, LINK[LEADER], session)), AckEpoch)
    assert not acknowledged.promised, "before it was restarted, it may have promised this epoch to somebody else"


# --- what stops it


def test_a_gap_ends_the_session() -> None:
    bench = Bench()
    session = bench.synchronize()
    missing = bench.entry(zxid_of(2, 0))
    bench.hear(LEADER, proposal(bench, session, bench.entry(zxid_of(2, 1), after=missing.position)))
    assert bench.replica.role is Role.LOOKING
    assert bench.replica.last.zxid == zxid_of(1, 2)


def test_another_chain_at_the_same_place_is_fatal() -> None:
    bench = Bench()
    session = bench.synchronize()
    elsewhere = Position(bench.log.last.zxid, b"another!")
    done = bench.hear(
        LEADER, replace(proposal(bench, session, bench.entry(zxid_of(2, 0), after=elsewhere)), previous=elsewhere)
    )
    assert "differs" in only(done, effects.Fatal)[0].reason


def test_a_plan_with_another_chain_is_fatal() -> None:
    bench = Bench()
    session = bench.follow()
    bench.hear(LEADER, NewEpoch(2, LINK[LEADER], session))
    bench.disk()
    position = Position(zxid_of(1, 1), b"another!")
    done = bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.TRUNC, position, 0))
    assert "differs" in only(done, effects.Fatal)[0].reason
    assert not only(done, effects.Truncate)


def test_to_cut_off_what_is_committed_is_fatal() -> None:
    bench = Bench()
    session = bench.synchronize()
    bench.hear(LEADER, Commit(2, LINK[LEADER], session, zxid_of(1, 2)))
    bench.step(events.PeerDown(LEADER, LINK[LEADER]))
    bench.disk()
    bench.step(events.PeerUp(LEADER, 31))
    again = 31
    vote = Vote(zxid_of(1, 9), LEADER)
    leads = Notification(3, again, 9, Role.LEADING, vote, Member(LEADER, b"first"), 0, zxid_of(3, 0), ())
    (information,) = said(bench.hear(LEADER, leads), FollowerInfo)
    bench.hear(LEADER, NewEpoch(3, again, information.session))
    bench.disk()
    position = bench.log.entries[0].position
    done = bench.hear(LEADER, Synchronize(3, again, information.session, Method.TRUNC, position, 0))
    assert "diverged" in only(done, effects.Fatal)[0].reason
    assert not only(done, effects.Truncate)


def test_a_disk_that_fails_ends_everything() -> None:
    bench = Bench()
    done = bench.step(events.DiskFailed("fdatasync: input/output error"))
    assert "input/output error" in only(done, effects.Fatal)[0].reason
    assert bench.step(events.Wake()) == []
    assert bench.replica.wake_at is None


def test_a_leader_that_is_silent_is_given_up_and_one_that_pings_is_not() -> None:
    bench = Bench()
    session = bench.synchronize()
    for number in range(10):
        bench.now += 1.0
        bench.hear(LEADER, Ping(2, LINK[LEADER], session, number, 0))
        bench.step(events.Wake())
    assert bench.status == (Role.FOLLOWING, Phase.SYNCHRONIZATION)
    bench.now += 1.6
    bench.step(events.Wake())
    assert bench.status == (Role.LOOKING, Phase.ELECTION)


def test_a_disk_that_has_lost_what_was_committed_is_fatal() -> None:
    bench = Bench()
    session = bench.synchronize()
    bench.hear(LEADER, Commit(2, LINK[LEADER], session, zxid_of(1, 2)))
    bench.step(events.PeerDown(LEADER, LINK[LEADER]))
    bench.log.truncate(bench.log.entries[0].position)
    assert "lost" in only(bench.disk(), effects.Fatal)[0].reason


def test_a_plan_for_a_log_that_is_not_here_ends_the_session() -> None:
    bench = Bench()
    session = bench.promise()
    beyond = Position(zxid_of(1, 9), b"unknown!")
    bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.DIFF, beyond, 0))
    assert bench.status == (Role.LOOKING, Phase.ELECTION)


def test_a_second_plan_for_a_log_in_use_ends_the_session_unless_it_is_a_snapshot() -> None:
    for method, role in ((Method.DIFF, Role.LOOKING), (Method.TRUNC, Role.LOOKING), (Method.SNAP, Role.FOLLOWING)):
        bench = Bench()
        session = bench.synchronize()
        bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, method, bench.log.last, 0))
        assert bench.replica.role is role


def test_a_snapshot_older_than_what_is_committed_is_not_installed() -> None:
    bench = Bench()
    session = bench.synchronize()
    bench.hear(LEADER, Commit(2, LINK[LEADER], session, zxid_of(1, 2)))
    position = bench.log.entries[0].position
    bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.SNAP, position, 0))
    received = events.SnapshotReceived(LEADER, 2, session, position, THREE, zxid_of(1, 0))
    assert not only(bench.step(received), effects.InstallSnapshot)
    assert bench.status == (Role.LOOKING, Phase.ELECTION)


def test_a_refused_connection_counts_as_heard() -> None:
    bench = Bench()
    bench.disk()
    bench.step(events.PeerUp(THIRD, LINK[THIRD]))
    bench.hear(THIRD, bench.notification(THIRD, Role.LOOKING, Vote(zxid_of(1, 2), THIRD)))
    assert bench.status == (Role.LOOKING, Phase.ELECTION), "node 3 may be there and silent"
    bench.step(events.PeerRefused(LEADER))
    assert bench.status == (Role.FOLLOWING, Phase.DISCOVERY)


def test_the_end_of_a_connection_that_was_replaced_is_no_news() -> None:
    bench = Bench()
    bench.synchronize()
    bench.step(events.PeerDown(LEADER, LINK[LEADER] - 1))
    assert bench.status == (Role.FOLLOWING, Phase.SYNCHRONIZATION)


def test_a_leader_that_says_it_does_not_lead_is_left() -> None:
    for role in (Role.LOOKING, Role.FOLLOWING):
        bench = Bench()
        bench.synchronize()
        bench.hear(LEADER, bench.notification(LEADER, role, Vote(zxid_of(1, 9), THIRD)))
        assert bench.status == (Role.LOOKING, Phase.ELECTION)


def test_the_lead_is_not_taken_over_by_who_does_not_vote() -> None:
    bench = Bench()
    bench.replica = Replica(Member(ME, b"wiped"), (), 1, bench.log)
    bench.step(events.Start())
    bench.disk()
    bench.step(events.PeerUp(LEADER, LINK[LEADER]))
    leads = bench.notification(LEADER, Role.LEADING, Vote(zxid_of(1, 2), LEADER))
    session = said(bench.hear(LEADER, leads), FollowerInfo)[0].session
    bench.hear(LEADER, NewEpoch(2, LINK[LEADER], session))
    bench.disk()
    bench.hear(LEADER, HandOver(2, LINK[LEADER], session, ME))
    assert bench.status == (Role.LOOKING, Phase.ELECTION)
    bench.disk()
    assert bench.status == (Role.LOOKING, Phase.ELECTION)
