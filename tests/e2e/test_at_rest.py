"""A broker that has nothing to do costs next to nothing, and is there at once.

The promises are 50 MB, 0.5 % CPU and half a second; `python -m tests.e2e.at_rest` measures against them. Time gets
wider limits here, because the machine runs other tests as well; memory does not care who else runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.at_rest import QUIET, Rest, idle_clients, start_up, start_up_with_log, wait_settled, watch
from tests.e2e.wire_client import WireClient

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

RESIDENT_BYTES_PROMISED = 50e6
CPU_SHARE_MAX = 0.02
START_SECONDS_MAX = 4.0
TRIES = 3
"""A busy machine spoils a measurement now and then; what the broker does shows in each."""


def watch_quiet(broker: BrokerProcess, *, seconds: float, cpu_share: float) -> Rest:
    """Watch until it takes less than so much, a few times at most; return what was seen last."""
    for _ in range(TRIES):
        rest = watch(broker, seconds)
        if rest.cpu_share < cpu_share:
            break
    return rest


def test_a_broker_without_clients_stays_small_and_quiet(start_broker: StartBroker) -> None:
    broker = start_broker(options=QUIET)
    wait_settled(broker)
    rest = watch_quiet(broker, seconds=3.0, cpu_share=CPU_SHARE_MAX)
    assert rest.resident_bytes < RESIDENT_BYTES_PROMISED
    assert rest.cpu_share < CPU_SHARE_MAX


def test_idle_connections_and_queues_cost_little(start_broker: StartBroker) -> None:
    broker = start_broker(options=QUIET)
    wait_settled(broker)
    before = broker.usage().resident_bytes
    with idle_clients(broker, connections=200, queues=200):
        rest = watch_quiet(broker, seconds=2.0, cpu_share=2 * CPU_SHARE_MAX)
        assert (rest.resident_bytes - before) / 200 < 50_000, "a connection and a queue take less than 50 KB"
        assert rest.cpu_share < 2 * CPU_SHARE_MAX
        with WireClient(broker.url) as client:
            assert client.statistics()["connections"] == 201
    broker.stop()


@pytest.mark.alone
def test_it_is_ready_soon_after_its_start(tmp_path: Path) -> None:
    # The best of several: the machine may have other things to do.
    assert min(start_up(tmp_path, starts=TRIES)) < START_SECONDS_MAX


@pytest.mark.alone
def test_it_is_ready_soon_with_a_log_too(tmp_path: Path) -> None:
    seconds, log_bytes, resident_bytes = start_up_with_log(tmp_path, 50_000_000)
    assert log_bytes > 50_000_000
    assert seconds < 3 * START_SECONDS_MAX
    assert resident_bytes < 4 * RESIDENT_BYTES_PROMISED
