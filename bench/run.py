"""One run from the first server to the files below `results/`."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import math
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from bench.scenarios import FULL, QUICK, OutOfTime, Record, Scenarios
from bench.session import Session, note
from bench.systems import SYSTEMS, System

EXIT_MORE = 3
"""The time for this part of the run was over; `--go-on` measures the rest."""


def check() -> int:
    """Say what is missing; return 1 if anything is."""
    from bench.cluster_systems import CLUSTERS

    missing = [text for system in (*SYSTEMS, *CLUSTERS) if (text := system.missing())]
    for text in missing:
        print(text)
    if not missing:
        print("nothing is missing")
    return 1 if missing else 0


@dataclass(frozen=True, slots=True)
class Order:
    """What somebody asked for.

    Attributes:
        only: Names of systems; empty: all.
        data: A directory on the file system to measure.
        out: Where results go.
        quick: Whether to be content with one short round.
        lock: A file to lock during each measurement.
        seconds: After so long no measurement begins; None: all are made.
        go_on: Whether to go on with what an earlier part has left in *out*.

    """

    only: list[str]
    data: Path
    out: Path
    quick: bool = False
    lock: Path | None = None
    seconds: float | None = None
    go_on: bool = False


Plan = Callable[[Session, bool, Callable[[list[Record]], None], list[Record], float], Scenarios]


def run(order: Order) -> int:
    """Run the comparison of single servers and write its results."""

    def plan(session: Session, quick: bool, write: Any, records: list[Record], deadline: float) -> Scenarios:
        return Scenarios(session, QUICK if quick else FULL, write, records, deadline)

    code = _run(order, SYSTEMS, "results.json", plan)
    if code == 0:
        from bench.report import write_all

        write_all(order.out)
    return code


def run_cluster(order: Order) -> int:
    """Run the comparison of three nodes each and write its results."""
    from bench.cluster_report import cluster_report, cluster_results
    from bench.cluster_scenarios import CLUSTER_FULL, CLUSTER_QUICK, FULL_FAULTS, QUICK_FAULTS, ClusterScenarios
    from bench.cluster_systems import CLUSTERS

    def plan(session: Session, quick: bool, write: Any, records: list[Record], deadline: float) -> Scenarios:
        pace, faults = (CLUSTER_QUICK, QUICK_FAULTS) if quick else (CLUSTER_FULL, FULL_FAULTS)
        return ClusterScenarios(session, pace, faults, write, records, deadline)

    code = _run(order, CLUSTERS, "cluster.json", plan)
    if code == 0:
        content = json.loads((order.out / "cluster.json").read_text())
        (order.out / "cluster.md").write_text("# Results of three nodes\n\n" + cluster_report(cluster_results(content)))
    return code


def _run(order: Order, among: Sequence[System], file_name: str, plan: Plan) -> int:
    """Measure; systems that lack something are left out, by name."""
    unknown = sorted(set(order.only) - {system.name for system in among})
    if unknown:
        note(f"no such system: {', '.join(unknown)}; there are {', '.join(system.name for system in among)}")
        return 2
    wanted = [system for system in among if not order.only or system.name in order.only]
    lacks = {system.name: text for system in wanted if (text := system.missing())}
    for text in lacks.values():
        note(f"left out: {text}")
    order.out.mkdir(parents=True, exist_ok=True)
    # Whoever ends us wants the servers gone as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    path = order.out / file_name
    facts = facts_of(order.data)
    earlier: dict[str, Any] = {"seconds": 0.0, "records": [], "parts": 0}
    if order.go_on and path.exists():
        earlier = json.loads(path.read_text())
        if (earlier["facts"]["commit"], earlier["quick"]) != (facts["commit"], order.quick):
            note(f"{path} is of commit {earlier['facts']['commit']}; a run cannot go on with {facts['commit']}")
            return 2
        facts = earlier["facts"]

    def write(records: list[Record]) -> None:
        what = {
            "facts": facts,
            "quick": order.quick,
            "left_out": list(lacks.values()),
            "seconds": earlier["seconds"] + time.monotonic() - started,
            "parts": earlier["parts"] + 1,
            "records": records,
        }
        # All or nothing: whatever ends this process, the file holds a whole run so far.
        unfinished = path.with_suffix(".new")
        unfinished.write_text(as_text(what))
        unfinished.replace(path)

    systems = [system for system in wanted if system.name not in lacks]
    deadline = math.inf if order.seconds is None else started + order.seconds
    with Session(systems, order.data, order.lock) as session:
        scenarios = plan(session, order.quick, write, earlier["records"], deadline)
        finished = False
        try:
            scenarios.run_all()
            finished = True
        except OutOfTime:
            pass
        finally:
            write(scenarios.records)
    note(f"took {time.monotonic() - started:.0f} s" + ("" if finished else "; more is left, for --go-on"))
    return 0 if finished else EXIT_MORE


def as_text(content: dict[str, Any]) -> str:
    """Return results as JSON with a line for each record."""
    head = {name: value for name, value in content.items() if name != "records"}
    records = ",\n ".join(json.dumps(record) for record in content["records"])
    return json.dumps(head, indent=1)[:-2] + f',\n "records": [\n {records}\n ]\n}}\n'


def facts_of(data: Path) -> dict[str, Any]:
    """Return what figures mean nothing without: machine, kernel, file system, versions."""
    libraries = ("pika", "aio-pika", "nats-py", "redis", "hiredis", "greenstalk", "kazoo", "trio", "anyio")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "processor": _processor(),
        "processors": os.cpu_count(),
        "memory_bytes": psutil.virtual_memory().total,
        "kernel": platform.release(),
        "file_system": _file_system(data),
        "python": platform.python_version(),
        "commit": _said("git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"),
        "servers": _servers(),
        "libraries": {name: _version(name) for name in libraries},
        "load": os.getloadavg()[0],
    }


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "none"


def _said(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def _servers() -> dict[str, str]:
    versions = {}
    for package in ("rabbitmq-server", "redis-server", "beanstalkd", "zookeeper"):
        versions[package] = _said("dpkg-query", "-W", "-f", "${Version}", package) or "none"
    if importlib.util.find_spec("nats") is not None:
        from bench.adapters.nats import find_program

        program = find_program()
        versions["nats-server"] = _said(program, "--version").removeprefix("nats-server: ") if program else "none"
    return versions


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _file_system(path: Path) -> str:
    place = path.resolve()
    best: tuple[int, str] = (-1, "unknown")
    for part in psutil.disk_partitions(all=True):
        if place.is_relative_to(part.mountpoint) and len(part.mountpoint) > best[0]:
            best = (len(part.mountpoint), part.fstype)
    return best[1]
