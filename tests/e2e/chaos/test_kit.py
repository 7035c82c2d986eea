"""The kit itself: plans, ways and gates; and a short run against one broker."""

from __future__ import annotations

import contextlib
import json
import random
import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import psutil
import pytest
import trio
import trio.testing

from sluicemq.client import connect
from sluicemq.wire.frames import PEER_PREFACE, pack_frame
from sluicemq.wire.peers import PeerHello
from tests.e2e.chaos.cluster import Cluster
from tests.e2e.chaos.faults import _BEGIN, ALONE, LEADER, TOGETHER, plan
from tests.e2e.chaos.history import FAULT
from tests.e2e.chaos.network import CLIENTS, Network, Way

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from sluicemq.client import Client

HELLO = PEER_PREFACE + pack_frame(
    PeerHello.TYPE, PeerHello(1, 1, bytes(16), 0, 2, bytes(16), 1, 5, 0, address="127.0.0.1:1").encode()
)

FAULT_LINE = f'"kind": "{FAULT}"'


def test_a_seed_gives_the_same_plan_and_it_fits_the_time():
    for nodes, kinds in ((1, ALONE), (3, TOGETHER), (5, TOGETHER)):
        steps = plan(random.Random(7), 3_600.0, nodes)
        assert steps == plan(random.Random(7), 3_600.0, nodes)
        assert sum(step.calm_seconds + step.seconds for step in steps) <= 3_600.0
        assert {step.kind for step in steps} == set(kinds)
        assert all(step.victim in (LEADER, *range(1, nodes + 1)) for step in steps)
        assert all((step.victim == LEADER) == step.kind.endswith("leader") for step in steps)


def test_every_fault_of_a_plan_can_be_done():
    assert {kind.removesuffix(" leader").removesuffix(" one") for kind in (*ALONE, *TOGETHER)} == set(_BEGIN)


async def echo(stream: trio.SocketStream) -> None:
    with contextlib.suppress(trio.BrokenResourceError):
        async for data in stream:
            await stream.send_all(data)


@pytest.fixture
def patience() -> trio.testing.MockClock:
    """A clock that jumps after so much real silence: loopback needs microseconds."""
    return trio.testing.MockClock(autojump_threshold=0.05)


@pytest.fixture
async def place() -> AsyncIterator[tuple[str, int]]:
    """Where whatever is said comes back."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, echo, 0)
        yield ("127.0.0.1", listeners[0].socket.getsockname()[1])
        nursery.cancel_scope.cancel()


@pytest.mark.trio
async def test_what_is_held_up_arrives_when_the_way_heals(place, nursery, patience):
    del patience
    way = Way(place)
    await nursery.start(way.serve)
    stream = await trio.open_tcp_stream("127.0.0.1", way.port)
    way.back.hold()
    await stream.send_all(b"hello")
    with trio.move_on_after(5) as silence:
        await stream.receive_some()
    assert silence.cancelled_caught
    way.heal()
    assert await stream.receive_some() == b"hello"
    way.cut()
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()
    await stream.aclose()


@pytest.mark.trio
async def test_a_gate_tells_brokers_from_clients_and_parts_them_by_pairs(place, nursery, patience):
    del patience
    network = Network({1: place, 2: place}, random.Random(0))
    await network.serve(nursery)
    network.part([{1, CLIENTS}, {2, CLIENTS}])
    client = await trio.open_tcp_stream("127.0.0.1", network.gates[1].port)
    await client.send_all(b"\x8fnothing of ours")
    assert await client.receive_some() == b"\x8fnothing of ours"
    broker = await trio.open_tcp_stream("127.0.0.1", network.gates[1].port)
    await broker.send_all(HELLO[:20])
    await broker.send_all(HELLO[20:])
    with trio.move_on_after(5) as silence:
        await broker.receive_some()
    assert silence.cancelled_caught
    network.heal()
    assert await broker.receive_some() == HELLO
    for stream in (client, broker):
        await stream.aclose()


def test_one_broker_passes_through_some_seconds_of_it(tmp_path):
    result = subprocess.run(
        [
            *(sys.executable, "-m", "tests.e2e.chaos", "--nodes", "1", "--seconds", "8", "--seed", "5", "--rate", "10"),
            *("--only", "kill all", "--keep", str(tmp_path)),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert '"steps": 0' not in result.stdout


@pytest.fixture
def long_run(tmp_path) -> Iterator[subprocess.Popen[str]]:
    """A run of ten minutes that has begun to break things."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "tests.e2e.chaos", "--nodes", "1", "--seconds", "600", "--seed", "5"),
            *("--rate", "10", "--only", "freeze", "--keep", str(tmp_path)),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    history = tmp_path / "history.jsonl"
    deadline = time.monotonic() + 120
    while not history.exists() or FAULT_LINE not in history.read_text():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    yield process
    process.kill()
    process.communicate()


