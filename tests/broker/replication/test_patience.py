"""How patience grows where leaders are given up although they live, and how it shrinks again."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.replication.messages import Ping, Role
from sluicemq.broker.replication.options import Options
from sluicemq.broker.replication.patience import AGAIN_SECONDS, CALM_SECONDS, FACTOR_MAX, FORGET_SECONDS, Patience
from tests.broker.replication.network import LINK_SECONDS, Network, Node

OPTIONS = Options()


STALL_SECONDS = 0.9
"""More than a leader's patience, less than twice as much."""


class Starved(Network):
    """Nodes that get the processor, and with it what came meanwhile, only once in a while."""

    starved = True

    @property
    def link_seconds(self) -> float:
        return STALL_SECONDS - self.now % STALL_SECONDS if self.starved else LINK_SECONDS

    @link_seconds.setter
    def link_seconds(self, _: float) -> None:
        """Nobody chooses."""


def starved_ensemble() -> Starved:
    network = Starved(1, 2, 3)
    network.start()
    return network


def patient_leader() -> tuple[Network, Node]:
    """An ensemble that was starved until a moment ago, and its leader."""
    network = starved_ensemble()
    network.run(30.0)
    leader = network.leader()
    assert leader is not None
    network.starved = False
    network.run(1.0)
    assert [one.patience for _, _, one in network.sent if isinstance(one, Ping)][-1] > 1
    return network, leader


def gave_up_for_slowness(patience: Patience, now: float) -> None:
    """Give up in vain: the others are heard at once."""
    patience.gave_up(now, OPTIONS.leader_seconds, lambda nodes: len(nodes) >= 2)
    patience.heard(2, now)
    patience.heard(3, now)


def gave_up_twice(at: float = 100.0) -> Patience:
    patience = Patience(OPTIONS)
    gave_up_for_slowness(patience, at - 1)
    gave_up_for_slowness(patience, at)
    return patience


def test_an_ensemble_that_is_starved_for_longer_than_its_patience_finds_a_leader_that_stays() -> None:
    network = starved_ensemble()
    network.run(30.0)
    leader = network.leader()
    assert leader is not None
    epoch = leader.replica.epoch
    assert epoch > 2, "at first leaders were given up"
    network.run(60.0)
    assert network.leader() is leader
    assert leader.replica.epoch == epoch


def test_when_it_is_starved_no_more_a_silent_leader_is_missed_as_soon_as_ever() -> None:
    network = starved_ensemble()
    network.run(30.0)
    network.starved = False
    network.run(3 * CALM_SECONDS)
    leader = network.leader()
    assert leader is not None
    assert network.sent[-1] is not None
    assert [one.patience for _, _, one in network.sent if isinstance(one, Ping)][-1] == 1
    others = tuple(node for node in network.nodes if node != leader.node)
    network.partition((leader.node,), others)
    took = network.run_until(lambda: any(network[node].replica.role is Role.LEADING for node in others))
    assert OPTIONS.follower_seconds - OPTIONS.ping_seconds <= took <= OPTIONS.follower_seconds + 0.5


def test_a_patient_leader_that_is_cut_off_still_stops_before_another_one_is_sought() -> None:
    network, leader = patient_leader()
    others = tuple(node for node in network.nodes if node != leader.node)
    network.partition((leader.node,), others)
    network.run_until(lambda: leader.replica.role is Role.LOOKING)
    assert all(network[node].replica.role is Role.FOLLOWING for node in others)


AWAY_SECONDS = 4.0


def missed_after(network: Network, go_away: Callable[[int], None]) -> float:
    """Let whoever leads go away; return how long it takes until another one leads, and wait until all are together."""
    leader = network.leader()
    assert leader is not None
    others = [node for node in network.nodes.values() if node is not leader]
    go_away(leader.node)
    took = network.run_until(lambda: any(node.replica.role is Role.LEADING for node in others))
    network.run(AWAY_SECONDS - took)
    network.heal()
    network.run(AWAY_SECONDS)
    return took


def test_leaders_that_stand_still_again_and_again_are_missed_as_soon_each_time() -> None:
    network = Network(1, 2, 3)
    network.start()
    network.run(AWAY_SECONDS)
    for _ in range(10):
        took = missed_after(network, lambda leader: network.freeze(leader, AWAY_SECONDS))
        assert took <= OPTIONS.follower_seconds + 0.5


def test_leaders_that_are_cut_off_again_and_again_are_missed_as_soon_each_time() -> None:
    network = Network(1, 2, 3)
    network.start()
    network.run(AWAY_SECONDS)
    for _ in range(10):
        took = missed_after(
            network,
            lambda leader: network.partition((leader,), tuple(node for node in network.nodes if node != leader)),
        )
        assert took <= OPTIONS.follower_seconds + 0.5


