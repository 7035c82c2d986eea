"""One run from the first server to the files below `results/`."""

from __future__ import annotations

import datetime
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from bench.scenarios import FULL, QUICK, Record, Scenarios
from bench.session import Session, note
from bench.systems import BY_NAME, SYSTEMS, System


def check() -> int:
    """Say what is missing; return 1 if anything is."""
    missing = [text for system in SYSTEMS if (text := system.missing())]
    for text in missing:
        print(text)
    if not missing:
        print("nothing is missing")
    return 1 if missing else 0


def run(*, quick: bool, only: list[str], data: Path, out: Path, lock: Path | None) -> int:
    """Run the comparison and write its results; systems that lack something are left out, by name."""
    unknown = [name for name in only if name not in BY_NAME]
    if unknown:
        note(f"no such system: {', '.join(unknown)}; there are {', '.join(BY_NAME)}")
        return 2
    systems: list[System] = []
    left_out = []
    for system in SYSTEMS:
        if only and system.name not in only:
            continue
        text = system.missing()
        if text is None:
            systems.append(system)
        else:
            note(f"left out: {text}")
            left_out.append(text)
    out.mkdir(parents=True, exist_ok=True)
    # Whoever ends us wants the servers gone as well.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    facts = facts_of(data)

    def write(records: list[Record]) -> None:
        seconds = time.monotonic() - started
        what = {"facts": facts, "quick": quick, "left_out": left_out, "seconds": seconds, "records": records}
        (out / "results.json").write_text(json.dumps(what, indent=1) + "\n")

    with Session(systems, data, lock) as session:
        scenarios = Scenarios(session, QUICK if quick else FULL, write)
        scenarios.run_all()
        write(scenarios.records)
    note(f"took {time.monotonic() - started:.0f} s")
    from bench.report import write_all

    write_all(out)
    return 0


def facts_of(data: Path) -> dict[str, Any]:
    """Return what figures mean nothing without: machine, kernel, file system, versions."""
    libraries = ("pika", "aio-pika", "nats-py", "redis", "hiredis", "greenstalk", "trio", "anyio")
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
    for package in ("rabbitmq-server", "redis-server", "beanstalkd"):
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
