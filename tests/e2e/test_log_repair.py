"""Bits of a stopped broker's data flip: it refuses, is repaired, and serves all but the announced loss."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.broker_process import BrokerFailed, BrokerProcess
from tests.e2e.wire_client import WireClient

if TYPE_CHECKING:
    from tests.e2e.conftest import StartBroker

BATCHES = 60


def body(batch: int, number: int) -> bytes:
    return b"batch %d, message %d " % (batch, number) + b"." * 200


def tool(broker: BrokerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sluicemq.broker.cli", "log", *arguments, "--data", str(broker.data)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def flip_in(data: Path, wanted: bytes) -> Path:
    """Flip a bit of the record that holds these bytes."""
    for path in sorted(data.glob("segment-*")):
        content = bytearray(path.read_bytes())
        at = content.find(wanted)
        if at >= 0:
            content[at + 3] ^= 4
            path.write_bytes(content)
            return path
    raise AssertionError(f"{wanted!r} is in no segment")


@pytest.mark.parametrize("stop", ["SIGTERM", "SIGKILL"])
def test_all_but_the_announced_loss_is_delivered(stop: str, start_broker: StartBroker) -> None:
    """Stopped in order there is a snapshot behind the damage, so one batch is lost; killed there is none: the log is
    cut."""
    broker = start_broker()
    with WireClient(broker.url) as client:
        client.declare("orders")
        producer = client.open_producer()
        for batch in range(BATCHES):
            client.publish("orders", producer, batch + 1, [body(batch, number) for number in range(10)])
    broker.stop() if stop == "SIGTERM" else broker.kill()
    damaged = flip_in(broker.data, body(40, 5))

    with pytest.raises(BrokerFailed) as refused:
        broker.start()
    text = str(refused.value)
    assert str(damaged) in text
    assert re.search(r"at offset \d+", text)

    verified = tool(broker, "verify")
    assert verified.returncode == 1
    assert str(damaged) in verified.stdout
    repaired = tool(broker, "repair", "--yes", "--json")
    assert repaired.returncode == 0, repaired.stderr
    announced: dict[str, Any] = json.loads(repaired.stdout)
    verified = tool(broker, "verify")
    assert verified.returncode == 0, (announced, verified.stdout)

    broker.start()
    with WireClient(broker.url) as client:
        ready = client.queue_info("orders")["ready"]
        client.consume("orders")
        bodies = [message.body for message in client.take(ready)]
    first = 41 if stop == "SIGTERM" else BATCHES
    left = [batch for batch in range(BATCHES) if batch < 40 or batch >= first]
    assert bodies == [body(batch, number) for batch in left for number in range(10)]
    assert announced["lost"], "what is lost was said"
    if stop == "SIGTERM":
        assert announced["lost_messages"] == {"orders": 10}
    assert list((broker.data / "damaged").rglob(damaged.name)), "the damaged file is kept"
    broker.stop()
