"""Three brokers and a failover: the leader is killed, and neither producer nor consumer notices more than a pause.

Starts its own brokers on free ports and in a temporary folder; nothing else needs to run.
"""

import contextlib
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import trio

from sluicemq.client import Client, connect

MESSAGES = 300


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listens on, below those that the system gives to outgoing connections."""
    ports: set[int] = set()
    while len(ports) < count:
        port = random.randrange(15_000, 32_000)
        with contextlib.suppress(OSError):
            socket.create_server(("127.0.0.1", port)).close()
            ports.add(port)
    return list(ports)


def start(folder: Path, addresses: dict[int, str]) -> dict[int, subprocess.Popen[bytes]]:
    """Start a broker for each address: all are told of all, there is no further step."""
    peers = ",".join(f"{number}={address}" for number, address in addresses.items())
    brokers = {}
    for number, address in addresses.items():
        options = ["--node-id", str(number), "--listen", address, "--data", str(folder / str(number)), "--peers", peers]
        command = [sys.executable, "-m", "sluicemq.broker.cli", "serve", *options]
        with (folder / f"{number}.log").open("wb") as log:
            brokers[number] = subprocess.Popen(command, stdout=log, stderr=log)
    return brokers


async def leader_of(client: Client) -> int:
    """Return the number of the broker that leads."""
    leader = (await client.cluster_status()).leader
    assert leader is not None, "only a leader serves clients"
    return leader


async def produce(client: Client) -> None:
    """Send a message every 10 ms, and say what the longest wait was."""
    longest = 0.0
    async with client.producer("orders") as producer:
        for number in range(MESSAGES):
            before = time.monotonic()
            await producer.send(str(number).encode())
            longest = max(longest, time.monotonic() - before)
            await trio.sleep(0.01)
    print(f"sent {MESSAGES} orders, the longest wait was {'below' if longest < 5 else 'over'} 5 seconds")


async def consume(client: Client, brokers: dict[int, subprocess.Popen[bytes]]) -> None:
    """Take all of them; kill the leader in the middle."""
    seen = set()
    async with client.consumer("orders") as consumer:
        async for message in consumer:
            async with message:
                seen.add(int(message.body))
            if len(seen) == MESSAGES // 3 and all(each.poll() is None for each in brokers.values()):
                leader = await leader_of(client)
                brokers[leader].send_signal(signal.SIGKILL)
                print("killed the leader")
            if len(seen) == MESSAGES:
                break
    print("received", len(seen), "of", MESSAGES)


async def main() -> None:
    """Form a cluster, send, receive, kill."""
    with tempfile.TemporaryDirectory() as name:
        addresses = {number: f"127.0.0.1:{port}" for number, port in enumerate(free_ports(3), start=1)}
        brokers = start(Path(name), addresses)
        try:
            url = "sluicemq://" + ",".join(addresses.values())
            async with connect(url, connect_timeout=60.0) as client:
                await client.declare_queue("orders")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(produce, client)
                    nursery.start_soon(consume, client, brokers)
        finally:
            for broker in brokers.values():
                broker.kill()
                broker.wait()


if __name__ == "__main__":
    trio.run(main)
