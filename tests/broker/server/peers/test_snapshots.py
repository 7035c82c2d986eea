"""A snapshot goes to a learner beside everything else: what comes of it, and what may break it off."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline.ensemble import snapshot_source
from sluicemq.broker.pipeline.ensemble.links import ReceivedSnapshot
from sluicemq.broker.replication.effects import SendSnapshot
from sluicemq.broker.server.outbound import Outbound
from sluicemq.broker.server.peers import snapshots_out
from sluicemq.broker.server.peers.snapshots_out import SnapshotSender
from sluicemq.storage import installing
from sluicemq.storage.errors import FileWriteFailed
from sluicemq.wire.peers import FILE_PAGES, SnapshotEnd, SnapshotEntries, SnapshotPiece
from tests.broker.server.peers.pair import Node, brokers, commit, connected, ping
from tests.broker.server.peers.snapshot_pairs import (
    EPOCH,
    SESSION,
    VOTERS,
    Learner,
    backlog,
    leading_road,
    left_in,
    send,
    snapshot,
    stores_of,
    trade,
)
from tests.disk import SimulatedDisk
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from sluicemq.broker.pipeline.road import LoneRoad
    from tests.broker.server.peers.snapshot_pairs import Keep

pytestmark = pytest.mark.trio


class Pair:
    """A leader, node 1, and a learner, node 2, with a connection between them."""

    def __init__(self, leader: Node, learner: Node, road: LoneRoad, files: Learner, leader_stores: Keep) -> None:
        self.leader = leader
        self.learner = learner
        self.road = road
        self.files = files
        self.leader_stores = leader_stores

    async def received(self) -> ReceivedSnapshot:
        found: ReceivedSnapshot = (await self.learner.events.until(lambda: self.learner.events.snapshots))[-1]
        return found

    async def failed(self) -> str:
        ((peer, session, reason),) = await self.leader.events.until(lambda: self.leader.events.failed)
        assert (peer, session) == (2, SESSION)
        return str(reason)

    async def sent(self) -> None:
        """Wait until nothing is under way."""
        with trio.fail_after(WAIT_SECONDS):
            while self.leader.mesh.snapshots():
                await trio.testing.wait_all_tasks_blocked(0.005)


@asynccontextmanager
async def pair(*, leader_opens: bool = True) -> AsyncIterator[Pair]:
    disk, files = SimulatedDisk(1), Learner()
    async with leading_road(disk) as road, brokers(1, 2) as (one, two):
        one.events.stores = leader_stores = stores_of(road)
        two.events.stores = files.stores
        await (connected(one, two) if leader_opens else connected(two, one))
        try:
            yield Pair(one, two, road, files, leader_stores)
        finally:
            files.close()


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_source, "PIECE_BYTES", 4096)
    monkeypatch.setattr(installing, "LIVE_FILE_BYTES", 8192)
    monkeypatch.setattr(installing, "PROGRESS_BYTES", 8192)


@pytest.mark.parametrize("leader_opens", [True, False], ids=["the leader opened", "the learner opened"])
async def test_a_learner_gets_what_is_alive_and_starts_from_it(leader_opens):
    async with pair(leader_opens=leader_opens) as both:
        alive = await trade(both.road, 150)
        zxid = await snapshot(both.road)
        await trade(both.road, 5)
        send(both.leader, 2)
        received = await both.received()
        assert (received.peer, received.epoch, received.session) == (1, EPOCH, SESSION)
        assert received.position == (zxid, both.road.log.chain_at(zxid))
        assert (received.configuration, received.configuration_zxid) == (VOTERS, zxid - 1)
        await both.sent()
        assert both.leader.events.failed == []
        assert both.leader_stores.held == 0
        both.files.install(received)
        log = both.files.stores.log
        assert (log.start_zxid, log.last_zxid, log.last_chain) == (zxid, zxid, received.position.chain)
        # Dead messages were not sent: of an entry of ten, one is left.
        live_bytes = sum(each.bytes for each in log.live_files())
        assert live_bytes < 150 * 10 * 100 / 2
        both.files.close()
        assert sorted(await left_in(both.files.disk.restart())) == sorted(alive)


async def test_what_lies_on_pages_comes_too(monkeypatch):
    monkeypatch.setattr("sluicemq.broker.pipeline.keeping.paging.BYTES_MIN", 0)
    async with pair() as both:
        alive = [*await trade(both.road, 20), *await backlog(both.road, 5_000)]
        await snapshot(both.road)
        assert both.leader_stores.pages.statistics().used >= 1
        send(both.leader, 2)
        received = await both.received()
        await both.sent()
        both.files.install(received)
        both.files.close()
        assert sorted(await left_in(both.files.disk.restart())) == sorted(alive)


async def test_pings_and_proposals_pass_meanwhile(monkeypatch):
    async with pair() as both:
        await trade(both.road, 150)
        await snapshot(both.road)
        number = both.leader.events.up_with(2)
        assert number is not None
        piece_heard = trio.Event()
        original = snapshot_source.SnapshotSource._snapshot_file

        def slow(self: Any, offset: int) -> Any:
            trio.from_thread.run_sync(piece_heard.set)
            trio.from_thread.run(go_on.wait)
            yield from original(self, offset)

        go_on = trio.Event()
        monkeypatch.setattr(snapshot_source.SnapshotSource, "_snapshot_file", slow)
        send(both.leader, 2)
        with trio.fail_after(WAIT_SECONDS):
            await piece_heard.wait()
        both.leader.say(2, ping(number, 1), commit(number, 5))
        assert len(await both.learner.hears(2)) == 2
        assert both.leader_stores.held == 1
        go_on.set()
        await both.received()


async def test_a_stream_that_broke_goes_on_where_it_was():
    async with pair() as both:
        alive = await trade(both.road, 150)
        zxid = await snapshot(both.road)
        send(both.leader, 2)
        receiver = both.learner.mesh.receiver
        with trio.fail_after(WAIT_SECONDS):
            while receiver.sink is None or receiver.sink.wanted().snapshot_bytes < 12_000:
                await trio.lowlevel.checkpoint()
        connection = both.learner.mesh.connection_to(1)
        assert connection is not None
        connection.data.close()
        assert "ended" in await both.failed() or "broke" in await both.failed()
        await both.leader.events.until(lambda: both.leader.events.count("up", 2) == 2)
        await both.learner.events.until(lambda: both.learner.events.count("up", 1) == 2)
        await both.sent()
        both.leader.events.failed.clear()
        send(both.leader, 2)
        with trio.fail_after(WAIT_SECONDS):
            while receiver.sink is None:
                await trio.lowlevel.checkpoint()
        assert receiver.sink.wanted().snapshot_bytes >= 8192
        assert receiver.sink.wanted().entries_after > 0
        received = await both.received()
        await both.sent()
        assert received.position.zxid == zxid
        both.files.install(received)
        both.files.close()
        assert sorted(await left_in(both.files.disk.restart())) == sorted(alive)


async def test_what_is_left_of_a_stream_that_broke_goes_once_it_is_not_needed():
    async with pair() as both:
        await trade(both.road, 150)
        await snapshot(both.road)
        send(both.leader, 2)
        receiver = both.learner.mesh.receiver
        with trio.fail_after(WAIT_SECONDS):
            while receiver.sink is None or receiver.sink.wanted().snapshot_bytes < 12_000:
                await trio.lowlevel.checkpoint()
        connection = both.learner.mesh.connection_to(1)
        assert connection is not None
        connection.data.close()
        await both.failed()
        with trio.fail_after(WAIT_SECONDS):
            while receiver.sink is not None:
                await trio.lowlevel.checkpoint()
        assert any(name.startswith("incoming-") for name in both.files.disk.names()), "another stream would go on there"
        both.learner.mesh.forget_snapshots()
        with trio.fail_after(WAIT_SECONDS):
            while any(name.startswith("incoming-") for name in both.files.disk.names()):
                await trio.lowlevel.checkpoint()


# --- what breaks it off -----------------------------------------------------------------------------------------------


async def test_without_a_snapshot_that_is_new_enough_one_is_wanted():
    async with pair() as both:
        zxid = await snapshot(both.road)
        send(both.leader, 2, zxid + 1)
        assert "no snapshot reaches" in await both.failed()
        assert both.leader_stores.wanted == 1
        assert both.leader_stores.held == 0


async def test_a_learner_that_is_installing_takes_no_other_one():
    async with pair() as both:
        await snapshot(both.road)
        both.files.stores.installing = True
        send(both.leader, 2)
        assert "taking the place" in await both.failed()


async def test_a_learner_whose_disk_is_full_says_so():
    async with pair() as both:
        await trade(both.road, 150)
        await snapshot(both.road)
        both.files.disk.capacity_bytes = 0
        send(both.leader, 2)
        assert "no room" in await both.failed()
        assert both.learner.events.snapshots == []


@pytest.mark.parametrize("leader_opens", [True, False], ids=["the leader opened", "the learner opened"])
async def test_a_learner_whose_disk_fails_ends(leader_opens):
    async with pair(leader_opens=leader_opens) as both:
        await trade(both.road, 150)
        await snapshot(both.road)
        both.files.disk.fail_after(1, kind="sync")
        send(both.leader, 2)
        (error,) = await both.learner.events.until(lambda: both.learner.events.failures)
        assert isinstance(error, FileWriteFailed)
        assert await both.failed()
        assert both.learner.events.snapshots == []


async def test_a_learner_that_takes_next_to_nothing_is_given_up_for_now(monkeypatch):
    monkeypatch.setattr(snapshots_out, "ROOM_SECONDS", 0.01)
    async with pair() as both:
        await snapshot(both.road)
        monkeypatch.setattr(Outbound, "wait_room", _never)
        send(both.leader, 2)
        assert "takes less than a piece" in await both.failed()
        assert both.leader_stores.held == 0


async def test_damage_of_the_leaders_own_disk_is_told():
    async with pair() as both:
        await trade(both.road, 150)
        await snapshot(both.road)
        disk = both.road.log._directory
        assert isinstance(disk, SimulatedDisk)
        disk.overwrite(both.road.log.first_segment_name, 8192, b"\xff" * 40_000)
        send(both.leader, 2)
        assert "cannot be sent" in await both.failed()


async def test_a_connection_that_ended_gets_none_and_no_word():
    async with pair() as both:
        await snapshot(both.road)
        connection = both.leader.mesh.connection_to(2)
        assert connection is not None
        both.leader.mesh.send_snapshot(_effect(connection.number + 1))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert both.leader.events.failed == []
        assert both.leader.mesh.snapshots() == {}


async def test_a_stream_that_another_one_replaces_ends_without_a_word():
    async with pair() as both:
        await trade(both.road, 150)
        await snapshot(both.road)
        send(both.leader, 2)
        await trio.testing.wait_all_tasks_blocked(0.0)
        send(both.leader, 2)
        await both.received()
        await both.sent()
        assert both.leader.events.failed == []
        assert both.leader_stores.held == 0


async def _never(_outbound: Outbound) -> None:
    await trio.sleep_forever()


def _effect(number: int) -> SendSnapshot:
    return SendSnapshot(2, number, EPOCH, SESSION, 0)


# --- leaders that send nonsense ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        ([(SnapshotPiece(SESSION + 1, 1, 0), b"x")], "session 10 came among"),
        ([(SnapshotPiece(SESSION, 1, 5), b"x")], "out of order"),
        ([(SnapshotPiece(SESSION, 1, 0), b"x" * 1_000_000)], "announced with"),
        ([(SnapshotPiece(SESSION, FILE_PAGES, 0), b"x" * 1_000_000)], "announced with"),
        ([(SnapshotEnd(SESSION), b"")], "ended after 0 of"),
        ([(SnapshotEntries(SESSION, [1 << 40, 5, 1, 0, 0, 0], b""), b"")], "out of order"),
        ([(SnapshotEntries(SESSION, [5, 5, 1, 0, 0, 0], b""), b"")] * 2, "out of order"),
    ],
)
async def test_pieces_that_make_no_sense_are_refused_by_name(monkeypatch, pieces, text):
    async def nonsense(self: Any, source: Any, wanted: Any, stream: Any) -> None:
        for message, tail in pieces:
            stream.put(message, [tail])
        stream.outbound.flush()
        await trio.sleep_forever()

    async with pair() as both:
        await snapshot(both.road)
        monkeypatch.setattr(SnapshotSender, "_send_pieces", nonsense)
        send(both.leader, 2)
        assert text in await both.failed()
        assert both.learner.events.snapshots == []
        assert both.leader.events.count("down", 2) == 0


async def test_a_snapshot_that_is_not_what_was_announced_is_thrown_away(monkeypatch):
    original = snapshot_source.SnapshotSource._snapshot_file

    def damaged(self: Any, offset: int) -> Any:
        for piece in original(self, offset):
            yield piece._replace(data=piece.data[:-1] + b"!")

    monkeypatch.setattr(snapshot_source.SnapshotSource, "_snapshot_file", damaged)
    async with pair() as both:
        await snapshot(both.road)
        send(both.leader, 2)
        assert "cannot be used" in await both.failed()
        assert both.learner.events.snapshots == []
