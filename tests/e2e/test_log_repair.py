"""Bits of a stopped broker's data flip: it refuses, is repaired, and serves all but the announced loss."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from sluicemq.wire.messages import VERDICT_NACK
from tests.e2e.broker_process import BrokerFailed, BrokerProcess
from tests.e2e.wire_client import WireClient
from tests.patience import WAIT_SECONDS

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
        timeout=120,
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


OLD_BATCHES = 80
DELAYED = 7
"""The batch whose messages are delayed, and which then cannot be read."""
SMALL = ("--segment-bytes", "256KiB", "--snapshot-every-bytes", "256KiB", "--cache-bytes-max", "1MiB")


def large(batch: int) -> bytes:
    return body(batch, 0) + b"." * 16_000


def test_a_delayed_message_that_cannot_be_read_when_it_is_due_stops_the_broker_and_is_given_up(
    start_broker: StartBroker,
) -> None:
    """The broker that stops names the way on, and that way leads to a broker that serves all other messages."""
    broker = start_broker(options=SMALL)
    began = time.monotonic()
    broker.stop()
    broker.start()
    # It must not be due before the broker was restarted three times.
    delay_seconds = max(3.0, 8 * (time.monotonic() - began))
    with WireClient(broker.url) as client:
        client.declare("orders")
        client.declare("late")
        producer = client.open_producer()
        for batch in range(OLD_BATCHES):
            client.publish("late" if batch == DELAYED else "orders", producer, batch + 1, [large(batch)])
        consumer = client.consume("late")
        client.take(1)
        client.settle(consumer, [1, 1], VERDICT_NACK, delay_seconds=delay_seconds)
    for _ in range(2):  # an old file is one that the older of two snapshots lies behind
        broker.stop()
        broker.start()
    broker.stop()
    damaged = flip_in(broker.data, large(DELAYED)[:100])

    broker.start()
    with WireClient(broker.url) as client:
        client.consume("late")
        code = broker.wait(timeout=delay_seconds + WAIT_SECONDS)
    assert code != 0
    text = broker.stderr
    assert str(damaged) in text
    assert "`sluicemq log repair" in text

    repaired = tool(broker, "repair", "--yes", "--json")
    assert repaired.returncode == 0, repaired.stderr
    assert json.loads(repaired.stdout)["settled"] == {"late": 1}

    broker.start()
    with WireClient(broker.url) as client:
        assert client.queue_info("late")["delayed"] == client.queue_info("late")["ready"] == 0
        client.consume("orders")
        taken = [message.body for message in client.take(OLD_BATCHES - 1)]
        assert taken == [large(batch) for batch in range(OLD_BATCHES) if batch != DELAYED]
        client.publish("late", client.open_producer(), 1, [b"it goes on"])
        client.consume("late")
        assert [message.body for message in client.take(1)] == [b"it goes on"]
    broker.stop()
