"""More damage than a cluster can bear: then it stays down, says why, and nothing is lost if the bytes come back."""

from __future__ import annotations

from sluicemq.broker.replication import events as ev
from tests.sim import damage
from tests.sim.history import Account
from tests.sim.simulation import Choice, Simulation

CHOICE = Choice(nodes=3, profile="calm", batches=20, busy_seconds=6.0, features=False)


def test_when_the_majority_is_damaged_the_rest_serves_nobody_and_nothing_is_lost() -> None:
    run = Simulation(5, CHOICE)
    run._begin()
    run.world.run_until(3.0)
    confirmed = dict(run.seen.confirmed)
    assert confirmed, "something was promised to clients before"

    whole = {}
    for number in (1, 2):
        node = run.nodes[number]
        node.crash(power=True)
        whole[number] = damage.contents(node.disk)
        segment = next(name for name in node.disk.names() if name.startswith("segment-"))
        node.disk.flip_bit(segment, 4096 + 20)
        node.ledger.damaged = True
    run.world.run_until(8.0)
    assert all(run.nodes[number].refuses_to_start for number in (1, 2)), "both refuse"
    left = run.nodes[3].process
    assert left is not None, "the third one runs"
    assert run.nemesis.leader() is None, "and leads nobody"
    before = len(run.truth.committed)
    run.world.run_until(12.0)
    assert len(run.truth.committed) == before, "nothing is confirmed by one of three"

    for number in (1, 2):  # an operator brings the bytes back
        node = run.nodes[number]
        damage.put_back(node.disk, whole[number])
        node.ledger.damaged = False
        node.refuses_to_start = None
        node.start()
    run.nemesis.end()
    assert run.world.run_until(60.0, run._is_one), "the cluster is one again"
    account = Account(run.truth.committed)
    account.compare(run.seen)
    assert confirmed.items() <= run.seen.confirmed.items()


def test_a_damaged_node_that_begins_with_what_is_left_votes_for_nobody_until_it_has_everything() -> None:
    run = Simulation(6, CHOICE)
    run._begin()
    run.world.run_until(3.0)
    node = run.nodes[1]
    node.crash(power=True)
    segment = next(name for name in node.disk.names() if name.startswith("segment-"))
    node.disk.flip_bit(segment, 4096 + 20)
    node.ledger.damaged = True
    others = [run.nodes[2], run.nodes[3]]
    for each in others:
        each.crash(power=False)
        each.stopped = True
    run.world.run_until(6.0)
    assert node.refuses_to_start, "the log is damaged"
    assert node.salvage(), "the superblock is whole"
    node.start()
    others[0].start()
    run.world.run_until(12.0)
    assert run.nemesis.leader() is None, "one whole log of three is no majority"
    others[1].start()
    run.nemesis.end()
    assert run.world.run_until(60.0, run._is_one), "two whole logs are, and teach the third"
    assert run.truth.repaired == 1
    Account(run.truth.committed).compare(run.seen)


def test_nobody_damages_a_disk_while_the_log_of_a_node_that_is_down_ends_with_a_change_of_voters() -> None:
    run = Simulation(7, CHOICE)
    run._begin()
    run.world.run_until(3.0)
    leader = run.nemesis.leader()
    assert leader is not None, "somebody leads"
    assert leader.process is not None
    gone, other = (node for node in run.nodes.values() if node is not leader)
    assert run.nemesis._may_damage(other), "two whole logs are left"

    leader.process.event(ev.RemoveVoter("remove", gone.number))
    leader.crash(power=False)
    leader.stopped = True
    assert not run.nemesis._may_damage(other), "it may be one of two that vote, as soon as the leader is back"

    leader.start()
    assert run.world.run_until(20.0, lambda: run.nemesis._may_damage(other) or run.nemesis._may_damage(gone)), (
        "it is settled whether the change goes through"
    )
