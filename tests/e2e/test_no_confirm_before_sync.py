"""No confirm before its fdatasync: first the judge, on traces made by hand; then the system calls of a broker."""

from __future__ import annotations

import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.frames import PREFACE, pack_frame
from tests.conftest import INSIST_VARIABLE, needs
from tests.e2e.broker_process import PROGRAM
from tests.e2e.mutants import program_of
from tests.e2e.sync_trace import STRACE, TraceUnreadable, parse_trace, prove
from tests.e2e.wire_client import WireClient

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

# --- the judge, on synthetic traces -------------------------------------------------------------------------------

LOG = "/data"
SEGMENT = "/data/0001.log"
SOCKET = "socket:[77]"
BATCH = encode_batch([b"paid"])


def hexed(data: bytes) -> str:
    return "".join(f"\\x{byte:02x}" for byte in data)


def descriptor(number: int, path: str) -> str:
    return f"{number}<{hexed(path.encode())}>"


def request(correlation: int = 5, batch: bytes = BATCH, *, preface: bytes = PREFACE) -> str:
    frame = pack_frame(m.Publish.TYPE, m.Publish("q", 1, 1).encode(), len(batch), correlation=correlation) + batch
    data = preface + frame
    return f'100 recvfrom({descriptor(9, SOCKET)}, "{hexed(data)}", 65536, 0, NULL, NULL) = {len(data)}'


def reply(correlation: int = 5) -> str:
    frame = pack_frame(m.Published.TYPE, m.Published(77).encode(), correlation=correlation)
    return f'100 writev({descriptor(9, SOCKET)}, [{{iov_base="{hexed(frame)}", iov_len=9}}], 1) = {len(frame)}'


def write(batch: bytes = BATCH, path: str = SEGMENT) -> str:
    head = b"\x00\x01head"
    parts = f'[{{iov_base="{hexed(head)}", iov_len=6}}, {{iov_base="{hexed(batch)}", iov_len=9}}]'
    return f"101 pwritev2({descriptor(7, path)}, {parts}, 2, 0, 0) = {len(head) + len(batch)}"


def sync(path: str = SEGMENT, result: str = "0") -> str:
    return f"101 fdatasync({descriptor(7, path)}) = {result}"


SYNC_BEGINS = f"101 fdatasync({descriptor(7, SEGMENT)} <unfinished ...>"
SYNC_ENDS = "101 <... fdatasync resumed>)      = 0"


def failures_of(*lines: str) -> list[str]:
    proofs, failures = prove(parse_trace(lines), LOG)
    assert len(proofs) + len(failures) == sum("writev(9" in line for line in lines)
    return failures


def test_a_reply_after_write_and_sync_is_proven() -> None:
    assert failures_of(request(), write(), sync(), reply()) == []
    assert failures_of(request(), write(), SYNC_BEGINS, SYNC_ENDS, reply()) == []


@pytest.mark.parametrize(
    "lines",
    [
        (request(), write(), reply(), sync()),
        (request(), reply(), write(), sync()),
        (request(), sync(), write(), reply()),
        (request(), write(), reply()),
        (request(), write(), SYNC_BEGINS, reply(), SYNC_ENDS),
        (request(), SYNC_BEGINS, write().replace("101 ", "102 ", 1), SYNC_ENDS, reply()),
        (request(), write(), sync(path="/data/0002.log"), reply()),
        (request(), write(), sync(result="-1 EIO (Input/output error)"), reply()),
    ],
    ids=[
        "the reply precedes the sync",
        "the reply precedes the write",
        "the sync precedes the write",
        "nothing was synced",
        "the reply leaves while the sync runs",
        "the sync began before the write had returned",
        "another file was synced",
        "the sync failed",
    ],
)
def test_a_mutant_is_found(lines: tuple[str, ...]) -> None:
    (failure,) = failures_of(*lines)
    assert "no fdatasync began after its batch was written" in failure


def test_a_batch_that_was_not_written_to_the_log_is_found() -> None:
    (failure,) = failures_of(request(), write(encode_batch([b"other"])), sync(), reply())
    assert "never written to the log" in failure
    (failure,) = failures_of(request(), write(path="/elsewhere/file"), sync(path="/elsewhere/file"), reply())
    assert "never written to the log" in failure


def test_each_reply_of_a_group_needs_its_own_batch_in_the_synced_write() -> None:
    other = encode_batch([b"shipped"])
    requests = (request(5), request(6, other, preface=b""))
    assert failures_of(*requests, write(BATCH + other), sync(), reply(5), reply(6)) == []
    (failure,) = failures_of(*requests, write(), sync(), write(other), reply(5), reply(6), sync())
    assert "PUBLISHED 6" in failure


