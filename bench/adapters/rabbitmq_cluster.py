"""Three nodes of RabbitMQ with quorum queues, and aio-pika with the rest that a cluster needs.

Durability: a publish is confirmed when a majority of the nodes has synced it in its write-ahead log.
aio-pika knows one address. `AioPikaSwitching` does what its user would have to: as soon as the connection is gone it
connects to the next node, again and again, each time after a short pause: a channel that publishes to a quorum queue
before its new leader is known may be refused everything for as long as the old one is gone. What was under way when the
connection went has failed, and is reported to whoever published it. Heartbeats are as the client has them by default.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from aiormq.exceptions import AMQPError

from bench.adapters.rabbitmq import PortMapper, RabbitServer
from bench.adapters.rabbitmq_aio_pika import AioPikaClient
from bench.clusters import NODES, Cluster

CONTROL = "/usr/lib/rabbitmq/bin/rabbitmqctl"
CONTROL_SECONDS_MAX = 30.0
COOKIE = "bench"
CONNECT_SECONDS_MAX = 1.0
PAUSE_SECONDS = 0.5
"""Before each try to connect."""


class RabbitNode(RabbitServer):
    """One node of several; all share one port mapper, which the cluster runs."""

    def __init__(self, directory: Path, mapper: PortMapper) -> None:
        super().__init__(directory, mapper=mapper)
        self.peers: Sequence[RabbitNode] = ()

    @property
    def name(self) -> str:
        """Its name within the cluster."""
        return f"bench{self.port}@localhost"

    def environment(self) -> dict[str, str]:
        """Return the environment, after adding the cluster to its configuration."""
        environment = super().environment()
        lines = ["cluster_formation.peer_discovery_backend = classic_config"]
        lines += [f"cluster_formation.classic_config.nodes.{n} = {peer.name}" for n, peer in enumerate(self.peers, 1)]
        with Path(environment["RABBITMQ_CONFIG_FILE"]).open("a") as config:
            config.write("\n".join(lines) + "\n")
        cookie = self.directory / ".erlang.cookie"
        if not cookie.exists():
            cookie.write_text(COOKIE)
            cookie.chmod(0o400)
        return environment

    def control(self, *words: str) -> str:
        """Return what rabbitmqctl says to *words* on this node; empty when it fails, or does not end in time."""
        try:
            said = subprocess.run(
                [CONTROL, "--silent", *words],
                env={**os.environ, **self.environment()},
                capture_output=True,
                text=True,
                timeout=CONTROL_SECONDS_MAX,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return ""
        return said.stdout.strip() if said.returncode == 0 else ""


class RabbitCluster(Cluster):
    """Three nodes and their port mapper."""

    def make_nodes(self, directories: list[Path]) -> Sequence[RabbitNode]:
        """Return nodes that look for each other by name."""
        self._mapper = PortMapper()
        self._nodes = [RabbitNode(directory, self._mapper) for directory in directories]
        for node in self._nodes:
            node.peers = self._nodes
        return self._nodes

    def start(self) -> float:
        """Start the port mapper and the nodes."""
        self._mapper.start(self.directory)
        return super().start()

    def formed(self) -> bool:
        """Return whether all nodes run, as the first one sees it: each question starts an Erlang machine."""
        said = self._nodes[0].control("cluster_status", "--formatter", "json")
        return len(json.loads(said)["running_nodes"]) == NODES

    def leader(self, queue: str) -> int | None:
        """Return who leads the queue of this name."""
        for node in self._nodes:
            for line in node.control("list_queues", "name", "leader").splitlines():
                name, _, leader = line.partition("\t")
                if name == queue:
                    names = [each.name for each in self._nodes]
                    return names.index(leader) if leader in names else None
        return None

    def stop(self) -> None:
        """End the nodes and their port mapper."""
        super().stop()
        self._mapper.stop()


class AioPikaSwitching(AioPikaClient):
    """A connection to one node after the other."""

    def __init__(self, ports: Sequence[int], queue: str, kind: str) -> None:
        super().__init__(ports, queue, kind)
        self._ports = ports
        self._connected = asyncio.Event()
        self._switching: asyncio.Task[None] | None = None

    async def open_producer(self) -> None:
        """Watch the connection from now on."""
        self._watch()

    def _watch(self) -> None:
        self._connection.close_callbacks.add(self._on_close)
        self._connected.set()

    def _on_close(self, *_: object) -> None:
        if self._connected.is_set():
            self._connected.clear()
            self._switching = asyncio.get_running_loop().create_task(self._switch())

    async def _switch(self) -> None:
        turn = 0
        while True:
            turn += 1
            await asyncio.sleep(PAUSE_SECONDS)
            self._url = f"amqp://guest:guest@127.0.0.1:{self._ports[turn % len(self._ports)]}/"
            try:
                async with asyncio.timeout(CONNECT_SECONDS_MAX):
                    await super().__aenter__()
            except (OSError, AMQPError):
                continue
            else:
                self._watch()
                return

    async def send(self, body: bytes) -> None:
        """Publish one as soon as there is a connection, and wait for its confirm."""
        await self._connected.wait()
        await super().send(body)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connected.clear()
        if self._switching is not None:
            self._switching.cancel()
        with suppress(OSError, AMQPError):
            await super().__aexit__(kind, error, trace)
