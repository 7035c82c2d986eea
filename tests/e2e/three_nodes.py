"""`python -m tests.e2e.three_nodes [MODE ...]`: how fast are several brokers on this machine, and what does that cost?

Brokers in processes of their own, one cluster, measured by what `sluicemq bench` measures a single one with. Beside the
rate it says how much CPU time each broker took for a million messages, warm-up included, because on a machine that does
other things too that is what can be compared. With `--hogs` such a machine is made: nobody may lose the lead by that.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sluicemq.broker.commands.benchmark.plan import MODES, Plan
from sluicemq.broker.commands.benchmark.run import run, statistics_of
from tests.e2e.cluster.trio_of_brokers import Brokers

IN_FLIGHT = {"send": 64, "latency": 1}
IN_FLIGHT_DEFAULT = 4
SHOWN = ("messages_per_second", "latency_p50_seconds", "latency_p99_seconds")


def profiled(brokers: Brokers, folder: Path) -> None:
    """Let each broker write a profile of its event loop when it stops."""
    for number, node in brokers.nodes.items():
        node.program = ["-m", "cProfile", "-o", str(folder / f"node-{number}.profile"), *node.program]


def measure(brokers: Brokers, mode: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of one mode."""
    plan = Plan(
        mode=mode,
        url=brokers.url,
        queue=f"{mode}-{secrets.token_hex(4)}",
        size=arguments.size,
        batch=arguments.batch,
        in_flight=IN_FLIGHT.get(mode, IN_FLIGHT_DEFAULT),
        seconds=arguments.seconds,
        warm_up_seconds=min(1.0, arguments.seconds / 5),
    )
    began, before = statistics_of(brokers.url), _cpu_seconds(brokers)
    figures = run(plan)
    ended, after = statistics_of(brokers.url), _cpu_seconds(brokers)
    leader = ended["node_id"]
    millions = (ended["published_messages_total"] - began["published_messages_total"]) / 1e6
    taken = {number: round((after[number] - before[number]) / millions, 3) for number in after}
    return {
        "mode": mode,
        "nodes": len(brokers.nodes),
        **{name: figures[name] for name in SHOWN if figures.get(name) is not None},
        "leader_cpu_seconds_per_million": taken.pop(leader),
        "follower_cpu_seconds_per_million": sorted(taken.values()),
        "same_leader": leader == began["node_id"] and ended["epoch"] == began["epoch"],
        "load": round(os.getloadavg()[0], 1),
    }


def _cpu_seconds(brokers: Brokers) -> dict[int, float]:
    return {number: node.usage().cpu_seconds for number, node in brokers.nodes.items()}


def main() -> int:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.three_nodes", description=__doc__)
    parser.add_argument("modes", nargs="*", metavar="MODE", help=f"any of {', '.join(MODES)}")
    parser.add_argument("--nodes", type=int, default=3, choices=(1, 3, 5))
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each mode is measured")
    parser.add_argument("--size", type=int, default=100, help="bytes of a body")
    parser.add_argument("--batch", type=int, default=1000, help="messages a call")
    parser.add_argument("--hogs", type=int, default=0, help="processes that do nothing but take CPU time")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--profile", type=Path, help="folder for a profile of each broker's event loop")
    arguments = parser.parse_args()
    modes = arguments.modes or ["publish", "through", "latency"]
    if unknown := set(modes) - set(MODES):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    hogs: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix="three-nodes-", dir=Path.cwd()) as folder:
        brokers = Brokers(Path(folder), arguments.nodes)
        if arguments.profile is not None:
            arguments.profile.mkdir(parents=True, exist_ok=True)
            profiled(brokers, arguments.profile)
        try:
            brokers.start()
            brokers.leader()
            hogs += [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(arguments.hogs)]
            for _ in range(arguments.rounds):
                for mode in modes:
                    print(json.dumps(measure(brokers, mode, arguments)), flush=True)
            for node in brokers.nodes.values():
                node.stop()
        finally:
            for hog in hogs:
                hog.kill()
                hog.wait()
            brokers.end()
    return 0


if __name__ == "__main__":
    sys.exit(main())
