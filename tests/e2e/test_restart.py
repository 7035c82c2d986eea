"""What a broker that comes back still knows, how it goes, and what it refuses: one process after the other."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from sluicemq.wire import messages as m
from sluicemq.wire.errors import BrokerStopping, ProducerFenced, QueueNotFound, SequenceGap
from tests.conftest import needs
from tests.e2e.test_no_confirm_before_sync import skip_where_nothing_can_be_traced
from tests.e2e.wire_client import ConnectionEnded, WireClient

if TYPE_CHECKING:
    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

STOP = pytest.mark.parametrize("stop", ["SIGTERM", "SIGKILL"])


def restart(broker: BrokerProcess, stop: str) -> None:
    if stop == "SIGTERM":
        broker.stop()
    else:
        broker.kill()
    broker.start()


def counts(client: WireClient, queue: str) -> tuple[int, int, int]:
    """(ready, leased, delayed)"""
    state = client.queue_info(queue)
    return state["ready"], state["leased"], state["delayed"]


# --- what it still knows --------------------------------------------------------------------------------------


@STOP
def test_queues_and_their_settings_are_there_again(stop: str, start_broker: StartBroker) -> None:
    broker = start_broker()
    with WireClient(broker.url) as client:
        client.declare("orders", retry_delay=7.5)
        client.declare("billing")
        client.declare("gone")
        client.request(m.DeleteQueue("gone"), m.Deleted)
        client.declare("orders", retry_delay=8.5)
    restart(broker, stop)
    with WireClient(broker.url) as client:
        names = [state["name"] for state in client.request(m.ListQueues(), m.Queues).queues]
        assert names == ["billing", "orders"]
        assert client.queue_info("orders")["settings"]["retry_delay"] == 8.5
        assert client.declare("orders", retry_delay=8.5).outcome == "unchanged"
        with pytest.raises(QueueNotFound, match="gone"):
            client.queue_info("gone")


@STOP
def test_ready_leased_delayed_and_settled_messages_are_where_they_were(stop: str, start_broker: StartBroker) -> None:
    broker = start_broker()
    with WireClient(broker.url) as client:
        client.declare("orders")
        producer = client.open_producer()
        client.publish("orders", producer, 1, [b"settled", b"nacked", b"delayed", b"leased"])
        client.publish("orders", producer, 2, [b"ready"])
        consumer = client.consume("orders", credit=4)
        taken = client.take(4)
        assert [message.body for message in taken] == [b"settled", b"nacked", b"delayed", b"leased"]
        client.send(m.Credit(consumer, 0, 0))
        client.settle(consumer, [1, 1])
        client.settle(consumer, [2, 2], m.VERDICT_NACK, delay_seconds=0)
        client.settle(consumer, [3, 3], m.VERDICT_NACK, delay_seconds=3600)
        assert counts(client, "orders") == (2, 1, 1)
        restart(broker, stop)
    with WireClient(broker.url) as client:
        # The session is over with its broker: its lease came back, at its former place, and the nacked one is last.
        assert counts(client, "orders") == (3, 0, 1)
        client.consume("orders")
        taken = client.take(3)
        assert [message.body for message in taken] == [b"leased", b"ready", b"nacked"]
        assert [message.deliveries for message in taken] == [2, 1, 2]


@STOP
def test_attempts_are_remembered_but_mere_deliveries_are_not_attempts(stop: str, start_broker: StartBroker) -> None:
    broker = start_broker()
    with WireClient(broker.url) as client:
        client.declare("orders", retry_delay=0.0)
        client.publish("orders", client.open_producer(), 1, [b"handled", b"prefetched"])
        consumer = client.consume("orders")
        client.take(2)
        client.settle(consumer, [1, 1], m.VERDICT_HANDED_OVER)
        restart(broker, stop)
    with WireClient(broker.url) as client:
        client.consume("orders")
        attempts = {message.body: (message.deliveries, message.attempts) for message in client.take(2)}
        assert attempts == {b"handled": (2, 1), b"prefetched": (2, 0)}


@STOP
def test_a_batch_that_is_sent_again_after_the_restart_gets_its_first_receipt(
    stop: str, start_broker: StartBroker
) -> None:
    broker = start_broker()
    with WireClient(broker.url) as client:
        client.declare("orders")
        producer = client.open_producer()
        receipts = [client.publish("orders", producer, sequence, [b"%d" % sequence]) for sequence in (1, 2, 3)]
        assert not any(receipt.duplicate for receipt in receipts)
    restart(broker, stop)
    with WireClient(broker.url) as client:
        again = [client.publish("orders", producer, sequence, [b"%d" % sequence]) for sequence in (2, 3)]
        assert [(receipt.zxid, receipt.duplicate) for receipt in again] == [
            (receipts[1].zxid, True),
            (receipts[2].zxid, True),
        ]
        with pytest.raises(SequenceGap) as gap:
            client.publish("orders", producer, 6, [b"6"])
        assert gap.value.expected == 4
        assert not client.publish("orders", producer, 4, [b"4"]).duplicate
        assert counts(client, "orders") == (4, 0, 0)


@STOP
def test_a_named_producer_stays_fenced(stop: str, start_broker: StartBroker) -> None:
    broker = start_broker()
    with WireClient(broker.url) as client:
        client.declare("orders")
        older = client.open_producer("shop")
        newer = client.open_producer("shop")
    restart(broker, stop)
    with WireClient(broker.url) as client:
        with pytest.raises(ProducerFenced):
            client.publish("orders", older, 1, [b"late"])
        client.publish("orders", newer, 1, [b"fine"])


def test_a_delay_goes_on_over_a_restart(start_broker: StartBroker) -> None:
    broker = start_broker()
    with WireClient(broker.url) as client:
        client.declare("orders")
        client.publish("orders", client.open_producer(), 1, [b"later"])
        consumer = client.consume("orders")
        client.take(1)
        nacked_at = time.monotonic()
        client.settle(consumer, [1, 1], m.VERDICT_NACK, delay_seconds=2.0)
        restart(broker, "SIGKILL")
    with WireClient(broker.url) as client:
        client.consume("orders")
        assert client.take(1)[0].body == b"later"
        waited = time.monotonic() - nacked_at
    assert 1.95 <= waited < 60.0, f"due after 2 s, came after {waited:.2f} s"


def test_ten_restarts_in_a_row_change_nothing_but_the_epoch(start_broker: StartBroker) -> None:
    broker = start_broker(options=("--segment-bytes", "256KiB"))
    with WireClient(broker.url) as client:
        client.declare("orders")
        producer = client.open_producer()
        sent = []
        for sequence in range(1, 41):
            bodies = [b"message %d of batch %d %s" % (place, sequence, b"." * 500) for place in range(20)]
            sent += bodies
            client.publish("orders", producer, sequence, bodies)
        assert client.statistics()["segments"] > 1
        epoch = client.opened.epoch
    for round_number in range(1, 11):
        restart(broker, "SIGTERM" if round_number % 2 else "SIGKILL")
        with WireClient(broker.url) as client:
            assert client.opened.epoch == epoch + round_number
            assert counts(client, "orders") == (len(sent), 0, 0)
    with WireClient(broker.url) as client:
        client.consume("orders", credit=len(sent))
        assert [message.body for message in client.take(len(sent))] == sent


# --- how it goes ----------------------------------------------------------------------------------------------


def test_a_stopping_broker_confirms_what_was_on_the_road_and_tells_everybody(start_broker: StartBroker) -> None:
    broker = start_broker(options=("--drain-seconds", "60"))
    with WireClient(broker.url) as client, WireClient(broker.url) as idle:
        client.declare("orders")
        producer = client.open_producer()
        client.publish("orders", producer, 1, [b"first"])
        waiting = {
            client.send_publish("orders", producer, sequence, [b"%d" % sequence] * 50): sequence
            for sequence in range(2, 202)
        }
        began = time.monotonic()
        broker.terminate()
        confirmed, refused = 1, 0
        with contextlib.suppress(ConnectionEnded):
            for correlation in waiting:
                try:
                    client.reply_to(correlation)
                    confirmed += 1
                except BrokerStopping:
                    refused += 1
        with pytest.raises(ConnectionEnded) as ended:
            idle.delivery()
        assert isinstance(ended.value.error, BrokerStopping), "CLOSE says why"
        assert ended.value.error.retryable
        assert broker.wait() == 0
        assert time.monotonic() - began < 40.0, "as soon as nothing is left to do, and not after the drain time"
        broker.check_calm()
    broker.start()
    with WireClient(broker.url) as client:
        # What was confirmed is there and nothing else: what was on the road was confirmed before CLOSE, what the
        # broker had not read yet is not there, and a refusal burns no sequence.
        assert counts(client, "orders") == (1 + 50 * (confirmed - 1), 0, 0)
        assert not client.publish("orders", producer, confirmed + 1, [b"next"]).duplicate


def test_a_stop_does_not_wait_for_clients_that_do_not_listen(start_broker: StartBroker) -> None:
    broker = start_broker(options=("--drain-seconds", "1"))
    with WireClient(broker.url) as client, WireClient(broker.url) as deaf:
        client.declare("orders")
        producer = client.open_producer()
        deaf.consume("orders", credit=1_000_000, credit_bytes=1 << 30)
        for sequence in range(1, 21):
            client.publish("orders", producer, sequence, [b"x" * 500_000] * 2)
        began = time.monotonic()
        broker.stop()
        assert time.monotonic() - began < 20.0


def test_new_connections_are_refused_while_it_stops_and_served_after_the_restart(start_broker: StartBroker) -> None:
    broker = start_broker()
    broker.stop()
    with pytest.raises(ConnectionRefusedError):
        WireClient(broker.url)
    broker.start()
    with WireClient(broker.url) as client:
        assert client.ping() < 10


def test_an_interrupt_from_the_keyboard_stops_it_as_cleanly(start_broker: StartBroker) -> None:
    broker = start_broker()
    os.kill(broker.pid, signal.SIGINT)
    assert broker.wait() == 0
    broker.check_calm()


@pytest.mark.parametrize("again", [signal.SIGTERM, signal.SIGINT])
def test_who_asks_twice_does_not_hinder_the_orderly_end(start_broker: StartBroker, again: signal.Signals) -> None:
    broker = start_broker()
    with WireClient(broker.url) as client:
        broker.terminate()
        with contextlib.suppress(ConnectionEnded):
            while client.ping() < 10:
                pass
        # It is stopping now, and waits a moment for this client to go.
        os.kill(broker.pid, again)
        assert broker.wait() == 0
    broker.check_calm()


# --- what it refuses ------------------------------------------------------------------------------------------


def serve_on(broker: BrokerProcess) -> subprocess.CompletedProcess[str]:
    """Try to serve the same directory; must end by itself."""
    command = [sys.executable, "-m", "sluicemq.broker.cli", "serve", "--data", str(broker.data)]
    return subprocess.run(
        [*command, "--listen", "127.0.0.1:0"], capture_output=True, text=True, timeout=60, check=False
    )


def test_a_second_broker_on_the_directory_is_refused_in_one_line_that_names_the_first(
    start_broker: StartBroker,
) -> None:
    broker = start_broker()
    second = serve_on(broker)
    assert second.returncode not in (0, -9)
    assert second.stdout == ""
    lines = second.stderr.strip().splitlines()
    assert len(lines) == 1, second.stderr
    assert str(broker.pid) in lines[0]
    assert str(broker.data) in lines[0]
    with WireClient(broker.url) as client:
        assert client.ping() < 10, "the first one was not disturbed"


def test_a_taken_port_is_refused_in_one_line(start_broker: StartBroker) -> None:
    broker = start_broker()
    command = [sys.executable, "-m", "sluicemq.broker.cli", "serve", "--data", str(broker.data.parent / "other")]
    address = f"127.0.0.1:{broker.port}"
    second = subprocess.run([*command, "--listen", address], capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode not in (0, -9)
    lines = second.stderr.strip().splitlines()
    assert len(lines) == 1, second.stderr
    assert str(broker.port) in lines[0]


def flip_bit_in_the_middle_of_the_log(broker: BrokerProcess) -> str:
    wanted = b"message 10 of batch 3"
    (segment,) = [path for path in broker.data.iterdir() if wanted in path.read_bytes()]
    data = bytearray(segment.read_bytes())
    data[data.index(wanted)] ^= 0x40
    segment.write_bytes(data)
    return segment.name


def test_a_corrupt_log_is_refused_by_name_and_left_as_it_is(start_broker: StartBroker) -> None:
    broker = start_broker()
    with WireClient(broker.url) as client:
        client.declare("orders")
        producer = client.open_producer()
        for sequence in range(1, 6):
            client.publish("orders", producer, sequence, [b"message %d of batch %d" % (n, sequence) for n in range(20)])
    broker.stop()
    name = flip_bit_in_the_middle_of_the_log(broker)
    before = {path.name: path.read_bytes() for path in broker.data.iterdir() if path.name != "lock"}
    refused = serve_on(broker)
    assert refused.returncode not in (0, -9)
    assert refused.stdout == ""
    assert "Traceback" not in refused.stderr
    assert name in refused.stderr
    after = {path.name: path.read_bytes() for path in broker.data.iterdir() if path.name != "lock"}
    assert before == after, "a refusal changes nothing"


# --- when the disk fails --------------------------------------------------------------------------------------


def publish_until_the_end(client: WireClient, *, first_sequence: int, producer: int) -> int:
    """Publish one batch after the other until the connection ends; return the last sequence that was confirmed."""
    for sequence in range(first_sequence, first_sequence + 10_000):
        try:
            client.publish("orders", producer, sequence, [b"%d" % sequence])
        except ConnectionEnded:
            return sequence - 1
    pytest.fail("the disk failed long ago, and the broker still confirms")


@needs("strace", "apt-get install strace")
@pytest.mark.parametrize("call", ["fdatasync", "pwritev2"])
def test_a_broker_whose_disk_fails_ends_at_once_and_confirms_nothing_more(call: str, start_broker: StartBroker) -> None:
    skip_where_nothing_can_be_traced()
    # The Nth call of the process fails, and every one after it, as those of a broken disk do.
    strace = ("strace", "-D", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}")
    # One small spare segment: its zeroing must not be what meets the error.
    options = ("--segment-bytes", "1MiB", "--spares-max", "1")
    broker = start_broker(prefix=(*strace, "-e", f"inject={call}:error=EIO:when=40+"), options=options)
    with WireClient(broker.url) as client:
        client.declare("orders")
        producer = client.open_producer()
        confirmed = publish_until_the_end(client, first_sequence=1, producer=producer)
    assert broker.wait() not in (0, -9)
    assert "Traceback" not in broker.stderr, broker.stderr
    assert "Input/output error" in broker.stderr
    assert confirmed >= 10, "it served until the disk failed"
    healthy = start_broker()
    with WireClient(healthy.url) as client:
        ready, leased, delayed = counts(client, "orders")
        assert (leased, delayed) == (0, 0)
        # The last batch was written but never confirmed: it may be there or not.
        assert ready in (confirmed, confirmed + 1)
        assert client.publish("orders", producer, confirmed, [b"%d" % confirmed]).duplicate
