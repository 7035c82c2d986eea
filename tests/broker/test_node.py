"""How many connections a broker takes where it may open few files, and what it loads when it is on its own."""

from __future__ import annotations

import logging
import resource
import subprocess
import sys

from sluicemq.broker import node
from sluicemq.broker.config import BrokerConfig
from sluicemq.storage import LogOptions


def connections_with(monkeypatch, files: int, config: BrokerConfig) -> int:
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (files, files))
    return node._connections_max(config)


def test_a_low_limit_of_files_leaves_the_log_room_for_its_own(monkeypatch, caplog):
    """A log that cannot open a file ends the broker, a connection that is refused tries again."""
    config = BrokerConfig(segment_bytes=1 << 20, snapshot_every_bytes=20 << 20, spares_max=2)
    segments_open = 60

    with caplog.at_level(logging.WARNING):
        connections = connections_with(monkeypatch, 1024, config)

    assert connections <= 1024 - LogOptions().live_open_max - segments_open - config.spares_max - 40
    assert "1024 open files" in caplog.text


def test_rare_snapshots_do_not_take_every_connection(monkeypatch):
    config = BrokerConfig(snapshot_every_bytes=1 << 40)
    assert connections_with(monkeypatch, 1024, config) > 600


def test_enough_files_change_nothing(monkeypatch):
    config = BrokerConfig(connections_max=500)
    assert connections_with(monkeypatch, 65_536, config) == 500
    assert connections_with(monkeypatch, resource.RLIM_INFINITY, config) == 500


def test_a_broker_on_its_own_loads_nothing_of_what_brokers_do_together():
    """Nor time zones, which few queues name: all of it together takes a tenth of the memory at rest."""
    together = ("broker.clustered", "broker.pipeline.ensemble.driver", "broker.replication.replica", "wire.peers")
    program = (
        "import sys\n"
        "import sluicemq.broker.node\n"
        f"unneeded = {{'zoneinfo', *('sluicemq.' + name for name in {together!r})}}\n"
        "print(*sorted(unneeded & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
