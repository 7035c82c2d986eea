"""A leader, event by event: whose word counts, and for what."""

from __future__ import annotations

import pytest

from sluicemq.broker.replication import effects, events
from sluicemq.broker.replication.history import EPOCH_MAX, MembershipRecord, Position, zxid_of
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.broker.replication.messages import (
    Ack,
    AckEpoch,
    Commit,
    FollowerInfo,
    Method,
    NewEpoch,
    Notification,
    Phase,
    Ping,
    Pong,
    Propose,
    Role,
    SnapshotInstalled,
    Synchronize,
    Vote,
)
from tests.broker.replication.bench import LEADER, LINK, ME, THIRD, ZERO, Bench, only, said

OTHER = LEADER
"""Node 3 leads in other tests; here it is the second follower."""


def test_votes_told_while_the_disk_came_to_rest_count() -> None:
    bench = Bench(entries=9)
    for peer, number in LINK.items():
        bench.step(events.PeerUp(peer, number))
        bench.hear(peer, bench.notification(peer, Role.LOOKING, Vote(zxid_of(1, 8), ME)))
    bench.disk()
    assert bench.status == (Role.LEADING, Phase.DISCOVERY)


def test_who_asked_before_the_decision_is_heard_and_who_went_away_is_not() -> None:
    bench = Bench(entries=9)
    bench.disk()
    for peer, number in LINK.items():
        bench.step(events.PeerUp(peer, number))
        bench.hear(peer, FollowerInfo(1, number, 5, Member(peer, b"first")))
    bench.step(events.PeerDown(OTHER, LINK[OTHER]))
    done = bench.hear(THIRD, bench.notification(THIRD, Role.FOLLOWING, Vote(zxid_of(1, 8), ME)))
    assert [one.epoch for one in only(done, effects.SavePromise)] == [2]
    assert [one.peer for one in only(bench.disk(), effects.Send)] == [THIRD]


def test_a_follower_with_a_longer_log_makes_the_leader_give_up() -> None:
    bench = Bench()
    bench.gather()
    longer = Position(zxid_of(1, 3), b"longer!!")
    bench.hear(THIRD, AckEpoch(2, LINK[THIRD], 5, True, (ZERO, longer)))
    assert bench.status == (Role.LOOKING, Phase.ELECTION)


def test_a_follower_that_may_have_promised_the_epoch_to_another_does_not_help_to_begin_it() -> None:
    bench = Bench()
    bench.gather()
    bench.hear(THIRD, AckEpoch(2, LINK[THIRD], 5, False, (ZERO, bench.log.last)))
    assert bench.status == (Role.LEADING, Phase.DISCOVERY)
    done = bench.hear(OTHER, AckEpoch(2, LINK[OTHER], 5, True, (ZERO, bench.log.last)))
    assert bench.status == (Role.LEADING, Phase.SYNCHRONIZATION)
    assert [one.method for one in said(done, Synchronize)] == [Method.DIFF] * 2, "but it is taught"


def test_nobody_promises_in_time_and_the_leader_gives_up() -> None:
    bench = Bench()
    bench.elect()
    bench.now += 2.0
    bench.step(events.Wake())
    assert bench.status == (Role.LOOKING, Phase.ELECTION)


@pytest.mark.parametrize("stale", [{"session": 4}, {"epoch": 1}, {"connection": 19}])
def test_an_acknowledgement_of_another_session_epoch_or_connection_counts_for_nothing(stale: dict) -> None:
    bench = Bench()
    bench.lead()
    bench.step(events.Propose("a", "a"))
    bench.disk()
    values = {"epoch": 2, "connection": LINK[THIRD], "session": 5, "zxid": zxid_of(2, 1)}
    assert bench.hear(THIRD, Ack(**(values | stale))) == []
    assert only(bench.hear(THIRD, Ack(**values)), effects.Committed) == [effects.Committed(zxid_of(2, 1))]


def test_the_leader_counts_itself_up_to_what_its_own_disk_has() -> None:
    bench = Bench()
    bench.lead()
    for body in "ab":
        bench.step(events.Propose(body, body))
    first, _ = bench.unanswered
    assert not only(bench.hear(THIRD, Ack(2, LINK[THIRD], 5, zxid_of(2, 2))), effects.Committed)
    assert only(bench.step(events.Persisted(first)), effects.Committed) == [effects.Committed(zxid_of(2, 1))]


