"""A real broker in a steady state for some seconds: the disk is given back while clients work."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.broker_process import BrokerProcess
from tests.e2e.steady_state import MIB, QUEUE, Options, run
from tests.e2e.wire_client import WireClient

if TYPE_CHECKING:
    from pathlib import Path

SEGMENT_BYTES = 1 * MIB
SERVE = ["--segment-bytes", str(SEGMENT_BYTES), "--snapshot-every-bytes", str(MIB // 2)]


def test_the_disk_holds_what_was_given_back_and_little_more(tmp_path: Path) -> None:
    rate, looks, latencies = run(tmp_path, Options(5.0, 20_000.0, 100, 100), SERVE, show=False)
    assert rate > 1_000
    assert latencies
    last = looks[-1]
    assert last.alive_bytes > 20_000
    # On a machine with nothing else to do it holds at every look: `python -m tests.e2e.steady_state` says so.
    within = [look.store_bytes <= 3 * look.alive_bytes + 2 * SEGMENT_BYTES for look in looks]
    assert sum(within) > len(within) / 2
    with BrokerProcess(tmp_path / "data", options=SERVE) as broker, WireClient(broker.url) as client:
        info = client.queue_info(QUEUE)
        assert info["delayed"] > 500
        assert info["pinned_bytes"] >= 0
        figures = client.statistics()
        # Beside the store: the log behind the older of two snapshots, each of half a segment, and two spares.
        assert figures["log_bytes"] <= 4 * SEGMENT_BYTES
        assert figures["segments"] + figures["spare_segments"] <= 7
        assert figures["live_bytes"] <= 3 * last.alive_bytes + 2 * SEGMENT_BYTES
        broker.stop()
