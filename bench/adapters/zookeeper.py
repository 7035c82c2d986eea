"""Three servers of ZooKeeper and kazoo: a queue as its recipes have it, sequential nodes below one parent.

Durability: a write is answered when a majority has synced its transaction log (`forceSync`, the default).
Best practice: a batch is one `multi` of a thousand creates, where the recipe makes one call each; it stays below the
limit of a request, 1 MiB. The consumer lists the children when it has none left, gets a batch with all requests under
way at once and deletes it with one `multi`. ZooKeeper is no message broker and says so itself; it stands here because
its protocol is a relative of ours.
kazoo works with threads of its own; answers cross into the loop, those of a batch together.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import anyio.to_thread
from kazoo.client import KazooClient

from bench.adapters.base import IDLE_SECONDS
from bench.clusters import Cluster
from bench.servers import Server, free_port

logging.getLogger("kazoo").addHandler(logging.NullHandler())
JARS = "/usr/share/java/zookeeper.jar"
MAIN = "org.apache.zookeeper.server.quorum.QuorumPeerMain"
ASK_SECONDS = 2.0
CONNECT_SECONDS_MAX = 30.0
ANSWER_BYTES_MAX = 65_536
LOGGING = """log4j.rootLogger=WARN, CONSOLE
log4j.appender.CONSOLE=org.apache.log4j.ConsoleAppender
log4j.appender.CONSOLE.layout=org.apache.log4j.PatternLayout
log4j.appender.CONSOLE.layout.ConversionPattern=%d %p %c %m%n
"""


class ZookeeperNode(Server):
    """One server of several; ticks and limits as in the sample of its configuration."""

    program = "zookeeper"

    def __init__(self, directory: Path, number: int) -> None:
        super().__init__(directory)
        self.number = number
        self.peer_port = free_port()
        self.election_port = free_port()
        self.peers: Sequence[ZookeeperNode] = ()

    def command(self) -> list[str]:
        """Return the command, after writing its configuration."""
        data = self.directory / "data"
        data.mkdir(exist_ok=True)
        (data / "myid").write_text(f"{self.number}\n")
        (self.directory / "log4j.properties").write_text(LOGGING)
        lines = [
            "tickTime=2000",
            "initLimit=10",
            "syncLimit=5",
            f"dataDir={data}",
            f"clientPort={self.port}",
            "clientPortAddress=127.0.0.1",
            "admin.enableServer=false",
            "4lw.commands.whitelist=srvr",
        ]
        lines += [f"server.{peer.number}=127.0.0.1:{peer.peer_port}:{peer.election_port}" for peer in self.peers]
        (self.directory / "zoo.cfg").write_text("\n".join(lines) + "\n")
        return ["java", "-cp", f"{self.directory}:{JARS}", MAIN, str(self.directory / "zoo.cfg")]

    def mode(self) -> str:
        """Return `leader`, `follower`, or nothing while it serves nobody."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=ASK_SECONDS) as asking:
            asking.sendall(b"srvr")
            said = b""
            while piece := asking.recv(ANSWER_BYTES_MAX):
                said += piece
        modes = [line.removeprefix("Mode: ") for line in said.decode().splitlines() if line.startswith("Mode: ")]
        return modes[0] if modes else ""


class ZookeeperCluster(Cluster):
    """Three servers."""

    def make_nodes(self, directories: list[Path]) -> Sequence[ZookeeperNode]:
        """Return servers 1 to 3."""
        self._nodes = [ZookeeperNode(directory, number) for number, directory in enumerate(directories, 1)]
        for node in self._nodes:
            node.peers = self._nodes
        return self._nodes

    def formed(self) -> bool:
        """Return whether one leads and the others follow."""
        return sorted(node.mode() for node in self._nodes) == ["follower", "follower", "leader"]

    def leader(self, queue: str) -> int | None:
        """Return who leads, for all queues the same."""
        modes = [node.mode() for node in self._nodes]
        return modes.index("leader") if "leader" in modes else None


