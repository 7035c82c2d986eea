"""How a broker within a test ends: by the test, by a broken disk, and in the middle of something."""

from __future__ import annotations

import errno
import os
import threading
from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.broker.testing import BrokerDied, BrokerNotRunning, InProcessBroker
from sluicemq.broker.testing import broker as broker_module
from sluicemq.broker.testing.advancing import Advance
from sluicemq.broker.testing.memory import MemoryFile
from sluicemq.client import connect
from sluicemq.client.errors import OutcomeUnknown, SluiceError
from sluicemq.storage.errors import DirectoryLocked
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.trio
async def test_a_broker_whose_disk_breaks_dies_and_the_test_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: MemoryFile) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    broker = InProcessBroker()
    broker.start()
    async with connect(broker.url) as client:
        await client.declare_queue("orders")
        monkeypatch.setattr(MemoryFile, "sync", broken)
        with pytest.raises(SluiceError):
            await client.send("orders", b"lost", timeout=0.3)
        with pytest.raises((BrokerDied, BrokerNotRunning)):
            await broker.clock.advance("1 s")
    with pytest.raises(BrokerDied, match="its log"):
        broker.close()
    broker.close()


@pytest.mark.trio
async def test_what_could_not_be_confirmed_is_unknown(sluicemq: InProcessBroker) -> None:
    async with connect(sluicemq.url) as client:
        await client.declare_queue("orders")
        sluicemq.crash()
        with pytest.raises((OutcomeUnknown, SluiceError)) as raised:
            await client.send("orders", b"perhaps", timeout=0.2)
        assert raised.value.retryable
        sluicemq.start()
        await client.send("orders", b"surely")
        assert (await client.queue_info("orders"))["ready"] >= 1


def test_a_crash_in_the_middle_of_a_move_ends_the_move(
    sluicemq: InProcessBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    moving = threading.Event()

    async def endless(self: Advance, seconds: float, *, keep_leases: bool) -> None:
        del seconds, keep_leases
        moving.set()
        await trio.sleep_forever()

    monkeypatch.setattr(Advance, "run", endless)
    raised: list[BaseException] = []

    def move() -> None:
        try:
            sluicemq.clock.advance_blocking("1 day")
        except BrokerNotRunning as error:
            raised.append(error)

    thread = threading.Thread(target=move)
    thread.start()
    assert moving.wait(WAIT_SECONDS)
    sluicemq.crash()
    thread.join(WAIT_SECONDS)
    assert raised


def test_a_directory_in_use_is_refused_and_free_after_a_crash(tmp_path: Path) -> None:
    with InProcessBroker(tmp_path / "data") as first:
        second = InProcessBroker(tmp_path / "data")
        with pytest.raises(DirectoryLocked):
            second.start()
        assert not second.running
        first.crash()
        second.start()
        second.close()


def test_it_leaves_no_threads_behind() -> None:
    def running() -> set[str]:
        # Those that trio keeps for what may come end by themselves, some time later.
        return {thread.name for thread in threading.enumerate() if not thread.name.startswith("Trio thread ")}

    before = running()
    for _ in range(3):
        with InProcessBroker() as broker:
            assert running() > before
            broker.restart()
    assert running() <= before


def test_what_is_down_can_be_ended_again_and_again(sluicemq: InProcessBroker) -> None:
    sluicemq.stop_blocking()
    sluicemq.stop_blocking()
    sluicemq.crash()
    assert "down" in repr(sluicemq)
    sluicemq.close()
    sluicemq.close()


@pytest.mark.parametrize("blocks", [False, True])
def test_a_broker_that_does_not_start_in_time_says_what_it_was_doing(
    blocks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = threading.Event()

    async def read_a_disk_that_does_not_answer(*_arguments: object, **_more: object) -> None:
        if blocks:
            released.wait(WAIT_SECONDS)
        else:
            await trio.sleep_forever()

    monkeypatch.setattr(broker_module, "serve_alone", read_a_disk_that_does_not_answer)
    monkeypatch.setattr(broker_module, "START_SECONDS_MAX", 0.2)
    threads = threading.active_count()
    broker = InProcessBroker()
    with pytest.raises(BrokerNotRunning, match=r"within 0\.2 s(.|\n)*in read_a_disk_that_does_not_answer"):
        broker.start()
    released.set()
    broker.close()
    for thread in threading.enumerate():
        if thread.name.startswith("sluicemq:"):
            thread.join(WAIT_SECONDS)
    assert threading.active_count() <= threads, "nothing of it is left"
