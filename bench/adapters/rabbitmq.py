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


class RabbitServer(Server):
    """One node with a port mapper (epmd) of its own, so that it neither finds nor leaves one on the system's port."""

    program = "rabbitmq-server"

    def __init__(self, directory: Path, prefix: tuple[str, ...] = ()) -> None:
        super().__init__(directory, prefix)
        self._mapper_port = free_port()
        self._distribution_port = free_port()
        self._mapper: subprocess.Popen[bytes] | None = None

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
            "ERL_EPMD_PORT": str(self._mapper_port),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
        }

    def start(self) -> float:
        """Start the port mapper and the node."""
        self._mapper = subprocess.Popen(
            ["epmd", "-port", str(self._mapper_port), "-address", "127.0.0.1"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        return super().start()

    def stop(self) -> None:
        """Stop the node and its port mapper."""
        super().stop()
        if self._mapper is not None:
            self._mapper.terminate()
            self._mapper.wait()
            self._mapper = None