def test_what_a_quorum_of_others_has_waits_for_the_leaders_own_disk() -> None:
    bench = Bench()
    bench.lead()
    bench.hear(OTHER, AckEpoch(2, LINK[OTHER], 5, True, (ZERO, bench.log.last)))
    bench.step(events.Propose("a", "a"))
    for peer in LINK:
        assert not only(bench.hear(peer, Ack(2, LINK[peer], 5, zxid_of(2, 1))), effects.Committed)
    assert only(bench.disk(), effects.Committed) == [effects.Committed(zxid_of(2, 1))]


def test_a_leader_does_not_serve_while_its_own_disk_lacks_the_epochs_record() -> None:
    bench = Bench()
    bench.gather()
    old = bench.log.last
    for peer in LINK:
        bench.hear(peer, AckEpoch(2, LINK[peer], 5, True, (ZERO, old)))
    for peer in LINK:
        bench.hear(peer, Ack(2, LINK[peer], 5, old.zxid))
    for read in only(bench.seen, effects.ReadEntries):
        bench.step(events.EntriesRead(read.peer, 5, read.after, (bench.log.entries[-1],)))
    bench.hear(THIRD, Ack(2, LINK[THIRD], 5, zxid_of(2, 0)))
    done = bench.hear(OTHER, Ack(2, LINK[OTHER], 5, zxid_of(2, 0)))
    assert not only(done, effects.Committed), "what stands before it is committed with it, or not at all"
    assert bench.status == (Role.LEADING, Phase.SYNCHRONIZATION)
    assert only(bench.disk(), effects.Committed) == [effects.Committed(zxid_of(2, 0))]
    assert bench.status == (Role.LEADING, Phase.BROADCAST)


def test_an_answer_to_an_earlier_ping_proves_nothing_for_a_read() -> None:
    bench = Bench()
    bench.lead()
    bench.now += 0.25
    earlier = said(bench.step(events.Wake()), Ping)[0].number
    asked = said(bench.step(events.Read("r")), Ping)[0].number
    assert asked > earlier
    assert not only(bench.hear(THIRD, Pong(2, LINK[THIRD], 5, earlier)), effects.ReadReady)
    answers = only(bench.hear(THIRD, Pong(2, LINK[THIRD], 5, asked)), effects.ReadReady)
    assert answers == [effects.ReadReady("r", zxid_of(2, 0))]


def test_a_read_during_a_round_waits_for_the_next() -> None:
    bench = Bench()
    bench.lead()
    first = said(bench.step(events.Read("one")), Ping)[0].number
    assert not said(bench.step(events.Read("two")), Ping)
    done = bench.hear(THIRD, Pong(2, LINK[THIRD], 5, first))
    assert [one.reference for one in only(done, effects.ReadReady)] == ["one"]
    second = said(done, Ping)[0].number
    done = bench.hear(THIRD, Pong(2, LINK[THIRD], 5, second))
    assert [one.reference for one in only(done, effects.ReadReady)] == ["two"]


def test_a_snapshot_that_failed_is_sent_again_after_a_pause() -> None:
    bench = Bench(entries=9)
    bench.lead()
    bench.log.begin_at(zxid_of(2, 0))
    done = bench.hear(OTHER, AckEpoch(2, LINK[OTHER], 5, True, (ZERO, bench.log.start._replace(zxid=zxid_of(1, 2)))))
    assert [one.peer for one in only(done, effects.SendSnapshot)] == [OTHER]
    bench.step(events.SnapshotFailed(OTHER, 5, "the stream was reset"))
    bench.now += 0.9
    for peer in LINK:
        bench.hear(peer, Pong(2, LINK[peer], 5, 1))
    assert not only(bench.step(events.Wake()), effects.SendSnapshot)
    bench.now += 0.1
    assert only(bench.step(events.Wake()), effects.SendSnapshot)


def test_a_follower_whose_next_entries_are_gone_from_the_log_gets_a_snapshot() -> None:
    bench = Bench()
    bench.lead()
    done = bench.hear(OTHER, AckEpoch(2, LINK[OTHER], 5, True, (ZERO, bench.log.entries[0].position)))
    (read,) = only(done, effects.ReadEntries)
    bench.log.begin_at(zxid_of(2, 0))
    done = bench.step(events.EntriesRead(OTHER, 5, read.after, ()))
    assert [one.method for one in said(done, Synchronize)] == [Method.SNAP]
    assert not said(bench.step(events.Propose("a", "a")), Propose)[1:], "only the other follower gets proposals"


