"""States that differ though the logs are the same: who is told, who ends, and who goes on."""

from __future__ import annotations

import pytest

from sluicemq.broker.replication import effects, events
from sluicemq.broker.replication.agreement import Agreement, OwnHashes, StateHash, difference
from sluicemq.broker.replication.history import zxid_of
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.broker.replication.messages import Phase, Role
from tests.broker.replication.network import Network

PLACE = zxid_of(1, 10)
GOOD = StateHash(PLACE, b"good", (("leases", b"1"), ("queues", b"2")))
BAD = StateHash(PLACE, b"bad", (("leases", b"1"), ("queues", b"9")))


def formed(*nodes: int) -> Network:
    network = Network(*nodes)
    network.start()
    network.run_until(network.settled)
    return network


def hash_all(network: Network, states: dict[int, StateHash]) -> None:
    for node, state in states.items():
        network[node].step(events.StateHashed(state))


def test_equal_states_are_no_news() -> None:
    network = formed(1, 2, 3)
    hash_all(network, dict.fromkeys((1, 2, 3), GOOD))
    network.run(3.0)
    assert not any(node.alarms or node.fatal for node in network.nodes.values())


def test_a_follower_whose_state_differs_ends_and_names_the_part() -> None:
    network = formed(1, 2, 3)
    hash_all(network, {1: BAD, 2: GOOD, 3: GOOD})
    network.run(2.0)
    assert network[1].cause is effects.Cause.STATE
    assert "the state after 1.10 differs from that of nodes (2, 3)" in str(network[1].fatal)
    assert str(network[1].fatal).endswith("queues")
    assert network[3].alarms[-1] == "states differ after 1.10: nodes (2, 3) agree; node 1 differs in queues"
    assert network.leader() is network[3]


def test_a_leader_whose_state_differs_from_that_of_a_quorum_ends_and_another_leads() -> None:
    network = formed(1, 2, 3)
    hash_all(network, {1: GOOD, 2: GOOD, 3: BAD})
    network.run_until(lambda: network[3].fatal is not None)
    assert network[3].cause is effects.Cause.STATE
    assert "node 3 differs in queues" in str(network[3].fatal)
    network.kill(3)
    network.run_until(network.settled)
    assert network.leader() is network[2]


def test_without_an_answer_of_the_third_there_is_an_alarm_and_no_verdict_and_with_it_there_is() -> None:
    network = formed(1, 2, 3)
    hash_all(network, {2: BAD, 3: GOOD})
    network.run(2.0)
    assert len(network[3].alarms) == 1
    assert not any(node.fatal for node in network.nodes.values())
    hash_all(network, {1: GOOD})
    network.run(2.0)
    assert network[2].cause is effects.Cause.STATE
    assert [node for node in (1, 3) if network[node].fatal] == []


def test_two_voters_that_differ_leave_no_quorum() -> None:
    network = formed(1, 2)
    hash_all(network, {1: BAD, 2: GOOD})
    network.run(2.0)
    assert network[1].cause is effects.Cause.STATE
    assert network[2].fatal is None
    network.kill(1)
    network.run(2.0)
    assert network.leader() is None


def test_an_observer_is_judged_by_the_voters() -> None:
    network = formed(1, 2, 3)
    network.add(4)
    network.start(4)
    network.run_until(network.settled)
    assert network[4].status == (Role.OBSERVING, Phase.BROADCAST)
    hash_all(network, {1: GOOD, 2: GOOD, 3: GOOD, 4: BAD})
    network.run(2.0)
    assert network[4].cause is effects.Cause.STATE
    assert not any(network[node].fatal for node in (1, 2, 3))


def test_a_place_that_somebody_never_hashes_is_left_for_the_next_after_a_while() -> None:
    network = formed(1, 2, 3)
    hash_all(network, {3: GOOD, 2: GOOD})
    network.run(1.0)
    later = StateHash(zxid_of(1, 20), b"later")
    hash_all(network, {1: StateHash(later.zxid, b"wrong"), 2: later, 3: later})
    network.run(2.0)
    assert network[1].fatal is None, "the first place is still asked for"
    network.run(network.options.state_pings_max * network.options.ping_seconds)
    assert network[1].cause is effects.Cause.STATE
    assert str(network[1].fatal).endswith("the hash of the whole state")


def test_only_the_last_few_hashes_are_kept() -> None:
    hashes = OwnHashes(3)
    for counter in range(5):
        hashes.add(StateHash(counter, b"x"))
    assert [counter for counter in range(5) if hashes.at(counter)] == [2, 3, 4]
    assert hashes.newest == StateHash(4, b"x")


def member(node: int) -> Member:
    return Member(node, b"first")


@pytest.mark.parametrize(
    ("answers", "wrong"),
    [
        ("aaaaa", ""),
        ("aaaab", "5"),
        ("abbbb", "1"),
        ("aabbb", "12"),
        ("aab--", "alarm"),
        ("aaab-", "4"),
        ("aabbc", "345"),
        ("abc--", "alarm"),
    ],
)
def test_five_voters(answers: str, wrong: str) -> None:
    """Leader 1 compares with 2 to 5; `-` has not answered."""
    voters = Configuration(frozenset(map(member, range(1, 6))))
    own = OwnHashes(4)
    agreement = Agreement(member(1), own, 5)
    own.add(StateHash(7, answers[0].encode()))
    assert agreement.question([]) == own.newest
    ended: set[int] = set()
    alarms = 0
    for node, answer in enumerate(answers, 1):
        if node == 1 or answer == "-":
            continue
        verdict = agreement.answered(member(node), StateHash(7, answer.encode()), voters)
        if verdict is not None and verdict.alarm:
            alarms += 1
        elif verdict is not None:
            ended |= {one.node for one, _ in verdict.wrong}
    if wrong == "alarm":
        assert (alarms, ended) == (1, set())
    else:
        assert ended == set(map(int, wrong))


def test_a_difference_names_the_parts_also_those_that_one_of_them_lacks() -> None:
    assert difference(GOOD, BAD) == "queues"
    assert difference(GOOD, StateHash(PLACE, b"other", (("leases", b"1"), ("topics", b"3")))) == "queues, topics"
