"""A frame in pieces wakes its reader once; what is not worth waiting for, or takes long, wakes it as it comes."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from sluicemq.broker.server.gathering import GATHER_BYTES_MAX, GATHER_BYTES_MIN, Gathering
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PIECE = b"x" * 4096


class Pair:
    """Both ends of a connection; one gathers."""

    def __init__(self, ours: trio.SocketStream, theirs: trio.SocketStream) -> None:
        self.ours = ours
        self.theirs = theirs
        self.gathering = Gathering(ours.socket)
        self.woken = trio.Event()

    async def wait(self, missing_bytes: int, *, drained: bool = True) -> None:
        await self.gathering.wait(missing_bytes, drained=drained)
        self.woken.set()

    async def send(self, pieces: int) -> None:
        for _ in range(pieces):
            await self.theirs.send_all(PIECE)
        await trio.testing.wait_all_tasks_blocked(0.02)


@asynccontextmanager
async def pair() -> AsyncIterator[Pair]:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    theirs = await trio.testing.open_stream_to_socket_listener(listener)
    ours = await listener.accept()
    async with listener, ours, theirs:
        yield Pair(ours, theirs)


@pytest.mark.trio
async def test_the_rest_of_a_frame_wakes_its_reader_when_all_of_it_is_there() -> None:
    async with pair() as both, trio.open_nursery() as nursery:
        nursery.start_soon(both.wait, 10 * len(PIECE))
        await both.send(9)
        assert not both.woken.is_set()
        await both.send(1)
        with trio.fail_after(WAIT_SECONDS):
            await both.woken.wait()


@pytest.mark.trio
async def test_of_a_frame_that_takes_long_what_is_there_is_read() -> None:
    async with pair() as both, trio.open_nursery() as nursery:
        nursery.start_soon(both.wait, 10 * len(PIECE))
        await both.send(1)
        assert not both.woken.is_set()
        both.gathering.relax()
        with trio.fail_after(WAIT_SECONDS):
            await both.woken.wait()


@pytest.mark.trio
async def test_the_end_of_the_connection_wakes_the_reader() -> None:
    async with pair() as both, trio.open_nursery() as nursery:
        nursery.start_soon(both.wait, 10 * len(PIECE))
        await both.send(1)
        await both.theirs.send_eof()
        with trio.fail_after(WAIT_SECONDS):
            await both.woken.wait()


@pytest.mark.trio
async def test_a_frame_larger_than_what_the_system_keeps_is_read_in_parts() -> None:
    async with pair() as both, trio.open_nursery() as nursery:
        nursery.start_soon(both.wait, 100 * GATHER_BYTES_MAX)
        nursery.start_soon(both.theirs.send_all, b"x" * (2 * GATHER_BYTES_MAX))
        with trio.fail_after(WAIT_SECONDS):
            await both.woken.wait()
        assert await both.ours.receive_some(4 * GATHER_BYTES_MAX)
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_nothing_small_is_waited_for_and_the_next_frame_wakes_its_reader_at_once() -> None:
    async with pair() as both, trio.open_nursery() as nursery:
        with trio.fail_after(WAIT_SECONDS):
            await both.wait(GATHER_BYTES_MIN - 1)
            await both.wait(10 * len(PIECE), drained=False)
        nursery.start_soon(both.wait, 2 * len(PIECE))
        await both.send(2)
        with trio.fail_after(WAIT_SECONDS):
            await both.woken.wait()
        assert len(await both.ours.receive_some(10 * len(PIECE))) == 2 * len(PIECE)
        await both.wait(0)
        await both.theirs.send_all(b"a small one")
        with trio.fail_after(WAIT_SECONDS):
            assert await both.ours.receive_some(100) == b"a small one"