def test_a_reply_counts_from_its_first_byte() -> None:
    whole = reply()
    match = re.search(r'"([^"]+)"', whole)
    assert match is not None
    text = match[1]
    first, rest = (whole.replace(text, part) for part in (text[:16], text[16:]))
    first, rest = re.sub(r"= \d+$", "= 4", first), re.sub(r"= \d+$", f"= {len(text) // 4 - 4}", rest)
    _proofs, failures = prove(parse_trace([request(), write(), first, sync(), rest]), LOG)
    assert len(failures) == 1
    _proofs, failures = prove(parse_trace([request(), write(), sync(), first, rest]), LOG)
    assert failures == []


def test_a_trace_with_cut_strings_proves_nothing() -> None:
    line = f'100 recvfrom({descriptor(9, SOCKET)}, "{hexed(PREFACE)}"..., 65536, 0, NULL, NULL) = 4000'
    with pytest.raises(TraceUnreadable):
        parse_trace([line])


# --- the real process ---------------------------------------------------------------------------------------------

QUEUE = "traced"


def publish_one_by_one(client: WireClient) -> int:
    producer = client.open_producer()
    for sequence in range(1, 51):
        client.publish(QUEUE, producer, sequence, [b"one by one %d" % sequence])
    return 50


def publish_in_parallel(client: WireClient) -> int:
    """Eight connections at once, each with a window of batches, so that one fdatasync confirms many of them."""
    clients = [WireClient(f"sluicemq://127.0.0.1:{client.socket.getpeername()[1]}") for _ in range(8)]
    try:
        waiting = []
        for number, one in enumerate(clients):
            producer = one.open_producer()
            for sequence in range(1, 26):
                bodies = [b"connection %d batch %d message %d" % (number, sequence, place) for place in range(20)]
                waiting.append((one, one.send_publish(QUEUE, producer, sequence, bodies)))
        for one, correlation in waiting:
            one.reply_to(correlation)
        return len(waiting)
    finally:
        for one in clients:
            one.close()


@needs("strace", "apt-get install strace")
@pytest.mark.parametrize("publish", [publish_one_by_one, publish_in_parallel])
def test_no_confirm_leaves_the_process_before_its_fdatasync(
    publish: Callable[[WireClient], int], start_broker: StartBroker, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    traced = start_traced(start_broker, trace)
    with WireClient(traced.url) as client:
        client.declare(QUEUE)
        count = publish(client)
    traced.stop()
    calls = parse_trace(trace.read_text(errors="replace").splitlines())
    proofs, failures = prove(calls, str(traced.data))
    assert failures == []
    assert len(proofs) == count
    syncs = {proof.synced.began for proof in proofs}
    if publish is publish_one_by_one:
        assert len(syncs) == count, "one in flight: each confirm has a sync of its own"
    else:
        assert len(syncs) < count, "many in flight: one sync confirms several"


@needs("strace", "apt-get install strace")
@pytest.mark.parametrize("mutant", ["sync-every-other-time", "never-sync"])
def test_a_process_that_does_not_sync_what_it_confirms_is_found_out(
    mutant: str, start_broker: StartBroker, tmp_path: Path
) -> None:
    trace = tmp_path / "trace"
    traced = start_traced(start_broker, trace, program=program_of(mutant))
    with WireClient(traced.url) as client:
        client.declare(QUEUE)
        count = publish_one_by_one(client)
    traced.stop()
    proofs, failures = prove(parse_trace(trace.read_text(errors="replace").splitlines()), str(traced.data))
    assert len(proofs) + len(failures) == count
    assert len(failures) > count / 4, failures


def start_traced(start_broker: StartBroker, trace: Path, *, program: tuple[str, ...] = PROGRAM) -> BrokerProcess:
    """Start a broker under strace."""
    skip_where_nothing_can_be_traced()
    # Small segments: zeroing the next one would fill the trace with zeros.
    options = ("--segment-bytes", "1MiB", "--spares-max", "1")
    return start_broker(prefix=[*STRACE, "-o", str(trace)], options=options, program=program)


def skip_where_nothing_can_be_traced() -> None:
    """Some containers have strace but forbid what it does."""
    if subprocess.run(["strace", "-o", "/dev/null", "true"], capture_output=True, check=False).returncode == 0:
        return
    reason = "strace may not trace here; give the container the capability SYS_PTRACE"
    if os.environ.get(INSIST_VARIABLE):
        pytest.fail(f"{reason} ({INSIST_VARIABLE} is set, so this is a failure)", pytrace=False)
    pytest.skip(reason)
