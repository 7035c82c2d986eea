"""Asyncio's side of `runtime`. Imported only when asyncio runs the client."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import anyio.lowlevel

from sluicemq.client.runtime import READ_BYTES_LARGE, READ_BYTES_SMALL, Holder, Hop, Runtime, Slot, Stream


class AsyncioRuntime(Runtime):
    """The running asyncio loop."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.now = self.loop.time
        self._create_future = self.loop.create_future

    async def park(self, holder: Holder) -> None:
        """Wait until `wake(holder)`."""
        future = self._create_future()
        holder.handle = future
        try:
            await future
        except BaseException:
            if holder.handle is future:
                holder.handle = None
            raise

    def wake(self, holder: Holder) -> None:
        """Let the task that parks on *holder* go on."""
        future = holder.handle
        if future is not None:
            holder.handle = None
            if not future.done():
                future.set_result(None)

    async def checkpoint(self) -> None:
        """Let others run, and be cancelled."""
        await asyncio.sleep(0)

    async def checkpoint_if_cancelled(self) -> None:
        """Raise if the running task is cancelled, by its own `cancel` or by a scope of anyio's around it."""
        task = asyncio.current_task(self.loop)
        if task is not None and task.cancelling():
            await asyncio.sleep(0)
        await anyio.lowlevel.checkpoint_if_cancelled()

    def hop(self, function: Callable[[], None]) -> Hop:
        """Return a hop for *function*."""
        return Hop(function, self._at_next_turn)

    def _at_next_turn(self, hop: Hop) -> None:
        self.loop.call_soon(self._run, hop)

    def _run(self, hop: Hop) -> None:
        try:
            hop.run()
        except Exception as error:  # noqa: BLE001 - the loop would only log it, and every caller would hang
            self.on_failure(error)

    def from_anywhere(self, function: Callable[[], None]) -> None:
        """Let *function* run on the loop soon."""
        self.loop.call_soon_threadsafe(function)

    async def run_hops(self) -> None:
        """Return at once: the loop's own callbacks serve them."""

    async def connect_socket(self, sock: socket.socket, address: Any) -> None:
        """Connect the non-blocking *sock*."""
        await self.loop.sock_connect(sock, address)

    def stream(self, sock: socket.socket) -> Stream:
        """Return the stream over the connected *sock*."""
        return _AsyncioStream(self, sock)


class _AsyncioStream(Stream):
    """Reads and writes inside the loop's callbacks: no task has to be woken between the socket and a frame."""

    def __init__(self, runtime: AsyncioRuntime, sock: socket.socket) -> None:
        self._runtime = runtime
        self._loop = runtime.loop
        self._socket = sock
        self._unsent: deque[memoryview] = deque()
        self._reader = Slot()
        self._error: BaseException | None = None
        self._ended = False
        self._read_bytes = READ_BYTES_SMALL
        self._on_data: Callable[[bytes], None] = _nobody_reads

    def write(self, data: bytes, tail: bytes | memoryview | None = None) -> None:
        if self._ended:
            return
        if self._unsent:
            self._keep(data, tail, 0)
            return
        try:
            sent = self._socket.send(data) if tail is None else self._socket.sendmsg((data, tail))
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            self._end(error)
            return
        if sent < len(data) + (0 if tail is None else len(tail)):
            self._keep(data, tail, sent)
            self._loop.add_writer(self._socket, self._write_more)

    def _keep(self, data: bytes, tail: bytes | memoryview | None, sent: int) -> None:
        for part in (data, tail):
            if part is not None:
                if sent < len(part):
                    self._unsent.append(memoryview(part)[sent:])
                sent = max(0, sent - len(part))

    def _write_more(self) -> None:
        unsent = self._unsent
        try:
            sent = self._socket.sendmsg([unsent[index] for index in range(min(len(unsent), 64))])
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        while sent:
            if sent >= len(unsent[0]):
                sent -= len(unsent.popleft())
            else:
                unsent[0] = unsent[0][sent:]
                sent = 0
        if not unsent:
            self._loop.remove_writer(self._socket)

    async def write_loop(self) -> None:
        return

    async def read_into(self, on_data: Callable[[bytes], None]) -> None:
        self._on_data = on_data
        if not self._ended:
            self._loop.add_reader(self._socket, self._read)
            await self._runtime.park(self._reader)
        if self._error is not None:
            raise self._error

    def _read(self) -> None:
        try:
            data = self._socket.recv(self._read_bytes)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if not data:
            self._end(None)
            return
        self._read_bytes = READ_BYTES_LARGE if len(data) >= READ_BYTES_SMALL else READ_BYTES_SMALL
        try:
            self._on_data(data)
        except BaseException as error:  # noqa: BLE001, ASYNC103 - it goes on in the task that reads, not in the loop's callback
            self._end(error)

    def _end(self, error: BaseException | None) -> None:
        if not self._ended:
            self._ended = True
            self._error = error
            self._detach()
            self._runtime.wake(self._reader)

    def _detach(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._socket)
            self._loop.remove_writer(self._socket)
        self._unsent.clear()

    def close(self) -> None:
        self._end(None)
        self._detach()
        self._socket.close()


def _nobody_reads(_data: bytes) -> None:
    raise AssertionError("bytes arrived before read_into")
