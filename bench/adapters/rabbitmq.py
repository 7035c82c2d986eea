"""RabbitMQ's server, for both of its clients.

Durability: messages are persistent (`delivery_mode=2`), the queues durable. A quorum queue confirms after the fsync
of its write-ahead log; a classic queue of RabbitMQ 3 confirms after its message store or its index was synced, which
it does for many messages at once (the report counts the syncs). Both with one node.
Best practice: confirms are asynchronous, a window of several thousand messages is under way, and the broker answers
for many at once (`multiple`); consumers prefetch a few batches and acknowledge a batch by its last tag (`multiple`).
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from bench.servers import Server, free_port

SCRIPT = "/usr/lib/rabbitmq/bin/rabbitmq-server"
PREFETCH_BATCHES = 4


def queue_arguments(kind: str) -> dict[str, str]:
    """Return the arguments that declare a queue of this kind: `classic` or `quorum`."""
    return {"x-queue-type": kind}


class PortMapper:
    """Erlang's port mapper (epmd) on a port of its own: nodes neither find nor leave one on the system's port."""

    def __init__(self) -> None:
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, directory: Path) -> None:
        """Start it in *directory*, where it writes nothing; what is found there later is ours."""
        self._process = subprocess.Popen(
            ["epmd", "-port", str(self.port), "-address", "127.0.0.1"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=directory,
            start_new_session=True,
        )

    def stop(self) -> None:
        """End it, if it runs."""
        process, self._process = self._process, None
        if process is not None:
            process.terminate()
            process.wait()


class RabbitServer(Server):
    """One node.

    Args:
        directory: For its data.
        prefix: Command in front of its own.
        mapper: The port mapper of several nodes, which whoever made it starts and stops; None: one of its own.

    """

    program = "rabbitmq-server"

    def __init__(self, directory: Path, prefix: tuple[str, ...] = (), mapper: PortMapper | None = None) -> None:
        super().__init__(directory, prefix)
        self._mapper = mapper or PortMapper()
        self._owns_mapper = mapper is None
        self._distribution_port = free_port()

    def command(self) -> list[str]:
        """Return the command; Debian's own script in /usr/sbin would change the user."""
        return [SCRIPT]

    def environment(self) -> dict[str, str]:
        """Return what keeps everything below our directory and on the loopback interface."""
        here = str(self.directory)
        config = self.directory / "rabbitmq.conf"
        config.write_text(f"listeners.tcp.local = 127.0.0.1:{self.port}\nlog.console = false\n")
        (self.directory / "plugins").write_text("[].\n")
        return {
            "HOME": here,
            "RABBITMQ_NODENAME": f"bench{self.port}@localhost",
            "RABBITMQ_CONFIG_FILE": str(config),
            "RABBITMQ_MNESIA_BASE": here + "/data",
            "RABBITMQ_LOG_BASE": here + "/logs",
            "RABBITMQ_ENABLED_PLUGINS_FILE": here + "/plugins",
            "RABBITMQ_DIST_PORT": str(self._distribution_port),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1}",
            "ERL_EPMD_PORT": str(self._mapper.port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def start(self) -> float:
        """Start the node, before it the port mapper that is its own."""
        if self._owns_mapper:
            self._mapper.start(self.directory)
        return super().start()

    def stop(self) -> None:
        """Stop the node and the port mapper that is its own."""
        super().stop()
        if self._owns_mapper:
            self._mapper.stop()
