"""Three nodes of one system as one server: started together, asked who leads, brought back after a fault.

It must not know any protocol: which command runs a node, and who leads, is the business of the adapters.
"""

from __future__ import annotations

import abc
import os
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from bench.servers import Server, ServerFailed, Usage

NODES = 3
FORM_SECONDS_MAX = 90.0


class Cluster(abc.ABC):
    """So many nodes on one machine; looks like a `bench.servers.Server` to whoever measures.

    Args:
        directory: Below it each node has its own.

    """

    def __init__(self, directory: Path, _prefix: tuple[str, ...] = ()) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.nodes: Sequence[Server] = self.make_nodes([directory / f"node-{number}" for number in range(1, NODES + 1)])

    @abc.abstractmethod
    def make_nodes(self, directories: list[Path]) -> Sequence[Server]:
        """Return the nodes, which know each other and do not run yet."""

    @abc.abstractmethod
    def formed(self) -> bool:
        """Return whether all nodes run, belong together and have a leader; it may ask them."""

    @abc.abstractmethod
    def leader(self, queue: str) -> int | None:
        """Return the index of the node that leads for *queue*; None if nobody does at the moment."""

    @property
    def ports(self) -> tuple[int, ...]:
        """Where clients connect: all nodes."""
        return tuple(node.port for node in self.nodes)

    def ports_around(self, first: int) -> tuple[int, ...]:
        """Return the ports in the order in which clients shall try them, node *first* in front."""
        return (*self.ports[first:], *self.ports[:first])

    def start(self) -> float:
        """Start all nodes at once and wait until they are one cluster; return the seconds that this took.

        Raises:
            ServerFailed: A node ended, or they did not find together in time.

        """
        started = time.monotonic()
        try:
            for node in self.nodes:
                node.spawn()
            for node in self.nodes:
                node.wait_answering(started)
            self._wait_formed()
        except BaseException:
            self.stop()
            raise
        return time.monotonic() - started

    def _wait_formed(self) -> None:
        wait_until(self.formed, f"the nodes of {type(self).__name__} did not find together")

    def leader_soon(self, queue: str) -> int:
        """Return who leads for *queue*, after a wait if nobody does yet."""
        found: list[int] = []

        def look() -> bool:
            index = self.leader(queue)
            if index is not None:
                found.append(index)
            return bool(found)

        wait_until(look, f"nobody leads for {queue!r}")
        return found[0]

    def revive(self, index: int, pids: Sequence[int], *, killed: bool) -> None:
        """Bring node *index* back, whose processes *pids* were killed or frozen, and wait until all is well."""
        node = self.nodes[index]
        if killed:
            node.reap()
            node.spawn()
            node.wait_answering(time.monotonic())
        else:
            signal_all(pids, signal.SIGCONT)
        self._wait_formed()

    def usage(self) -> Usage:
        """Return what all nodes together have used."""
        each = [node.usage() for node in self.nodes]
        return Usage(sum(usage.cpu_seconds for usage in each), sum(usage.memory_bytes for usage in each))

    def stop(self) -> None:
        """End all nodes at once, without ceremony: their data is thrown away."""
        for node in self.nodes:
            if node.runs:
                signal_all(node.pids(), signal.SIGKILL)
                node.reap()


def signal_all(pids: Sequence[int], number: int) -> None:
    """Send a signal to each process that still is there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def wait_until(look: Callable[[], bool], problem: str) -> None:
    """Return as soon as *look* says so; a look may fail while nodes are on their way.

    Raises:
        ServerFailed: It did not in time; the message is *problem*.

    """
    deadline = time.monotonic() + FORM_SECONDS_MAX
    while True:
        with suppress(OSError, ValueError):
            if look():
                return
        if time.monotonic() > deadline:
            raise ServerFailed(f"{problem} within {FORM_SECONDS_MAX:.0f} s")
        time.sleep(0.1)
