"""The brokers of a run: processes behind gates, to be killed, frozen, wiped, added, removed and started again.

Their disks can be filled and their clocks turned (`faulty_broker`). What a broker does that none should do, such as to
end by itself, is noted as a problem.
"""

from __future__ import annotations

import json
import shutil
import signal
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import psutil
import trio

from sluicemq.client import connect
from sluicemq.client.errors import SluiceError
from tests.e2e.broker_process import BrokerFailed, BrokerProcess, unused_port
from tests.e2e.chaos.network import Network

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from sluicemq.client import Client

START_SECONDS_MAX = 60.0
CHANGE_SECONDS_MAX = 60.0
"""How long is tried to change who votes."""
AGAIN_SECONDS = 0.2
SAMPLE_SECONDS = 2.0
LATENESS_SECONDS = 0.1
SMALL_FILES = (
    *("--segment-bytes", "512KiB", "--spares-max", "1", "--disk-free-bytes-min", "1MiB"),
    *("--snapshot-every-bytes", "1MiB"),
)
"""So that a run of a minute has files given back, snapshots sent, and nodes that the log does not reach back to."""


class Cluster:
    """Brokers numbered from 1, reached through gates only.

    Args:
        folder: Where their data lies.
        nodes: How many.
        chance: For losses on the way.
        options: More options of `sluicemq serve`.
        spare: Whether there is one broker more, which runs only while it is added.

    Attributes:
        numbers: Those that belong to the cluster for good.
        spare: Number of the broker that does not; 0 without one.
        problems: What brokers did that none should do.
        late_seconds_max: For how long this process got no processor, at worst: with seconds, times prove nothing.

    """

    def __init__(
        self, folder: Path, nodes: int, chance: random.Random, options: tuple[str, ...] = (), *, spare: bool = False
    ) -> None:
        self.folder = folder
        self.numbers = list(range(1, nodes + 1))
        self.spare = nodes + 1 if spare else 0
        self.problems: list[str] = []
        everybody = [*self.numbers, self.spare] if spare else self.numbers
        ports = {node: unused_port() for node in everybody}
        self.network = Network({node: ("127.0.0.1", ports[node]) for node in everybody}, chance)
        gates = {node: unused_port() for node in everybody}
        for node, gate in self.network.gates.items():
            gate.port = gates[node]
        peers = ",".join(f"{node}=127.0.0.1:{gates[node]}" for node in self.numbers)
        self.processes: dict[int, BrokerProcess] = {}
        for node in everybody:
            known = peers if node != self.spare else f"{peers},{node}=127.0.0.1:{gates[node]}"
            more = ["--node-id", str(node), "--peers", known, "--advertise", f"127.0.0.1:{gates[node]}"]
            self.processes[node] = BrokerProcess(
                folder / f"broker-{node}",
                port=ports[node],
                options=[*(more if nodes > 1 else ()), "--log-level", "warning", *SMALL_FILES, *options],
                program=("-m", "tests.e2e.chaos.faulty_broker", str(self._faults_of(node))),
            )
        self.url = "sluicemq://" + ",".join(f"127.0.0.1:{gates[node]}" for node in self.numbers)
        self._frozen: set[int] = set()
        self._may_end: set[int] = set()
        self._wiped: set[int] = set()
        self.late_seconds_max = 0.0
        self._samples: dict[int, list[tuple[int, int, int]]] = {node: [] for node in everybody}

    def _faults_of(self, node: int) -> Path:
        return self.folder / f"faults-{node}.json"

    async def start(self, nursery: trio.Nursery) -> None:
        """Open the gates and start every broker."""
        await self.network.serve(nursery)
        await self.begin(self.numbers)
        nursery.start_soon(self._sample)
        nursery.start_soon(self._look_at_lateness)

    async def _look_at_lateness(self) -> None:
        while True:
            due = trio.current_time() + LATENESS_SECONDS
            await trio.sleep_until(due)
            self.late_seconds_max = max(self.late_seconds_max, trio.current_time() - due)

    async def _sample(self) -> None:
        """Note memory and descriptors of every broker, until cancelled."""
        while True:
            for node, process in self.processes.items():
                if process.runs:
                    with suppress(psutil.Error):
                        one = psutil.Process(process.pid)
                        self._samples[node].append((process.pid, one.memory_info().rss, one.num_fds()))
            await trio.sleep(SAMPLE_SECONDS)

    def figures(self) -> dict[int, dict[str, float]]:
        """Return memory in MiB and descriptors of each broker: the most, and of its longest life how they ended."""
        found = {}
        for node, samples in self._samples.items():
            if not samples:
                continue
            pids = [pid for pid, _, _ in samples]
            life = [one for one in samples if one[0] == max(pids, key=pids.count)]
            middle = life[len(life) // 2]
            found[node] = {
                "memory_max": round(max(one[1] for one in samples) / 2**20, 1),
                "memory_half_time": round(middle[1] / 2**20, 1),
                "memory_end": round(life[-1][1] / 2**20, 1),
                "descriptors_max": max(one[2] for one in samples),
                "descriptors_half_time": middle[2],
                "descriptors_end": life[-1][2],
                "seconds": round(len(life) * SAMPLE_SECONDS),
            }
        return found

    async def begin(self, nodes: list[int]) -> None:
        """Start brokers that do not run, all at once; return when they are up."""
        fresh = [node for node in nodes if not self.processes[node].runs]
        for node in fresh:
            self._bury(node)
            self.network.gates[node].open()
            self.processes[node].spawn()
        async with trio.open_nursery() as nursery:
            for node in fresh:
                nursery.start_soon(_wait_ready, self.processes[node])

    def _bury(self, node: int) -> None:
        """Look why a broker does not run that nobody killed."""
        process = self.processes[node]
        if process.ended:
            said = process.stderr.strip()[-2000:]
            code = process.wait()
            if node not in self._may_end:
                self.problems.append(f"broker {node} ended by itself with {code}: {said}")
        self._may_end.discard(node)

    def kill(self, node: int) -> None:
        """SIGKILL: its connections are reset."""
        process = self.processes[node]
        self._frozen.discard(node)
        if not process.runs:
            self._bury(node)
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
        self._wiped.add(node)

    def fill_disk(self, node: int) -> None:
        """Let the disk of a broker be full; it may end when it cannot go on."""
        self._may_end.add(node)
        self._let(node, disk_full=True)

    def turn_clock(self, node: int, seconds: float) -> None:
        """Let the wall clock of a broker jump."""
        self._let(node, clock_seconds=seconds)

    def _let(self, node: int, **faults: object) -> None:
        path = self._faults_of(node)
        path.with_suffix(".new").write_text(json.dumps(faults), encoding="utf-8")
        path.with_suffix(".new").replace(path)

    async def mend(self) -> None:
        """Heal network, disks and clocks, thaw and start whatever does not run, let vote whoever was wiped."""
        self.network.heal()
        for node in self.numbers:
            self._faults_of(node).unlink(missing_ok=True)
            self.thaw(node)
        await self.begin(self.numbers)
        for node in sorted(self._wiped):
            await self._try(f"promote the wiped broker {node}", partial(_promote, node))
        self._wiped.clear()

    async def calm_down(self) -> None:
        """Put right whatever a fault has done that was cut short: mend everything, and be without the spare broker."""
        await self.mend()
        if self.spare:
            await self.remove()

    # --- who belongs to it --------------------------------------------------------------------------------------------

    async def add(self) -> None:
        """Start the spare broker on an empty disk, and let it learn."""
        shutil.rmtree(self.processes[self.spare].data, ignore_errors=True)
        await self.begin([self.spare])
        address = f"127.0.0.1:{self.network.gates[self.spare].port}"
        await self._try("add the spare broker", lambda client: client.add_node(self.spare, address))

    async def promote(self) -> None:
        """Let the spare broker vote."""
        await self._try("promote the spare broker", lambda client: client.promote_node(self.spare))

    async def remove(self) -> None:
        """Let the spare broker vote no more, switch it off, and forget it."""
        for _ in range(2):
            await self._try("remove the spare broker", lambda client: client.remove_node(self.spare))
            if self.processes[self.spare].runs:
                self.kill(self.spare)

    async def _try(self, what: str, change: Callable[[Client], Awaitable[object]]) -> None:
        """Ask for a change, until it is done or too much time has passed."""
        refusal: SluiceError | None = None
        with trio.move_on_after(CHANGE_SECONDS_MAX):
            async with connect(self.url, connect_timeout=CHANGE_SECONDS_MAX) as client:
                while True:
                    try:
                        await change(client)
                    except SluiceError as error:
                        refusal = error
                        await trio.sleep(AGAIN_SECONDS)
                    else:
                        return
        self.problems.append(f"{what}: not done in {CHANGE_SECONDS_MAX:.0f} s: {refusal!r:.300}")

    async def leader(self) -> int:
        """Return who leads, asked as a client does; 0 where nobody is found in time."""
        with trio.move_on_after(START_SECONDS_MAX):
            async with connect(self.url, connect_timeout=START_SECONDS_MAX) as client:
                return int((await client.statistics())["node_id"])
        return 0

    async def transfer(self, leader: int) -> None:
        """Let another broker lead."""
        heir = self.numbers[leader % len(self.numbers)]
        await self._try(f"hand the lead over to broker {heir}", lambda client: client.transfer_lead(heir))

    def check_calm(self) -> list[str]:
        """Return what a broker wrote that none should."""
        problems = self.problems
        for node, process in self.processes.items():
            if not self._samples[node]:
                continue  # it never ran
            self._bury(node)
            try:
                process.check_calm()
            except BrokerFailed as error:
                problems.append(f"broker {node}: {error!s:.2000}")
        return problems

    def stop(self) -> None:
        """Kill everything."""
        for node, process in self.processes.items():
            self.thaw(node)
            process.kill()


async def _promote(node: int, client: Client) -> bool:
    return await client.promote_node(node)


async def _wait_ready(process: BrokerProcess) -> None:
    await trio.to_thread.run_sync(process.wait_ready)