def brokers_of(folder: Path) -> list[int]:
    """Return the processes that serve a directory in *folder*."""
    return [one.pid for one in psutil.process_iter(["cmdline"]) if f"{folder}/broker-" in str(one.info["cmdline"])]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_ended_early_is_judged_and_leaves_no_broker_behind(long_run, tmp_path, number):
    assert brokers_of(tmp_path)
    long_run.send_signal(number)
    out, err = long_run.communicate(timeout=240)
    assert long_run.returncode == 0, out + err
    assert "no more faults" in err
    assert json.loads(out)["problems"] == []
    assert json.loads(out)["settled"] > 0
    assert brokers_of(tmp_path) == []


def test_a_second_signal_ends_a_run_unjudged_and_leaves_no_broker_behind(long_run, tmp_path):
    assert brokers_of(tmp_path)
    long_run.terminate()
    assert long_run.stderr.readline() == "no more faults; once more ends at once\n"
    long_run.terminate()
    out, err = long_run.communicate(timeout=240)
    assert (long_run.returncode, out) == (1, "")
    assert "nothing was judged" in err
    assert brokers_of(tmp_path) == []


@pytest.mark.trio
async def test_a_client_that_was_given_one_address_outlives_that_broker(tmp_path):
    cluster = Cluster(tmp_path, 3, random.Random(1))
    try:
        with trio.fail_after(180):
            async with trio.open_nursery() as nursery:
                await cluster.start(nursery)
                leader = await cluster.leader()
                url = f"sluicemq://127.0.0.1:{cluster.network.gates[leader].port}"
                async with connect(url) as client:
                    await client.declare_queue("orders")
                    await client.send("orders", b"one")
                    async with client.consumer("orders") as consumer:
                        message = await anext(consumer)
                        await client.declare_queue("behind")  # what is committed behind the GRANT commits it too
                        cluster.kill(leader)
                        await message.ack(confirm=True)
                        await client.send("orders", b"two")
                        epoch = (await client.statistics())["epoch"]
                        async with await anext(consumer) as message:
                            assert (message.body, message.attempt) == (b"two", 1)
                        await consumer.flush()
                    info = await client.queue_info("orders")
                    assert info["settled_total"] == 2
                    # A machine that stands still for a second gets another leader, which may not know what was sent.
                    assert info["redelivered_total"] == 0 or (await client.statistics())["epoch"] > epoch
                nursery.cancel_scope.cancel()
    finally:
        cluster.stop()


async def until_all_follow(client: Client) -> None:
    """Wait until each broker leads or follows: two of three are enough to begin without the third."""
    while True:
        rows = (await client.cluster_status()).nodes
        if all(row["reachable"] and row["phase"] == "broadcast" for row in rows):
            return
        await trio.sleep(0.05)


@pytest.mark.trio
async def test_a_receipt_tells_which_brokers_have_a_message(tmp_path):
    cluster = Cluster(tmp_path, 3, random.Random(1))
    try:
        with trio.fail_after(180):
            async with trio.open_nursery() as nursery:
                await cluster.start(nursery)
                async with connect(cluster.url) as client:
                    await client.declare_queue("orders")
                    await until_all_follow(client)
                    for acks in ("quorum", "all", "leader"):
                        async with client.producer("orders", acks=acks) as producer:
                            reached = (await producer.send(b"one")).acks
                            assert reached == acks or (acks, reached) == ("leader", "quorum")
                    leader = await cluster.leader()
                    cluster.kill(next(node for node in cluster.numbers if node != leader))
                    async with client.producer("orders", acks="all") as producer:
                        assert (await producer.send(b"two")).acks == "quorum", "one of them is away"
                nursery.cancel_scope.cancel()
    finally:
        cluster.stop()
