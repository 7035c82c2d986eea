"""The processes of a demonstration: started, killed without warning, stopped, and never left behind."""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import trio

PATIENCE_SECONDS = 60.0
PORTS = 15_000, 32_000


class DemoFailed(Exception):
    """The demonstration could not be carried out; the text says why."""


def leaves(group: BaseExceptionGroup[DemoFailed]) -> list[BaseException]:
    """Return the errors in a group, however deep."""
    return [
        leaf for each in group.exceptions for leaf in (leaves(each) if isinstance(each, BaseExceptionGroup) else [each])
    ]


def free_port() -> int:
    """Return a port that nobody listens on.

    It lies below those that systems give to outgoing connections: a client that knocks where a broker is just being
    restarted could otherwise be given that very port as its own end, and be connected to itself.
    """
    while True:
        port = random.randrange(*PORTS)
        try:
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return port


def make_empty(folder: Path, marker: str) -> None:
    """Make *folder*, or empty what an earlier demonstration left in it; *marker* is the name of the file that tells.

    Raises:
        DemoFailed: It holds something else.

    """
    if folder.exists() and any(folder.iterdir()):
        if not (folder / marker).exists():
            raise DemoFailed(f"{folder} is not empty and no earlier demonstration's: choose another folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / marker).touch()


class Processes:
    """Programs by name, each with a log of its own in *folder*; all are gone when the block is left."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: dict[str, list[str]] = {}

    def start(self, name: str, module: str, arguments: Sequence[str]) -> None:
        """Start `python -m module arguments`."""
        self._commands[name] = [sys.executable, "-m", module, *arguments]
        self.start_again(name)

    async def start_broker(self, url: str) -> None:
        """Start a broker for this URL, named "broker", with its data in the folder; returns when it listens."""
        address = url.removeprefix("sluicemq://")
        options = ["serve", "--data", str(self.folder / "broker"), "--listen", address, "--log-level", "warning"]
        self.start("broker", "sluicemq.broker.cli", options)
        await self.listening("broker", int(address.rpartition(":")[2]))

    def start_again(self, name: str) -> None:
        """Start what was killed, as it was started before."""
        descriptor = os.open(self.folder / f"{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        try:
            # Ctrl-C is for the demonstration, which ends the others in good order.
            self._running[name] = subprocess.Popen(
                self._commands[name], stdout=descriptor, stderr=descriptor, start_new_session=True
            )
        finally:
            os.close(descriptor)

    def kill(self, name: str) -> None:
        """Kill -9: no warning, no chance to clean up."""
        self._running[name].kill()
        self._running[name].wait()

    async def stop(self, name: str) -> None:
        """Ask for a clean end, and insist on it."""
        process = self._running.pop(name)
        process.terminate()
        code = await trio.to_thread.run_sync(process.wait, PATIENCE_SECONDS)
        if code != 0:
            raise DemoFailed(f"{name} ended with exit code {code}; {self.folder / name}.log says why")

    def check(self) -> None:
        """Raise DemoFailed if one has ended by itself."""
        for name, process in self._running.items():
            if process.poll() not in {None, -9}:
                raise DemoFailed(f"{name} ended with {process.returncode}; {self.folder / name}.log says why")

    async def listening(self, name: str, port: int) -> None:
        """Wait until it takes connections."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            self.check()
            try:
                stream = await trio.open_tcp_stream("127.0.0.1", port)
            except OSError:
                if time.monotonic() > deadline:
                    raise DemoFailed(f"{name} does not listen; {self.folder / name}.log may say why") from None
                await trio.sleep(0.05)
            else:
                await stream.aclose()
                return

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._running.values():
            if process.poll() is None:
                process.kill()
            process.wait()
