"""What is asked about the cluster, from the port to whoever knows; and the client's calls and commands for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click.testing
import pytest
import trio

from sluicemq.broker.commands import cluster as commands
from sluicemq.broker.commands.program import command
from sluicemq.broker.pipeline.ensemble.cluster import entries_between
from sluicemq.broker.pipeline.ensemble.links import Identity
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.client import ClusterReport, connect, probe_cluster, wait_for_cluster
from sluicemq.wire import messages as m
from sluicemq.wire.errors import Conflict, ConnectionFailed, InvalidRequest, NotFound, SluiceError, Unavailable
from sluicemq.wire.peers_of_links import NodeFigures
from tests.broker.server.talk import Port, open_port
from tests.patience import WAIT_SECONDS

pytestmark = pytest.mark.trio


def figures(role: str, last_zxid: int, *, time_ms: int = 10_000, leader: int = 1) -> NodeFigures:
    return NodeFigures(
        role, "broadcast", last_zxid >> 32, leader, last_zxid, last_zxid, last_zxid, time_ms, 5 << 30, 700, "0.1"
    )


class Cluster:
    """Three nodes: 1 leads, 2 lags, 3 votes and is gone; 4 learns and gets a snapshot."""

    def __init__(self) -> None:
        self.identity = Identity(1, b"%016d" % 1, b"one cluster of 3", founded=True, address="10.0.0.1:7650")
        self.figures = figures("leading", 3 << 32 | 500)
        self.configuration: Configuration | None = Configuration(
            frozenset(Member(node, b"%016d" % node) for node in (1, 2, 3))
        )
        self.addresses = {1: "10.0.0.1:7650", 2: "10.0.0.2:7650", 3: "10.0.0.3:7650"}
        self.reachable = {2, 4}
        self.heard = {2: figures("following", 3 << 32 | 400, time_ms=8_500), 4: figures("observing", 2 << 32 | 9)}
        self.acknowledged = {2: 3 << 32 | 400, 4: 0}
        self.snapshots = {4: {"zxid": 3 << 32, "sent_bytes": 10, "snapshot_bytes": 90, "pages_bytes": 0}}
        self.heard_seconds: float | None = 0.0
        self.exchanging = False
        self.done: list[tuple[Any, ...]] = []
        self.error: SluiceError | None = None

    def bytes_behind(self, zxid: int) -> int | None:
        return {3 << 32 | 400: 12_345}.get(zxid)

    async def _do(self, *what: Any) -> bool:
        await trio.lowlevel.checkpoint()
        if self.error is not None:
            raise self.error
        self.done.append(what)
        return self.done.count(what) == 1

    async def add_node(self, node: int, address: str) -> bool:
        return await self._do("add", node, address)

    async def remove_node(self, node: int) -> bool:
        return await self._do("remove", node)

    async def promote_node(self, node: int) -> bool:
        return await self._do("promote", node)

    async def transfer_lead(self, node: int, on_done: Callable[[], None]) -> None:
        await self._do("transfer", node)
        self.figures = figures("following", 3 << 32 | 500, leader=node)
        on_done()


def url_of(port: Port) -> str:
    host, number = port._address[:2]
    return f"sluicemq://{host}:{number}"


async def test_the_status_says_how_every_node_is():
    async with open_port() as port:
        port.server.cluster = Cluster()
        async with connect(url_of(port)) as client:
            report = await client.cluster_status()
        assert (report.node, report.leader, report.changing) == (1, 1, False)
        assert report.cluster_id == b"one cluster of 3".hex()
        rows = {each["id"]: each for each in report.nodes}
        assert list(rows) == [1, 2, 3, 4]
        assert [rows[node]["role"] for node in rows] == ["leading", "following", None, "observing"]
        assert [rows[node]["voter"] for node in rows] == [True, True, True, False]
        assert [rows[node]["reachable"] for node in rows] == [True, True, False, True]
        assert (rows[1]["lag_entries"], rows[1]["lag_bytes"], rows[1]["lag_seconds"]) == (0, 0, 0.0)
        assert (rows[2]["lag_entries"], rows[2]["lag_bytes"], rows[2]["lag_seconds"]) == (100, 12_345, 1.5)
        assert (rows[3]["address"], rows[3]["last_zxid"], rows[3]["lag_entries"]) == ("10.0.0.3:7650", None, None)
        assert rows[4]["snapshot"]["sent_bytes"] == 10
        assert rows[4]["lag_bytes"] is None


async def test_anybody_is_told_without_a_session_and_from_whoever_answers_first():
    async with open_port() as port:
        port.server.cluster = Cluster()
        url = url_of(port)
        with trio.fail_after(WAIT_SECONDS):
            report = await probe_cluster(url.replace("sluicemq://", "sluicemq://127.0.0.1:1,"))
        assert isinstance(report, ClusterReport)
        assert [each["id"] for each in report.nodes] == [1, 2, 3, 4]


async def test_when_nobody_answers_each_is_named_with_its_cause():
    with trio.fail_after(WAIT_SECONDS), pytest.raises(ConnectionFailed, match=r"127\.0\.0\.1:1: .*127\.0\.0\.1:2: "):
        await probe_cluster("sluicemq://127.0.0.1:1,127.0.0.1:2")


class Recovering(Cluster):
    """Node 2 catches up once it was seen to lag, and node 3 comes back after that."""

    def bytes_behind(self, zxid: int) -> int | None:
        if self.heard[2].last_zxid == self.figures.last_zxid:
            self.reachable.add(3)
            self.heard[3] = self.heard[2]
        self.heard[2] = figures("following", self.figures.last_zxid)
        return super().bytes_behind(zxid)


async def test_who_waits_is_told_when_nothing_is_lacking_any_more():
    async with open_port() as port:
        port.server.cluster = Recovering()
        with trio.fail_after(WAIT_SECONDS):
            report = await wait_for_cluster(url_of(port), timeout_seconds=60)
        assert report.lacks(lag_seconds_max=0.0) == []
        assert report.leader == 1


async def test_who_waited_in_vain_is_told_what_is_lacking():
    async with open_port() as port:
        port.server.cluster = cluster = Cluster()
        report = await wait_for_cluster(url_of(port), timeout_seconds=0.0)
        assert report.lacks() == ["not reachable from node 1: 3"]
        assert report.lacks(lag_seconds_max=1.0) == ["not reachable from node 1: 3", "node 2 is 1.5 s behind"]
        cluster.figures = figures("looking", 3 << 32 | 500, leader=0)
        report = await wait_for_cluster(url_of(port), timeout_seconds=0.0)
        assert report.lacks()[0] == "nobody leads, as far as node 1 knows"
    with trio.fail_after(WAIT_SECONDS), pytest.raises(ConnectionFailed):
        await wait_for_cluster("sluicemq://127.0.0.1:1", timeout_seconds=0.1)


async def test_a_voter_that_came_back_on_another_disk_is_lacking_until_it_is_promoted():
    async with open_port() as port:
        port.server.cluster = cluster = Cluster()
        cluster.reachable.add(3)
        cluster.heard |= {2: figures("following", 3 << 32 | 500), 3: figures("observing", 3 << 32 | 500)}
        report = await wait_for_cluster(url_of(port), timeout_seconds=0.0)
        assert [lack[:20] for lack in report.lacks()] == ["node 3 does not vote"]
        assert "cluster promote 3" in report.lacks()[0]
        cluster.heard[3] = figures("following", 3 << 32 | 500)
        assert (await probe_cluster(url_of(port))).lacks() == []


async def test_waiting_for_a_broker_on_its_own_ends_at_once():
    async with open_port() as port:
        with trio.fail_after(WAIT_SECONDS), pytest.raises(Conflict, match="runs on its own"):
            await wait_for_cluster(url_of(port), timeout_seconds=3600)


async def test_changes_are_made_and_their_repetition_changes_nothing():
    async with open_port() as port:
        port.server.cluster = cluster = Cluster()
        async with connect(url_of(port)) as client:
            for expected in (True, False):
                assert await client.add_node(4, "10.0.0.4") is expected
                assert await client.promote_node(4) is expected
                assert await client.remove_node(3) is expected
            assert not await client.transfer_lead(1)
            assert await client.transfer_lead(2)
        assert cluster.done[:4] == [
            ("add", 4, "10.0.0.4:7650"),
            ("promote", 4),
            ("remove", 3),
            ("add", 4, "10.0.0.4:7650"),
        ]
        assert cluster.done[-1] == ("transfer", 2)


async def test_what_the_core_refuses_reaches_the_caller_and_wrong_values_are_named():
    async with open_port() as port:
        port.server.cluster = cluster = Cluster()
        async with connect(url_of(port)) as client:
            cluster.error = NotFound("node 9 is no voter")
            with pytest.raises(NotFound, match="node 9 is no voter"):
                await client.transfer_lead(9)
            cluster.error = Unavailable("node 4 has not caught up")
            with pytest.raises(Unavailable, match="caught up"):
                await client.promote_node(4)
            cluster.error = None
            with pytest.raises(InvalidRequest, match="node 0"):
                await client.remove_node(0)
            with pytest.raises(InvalidRequest, match="is no address"):
                await client.add_node(4, "here:there")
            with pytest.raises(InvalidRequest, match="port 0"):
                await client.add_node(4, "here:0")
            with pytest.raises(InvalidRequest, match="no host that others can reach"):
                await client.add_node(4, "0.0.0.0:7650")
        assert cluster.done == []


async def test_a_broker_on_its_own_says_so():
    async with open_port() as port:
        with pytest.raises(Conflict, match="runs on its own"):
            await probe_cluster(url_of(port))


async def test_the_status_may_be_asked_for_again_and_then_a_session_opened():
    async with open_port() as port:
        port.server.cluster = Cluster()
        peer = await port.dial()
        await peer.shake_hands()
        assert (await peer.ask(m.ClusterStatus())).node == 1


# --- the commands -----------------------------------------------------------------------------------------------------


async def run(port: Port, *words: str, exit_code: int = 0, group: str = "cluster") -> str:
    """Run a command in a thread, which has an event loop of its own."""
    runner = click.testing.CliRunner()
    result = await trio.to_thread.run_sync(lambda: runner.invoke(command, [group, *words, "--url", url_of(port)]))
    assert result.exit_code == exit_code, result.output
    return result.output


@pytest.fixture(autouse=True)
def _no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Signals are the main thread's."""
    monkeypatch.setattr("sluicemq.broker.commands.interrupts.clean_up_on_interrupt", lambda: None)


