"""What clients meet at the port while the broker's disk fills up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.broker.pipeline.keeping.disk_space import Level, View
from sluicemq.wire import messages as m
from sluicemq.wire.errors import ResourceLow
from tests.broker.server.talk import open_port
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.keeping.disk_space import DiskSpace


def let_disk_be(space: DiskSpace, level: Level, monkeypatch: pytest.MonkeyPatch, pause_seconds: float = 0.0) -> None:
    """From now on the disk is so, whatever the file system says."""
    monkeypatch.setattr(space, "look", lambda: None)
    space.view = View(level, 1000, 2000, pause_seconds)
    space.pause_seconds = pause_seconds
    space.refusing = level in (Level.LOW, Level.RESERVE)


@pytest.mark.trio
async def test_who_publishes_is_read_more_slowly_and_nobody_else(monkeypatch):
    async with open_port() as port:
        consumer, publisher = await port.connect(), await port.connect()
        await consumer.declare()
        let_disk_be(port.road.space, Level.SLOW, monkeypatch, pause_seconds=3600.0)
        producer = await publisher.open_producer()
        assert not any(session.suspended for session in port.server.sessions)
        await publisher.publish(producer, 1, [b"the last for an hour"])
        with trio.fail_after(WAIT_SECONDS):
            while not any(session.suspended for session in port.server.sessions):
                await trio.lowlevel.checkpoint()
        (state,) = (await consumer.ask(m.QueueInfo("orders"))).queues

        assert state["publishing"] == "slowed"
        assert [session.suspended for session in port.server.sessions].count(True) == 1


@pytest.mark.trio
async def test_a_refused_publish_is_answered_and_the_connection_goes_on(monkeypatch):
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare()
        producer = await peer.open_producer()
        let_disk_be(port.road.space, Level.LOW, monkeypatch)
        with pytest.raises(ResourceLow, match=r"1000 bytes free, 1.9 KiB needed") as refused:
            await peer.publish(producer, 1, [b"no"])
        assert refused.value.retryable
        assert refused.value.free_bytes == 1000
        (state,) = (await peer.ask(m.QueueInfo("orders"))).queues
        figures = (await peer.ask(m.Statistics())).values
        assert (state["publishing"], figures["disk_state"], figures["disk_free_bytes"]) == ("refused", "low", 1000)
        await peer.declare("another")
        let_disk_be(port.road.space, Level.RESERVE, monkeypatch)
        with pytest.raises(ResourceLow):
            await peer.declare("one too many")
        let_disk_be(port.road.space, Level.OK, monkeypatch)
        await peer.publish(producer, 1, [b"yes"])
        (state,) = (await peer.ask(m.QueueInfo("orders"))).queues

        assert (state["publishing"], state["ready"]) == ("open", 1)
