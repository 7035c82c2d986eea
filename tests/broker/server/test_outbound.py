"""What leaves a connection: partial writes, a peer that never reads, one that is gone, and who is woken when."""

from __future__ import annotations

import os
import socket
from contextlib import asynccontextmanager

import pytest
import trio

from sluicemq.broker.server import outbound as outbound_module
from sluicemq.broker.server.outbound import Hub, Outbound
from tests.patience import WAIT_SECONDS

BUFFER_BYTES = 4096


class Line:
    """A connection with tiny socket buffers, the broker's end under an `Outbound`."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        for end in (ours, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
            end.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
        self.stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self.peer = trio.socket.from_stdlib_socket(theirs)
        self.hub = Hub()
        self.rooms = 0
        self.outbound = Outbound(self.stream, self.hub, self._room)

    def _room(self) -> None:
        self.rooms += 1

    async def read(self, count: int) -> bytes:
        """Read exactly so many bytes at the peer's end."""
        data = b""
        with trio.fail_after(WAIT_SECONDS):
            while len(data) < count:
                data += await self.peer.recv(min(1000, count - len(data)))
        return data


@asynccontextmanager
async def connected():
    line = Line()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.outbound.run)
        yield line
        nursery.cancel_scope.cancel()
    line.peer.close()
    await line.stream.aclose()


@pytest.fixture
def limit(monkeypatch):
    """A full buffer at 10,000 bytes."""
    monkeypatch.setattr(outbound_module, "OUTBOUND_BYTES_MAX", 10_000)
    return 10_000


@pytest.mark.trio
async def test_frames_of_one_turn_leave_together_and_in_order():
    async with connected() as line:
        line.outbound.put(b"one", [b"two", memoryview(b"three")])
        line.outbound.put(b"four", [b""])
        line.hub.flush()

        assert line.outbound.pending_bytes == 0
        assert await line.read(15) == b"onetwothreefour"


@pytest.mark.trio
async def test_one_turn_writes_no_more_than_its_share_however_much_the_peer_takes(monkeypatch):
    monkeypatch.setattr(outbound_module, "WRITE_BYTES_MAX", 1000)
    turns: list[int] = []
    real_writev = os.writev

    def counting_writev(descriptor: int, buffers: list[bytes]) -> int:
        turns.append(sum(map(len, buffers)))
        return real_writev(descriptor, buffers)

    monkeypatch.setattr(os, "writev", counting_writev)
    async with connected() as line:
        frames = [b"a" * 400, b"b" * 700, b"c" * 1000, b"d", b"e" * 2500]
        for frame in frames:
            line.outbound.put(frame)
        line.hub.flush()
        assert turns == [1000]
        assert line.outbound.pending_bytes == sum(map(len, frames)) - 1000

        assert await line.read(sum(map(len, frames))) == b"".join(frames)
        assert max(turns) == 1000


@pytest.mark.trio
async def test_what_the_peers_window_does_not_take_follows_byte_for_byte():
    async with connected() as line:
        frames = [bytes([number]) * (number * 37) for number in range(1, 256)]
        for frame in frames[:200]:
            line.outbound.put(frame[:1], [frame[1:]])
        line.hub.flush()
        assert line.outbound.pending_bytes > 0
        for frame in frames[200:]:
            line.outbound.put(frame[:1], [frame[1:]])
        line.hub.flush()

        everything = b"".join(frames)
        assert await line.read(len(everything)) == everything
        assert line.outbound.pending_bytes == 0


@pytest.mark.trio
async def test_empty_parts_alone_do_not_stop_what_follows():
    async with connected() as line:
        line.outbound.put(b"", [b"", b""])
        line.hub.flush()
        line.outbound.put(b"x")
        line.hub.flush()

        assert await line.read(1) == b"x"


@pytest.mark.trio
async def test_room_is_told_when_the_flush_itself_makes_it(limit):
    # The buffer was full within one turn, and the flush at the end of the turn wrote enough of it at once. Whoever
    # saw it full (dispatch holds the session's consumers back) must hear of the room all the same.
    async with connected() as line:
        line.outbound.put(bytes(limit + 1))
        assert line.outbound.full
        line.hub.flush()

        assert not line.outbound.full
        assert line.rooms == 1


@pytest.mark.trio
async def test_who_waits_for_room_goes_on_when_the_flush_makes_it(limit):
    async with connected() as line:
        line.outbound.put(bytes(limit + 1))
        woken = trio.Event()

        async def wait() -> None:
            await line.outbound.wait_room()
            woken.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert not woken.is_set()
            line.hub.flush()
            with trio.fail_after(WAIT_SECONDS):
                await woken.wait()


@pytest.mark.trio
async def test_room_is_told_once_when_a_slow_peer_reads(limit):
    async with connected() as line:
        line.outbound.put(bytes(10 * limit))
        line.hub.flush()
        assert line.outbound.full
        assert line.rooms == 0
        await line.read(10 * limit)
        await line.outbound.wait_room()

        assert line.rooms == 1


@pytest.mark.trio
async def test_the_last_word_is_waited_for_only_until_it_is_written(autojump_clock):
    del autojump_clock  # a wait that nobody ends would take virtual seconds: they are counted below
    async with connected() as line:
        line.outbound.put(bytes(50_000))
        started = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(line.read, 50_000)
            with trio.move_on_after(60) as scope:
                await line.outbound.wait_written()

        assert not scope.cancelled_caught
        assert trio.current_time() - started < 60
        assert line.outbound.pending_bytes == 0


@pytest.mark.trio
async def test_a_peer_that_never_reads_holds_no_more_than_what_was_put():
    async with connected() as line:
        line.outbound.put(bytes(100_000))
        line.hub.flush()
        before = line.outbound.sent_at
        with trio.move_on_after(0) as scope:
            await line.outbound.wait_written()

        assert scope.cancelled_caught
        assert 0 < line.outbound.pending_bytes < 100_000
        line.hub.flush()
        assert line.outbound.sent_at == before, "nothing was taken, so nothing was sent"
        line.outbound.abandon()
        assert line.outbound.pending_bytes == 0


@pytest.mark.trio
async def test_a_broken_connection_takes_nothing_more_and_wakes_everyone(limit):
    async with connected() as line:
        line.outbound.put(bytes(10 * limit))
        line.hub.flush()
        line.peer.close()
        with trio.fail_after(WAIT_SECONDS):
            await line.outbound.wait_room()
            await line.outbound.wait_written()

        assert line.outbound.broken
        line.outbound.put(b"too late")
        line.hub.flush()
        assert line.outbound.pending_bytes == 0


@pytest.mark.trio
async def test_more_buffers_than_one_system_call_takes():
    async with connected() as line:
        for number in range(3 * outbound_module.WRITE_BUFFERS_MAX):
            line.outbound.put(bytes([number % 251]))
        line.hub.flush()

        expected = bytes(number % 251 for number in range(3 * outbound_module.WRITE_BUFFERS_MAX))
        assert await line.read(len(expected)) == expected