# --- what a learner does with snapshots and configurations that vanish


def test_a_snapshot_is_durable_before_it_counts() -> None:
    bench = Bench()
    session = bench.promise()
    position = Position(zxid_of(2, 7), b"snapshot")
    bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.SNAP, position, zxid_of(2, 7)))
    configuration = Configuration(frozenset({Member(node, b"first") for node in (1, 2, 3, 4)}))
    received = events.SnapshotReceived(LEADER, 2, session, position, configuration, zxid_of(2, 3))
    done = bench.step(received)
    assert [one.position for one in only(done, effects.InstallSnapshot)] == [position]
    assert not only(done, effects.Committed)
    assert bench.step(received) == [], "one at a time"
    done = bench.disk()
    assert only(done, effects.Committed) == [effects.Committed(position.zxid)]
    assert bench.replica.durable_zxid == position.zxid
    assert bench.replica.configuration == configuration


@pytest.mark.parametrize("stale", [{"session": 99}, {"epoch": 1}, {"peer": THIRD}])
def test_a_snapshot_of_another_session_is_not_installed(stale: dict) -> None:
    bench = Bench()
    session = bench.promise()
    position = Position(zxid_of(2, 7), b"snapshot")
    bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.SNAP, position, 0))
    values = {"peer": LEADER, "epoch": 2, "session": session, "position": position, "configuration_zxid": 0}
    values["configuration"] = bench.replica.configuration
    assert bench.step(events.SnapshotReceived(**(values | stale))) == []


def test_a_snapshot_whose_answer_was_disowned_counts_as_committed_once_the_disk_rests() -> None:
    bench = Bench()
    session = bench.promise()
    position = Position(zxid_of(2, 7), b"snapshot")
    bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.SNAP, position, 0))
    configuration = bench.replica.configuration
    assert configuration is not None
    bench.step(events.SnapshotReceived(LEADER, 2, session, position, configuration, zxid_of(1, 0)))
    bench.step(events.PeerDown(LEADER, LINK[LEADER]))
    bench.log.restart(position, (zxid_of(1, 0), configuration))
    done = bench.disk()
    assert only(done, effects.Committed) == [effects.Committed(position.zxid)]
    assert {one.vote.zxid for one in said(done, Notification)} == {position.zxid}


def test_a_change_of_voters_that_is_cut_off_never_happened() -> None:
    bench = Bench()
    session = bench.promise()
    before = bench.replica.configuration
    assert before is not None
    keep = bench.log.last
    change = MembershipRecord(Configuration(before.voters, before.voters | {Member(4, b"first")}))
    bench.hear(LEADER, Synchronize(2, LINK[LEADER], session, Method.DIFF, keep, 0))
    entry = bench.entry(zxid_of(1, 3), change)
    bench.hear(LEADER, Propose(2, LINK[LEADER], session, keep, (entry,), 0))
    assert bench.replica.configuration == change.configuration
    bench.step(events.PeerDown(LEADER, LINK[LEADER]))
    bench.disk()
    bench.step(events.PeerUp(LEADER, 31))
    vote = Vote(zxid_of(1, 9), LEADER)
    leads = Notification(3, 31, 9, Role.LEADING, vote, Member(LEADER, b"first"), 0, zxid_of(9, 0), ())
    bench.hear(LEADER, leads)
    again = session + 1
    bench.hear(LEADER, NewEpoch(3, 31, again))
    bench.disk()
    bench.hear(LEADER, Synchronize(3, 31, again, Method.TRUNC, keep, 0))
    assert bench.replica.configuration == before


# --- what cannot be


def test_an_acknowledgement_of_what_was_not_sent_ends_the_leadership() -> None:
    bench = Bench()
    bench.lead()
    bench.hear(THIRD, Ack(2, LINK[THIRD], 5, zxid_of(2, 9)))
    assert bench.status == (Role.LOOKING, Phase.ELECTION)


def test_no_epoch_is_left() -> None:
    bench = Bench(promised_epoch=EPOCH_MAX)
    bench.elect()
    done = bench.hear(THIRD, FollowerInfo(1, LINK[THIRD], 5, Member(THIRD, b"first")))
    assert "used up" in only(done, effects.Fatal)[0].reason


