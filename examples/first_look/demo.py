"""Runs the whole example: a real broker, four services, two kills without warning, and a check by ids at the end.

    python -m sluicemq.examples.first_look.demo [DIRECTORY]      (or: sluicemq demo)

This file only starts, kills and counts processes; how to use the broker stands in the other files of this folder.
"""

from __future__ import annotations

import os
import re
import shutil
import sqlite3
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import trio

from sluicemq.client import connect

SERVICES = {"stock": "orders", "billing": "billing", "notification": "notifications"}
"""Service -> the queue that it works on."""
MARKER = ".sluicemq-demo"
READY = re.compile(r"sluicemq \d+ ready on (sluicemq://[^\s]+)\s*")
PATIENCE_SECONDS = 60.0


class DemoFailed(Exception):
    """The demonstration could not be carried out; the text says why."""


@dataclass(slots=True)
class Outcome:
    """What happened.

    Attributes:
        accepted: Orders that were confirmed to a visitor.
        handled: Of these, how many each service handled.
        repeats: Deliveries that each service recognised as repeated.
        redelivered: Messages that the broker delivered again, by service.
        answer_seconds: From question to answer, for each order.
        done_seconds: From question to the customer's mail, for each order.
        kills: What was killed, and after how many orders.
        log_is_whole: What `sluicemq log verify` said at the end.

    """

    accepted: int
    handled: dict[str, int]
    repeats: dict[str, int]
    redelivered: dict[str, int]
    answer_seconds: list[float]
    done_seconds: list[float]
    kills: list[str]
    log_is_whole: bool

    @property
    def lost(self) -> int:
        """Orders that some service never handled; must be 0."""
        return sum(self.accepted - count for count in self.handled.values())


