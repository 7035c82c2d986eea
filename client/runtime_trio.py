"""Trio's side of `runtime`. Imported only when trio runs the client."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import Callable
from typing import Any

import trio
from trio.lowlevel import Abort, current_task, reschedule, wait_readable, wait_task_rescheduled, wait_writable

from sluicemq.client.runtime import READ_BYTES_LARGE, READ_BYTES_SMALL, Holder, Hop, Runtime, Slot, Stream


class TrioRuntime(Runtime):
    """The running trio loop."""

    def __init__(self) -> None:
        self.now = trio.current_time
        self._token = trio.lowlevel.current_trio_token()
        self._hops: list[Hop] = []
        self._hopper = Slot()

    async def park(self, holder: Holder) -> None:
        """Wait until `wake(holder)`."""

        def abort(_raise_cancel: object) -> Abort:
            holder.handle = None
            return Abort.SUCCEEDED

        holder.handle = current_task()
        await wait_task_rescheduled(abort)

    def wake(self, holder: Holder) -> None:
        """Let the task that parks on *holder* go on."""
        task = holder.handle
        if task is not None:
            holder.handle = None
            reschedule(task)

    async def checkpoint(self) -> None:
        """Let others run, and be cancelled."""
        await trio.lowlevel.checkpoint()

    async def checkpoint_if_cancelled(self) -> None:
        """Raise if the running task is cancelled."""
        await trio.lowlevel.checkpoint_if_cancelled()

    def hop(self, function: Callable[[], None]) -> Hop:
        """Return a hop for *function*."""
        return Hop(function, self._at_next_turn)

    def _at_next_turn(self, hop: Hop) -> None:
        self._hops.append(hop)
        self.wake(self._hopper)

    def from_anywhere(self, function: Callable[[], None]) -> None:
        """Let *function* run on the loop soon."""
        self._token.run_sync_soon(function)

    async def run_hops(self) -> None:
        """Serve hops."""
        while True:
            while self._hops:
                hops, self._hops = self._hops, []
                for hop in hops:
                    hop.run()
                await trio.lowlevel.checkpoint_if_cancelled()
            await self.park(self._hopper)

    async def connect_socket(self, sock: socket.socket, address: Any) -> None:
        """Connect the non-blocking *sock*."""
        try:
            sock.connect(address)
        except BlockingIOError:
            await wait_writable(sock)  # noqa: ASYNC120 - the error is kept
            code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                raise OSError(code, os.strerror(code)) from None

    def stream(self, sock: socket.socket) -> Stream:
        """Return the stream over the connected *sock*."""
        return _TrioStream(self, sock)


class _TrioStream(Stream):
    def __init__(self, runtime: TrioRuntime, sock: socket.socket) -> None:
        self._runtime = runtime
        self._socket = sock
        self._unsent: deque[memoryview] = deque()
        self._writer = Slot()
        self._error: OSError | None = None

    def write(self, data: bytes, tail: bytes | memoryview | None = None) -> None:
        if self._unsent or self._error is not None:
            self._keep(data, tail, 0)
            return
        try:
            sent = self._socket.send(data) if tail is None else self._socket.sendmsg((data, tail))
        except (BlockingIOError, InterruptedError):
            sent = 0
        except OSError as error:
            # Reported once, by the reader: a writer has nobody to tell.
            self._error = error
            self._break()
            return
        if sent < len(data) + (0 if tail is None else len(tail)):
            self._keep(data, tail, sent)
            self._runtime.wake(self._writer)

    def _keep(self, data: bytes, tail: bytes | memoryview | None, sent: int) -> None:
        for part in (data, tail):
            if part is not None:
                if sent < len(part):
                    self._unsent.append(memoryview(part)[sent:])
                sent = max(0, sent - len(part))

    def _break(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    async def write_loop(self) -> None:
        unsent = self._unsent
        while True:
            if not unsent or self._error is not None:
                await self._runtime.park(self._writer)
                continue
            await wait_writable(self._socket)
            try:
                sent = self._socket.sendmsg([unsent[index] for index in range(min(len(unsent), 64))])
            except (BlockingIOError, InterruptedError):
                continue
            except OSError as error:
                self._error = error
                self._break()
                continue
            while sent:
                if sent >= len(unsent[0]):
                    sent -= len(unsent.popleft())
                else:
                    unsent[0] = unsent[0][sent:]
                    sent = 0

    async def read_into(self, on_data: Callable[[bytes], None]) -> None:
        sock = self._socket
        size = READ_BYTES_SMALL
        while True:
            await wait_readable(sock)
            try:
                data = sock.recv(size)
            except (BlockingIOError, InterruptedError):
                continue
            if not data:
                if self._error is not None:
                    raise self._error
                return
            on_data(data)
            size = READ_BYTES_LARGE if len(data) >= READ_BYTES_SMALL else READ_BYTES_SMALL

    def close(self) -> None:
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()
