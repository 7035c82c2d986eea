"""Whoever leads or not shows what it has, and says how old that may be."""

from __future__ import annotations

import json

import pytest
import trio

from sluicemq.broker.server import stale_reads
from sluicemq.broker.server.statistics import state_of
from sluicemq.client import StaleReads, connect
from sluicemq.wire.errors import InternalError, QueueNotFound, Unavailable
from tests.broker.server.talk import Port, open_port
from tests.broker.server.test_cluster_requests import Cluster, _no_signals, figures, run, url_of

pytestmark = pytest.mark.trio
__all__ = ["_no_signals"]


async def fill(port: Port) -> None:
    async with connect(url_of(port)) as client:
        await client.declare_queue("orders")
        await client.declare_queue("returns")
        for body in (b"one", b"two"):
            await client.send("orders", body)


def follow(port: Port, heard_seconds: float | None) -> Cluster:
    """From now on this broker only follows node 2, which it heard so long ago."""
    port.server.road = None
    port.server.cluster = cluster = Cluster()
    cluster.figures = figures("following" if heard_seconds is not None else "looking", 3 << 32 | 500, leader=2)
    cluster.heard_seconds = heard_seconds
    return cluster


async def test_a_broker_that_only_follows_shows_its_queues_and_how_old_that_may_be():
    async with open_port() as port:
        await fill(port)
        follow(port, heard_seconds=0.75)
        reads = StaleReads(url_of(port))
        info = await reads.queue_info("orders")
        assert (info["ready"], info["leased"], info["published_total"]) == (2, 0, 2)
        assert "consumers" not in info, "only a leader knows who consumes"
        assert info["stale"] == {
            "node": 1,
            "role": "following",
            "leader": 2,
            "applied_zxid": port.server.ground.machine.applied_zxid,
            "heard_seconds": 0.75,
        }
        rows = await reads.queues()
        assert [(row["name"], row["stale"]["role"]) for row in rows] == [
            ("orders", "following"),
            ("returns", "following"),
        ]


async def test_while_nobody_leads_old_news_are_still_told():
    async with open_port() as port:
        await fill(port)
        follow(port, heard_seconds=None)
        info = await StaleReads(url_of(port)).queue_info("orders")
        assert (info["ready"], info["stale"]["role"], info["stale"]["heard_seconds"]) == (2, "looking", None)


async def test_many_queues_come_in_several_answers(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("sluicemq.client.stale_reads.QUEUES_PER_PAGE", 1)
    async with open_port() as port:
        await fill(port)
        follow(port, heard_seconds=0.0)
        assert [row["name"] for row in await StaleReads(url_of(port)).queues()] == ["orders", "returns"]


async def test_a_queue_that_a_broker_does_not_know_is_asked_for_elsewhere_and_then_refused():
    async with open_port() as port, open_port() as other:
        await fill(other)
        follow(port, heard_seconds=0.0)
        hosts = [url_of(one).removeprefix("sluicemq://") for one in (port, other)]
        reads = StaleReads("sluicemq://" + ",".join(hosts))
        assert (await reads.queue_info("orders"))["stale"]["role"] == "leading"
        with pytest.raises(QueueNotFound, match="nothing"):
            await reads.queue_info("nothing")


async def test_a_broker_that_only_follows_shows_ready_messages_and_changes_nothing():
    async with open_port() as port:
        await fill(port)
        follow(port, heard_seconds=0.75)
        before = port.server.ground.machine.applied_zxid
        reads = StaleReads(url_of(port))
        messages, stale = await reads.peek("orders")
        assert [(message.body, message.destination) for message in messages] == [(b"one", "orders"), (b"two", "orders")]
        assert (stale["role"], stale["leader"], stale["heard_seconds"]) == ("following", 2, 0.75)
        # The end of the session that filled the queue may come onto the road meanwhile.
        assert before <= stale["applied_zxid"] <= port.server.ground.machine.applied_zxid
        assert [message.body for message in (await reads.peek("orders", count=1, skip=1)).messages] == [b"two"]
        assert (await reads.peek("returns")).messages == []
        info = await reads.queue_info("orders")
        assert (info["ready"], info["leased"]) == (2, 0), "who looks takes nothing"
        with pytest.raises(QueueNotFound, match="nothing"):
            await reads.peek("nothing")


async def test_a_message_that_is_larger_than_the_frames_of_a_handshake_is_shown():
    body = bytes(range(256)) * 1024
    async with open_port() as port:
        async with connect(url_of(port)) as client:
            await client.declare_queue("orders")
            await client.send("orders", body)
        follow(port, heard_seconds=0.0)
        assert [message.body for message in (await StaleReads(url_of(port)).peek("orders")).messages] == [body]


async def test_who_looks_at_messages_while_another_state_takes_their_place_asks_again(monkeypatch):
    async with open_port() as port:
        await fill(port)
        cluster = follow(port, heard_seconds=0.0)

        async def closed_meanwhile(*_: object) -> None:
            cluster.exchanging = True
            raise InternalError("the log was closed")

        monkeypatch.setattr(stale_reads, "show_ready", closed_meanwhile)
        with pytest.raises(Unavailable, match="takes the place"):
            await StaleReads(url_of(port)).peek("orders")


async def test_while_a_snapshot_takes_the_place_of_everything_there_is_nothing_to_look_at():
    async with open_port() as port:
        await fill(port)
        follow(port, heard_seconds=0.0).exchanging = True
        with pytest.raises(Unavailable, match="snapshot"):
            await StaleReads(url_of(port)).queues()


@pytest.mark.usefixtures("_no_signals")
async def test_the_command_says_who_answered():
    async with open_port() as port:
        await fill(port)
        follow(port, heard_seconds=2.5)
        shown = await run(port, "ls", "--stale", group="queue")
        assert "node 1 (following) heard of a leader 2.5 s ago" in shown
        assert "orders" in shown
        told = json.loads((await run(port, "show", "orders", "--stale", "--json", group="queue")).splitlines()[-1])
        assert told["stale"]["role"] == "following"
        shown = await run(port, "peek", "orders", "--stale", group="queue")
        assert "node 1 (following) heard of a leader 2.5 s ago" in shown
        assert "two" in shown
        told = json.loads((await run(port, "peek", "orders", "--stale", "--json", group="queue")).splitlines()[-1])
        assert (told["body"], told["stale"]["role"]) == ("two", "following")
        await trio.lowlevel.checkpoint()


async def test_what_is_shown_is_never_older_than_its_mark_says(monkeypatch: pytest.MonkeyPatch):
    async with open_port() as port:
        await fill(port)
        cluster = follow(port, heard_seconds=0.75)

        def show_and_go_on(ground, queue):
            # What others do between the rows of a page that takes a while.
            monkeypatch.setattr(cluster, "figures", figures("looking", 3 << 32 | 501, leader=0))
            return state_of(ground, queue)

        monkeypatch.setattr(stale_reads, "state_of", show_and_go_on)
        rows = await StaleReads(url_of(port)).queues()
        assert [row["stale"]["role"] for row in rows] == ["following", "following"]
