"""A real broker in a thread of the test's process: it starts in milliseconds, and ends as if it were killed.

The thread has an event loop of its own, so it does not matter which one the test has, if any. Calls that need nothing
from the test's own clients (`start`, `crash`, `restart`) are plain and take milliseconds; those during which a
client may have to answer are `async`, with a blocking twin.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import signal
import sys
import threading
import traceback
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import anyio.to_thread
import trio

from sluicemq.broker import place
from sluicemq.broker.config import BrokerConfig
from sluicemq.broker.node import Surroundings, serve_alone
from sluicemq.broker.testing.advancing import Advance
from sluicemq.broker.testing.clock import BrokerClock, VirtualClock
from sluicemq.broker.testing.memory import MemoryDisk
from sluicemq.broker.testing.power import Power, PoweredDirectory
from sluicemq.storage.files import RealDirectory
from sluicemq.wire.errors import InvalidRequest

if TYPE_CHECKING:
    import os
    import socket
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType

    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.server.listener import Server
    from sluicemq.storage.files import Directory

HOST = "127.0.0.1"
DISK_BYTES_DEFAULT = 256 * 1024 * 1024
"""Size of a disk in memory; what was never written of it takes none."""
LOOK_SECONDS = 0.1
"""How often is looked whether a broker still lives that is waited for."""
START_SECONDS_MAX = 30.0
"""A start or an end that takes longer hangs."""
DEFAULTS: dict[str, Any] = {
    "segment_bytes": 16 * 1024 * 1024,  # as large a batch as in production fits
    "spares_max": 1,
    "scrub_bytes_per_second": 0,
}
"""Settings that are other than in production: for speed, and nobody can tell."""
_OWN = ("data", "listen", "node_id", "peers", "advertise")


FRAMES_SHOWN_MAX = 8
"""Of a broker that does not start in time so many of the innermost calls are shown."""


class BrokerNotRunning(RuntimeError):
    """The broker was stopped, crashed, or never started: `start` it first."""


class BrokerDied(RuntimeError):
    """The broker ended though nobody wanted that. Its cause says why; it is a bug of SluiceMQ, or a broken disk."""


class _Life:
    """One run of a broker, from its start to its end, in a thread of its own."""

    def __init__(self, directory: Directory, config: BrokerConfig, clock: VirtualClock, disk_bytes: int | None) -> None:
        self.power = Power()
        self._directory = PoweredDirectory(directory, self.power)
        self._config = config
        self._clock = clock
        self._disk_bytes = disk_bytes
        self._ready: Future[None] = Future()
        self._wanted = False  # its end
        self._thread = threading.Thread(target=self._run, name=f"sluicemq:{config.port}", daemon=True)
        self._moving = threading.Lock()
        self._error: BaseException | None = None
        self._token: trio.lowlevel.TrioToken
        self._task: trio.lowlevel.Task | None = None
        self._nursery: trio.Nursery
        self._signals: trio.MemorySendChannel[int]
        self._road: Road
        self._server: Server

    # --- in its thread ------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            sockets = place.bind(self._config.host, self._config.port)
            try:
                trio.run(self._main, sockets, clock=self._clock)
            finally:
                place.close(sockets)
            if not self._wanted:
                raise RuntimeError("it stopped by itself: its log (sluicemq.node) says why")
        except BaseException as error:  # noqa: ASYNC103, BLE001 - it goes to whoever waits in the test's thread
            self._error = None if self._wanted else error
        if not self._ready.done():
            self._ready.set_exception(self._error or BrokerNotRunning("the broker ended while it started"))

    async def _main(self, sockets: list[socket.socket]) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._task = trio.lowlevel.current_task()
        surroundings = Surroundings(
            self._signals_of_test, self._clock.wall, self._clock.current_time, self._made, self._is_ready
        )
        failure: Exception | None = None  # raised bare, not in the nursery's group
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                await serve_alone(
                    self._directory, self._config, sockets, disk_bytes=self._disk_bytes, surroundings=surroundings
                )
            except Exception as error:  # noqa: BLE001 - as above
                failure = error
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure

    @contextlib.contextmanager
    def _signals_of_test(self) -> Iterator[AsyncIterator[int]]:
        self._signals, signals = trio.open_memory_channel[int](1)
        with self._signals, signals:
            yield signals

    def _made(self, road: Road, server: Server) -> None:
        self._road, self._server = road, server

    def _is_ready(self, _node_id: int, _host: str, _port: int) -> None:
        self._ready.set_result(None)

    def _cut(self) -> None:
        """Be dead: nothing reaches disk or clients any more, and the rest is tidied up."""
        self.power.off()
        self._road.ground.failed = True  # it need not find out by itself
        for session in self._server.sessions:
            session.outbound.abandon()
        self._nursery.cancel_scope.cancel()

    async def _advance(self, seconds: float, keep_leases: bool, done: Future[None]) -> None:
        try:
            await Advance(self._clock, self._road, self._server).run(seconds, keep_leases=keep_leases)
        except BaseException as error:  # noqa: ASYNC103 - the last line raises it again, where it is no mistake
            done.set_exception(BrokerNotRunning("the broker ended while its time moved on"))
            if not isinstance(error, Exception):
                raise
        else:
            done.set_result(None)

    # --- in the test's threads ----------------------------------------------------------------------------------------

    @property
    def died(self) -> BaseException | None:
        """Why it ended, if nobody wanted that."""
        return self._error

    def start(self) -> None:
        """Return when it serves. Raises what kept it from that."""
        self._thread.start()
        try:
            self._ready.result(START_SECONDS_MAX)
        except concurrent.futures.TimeoutError:
            self._wanted = True  # the exception tells it
            if self._ready.done():
                raise  # it is the broker's own
            where = self._where()
            self._give_up()
            raise BrokerNotRunning(
                f"the broker did not start within {START_SECONDS_MAX:g} s; the innermost last, it was at\n{where}"
            ) from None
        except BaseException:
            self._wanted = True
            raise

    def _where(self) -> str:
        """Return what the broker is doing: where its main task waits, or where its thread is if that is elsewhere."""
        thread = sys._current_frames().get(self._thread.ident or 0)
        stack = [] if thread is None else traceback.extract_stack(thread)
        task = self._task
        if task is not None and any("generate_runner" in frame.name or "get_events" in frame.name for frame in stack):
            stack = traceback.StackSummary.extract(task.iter_await_frames())
        return "".join(traceback.format_list(stack[-FRAMES_SHOWN_MAX:])) or "its end"

    def _give_up(self) -> None:
        """Let whatever hangs in its start end, if it can: its directory and its port are wanted again."""
        if self._task is not None:
            with contextlib.suppress(trio.RunFinishedError):
                self._token.run_sync_soon(lambda: self._nursery.cancel_scope.cancel())
            self._thread.join(LOOK_SECONDS)

    def kill(self) -> None:
        self._end(self._cut)

    def stop(self) -> None:
        self._end(lambda: self._signals.send_nowait(signal.SIGTERM))

    def _end(self, how: Any) -> None:
        self._wanted = True
        with contextlib.suppress(trio.RunFinishedError):
            self._token.run_sync_soon(how)
        self._thread.join(START_SECONDS_MAX)
        if self._thread.is_alive():
            raise RuntimeError(f"the broker did not end within {START_SECONDS_MAX:g} s")

    def advance(self, seconds: float, keep_leases: bool) -> None:
        with self._moving:
            done: Future[None] = Future()
            try:
                self._token.run_sync_soon(self._nursery.start_soon, self._advance, seconds, keep_leases, done)
            except trio.RunFinishedError:
                raise BrokerNotRunning("the broker ended before its time moved on") from None
            while not done.done():
                concurrent.futures.wait([done], LOOK_SECONDS)
                if not self._thread.is_alive() and not done.done():
                    raise BrokerNotRunning("the broker ended before its time moved on")
            done.result()


class InProcessBroker:
    """A broker for tests: `with InProcessBroker() as broker:`, or the fixture `sluicemq`.

    Args:
        data: Its data directory; made where it does not exist. None: its disk lies in memory.
        disk_bytes: Size of the disk in memory.
        settings: As on the command line, by name: `session_grace_seconds=1`, `message_bytes_max="1MiB"`.

    Attributes:
        clock: Its time.

    Raises:
        UnknownOption: No such setting.
        InvalidRequest: A value is wrong, or one of a setting that is not the test's business.

    """

    def __init__(
        self, data: str | os.PathLike[str] | None = None, *, disk_bytes: int = DISK_BYTES_DEFAULT, **settings: Any
    ) -> None:
        for name in _OWN:
            if name in settings:
                raise InvalidRequest(f"setting {name} is not yours to choose for a broker within a test", setting=name)
        self._path = None if data is None else Path(data)
        self._memory = MemoryDisk(disk_bytes) if data is None else None
        fixed = {"data": self._path or Path("(memory)"), "listen": (HOST, 0)}
        config = BrokerConfig.from_settings({**DEFAULTS, **settings, **fixed})
        # Held while it is down, so that nobody else gets the port.
        self._held: list[socket.socket] = place.bind(HOST, 0)
        self._config = dataclasses.replace(config, port=self._held[0].getsockname()[1])
        self._clock = VirtualClock()
        self.clock = BrokerClock(self._clock, self._advance)
        self._life: _Life | None = None

    def __repr__(self) -> str:
        return f"<InProcessBroker {self.url} {'running' if self.running else 'down'}>"

    @property
    def url(self) -> str:
        """Where clients connect: `connect(broker.url)`. The same over all its lives."""
        return f"sluicemq://{self.host}:{self.port}"

    @property
    def host(self) -> str:
        """Its address."""
        return self._config.host

    @property
    def port(self) -> int:
        """Its port."""
        return self._config.port

    @property
    def running(self) -> bool:
        """Whether it was started and nobody has ended it."""
        return self._life is not None

    # --- lives --------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start it on what is on its disk; return when clients can connect. Does nothing where it runs.

        Raises:
            StorageError: The data directory cannot be opened.

        """
        if self._life is not None:
            return
        directory: Directory
        if self._memory is not None:
            directory = self._memory
        else:
            assert self._path is not None, "it has a disk"
            place.check_data_directory(self._path)
            directory = RealDirectory(str(self._path))
        life = _Life(directory, self._config, self._clock, None if self._memory is None else self._memory.bytes_max)
        self._let_go()
        try:
            life.start()
        except BaseException:
            self._hold()
            raise
        self._life = life

    def crash(self) -> None:
        """Kill it (-9): connections break, what it was doing is lost, and of a disk in memory what was not synced too.

        A data directory keeps what was written, as the system would. Does nothing where it is down.
        """
        life, self._life = self._life, None
        if life is None:
            return
        try:
            life.kill()
        finally:
            if self._memory is not None:
                self._memory.lose_unsynced()
            self._hold()
        _raise_if_died(life)

    def restart(self) -> None:
        """Kill it, if it runs, and start it again on what is left."""
        self.crash()
        self.start()

    def stop_blocking(self) -> None:
        """Stop it as SIGTERM does: what was accepted is confirmed, clients are told. Does nothing where it is down.

        Your clients have to hear of it, so use `stop` where they share the event loop of the test.
        """
        life, self._life = self._life, None
        if life is None:
            return
        try:
            life.stop()
        finally:
            self._hold()
        _raise_if_died(life)

    async def stop(self) -> None:
        """Stop it as `stop_blocking` does, without blocking the event loop."""
        await anyio.to_thread.run_sync(self.stop_blocking)

    def close(self) -> None:
        """End it for good; a disk in memory is gone.

        Raises:
            BrokerDied: It had ended by itself before.

        """
        try:
            self.crash()
        finally:
            self._let_go()
            if self._memory is not None:
                self._memory = MemoryDisk(self._memory.bytes_max)

    def _hold(self) -> None:
        self._held = place.bind(HOST, self.port)

    def _let_go(self) -> None:
        place.close(self._held)
        self._held = []

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- time ---------------------------------------------------------------------------------------------------------

    def _advance(self, seconds: float, keep_leases: bool) -> None:
        life = self._life
        if life is None:
            self._clock.ahead += seconds  # it passes for those too who are down
            return
        try:
            life.advance(seconds, keep_leases)
        except BrokerNotRunning:
            _raise_if_died(life)
            raise


def _raise_if_died(life: _Life) -> None:
    if life.died is not None:
        raise BrokerDied(f"the broker had ended by itself: {life.died}") from life.died