class ZookeeperClient:
    """One session."""

    backend = "asyncio"

    def __init__(self, ports: Sequence[int], queue: str, kind: str = "") -> None:
        self._hosts = ",".join(f"127.0.0.1:{port}" for port in ports)
        self._parent = f"/{queue}"
        self._prefix = f"/{queue}/m-"
        self._children: deque[str] = deque()
        self._taken: list[str] = []

    async def __aenter__(self) -> Self:
        self._loop = asyncio.get_running_loop()
        # In the given order: who measures decides whether the first connection is to the leader.
        self._client = KazooClient(hosts=self._hosts, randomize_hosts=False)
        await anyio.to_thread.run_sync(self._client.start, CONNECT_SECONDS_MAX)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await anyio.to_thread.run_sync(self._client.stop)
        await anyio.to_thread.run_sync(self._client.close)

    async def _answers(self, under_way: list[Any]) -> list[Any]:
        """Return the answers to requests under way, in their order, or raise the first error."""
        done = self._loop.create_future()
        lock = threading.Lock()
        left = len(under_way)

        def finish() -> None:
            if not done.done():
                done.set_result(None)

        def on_answer(_result: Any) -> None:
            nonlocal left
            with lock:
                left -= 1
                if left:
                    return
            with suppress(RuntimeError):  # the loop has ended: nobody waits any more
                self._loop.call_soon_threadsafe(finish)

        for result in under_way:
            result.rawlink(on_answer)
        await done
        return [result.get_nowait() for result in under_way]

    async def _multi(self, fill: Any, items: Sequence[Any]) -> None:
        transaction = self._client.transaction()
        for item in items:
            fill(transaction, item)
        (results,) = await self._answers([transaction.commit_async()])
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def declare(self) -> None:
        """Make the parent."""
        await self._answers([self._client.create_async(self._parent)])

    async def delete(self) -> None:
        """Remove the parent and what is below it; in pieces, for one request would be too large."""
        (children,) = await self._answers([self._client.get_children_async(self._parent)])
        paths = [f"{self._parent}/{child}" for child in children]
        for start in range(0, len(paths), 1000):
            await self._multi(_delete, paths[start : start + 1000])
        await self._answers([self._client.delete_async(self._parent)])

    async def open_producer(self) -> None:
        """Nothing to do."""

    async def publish(self, bodies: list[bytes]) -> None:
        """One multi."""
        prefix = self._prefix

        def fill(transaction: Any, body: bytes) -> None:
            transaction.create(prefix, body, sequence=True)

        await self._multi(fill, bodies)

    async def send(self, body: bytes) -> None:
        """One create."""
        await self._answers([self._client.create_async(self._prefix, body, sequence=True)])

    async def open_consumer(self, batch: int) -> None:
        """Nothing to do."""

    async def receive(self, messages_max: int) -> list[bytes]:
        """Get the oldest children."""
        if not self._children and not await self._list():
            return []
        count = min(len(self._children), messages_max)
        self._taken = [f"{self._parent}/{self._children.popleft()}" for _ in range(count)]
        answers = await self._answers([self._client.get_async(path) for path in self._taken])
        return [body for body, _status in answers]

    async def _list(self) -> bool:
        arrived = asyncio.Event()

        def on_change(_event: Any) -> None:
            with suppress(RuntimeError):
                self._loop.call_soon_threadsafe(arrived.set)

        (children,) = await self._answers([self._client.get_children_async(self._parent, watch=on_change)])
        if not children:
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE_SECONDS):
                    await arrived.wait()
            (children,) = await self._answers([self._client.get_children_async(self._parent)])
        self._children.extend(sorted(children))
        return bool(children)

    async def ack(self) -> None:
        """Delete the batch with one multi."""
        await self._multi(_delete, self._taken)

    async def flush(self) -> None:
        """Nothing is under way: the multi has been answered."""


def _delete(transaction: Any, path: str) -> None:
    transaction.delete(path)