def test_giving_up_counts_only_where_a_quorum_is_heard_while_more_patience_would_have_lasted() -> None:
    def factor_after(*heard: tuple[int, float]) -> int:
        patience = Patience(OPTIONS)
        gave_up_for_slowness(patience, 99.0)
        patience.gave_up(100.0, OPTIONS.leader_seconds, lambda nodes: len(nodes) >= 2)
        for node, seconds in heard:
            patience.heard(node, 100.0 + seconds)
        assert patience.doubts == (not heard or (len(heard) < 2 and heard[0][1] < 1))
        return patience.factor(103.0)

    in_time, late = 2.9 * OPTIONS.leader_seconds, 3.0 * OPTIONS.leader_seconds
    assert factor_after() == 1
    assert factor_after((2, 0.1)) == 1
    assert factor_after((2, 0.1), (3, late)) == 1
    assert factor_after((2, 0.1), (3, in_time)) == 2


def test_the_factor_of_who_is_elected_while_in_doubt_is_settled_before_it_is_told_to_anybody() -> None:
    patience = Patience(OPTIONS)
    gave_up_for_slowness(patience, 99.0)
    patience.gave_up(100.0, OPTIONS.leader_seconds, lambda nodes: len(nodes) >= 2)
    patience.elected(100.5)
    assert patience.factor(100.5) == 2
    patience.heard(2, 100.6)
    patience.heard(3, 100.6)
    assert patience.factor(100.6) == 2
    patience.gave_up(101.5, OPTIONS.leader_seconds, lambda nodes: len(nodes) >= 2)
    patience.elected(101.5 + 2 * OPTIONS.leader_seconds)
    assert patience.factor(104.0) == 2, "they were away for longer than the most patience would have lasted"


def test_a_patient_leader_whose_connections_end_stops_as_soon_as_any_other() -> None:
    network, leader = patient_leader()
    for node in network.nodes.values():
        if node is not leader:
            network.disconnect(leader.node, node.node)
    took = network.run_until(lambda: leader.replica.role is Role.LOOKING)
    assert took <= OPTIONS.leader_seconds + OPTIONS.ping_seconds + 2 * LINK_SECONDS


def test_giving_up_once_is_no_reason_and_twice_within_a_while_is() -> None:
    patience = Patience(OPTIONS)
    gave_up_for_slowness(patience, 100.0)
    assert patience.factor(100.0) == 1
    gave_up_for_slowness(patience, 100.0 + AGAIN_SECONDS)
    assert patience.factor(100.0 + AGAIN_SECONDS) == 2
    late = Patience(OPTIONS)
    gave_up_for_slowness(late, 100.0)
    gave_up_for_slowness(late, 101.0 + AGAIN_SECONDS)
    assert late.factor(101.0 + AGAIN_SECONDS) == 1


def test_it_halves_after_calm_and_not_while_answers_are_slow() -> None:
    patience = gave_up_twice()
    gave_up_for_slowness(patience, 101.0)
    assert patience.factor(101.0) == 4
    patience.established(101.0)
    patience.led(101.0 + CALM_SECONDS - 1, strained=True)
    patience.led(101.0 + CALM_SECONDS, strained=False)
    assert patience.factor(101.0 + CALM_SECONDS) == 4
    patience.led(100.0 + 2 * CALM_SECONDS, strained=False)
    assert patience.factor(100.0 + 2 * CALM_SECONDS) == 2
    patience.led(100.0 + 3 * CALM_SECONDS, strained=False)
    assert patience.factor(100.0 + 3 * CALM_SECONDS) == 1


def test_what_is_old_is_forgotten_and_a_leader_that_knows_less_does_not_wipe_it_out() -> None:
    patience = gave_up_twice(100.0)
    patience.told(1, 101.0)
    assert patience.factor(101.0) == 2
    patience.told(4, 102.0)
    assert patience.factor(102.0) == 4
    assert patience.factor(102.0 + FORGET_SECONDS) == 1


@given(st.lists(st.tuples(st.sampled_from(["gave up", "heard", "told", "led", "strained"]), st.floats(0.0, 30.0))))
def test_a_factor_stays_within_its_bounds_and_leaders_are_always_less_patient(
    events: list[tuple[str, float]],
) -> None:
    patience, now = Patience(OPTIONS), 100.0
    for what, seconds in events:
        now += seconds
        before = patience.factor(now)
        if what == "gave up":
            patience.gave_up(now, OPTIONS.leader_seconds, lambda nodes: len(nodes) >= 1)
        elif what == "heard":
            patience.heard(2, now)
        elif what == "told":
            patience.told(2, now)
        else:
            patience.elected(now)
            before = patience.factor(now)
            patience.led(now, strained=what == "strained")
            assert patience.factor(now) <= before, "within an epoch it only falls"
        factor = patience.factor(now)
        assert 1 <= factor <= FACTOR_MAX
        assert patience.leader_seconds(now) < patience.follower_seconds(factor)