@dataclass(slots=True)
class Demo:
    """One run in one directory."""

    directory: Path
    orders: int
    url: str = ""
    processes: dict[str, subprocess.Popen[str]] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)
    kills: list[str] = field(default_factory=list)
    logs: list[int] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Tell what is going on, on standard error."""
        print(f"{time.monotonic() - self.started:5.1f} s  {text}", file=sys.stderr, flush=True)

    # --- processes ---

    def start_broker(self) -> None:
        """Start a broker on a free port; on the same one when it is started again."""
        listen = self.url.removeprefix("sluicemq://") or "127.0.0.1:0"
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sluicemq.broker.cli", "serve"),
                *("--data", str(self.directory / "broker"), "--listen", listen, "--log-level", "warning"),
            ],
            stdout=subprocess.PIPE,
            stderr=self._log_of("broker"),
            text=True,
            start_new_session=True,  # Ctrl-C is for us; we end the others in good order
        )
        self.processes["broker"] = process
        assert process.stdout is not None
        line = process.stdout.readline()
        ready = READY.fullmatch(line)
        if ready is None:
            raise DemoFailed(f"the broker did not start; {self.directory / 'broker.log'} says why")
        self.url = ready[1]

    def start(self, name: str, *arguments: str) -> None:
        """Start one of the other files in this folder."""
        command = [
            sys.executable,
            "-m",
            f"sluicemq.examples.first_look.{name}",
            self.url,
            str(self.directory),
            *arguments,
        ]
        self.processes[name] = subprocess.Popen(command, stderr=self._log_of(name), text=True, start_new_session=True)

    def _log_of(self, name: str) -> int:
        """Open the file for what a process has to say beside its work; returns a descriptor that `end_all` closes."""
        path = self.directory / f"{name}.log"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        self.logs.append(descriptor)
        return descriptor

    def kill(self, name: str, after: int) -> None:
        """Kill -9: no warning, no chance to clean up."""
        self.processes[name].kill()
        self.processes[name].wait()
        self.kills.append(f"{name} after {after} orders")
        self.say(f"kill -9 {name}, after {after} orders")

    def stop(self, name: str) -> None:
        """Ask for a clean end, and insist on it."""
        process = self.processes[name]
        process.terminate()
        if process.wait(PATIENCE_SECONDS) != 0:
            raise DemoFailed(f"{name} ended with exit code {process.returncode}; {self.directory / name}.log says why")

    def end_all(self) -> None:
        """Leave nothing behind, whatever happened."""
        for process in self.processes.values():
            if process.poll() is None:
                process.kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        for descriptor in self.logs:
            os.close(descriptor)

    # --- the story ---

    def run(self) -> Outcome:
        """Tell the story from start to end."""
        self._make_directory()
        try:
            self.start_broker()
            self.say(f"the broker is ready on {self.url}")
            for service in SERVICES:
                self.start(service)
            self.start("web", str(self.orders))
            self.say("web, stock, billing and notification are started; visitors place their orders")

            self.kill("billing", self._wait_for_orders(self.orders // 3))
            self.start("billing")
            self.kill("broker", self._wait_for_orders(self.orders * 2 // 3))
            self.start_broker()
            self.say("billing and the broker are back")

            if self.processes["web"].wait(PATIENCE_SECONDS) != 0:
                raise DemoFailed(f"the web front failed; {self.directory / 'web.log'} says why")
            self.say("every visitor has an answer; the services finish")
            self._wait_until_all_is_handled()
            redelivered = trio.run(self._redelivered)
            for service in SERVICES:
                self.stop(service)
            self.stop("broker")
            self.say("all ended cleanly")
            return self._outcome(redelivered)
        finally:
            self.end_all()

    def _make_directory(self) -> None:
        if self.directory.exists() and any(self.directory.iterdir()):
            if not (self.directory / MARKER).exists():
                raise DemoFailed(
                    f"{self.directory} is not empty and no earlier demonstration's: choose another with --data"
                )
            shutil.rmtree(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / MARKER).touch()

    def _wait_for_orders(self, count: int) -> int:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while (accepted := self._count("web", "accepted")) < count:
            if time.monotonic() > deadline or self.processes["web"].poll() is not None:
                raise DemoFailed(f"the web front took only {accepted} orders")
            time.sleep(0.02)
        return accepted

    def _wait_until_all_is_handled(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        accepted = self._count("web", "accepted")
        while time.monotonic() < deadline and any(self._count(name, "handled") < accepted for name in SERVICES):
            time.sleep(0.05)

    def _count(self, name: str, table: str) -> int:
        return len(self._rows(name, f"SELECT 1 FROM {table}"))

    def _rows(self, name: str, query: str) -> list[tuple[str | float, ...]]:
        """Ask the database of a process; nothing while it has none yet."""
        path = self.directory / f"{name}.sqlite"
        if not path.exists():
            return []
        database = sqlite3.connect(path)
        try:
            return database.execute(query).fetchall()
        except sqlite3.OperationalError:
            return []  # the table is not there yet
        finally:
            database.close()

    async def _redelivered(self) -> dict[str, int]:
        async with connect(self.url, name="demo") as client:
            return {
                service: (await client.queue_info(queue))["redelivered_total"] for service, queue in SERVICES.items()
            }

    def _outcome(self, redelivered: dict[str, int]) -> Outcome:
        accepted = {
            row[0]: row[1:] for row in self._rows("web", "SELECT order_id, asked_at, answered_at FROM accepted")
        }
        handled = {
            service: {row[0]: row[1:] for row in self._rows(service, "SELECT order_id, at, repeats FROM handled")}
            for service in SERVICES
        }
        told = handled["notification"]
        verify = [
            sys.executable,
            "-m",
            "sluicemq.broker.cli",
            "log",
            "verify",
            "--data",
            str(self.directory / "broker"),
        ]
        return Outcome(
            accepted=len(accepted),
            handled={service: len(accepted.keys() & orders.keys()) for service, orders in handled.items()},
            repeats={
                service: sum(int(repeats) for _at, repeats in orders.values()) for service, orders in handled.items()
            },
            redelivered=redelivered,
            answer_seconds=[float(answered) - float(asked) for asked, answered in accepted.values()],
            done_seconds=[
                float(told[order][0]) - float(asked) for order, (asked, _answered) in accepted.items() if order in told
            ],
            kills=self.kills,
            log_is_whole=subprocess.run(verify, capture_output=True, check=False).returncode == 0,
        )


def run_demo(directory: Path, orders: int = 200) -> Outcome:
    """Run the example in *directory* and return what happened.

    Raises:
        DemoFailed: It could not be carried out.

    """
    return Demo(directory, orders).run()


if __name__ == "__main__":
    outcome = run_demo(Path(sys.argv[1] if len(sys.argv) > 1 else "sluicemq-demo"))
    print(outcome)
    sys.exit(1 if outcome.lost else 0)