async def test_the_status_as_a_table_and_as_json():
    async with open_port() as port:
        port.server.cluster = cluster = Cluster()
        shown = await run(port, "status", exit_code=1)
        assert "leading" in shown
        assert "3:500" in shown
        assert "not reachable from node 1: 3" in shown
        assert "node 4 is sent a snapshot: 10 bytes so far" in shown
        assert "node 2 is 1.5 s behind" in await run(port, "status", "--wait", "0", exit_code=1)
        cluster.reachable.add(3)
        told = json.loads((await run(port, "status", "--json")).splitlines()[-1])
        assert [each["last_zxid"] for each in told["nodes"]][:2] == [3 << 32 | 500, 3 << 32 | 400]
        assert told["leader"] == 1
        assert len(commands.COLUMNS) == len(commands._row(told["nodes"][0]))


async def test_changes_by_command():
    async with open_port() as port:
        port.server.cluster = cluster = Cluster()
        assert await run(port, "add", "4=10.0.0.4:7650") == "node 4: added\n"
        assert json.loads(await run(port, "promote", "4", "--json")) == {"node": 4, "outcome": "changed"}
        assert await run(port, "transfer", "4") == "node 4: leads\n"
        assert await run(port, "remove", "1") == "node 1: removed\n"
        assert await run(port, "remove", "1") == "node 1: removed already\n"
        assert "write ID=HOST:PORT" in await run(port, "add", "4", exit_code=2)
        assert [each[0] for each in cluster.done] == ["add", "promote", "transfer", "remove", "remove"]


@pytest.mark.parametrize(
    ("behind", "ahead", "entries"),
    [(5 << 32 | 3, 5 << 32 | 10, 7), (4 << 32 | 3, 5 << 32 | 10, 11), (5 << 32, 5 << 32, 0), (0, 1 << 32, 1)],
)
async def test_entries_between_two_places(behind, ahead, entries):
    assert entries_between(behind, ahead) == entries
