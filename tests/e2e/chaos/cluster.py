"""The brokers of a run: processes behind gates, which can be killed, frozen, wiped and started again."""

from __future__ import annotations

import shutil
import signal
from typing import TYPE_CHECKING

import psutil
import trio

from sluicemq.client import connect
from tests.e2e.broker_process import BrokerFailed, BrokerProcess, unused_port
from tests.e2e.chaos.network import Network

if TYPE_CHECKING:
    import random
    from pathlib import Path

START_SECONDS_MAX = 60.0


class Cluster:
    """Brokers numbered from 1, reached through gates only.

    Args:
        folder: Where their data lies.
        nodes: How many.
        chance: For losses on the way.
        options: More options of `sluicemq serve`.

    """

    def __init__(self, folder: Path, nodes: int, chance: random.Random, options: tuple[str, ...] = ()) -> None:
        self.folder = folder
        self.numbers = list(range(1, nodes + 1))
        ports = {node: unused_port() for node in self.numbers}
        self.network = Network({node: ("127.0.0.1", ports[node]) for node in self.numbers}, chance)
        gates = {node: unused_port() for node in self.numbers}
        for node, gate in self.network.gates.items():
            gate.port = gates[node]
        peers = ",".join(f"{node}=127.0.0.1:{gates[node]}" for node in self.numbers)
        self.processes: dict[int, BrokerProcess] = {}
        for node in self.numbers:
            more = ["--node-id", str(node), "--peers", peers, "--advertise", f"127.0.0.1:{gates[node]}"]
            self.processes[node] = BrokerProcess(
                folder / f"broker-{node}",
                port=ports[node],
                options=[*(more if nodes > 1 else ()), "--log-level", "warning", *options],
            )
        self.url = "sluicemq://" + ",".join(f"127.0.0.1:{gates[node]}" for node in self.numbers)
        self._frozen: set[int] = set()

    async def start(self, nursery: trio.Nursery) -> None:
        """Open the gates and start every broker."""
        await self.network.serve(nursery)
        await self.begin(self.numbers)

    async def begin(self, nodes: list[int]) -> None:
        """Start brokers that do not run, all at once; return when they are up."""
        fresh = [node for node in nodes if not self.processes[node].runs]
        for node in fresh:
            self.network.gates[node].open()
            self.processes[node].spawn()
        async with trio.open_nursery() as nursery:
            for node in fresh:
                nursery.start_soon(_wait_ready, self.processes[node])

    def kill(self, node: int) -> None:
        """SIGKILL: its connections are reset."""
        process = self.processes[node]
        self._frozen.discard(node)
        self.network.gates[node].shut()
        process.kill()

    def freeze(self, node: int) -> None:
        """SIGSTOP: it says nothing more, and its connections stand."""
        process = self.processes[node]
        if process.runs:
            psutil.Process(process.pid).send_signal(signal.SIGSTOP)
            self._frozen.add(node)

    def thaw(self, node: int) -> None:
        """SIGCONT."""
        if node in self._frozen and self.processes[node].runs:
            psutil.Process(self.processes[node].pid).send_signal(signal.SIGCONT)
        self._frozen.discard(node)

    def wipe(self, node: int) -> None:
        """Kill a broker and take its disk away."""
        self.kill(node)
        shutil.rmtree(self.processes[node].data, ignore_errors=True)

    async def mend(self) -> None:
        """Heal the network, thaw and start whatever does not run."""
        self.network.heal()
        for node in self.numbers:
            self.thaw(node)
        await self.begin(self.numbers)

    async def leader(self) -> int:
        """Return who leads, asked as a client does; 0 where nobody is found in time."""
        with trio.move_on_after(START_SECONDS_MAX):
            async with connect(self.url, connect_timeout=START_SECONDS_MAX) as client:
                return int((await client.statistics())["node_id"])
        return 0

    async def transfer(self, leader: int) -> None:
        """Let another broker lead."""
        heir = self.numbers[leader % len(self.numbers)]
        async with connect(self.url, connect_timeout=START_SECONDS_MAX) as client:
            await client.transfer_lead(heir)

    def check_calm(self) -> list[str]:
        """Return what a broker wrote that none should."""
        problems = []
        for node, process in self.processes.items():
            try:
                process.check_calm()
            except BrokerFailed as error:
                problems.append(f"broker {node}: {error!s:.2000}")
        return problems

    def stop(self) -> None:
        """Kill everything."""
        for node in self.numbers:
            self.thaw(node)
            self.processes[node].kill()


async def _wait_ready(process: BrokerProcess) -> None:
    await trio.to_thread.run_sync(process.wait_ready)
