"""Three brokers in one process: a cluster forms, loses its leader, and goes on with every confirmed message."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline import ground, sessions
from sluicemq.broker.pipeline.ensemble import ensemble
from sluicemq.broker.pipeline.keeping import snapshots
from sluicemq.broker.pipeline.road import Road
from sluicemq.broker.replication import events as ev
from sluicemq.broker.replication.effects import RoleChanged
from sluicemq.broker.replication.messages import Phase, Role
from sluicemq.wire.errors import NotLeader, Unavailable
from tests.broker.pipeline.ensemble.cluster import Node, open_cluster
from tests.broker.pipeline.roads import Client, declare, open_producer, publish
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from tests.disk import SimulatedDisk


@pytest.mark.trio
async def test_three_empty_brokers_form_a_cluster_and_agree_on_what_is_published() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        road = leader.led
        await declare(road)
        producer = await open_producer(road)
        with trio.fail_after(WAIT_SECONDS):
            for sequence in range(1, 20):
                await publish(road, producer, sequence, [b"x"] * 10)
        await cluster.agree()
        ids = {node.ensemble.log.cluster_id for node in cluster.nodes.values()}
        assert ids == {leader.ensemble.log.cluster_id}


@pytest.mark.trio
async def test_when_the_leader_goes_another_leads_with_everything_that_was_confirmed() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        road = leader.led
        await declare(road)
        producer = await open_producer(road)
        await publish(road, producer, 1, [b"confirmed"])
        await cluster.stop(leader.number)
        other = await cluster.leader()
        assert other.number != leader.number
        client = Client(other.led)
        await client.open()
        client.consume(other.led.produce.find_queue("/", "orders"))
        assert [one.body for one in await client.take(1)] == [b"confirmed"]
        await cluster.start(leader.number)
        await cluster.agree()


@pytest.mark.trio
async def test_a_new_leader_whose_wall_clock_is_an_hour_ahead_lets_no_delay_be_over_early() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        assert leader.road is not None
        await declare(leader.road)
        producer = await open_producer(leader.road)
        others = [node for node in cluster.nodes.values() if node is not leader]
        sequence = 0
        while any(node.ensemble.hearing.log_time is None for node in others):
            sequence += 1
            await publish(leader.road, producer, sequence, [b"time goes on"])
        for node in others:
            assert node.ensemble.ground is not None
            node.ensemble.ground.wall = lambda: time.time() + 3_600.0
        await cluster.stop(leader.number)
        other = await cluster.leader()
        assert other.road is not None
        late_ms = time.time() * 1000 - other.road.clock.now_ms()
        assert abs(late_ms) < 1000 * WAIT_SECONDS, "it goes on from what the leader before had said"


@pytest.mark.trio
async def test_a_follower_that_is_behind_with_applying_knows_what_time_its_leader_says_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        await declare(leader.led)
        producer = await open_producer(leader.led)
        behind = next(node.ensemble for node in cluster.nodes.values() if node is not leader)
        monkeypatch.setattr(behind, "advance", lambda: None)
        behind.hearing.log_time = None
        sequence = 0
        with trio.fail_after(WAIT_SECONDS):
            while behind.hearing.log_time is None:
                sequence += 1
                await publish(leader.led, producer, sequence, [b"time goes on"])


@pytest.mark.trio
async def test_what_a_follower_is_taught_that_was_away_does_not_tell_it_the_time() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        await declare(leader.led)
        producer = await open_producer(leader.led)
        away = next(number for number, node in cluster.nodes.items() if node is not leader)
        await cluster.stop(away)
        await publish(leader.led, producer, 1, [b"some time ago"])
        await cluster.start(away)
        await cluster.agree()
        assert cluster.nodes[away].ensemble.hearing.log_time is None, "these entries may be hours old"
        sequence = 1
        with trio.fail_after(WAIT_SECONDS):
            while cluster.nodes[away].ensemble.hearing.log_time is None:
                sequence += 1
                await publish(leader.led, producer, sequence, [b"time goes on"])


async def settled_traffic(road: Road, rounds: int) -> None:
    """Publish and acknowledge large messages, so that the log grows and nothing of it stays alive."""
    producer = await open_producer(road)
    client = await Client(road).open()
    consumer = client.consume(road.produce.find_queue("/", "orders"))
    taken = 0
    with trio.fail_after(3 * WAIT_SECONDS):
        for sequence in range(1, rounds + 1):
            await publish(road, producer, sequence, [b"x" * 20_000])
            received = await client.take(taken + 1)
            await client.settle(consumer, [received[-1].tag, received[-1].tag])
            taken += 1
    client.leave()


@pytest.mark.trio
async def test_a_cluster_that_lost_power_leads_again_though_it_reads_its_log_back_in_pieces(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ensemble, "READ_BACK_BYTES", 1024)
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        await declare(leader.led)
        producer = await open_producer(leader.led)
        for sequence in range(1, 51):
            await publish(leader.led, producer, sequence, [b"small"])
        for number in list(cluster.seeds):
            await cluster.stop(number)
        monkeypatch.setattr(ground, "SLICE_SECONDS", 0.0)  # one entry a turn: a piece takes many
        for number in cluster.seeds:
            await cluster.start(number)
        leader = await cluster.leader()
        assert leader.led.machine.find_queue("/", "orders").messages == 50
        await cluster.agree()


@pytest.mark.trio
@pytest.mark.parametrize("proposes", [False, True], ids=["and serves", "and proposes"])
async def test_a_leadership_that_ends_just_as_it_would_begin_to_serve_never_does(
    monkeypatch: pytest.MonkeyPatch, proposes: bool
) -> None:
    begin = Road.begin
    ended: list[Node] = []
    has_ended = trio.Event()

    async def begin_and_end(road: Road) -> None:
        await begin(road)
        if not ended:
            (node,) = [node for node in cluster.nodes.values() if node.ensemble.ground is road.ground]
            ended.append(node)
            has_ended.set()
            node.ensemble.role_changed(RoleChanged(Role.LOOKING, Phase.ELECTION, 0, None, "it is over"))
            if proposes:  # a timer that was due in the same moment
                road.propose(road.settle.clock_entry())

    monkeypatch.setattr(Road, "begin", begin_and_end)
    async with open_cluster() as cluster:
        with trio.fail_after(WAIT_SECONDS):
            await has_ended.wait()
        await trio.testing.wait_all_tasks_blocked(0.01)
        (node,) = ended
        assert node.road is None
        assert node.roads == []
        node.ensemble.fail(RuntimeError("a core that makes no sense"))
        assert node.ensemble.ground is not None
        assert node.ensemble.ground.failed, "nothing more is applied or confirmed"


@pytest.mark.trio
async def test_a_broker_that_missed_too_much_is_sent_a_snapshot_and_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshots, "LOG_FOR_OTHERS_BYTES_MAX", 1)
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        await declare(leader.led)
        await cluster.agree()
        late = next(number for number in cluster.nodes if number != leader.number)
        await cluster.stop(late)
        last = cluster.disks[late]
        await settled_traffic(leader.led, 300)
        assert leader.led.log.start_zxid, "the leader's log begins later than what the other has"
        assert leader.led.snapshots is not None
        node = await cluster.start(late)
        await cluster.agree()
        assert node.ensemble.log.start_zxid, "it was sent a snapshot"
        assert last is not cluster.disks[late]
        # It is as good as any other from there on.
        await cluster.stop(leader.number)
        other = await cluster.leader()
        await settled_traffic(other.led, 3)
        await cluster.start(leader.number)
        await cluster.agree()


@pytest.mark.trio
async def test_a_broker_that_was_away_reads_on_in_the_log_that_is_kept_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        await declare(leader.led)
        await cluster.agree()
        late = next(number for number in cluster.nodes if number != leader.number)
        await settled_traffic(leader.led, 10)
        await cluster.agree()
        reached_zxid = cluster.nodes[late].ensemble.replica.durable_zxid
        await cluster.stop(late)
        snapshots_taken = leader.led.snapshots
        assert snapshots_taken is not None
        await settled_traffic(leader.led, 300)
        assert snapshots_taken.figures.taken > 2, "without anybody away the log would begin later"
        assert leader.led.log.start_zxid <= reached_zxid
        sent: list[object] = []
        monkeypatch.setattr(leader, "send_snapshot", sent.append)
        await cluster.start(late)
        await cluster.agree()
        assert not sent


@pytest.mark.trio
async def test_who_only_follows_takes_snapshots_too_and_its_log_begins_later() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        await declare(leader.led)
        await settled_traffic(leader.led, 300)
        for node in cluster.nodes.values():
            await node.until(lambda node=node: node.ensemble.log.start_zxid > 0)  # type: ignore[misc]


@pytest.mark.trio
async def test_a_wiped_broker_learns_everything_and_votes_when_it_was_promoted() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        await declare(leader.led)
        wiped = next(number for number in cluster.nodes if number != leader.number)
        await cluster.stop(wiped)
        del cluster.disks[wiped]
        node = await cluster.start(wiped, listed=False)
        await cluster.agree()
        assert node.ensemble.replica.role.value == "observing", "its disk is a stranger"
        with trio.fail_after(WAIT_SECONDS):
            while True:
                with suppress(Unavailable):  # the leader may not have heard yet that the other has everything
                    await leader.ensemble.driver.ask(lambda asked: ev.AddVoter(asked, wiped)).wait()
                    break
                await trio.sleep(0.01)
        await cluster.agree()
        assert node.ensemble.replica.role is Role.FOLLOWING


@pytest.mark.trio
async def test_who_waits_for_every_voter_waits_for_the_one_that_is_away() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        road = leader.led
        away = next(number for number in cluster.nodes if number != leader.number)
        await cluster.stop(away)
        queue = await declare(road)
        everybody_has = trio.Event()
        road.when_all_have(queue.id, everybody_has.set)
        await declare(road, "others")
        assert not everybody_has.is_set(), "a quorum has it, and one does not"
        await cluster.start(away)
        with trio.fail_after(WAIT_SECONDS):
            await everybody_has.wait()
        told: list[str] = []
        await cluster.agree()
        road.when_all_have(queue.id, lambda: told.append("at once"))
        assert told == ["at once"]


@pytest.mark.trio
async def test_brokers_that_are_told_nothing_at_a_start_find_each_other_by_the_log() -> None:
    async with open_cluster() as cluster:
        await cluster.leader()
        await cluster.agree()
        for number in list(cluster.nodes):
            await cluster.stop(number)
        for number in cluster.seeds:
            node = await cluster.start(number, listed=False)
            assert set(node.known_addresses) == set(cluster.seeds) - {number}
        await cluster.leader()


@pytest.mark.trio
async def test_a_leader_that_stops_hands_the_lead_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ensemble, "TRANSFER_SECONDS", WAIT_SECONDS)
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        road = leader.led
        await declare(road)
        with trio.fail_after(WAIT_SECONDS):
            await leader.ensemble.hand_over()
        assert leader.road is None
        assert road.over
        assert [str(reason) for reason in leader.reasons]
        other = await cluster.leader()
        assert other.number != leader.number
        with pytest.raises(NotLeader):
            await declare(road, "late")


@pytest.mark.trio
async def test_a_damaged_log_is_set_aside_and_learned_anew() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        await declare(leader.led)
        producer = await open_producer(leader.led)
        for sequence in range(1, 50):
            await publish(leader.led, producer, sequence, [b"x" * 1_000])
        await cluster.agree()
        hurt = next(number for number in cluster.nodes if number != leader.number)
        await cluster.stop(hurt)
        disk = cluster.disks[hurt]
        name = next(name for name in disk.names() if name.startswith("segment-"))
        disk.flip_bit(name, 20_000)
        node = await cluster.start(hurt)
        await cluster.agree()
        await node.until(lambda: node.ensemble.replica.damaged_from is None)
        assert node.ensemble.log.superblock.current.damaged_from == 0
        await node.until(lambda: not any(name.startswith("set-aside-") for name in disk_of(node).names()))


def disk_of(node: Node) -> SimulatedDisk:
    return node.disk


@pytest.mark.trio
async def test_a_new_leader_waits_for_moments_only_for_a_client_whose_end_had_closed_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        await cluster.agree()  # all of them have joined, so their grounds stay
        for node in cluster.nodes.values():
            assert node.ensemble.ground is not None
            node.ensemble.ground.session_grace_seconds = 2 * WAIT_SECONDS
        monkeypatch.setattr(sessions, "CLOSED_GRACE_SECONDS_MAX", 2 * WAIT_SECONDS)
        queue = await declare(leader.led)
        await publish(leader.led, await open_producer(leader.led), 1, [b"one"])
        leader.led.sessions.grace_seconds = 2 * WAIT_SECONDS
        worker = await Client(leader.led).open(b"token")
        worker.consume(queue)
        await worker.take(1)
        worker.die()
        await leader.until(lambda: leader.led.machine.sessions[worker.session].closed)
        monkeypatch.setattr(sessions, "CLOSED_GRACE_SECONDS_MAX", 0.05)  # the next leader begins while this one stops
        await cluster.stop(leader.number)
        other = await cluster.leader()
        next_one = await Client(other.led).open()
        next_one.consume(other.led.produce.find_queue("/", "orders"))
        assert (await next_one.take(1))[0].body == b"one"
        next_one.leave()
