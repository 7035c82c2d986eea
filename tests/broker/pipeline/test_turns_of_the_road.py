"""The road's turns: a long stretch of entries is applied in order, and in slices between which others run.

What an entry costs is virtual: the clock that slices are measured with stands still but for `Costs`.
"""

from __future__ import annotations

import math
import time
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline import apply as apply_module
from sluicemq.broker.pipeline import ground as ground_module
from sluicemq.broker.pipeline.commit import CommitStage
from sluicemq.broker.pipeline.road import SLICE_SECONDS
from tests.broker.pipeline.held import HeldSyncs
from tests.broker.pipeline.roads import Client, declare, open_producer, open_road, publish
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road

ENTRY_SECONDS = 2**-9
SLICE_ENTRIES = math.ceil(SLICE_SECONDS / ENTRY_SECONDS)


class Costs:
    """A clock that only applying an entry moves.

    Attributes:
        applied: zxids in the order in which the machine saw them.

    """

    def __init__(self, road: Road, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.applied: list[int] = []
        apply = road.machine.apply

        def costly(zxid, entry):
            self.now += ENTRY_SECONDS
            self.applied.append(zxid)
            return apply(zxid, entry)

        monkeypatch.setattr(road.machine, "apply", costly)
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)


async def stretch(road: Road, held: HeldSyncs, count: int) -> list[int]:
    """Propose *count* entries that one sync will commit together; return their zxids."""
    held.hold()
    first = road.propose(road.settle.clock_entry())
    await held.begun()
    zxids = [first, *(road.propose(road.settle.clock_entry()) for _ in range(count - 1))]
    held.let_go()
    await held.begun()
    await trio.testing.wait_all_tasks_blocked()
    return zxids


@pytest.mark.trio
async def test_a_long_stretch_of_entries_lets_others_run_between_slices_and_keeps_its_order(monkeypatch):
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with open_road(disk) as road:
        await road.wait_idle()
        costs = Costs(road, monkeypatch)
        zxids = await stretch(road, held, 101)
        seen = []

        async def bystander() -> None:
            while len(costs.applied) < 101:
                seen.append(len(costs.applied))
                await trio.lowlevel.checkpoint()
            seen.append(101)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(bystander)
            held.let_all_go()

        assert costs.applied == zxids
        # Trio runs those who are ready in any order, so between two turns of one there may be two of another.
        assert max(later - earlier for earlier, later in pairwise(seen)) <= 2 * SLICE_ENTRIES
        assert road.turns.longest_seconds <= SLICE_SECONDS + ENTRY_SECONDS


@pytest.mark.trio
async def test_a_long_stretch_of_entries_does_not_keep_consumers_waiting_for_its_end(monkeypatch):
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with open_road(disk) as road:
        producer = await open_producer(road)
        client = await Client(road).open()
        queues = [await declare(road, f"queue {number}") for number in range(10)]
        for number, queue in enumerate(queues, 1):
            await publish(road, producer, number, [b"x"], queue.name)
        await road.wait_idle()
        costs = Costs(road, monkeypatch)
        await stretch(road, held, 101)
        before = len(costs.applied)
        delivered_after = []
        client.on_deliver = lambda _fresh: delivered_after.append(len(costs.applied) - before)
        held.let_all_go()
        for queue in queues:
            client.consume(queue)
        await client.take(10)

        assert delivered_after[-1] < 100, "all were served before the stretch was over"


@pytest.mark.trio
async def test_sessions_read_on_only_when_apply_has_caught_up(monkeypatch):
    monkeypatch.setattr(ground_module, "WAITING_ENTRIES_MAX", 20)
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with open_road(disk) as road:
        await road.wait_idle()
        costs = Costs(road, monkeypatch)
        await stretch(road, held, 101)
        assert road.congested
        left: list[int] = []

        async def wait() -> None:
            await road.wait_for_room()
            left.append(len(road.commit))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert left == []
            held.let_all_go()

        assert len(left) == 2
        assert max(left) <= 20
        await road.wait_idle()
        assert len(costs.applied) == 101


@pytest.mark.trio
async def test_who_waits_for_room_goes_on_when_the_broker_takes_over_a_snapshot_and_this_ground_ends(monkeypatch):
    monkeypatch.setattr(ground_module, "WAITING_ENTRIES_MAX", 2)
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with open_road(disk) as road:
        await road.wait_idle()
        await stretch(road, held, 10)
        with monkeypatch.context() as patch:
            patch.setattr(road.ground, "advance", lambda: None)  # another ground applies what is left
            async with trio.open_nursery() as nursery:
                nursery.start_soon(road.wait_for_room)
                await trio.testing.wait_all_tasks_blocked()
                held.let_all_go()
                with trio.fail_after(WAIT_SECONDS):
                    await road.ground.stop()
                    await road.wait_for_room()
            assert len(road.commit) > 2, "nothing was applied"
        road.advance()


@pytest.mark.trio
async def test_after_a_mistake_of_the_machine_nothing_more_is_applied_or_confirmed(monkeypatch):
    disk = SimulatedDisk(1)
    held = HeldSyncs(disk)
    async with open_road(disk, expect_failure=True) as road:
        await road.wait_idle()
        failures: list[BaseException] = []
        tell = road.ground.on_failure

        def hear(error: BaseException) -> None:
            failures.append(error)
            tell(error)

        road.ground.on_failure = hear
        apply = road.machine.apply
        confirmed: list[int] = []
        broken_at = road.order.next_zxid + 3

        def broken(zxid, entry):
            if zxid == broken_at:
                raise RuntimeError("a bug of ours")
            return apply(zxid, entry)

        monkeypatch.setattr(road.machine, "apply", broken)
        held.hold()
        road.propose(road.settle.clock_entry())
        await held.begun()
        for _ in range(9):
            zxid = road.propose(road.settle.clock_entry(), on_applied=lambda _outcome: confirmed.append(len(confirmed)))
        assert zxid > broken_at
        held.let_all_go()
        with trio.fail_after(WAIT_SECONDS):
            while not failures:
                await trio.lowlevel.checkpoint()
        road.again()
        await trio.testing.wait_all_tasks_blocked()

        assert len(confirmed) == 2
        assert [str(error) for error in failures] == ["a bug of ours"]
        road.ground.commit = CommitStage()


@pytest.mark.trio
async def test_whose_state_is_not_that_of_the_others_confirms_nothing_more(monkeypatch):
    monkeypatch.setattr(apply_module, "HASH_MASK", 0)
    disk = SimulatedDisk(1)
    confirmed: list[int] = []
    async with open_road(disk, expect_failure=True) as road:
        await road.wait_idle()
        last_zxid = road.propose(road.settle.clock_entry(), on_applied=lambda _outcome: confirmed.append(1))
        over = trio.Event()

        def compare(zxid):
            if zxid == last_zxid:
                road.fail(RuntimeError("the others say otherwise"))
                over.set()

        road.ground.on_hash_due = compare
        with trio.fail_after(WAIT_SECONDS):
            await over.wait()
        await trio.lowlevel.checkpoint()
    assert confirmed == []