def snapshot_sent() -> Bench:
    bench = Bench()
    bench.lead()
    bench.log.begin_at(zxid_of(2, 0))
    bench.hear(OTHER, AckEpoch(2, LINK[OTHER], 5, True, (ZERO,)))
    return bench


def test_who_has_installed_a_snapshot_gets_what_follows_it() -> None:
    bench = snapshot_sent()
    bench.step(events.Propose("a", "a"))
    done = bench.hear(OTHER, SnapshotInstalled(2, LINK[OTHER], 5, bench.log.start))
    assert [one.after for one in only(done, effects.ReadEntries)] == [zxid_of(2, 0)]


def test_a_snapshot_that_arrived_though_its_stream_was_thought_to_have_failed_is_not_sent_again() -> None:
    bench = snapshot_sent()
    bench.step(events.SnapshotFailed(OTHER, 5, "no answer at the end of the stream"))
    bench.hear(OTHER, SnapshotInstalled(2, LINK[OTHER], 5, bench.log.start))
    for _ in range(5):
        bench.now += 0.5
        for peer in LINK:
            bench.hear(peer, Pong(2, LINK[peer], 5, 1))
        assert not only(bench.step(events.Wake()), effects.SendSnapshot)


def test_a_snapshot_that_was_overtaken_by_the_logs_beginning_is_followed_by_another() -> None:
    bench = snapshot_sent()
    installed = bench.log.start
    bench.step(events.Propose("a", "a"))
    bench.disk()
    bench.log.begin_at(zxid_of(2, 1))
    done = bench.hear(OTHER, SnapshotInstalled(2, LINK[OTHER], 5, installed))
    assert [one.method for one in said(done, Synchronize)] == [Method.SNAP]
    assert [one.start_zxid for one in only(done, effects.SendSnapshot)] == [zxid_of(2, 1)]


def test_a_snapshot_of_another_history_is_fatal() -> None:
    bench = snapshot_sent()
    done = bench.hear(OTHER, SnapshotInstalled(2, LINK[OTHER], 5, Position(zxid_of(2, 0), b"another!")))
    assert "does not contain" in only(done, effects.Fatal)[0].reason


def test_a_learner_that_has_promised_more_is_taught_in_a_new_epoch_also_if_it_does_not_vote() -> None:
    bench = Bench()
    bench.lead()
    bench.hear(OTHER, FollowerInfo(9, LINK[OTHER], 6, Member(OTHER, b"a new disk")))
    bench.disk()
    assert bench.status == (Role.LEADING, Phase.DISCOVERY), "everything was committed, so it begins anew at once"
    done = bench.hear(THIRD, FollowerInfo(2, LINK[THIRD], 7, Member(THIRD, b"first")))
    assert [one.epoch for one in only(done, effects.SavePromise)] == [10]


# --- telling what is committed ----------------------------------------------------------------------------------


def test_what_is_committed_is_told_with_the_next_proposal_instead_of_by_a_message_of_its_own() -> None:
    bench, committed = _leader_with_one_committed()
    done = bench.step(events.Propose("second", "second"))
    assert [one.commit for one in said(done, Propose)] == [committed]
    bench.now += 0.01
    assert not said(bench.step(events.Wake()), Commit), "it was told already"


def test_what_is_committed_is_told_soon_where_no_proposal_follows() -> None:
    bench, committed = _leader_with_one_committed()
    assert bench.replica.wake_at == pytest.approx(bench.now + 0.01)
    bench.now += 0.01
    assert [one.commit for one in said(bench.step(events.Wake()), Commit)] == [committed]
    bench.now += 0.01
    assert not said(bench.step(events.Wake()), Commit), "once is enough"


def _leader_with_one_committed() -> tuple[Bench, int]:
    """Return a leader whose first proposal a follower has, and where it stands."""
    bench = Bench()
    bench.lead()
    bench.step(events.Propose("first", "first"))
    bench.disk()
    zxid = bench.replica.last.zxid
    done = bench.hear(THIRD, Ack(2, LINK[THIRD], 5, zxid))
    assert bench.replica.committed_zxid == zxid
    assert not said(done, Commit), "nothing is told at once"
    return bench, zxid
