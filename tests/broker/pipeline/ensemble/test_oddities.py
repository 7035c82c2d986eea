"""What seldom happens in a cluster: late reads, repeated repairs, brokers that come back after they were removed."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline import apply
from sluicemq.broker.pipeline.ensemble import state_hashes
from sluicemq.broker.pipeline.ensemble.administration import Administration
from sluicemq.broker.queues.cluster import NODES_MAX, Cluster
from sluicemq.broker.queues.entries_of_cluster import NodeAddress
from sluicemq.broker.replication import effects as fx
from sluicemq.broker.replication.messages import Phase, Role
from sluicemq.storage.errors import LogClosed
from sluicemq.wire.errors import Conflict, NodeMismatch
from tests.broker.paged import make_chunks_small
from tests.broker.pipeline.ensemble.cluster import OPTIONS, Node, open_cluster
from tests.broker.pipeline.roads import declare, open_producer, publish
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.queues.fifo import RunFifo
    from sluicemq.broker.replication.history import Entry


class SlowReads:
    """The view's reads from the disk, which take until they are told to go on, and meet a closed log then."""

    def __init__(self, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = 0
        self.go_on = threading.Semaphore(0)
        self._node = node
        monkeypatch.setattr(node.ensemble.view, "read_from_disk", self._read)

    def _read(self, after: int, bytes_max: int) -> tuple[Entry, ...]:
        del after, bytes_max
        self.begun += 1
        self.go_on.acquire(timeout=WAIT_SECONDS)
        raise LogClosed

    async def begin(self) -> None:
        """Let a learner want something, and return when it is being read."""
        before = self.begun
        self._node.ensemble.driver._reads.send_nowait(fx.ReadEntries(9, 1, 1, 1))
        await self._node.until(lambda: self.begun > before)


@pytest.mark.trio
async def test_a_read_for_a_learner_that_ends_while_the_log_is_exchanged_ends_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        reads = SlowReads(leader, monkeypatch)
        await reads.begin()
        leader.ensemble.exchanging = True
        reads.go_on.release()
        await reads.begin()
        assert leader.failures == [], "the next one is read"
        leader.ensemble.exchanging = False
        reads.go_on.release()
        await leader.until(lambda: bool(leader.failures))
        assert [type(failure) for failure in leader.failures] == [LogClosed], "of a log that is in use it is the end"
        leader.failures.clear()


@pytest.mark.trio
async def test_what_was_set_aside_is_forgotten_once_though_its_repair_is_noted_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        ensemble = leader.ensemble
        times: list[None] = []
        monkeypatch.setattr(ensemble._premises, "forget_damaged", lambda: times.append(None))
        ensemble.repaired()
        ensemble.repaired()
        await leader.until(lambda: bool(times))
        await leader.until(lambda: not ensemble._nursery.child_tasks or len(times) == 1)
        assert len(times) == 1


@pytest.mark.trio
async def test_a_removed_broker_that_runs_on_is_not_noted_again_until_it_is_added() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        await cluster.start(4, listed=False)
        known = leader.led.machine.cluster
        await leader.until(lambda: known.addresses.get(4) is not None)
        address = known.addresses[4]
        leader.led.propose(NodeAddress(leader.led.clock.now_ms(), 4, ""))
        await leader.until(lambda: 4 not in known.addresses)
        await cluster.stop(4)
        late = await cluster.start(4, listed=False)
        await late.until(lambda: late.ensemble.replica.phase is Phase.BROADCAST)
        await cluster.agree()
        assert 4 not in known.addresses
        assert 4 not in leader.ensemble.addresses
        leader.led.propose(NodeAddress(leader.led.clock.now_ms(), 4, address))
        await leader.until(lambda: known.addresses.get(4) == address)
        await cluster.agree()


@pytest.mark.trio
async def test_the_disk_of_one_node_is_refused_to_another_and_left_as_it_is() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        lost = next(number for number in cluster.nodes if number != leader.number)
        await cluster.stop(lost)
        cluster.disks[4] = cluster.disks[lost]
        for listed in (True, False):
            with pytest.raises(NodeMismatch, match=rf"is that of node {lost}, but this is node 4: .*--node-id {lost}"):
                await cluster.start(4, listed=listed)
        cluster.disks[lost] = cluster.disks.pop(4)
        back = await cluster.start(lost)
        await back.until(lambda: back.ensemble.replica.phase is Phase.BROADCAST)
        assert back.ensemble.replica.role is Role.FOLLOWING


@pytest.mark.trio
async def test_who_led_until_now_has_heard_of_a_leader() -> None:
    async with open_cluster(options=replace(OPTIONS, leader_seconds=0.5)) as cluster:
        leader = await cluster.leader()
        for number in [number for number in cluster.nodes if number != leader.number]:
            await cluster.stop(number)
        await leader.until(lambda: leader.ensemble.replica.role is Role.LOOKING)
        heard_seconds = Administration(leader.ensemble, "test").heard_seconds
        assert heard_seconds is not None
        assert heard_seconds < WAIT_SECONDS


@pytest.mark.trio
async def test_what_the_disk_comes_to_rest_for_behind_the_end_of_a_broker_does_not_begin() -> None:
    begun: list[str] = []
    async with open_cluster(1) as cluster:
        ensemble = (await cluster.leader()).ensemble
        await cluster.stop(1)
        ensemble.disk.suspend = lambda then: then()  # type: ignore[method-assign]
        ensemble._exchange(lambda: begun.append("changed"), lambda: begun.append("done"))
        await trio.testing.wait_all_tasks_blocked()
    assert not begun


@pytest.mark.trio
async def test_an_operator_gives_no_address_twice_and_keeps_the_last_voter() -> None:
    async with open_cluster(1) as cluster:
        leader = await cluster.leader()
        administration = Administration(leader.ensemble, "test")
        await leader.until(lambda: bool(leader.led.machine.cluster.addresses))
        address = leader.led.machine.cluster.addresses[1]
        with pytest.raises(Conflict, match=f"node 1 is reached at {address}"):
            await administration.add_node(2, address)
        assert await administration.add_node(2, "node-2:7650")
        with pytest.raises(Conflict, match="node 1 is the only one that votes"):
            await administration.remove_node(1)


def test_who_was_removed_is_remembered_by_images_and_within_bounds() -> None:
    cluster = Cluster()
    assert cluster.moved(1, "a:1")
    for node in range(2, NODES_MAX + 10):
        assert cluster.moved(node, "")
    assert len(cluster.removed) == NODES_MAX
    other = Cluster()
    other.restore(*cluster.frozen())
    assert (other.addresses, other.removed) == ({1: "a:1"}, cluster.removed)
    assert other.moved(NODES_MAX, "b:1")
    assert NODES_MAX not in other.removed


def lies_elsewhere(lane: RunFifo) -> None:
    """One message lies elsewhere in the log; no count shows it."""
    lane._open[0] ^= 1


def fails_in_memory(lane: RunFifo) -> None:
    """One bit of what was sealed long ago is not what it was."""
    assert lane._chunks
    chunk = lane._chunks[0]
    assert chunk.data is not None
    chunk.data = bytes([chunk.data[0] ^ 1]) + chunk.data[1:]


@pytest.mark.parametrize("change", [lies_elsewhere, fails_in_memory])
@pytest.mark.trio
async def test_a_follower_whose_rows_are_not_those_of_others_ends_itself_with_a_dump(
    change: Callable[[RunFifo], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apply, "HASH_MASK", 0xF)
    monkeypatch.setattr(state_hashes, "TURN_BITS", 4)
    make_chunks_small(monkeypatch, 4)
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        await declare(leader.led)
        producer = await open_producer(leader.led)
        for sequence in range(1, 7):
            await publish(leader.led, producer, sequence, [b"one", b"two"])
        await cluster.agree()
        follower = next(node for node in cluster.nodes.values() if node is not leader)
        assert follower.ensemble.ground is not None
        ((_, lane),) = follower.ensemble.ground.machine.find_queue("/", "orders").lanes.items()
        change(lane)
        sequence = 6
        with trio.fail_after(WAIT_SECONDS):
            while not follower.failures:
                sequence += 1
                await publish(leader.led, producer, sequence, [b"goes on"])
        assert "differs" in str(follower.failures[0])
        assert "contents" in str(follower.failures[0])
        assert any(name.startswith("diverged-") for name in follower.disk.names())
        assert all(not node.failures for node in cluster.nodes.values() if node is not follower)
        follower.failures.clear()


@pytest.mark.trio
async def test_what_came_in_of_snapshots_is_forgotten_once_a_broker_has_its_place() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        for node in cluster.nodes.values():
            await node.until(lambda node=node: node.snapshots_forgotten > 0)  # type: ignore[misc]
        assert leader.snapshots_forgotten == 1


@pytest.mark.trio
async def test_a_broker_that_begins_far_behind_takes_no_snapshot_before_it_has_caught_up() -> None:
    async with open_cluster() as cluster:
        leader = await cluster.leader()
        await declare(leader.led)
        producer = await open_producer(leader.led)
        stage = leader.led.ground.snapshots
        assert stage is not None
        taken = stage.figures.taken
        behind = leader.led.machine.applied_zxid + 40
        stage.began_behind(1_000_000, 1 << 40, behind)
        with trio.fail_after(WAIT_SECONDS):
            for sequence in range(1, 100):
                before = leader.led.machine.applied_zxid
                await publish(leader.led, producer, sequence, [b"one more"])
                if before + 10 < behind:
                    assert stage.figures.taken == taken, "it would hold next to nothing"
        await leader.until(lambda: stage.figures.taken > taken)
