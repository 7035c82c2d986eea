"""What is measured: each scenario goes round the systems, A B C A B C, and returns one record a system and round.

A record is a flat dictionary: `scenario`, `system`, `round`, the settings, and the figures with their unit last. This
module owns the order of things; it must not know how records are put together (`statistics`, `report`).
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench.bodies import batch_of
from bench.others import Others
from bench.session import Session, note
from bench.statistics import per_million, quantile
from bench.systems import OURS, System

Record = dict[str, Any]
BACKLOG_MESSAGES = 1_000_000
REST_SECONDS = 5.0
COUNTED_BATCHES = 20
COUNTED_SINGLES = 100
STRACE = ("strace", "-D", "-f", "-qq", "--seccomp-bpf", "-e", "trace=fsync,fdatasync", "-o")


@dataclass(frozen=True, slots=True)
class Pace:
    """How long everything takes.

    Attributes:
        publish_seconds: Of the timed publishing; the consumer then empties what came of it.
        consume_seconds: At most.
        steady_seconds: Of measurements at a fixed rate, and end to end.
        single_seconds: With one in flight.
        backlog_seconds: At most, for filling a backlog; a slower system gets a smaller one.
        rounds: How often, for the main figures; further sizes get one less.
        single_rounds: How often, with one in flight: it is quick, and the disk has spells.

    """

    publish_seconds: float = 1.2
    consume_seconds: float = 1.5
    steady_seconds: float = 1.5
    single_seconds: float = 0.8
    backlog_seconds: float = 10.0
    rounds: int = 3
    single_rounds: int = 5


FULL = Pace()
QUICK = Pace(0.5, 0.7, 0.7, 0.4, 1.0, 1, 1)


class OutOfTime(Exception):
    """The time that a part of a run may take is over; what was measured is in `Scenarios.records`."""


class Scenarios:
    """All scenarios over one session; records collect in `records`, failures too.

    Args:
        session: Who takes part.
        pace: How long everything takes.
        on_record: Gets all records, whenever there are more.
        records: Of an earlier part of the same run; what they hold is not measured again.
        deadline: In terms of `time.monotonic`; no measurement begins after it.

    """

    def __init__(
        self,
        session: Session,
        pace: Pace,
        on_record: Callable[[list[Record]], None],
        records: Sequence[Record] = (),
        deadline: float = math.inf,
    ) -> None:
        self._session = session
        self._pace = pace
        self._on_record = on_record
        self.records: list[Record] = list(records)
        self._deadline = deadline
        self._queues = 0

    def _each(
        self, name: str, measure: Callable[[System], Record], systems: list[System], rounds: int, **settings: Any
    ) -> None:
        """Measure what is missing of so many rounds; records say what was measured, and what others took meanwhile."""
        for number in range(rounds):
            measured = 0
            for system in systems:
                record: Record = {"scenario": name, "system": system.name, "round": number, **settings}
                if any(record.items() <= known.items() for known in self.records):
                    continue
                if time.monotonic() > self._deadline:
                    raise OutOfTime
                with self._session.turn():
                    record["load"] = os.getloadavg()[0]
                    others = Others()
                    try:
                        record.update(measure(system))
                    except Exception as error:  # noqa: BLE001 - whatever one system did wrong, others are measured
                        text = str(error) or type(error).__name__
                        note(f"  {name}, {system.name}: {text}")
                        record["error"] = text
                        self._session.drop(system)
                    record["others_processors"] = others.processors()
                self.records.append(record)
                measured += 1
            if measured:
                note(f"{name} {settings or ''} round {number + 1}")
                self._on_record(self.records)

    def _queue(self, name: str) -> str:
        self._queues += 1
        return f"{name}{self._queues}"

    def run_all(self) -> None:
        """Run every scenario, first one round of all: so whoever stops early has all figures, of fewer rounds.

        In a quick run not 1 KiB, nor what starts servers of its own.
        """
        quick = self._pace is QUICK
        systems, pace = self._session.systems, self._pace
        ours = [system for system in systems if system.name == OURS]
        self.at_rest()
        for rounds in range(1, pace.rounds + 1):
            fewer = max(1, min(rounds, pace.rounds - 1))
            self.rates(systems, 100, rounds)
            self.one_in_flight(systems, rounds)
            self.rates(ours, 100, rounds, vary=False)
            if not quick:
                self.rates(systems, 1024, fewer)
            self.rates(systems, 65_536, fewer)
            self.end_to_end(systems, fewer)
            self.paced(systems, fewer)
            if not quick and rounds == fewer:
                self.syncs(_one_a_kind(systems))
                self.backlog(_one_a_kind(systems))
        self.one_in_flight(systems, pace.single_rounds)

    def rates(self, systems: list[System], size: int, rounds: int, vary: bool = True) -> None:
        """Publish confirmed, then consume acknowledged what was published."""
        batch = batch_of(size, 1000)

        def measure(system: System) -> Record:
            server, queue = self._session.server(system), self._queue("rate")
            producer, consumer = self._session.worker(system), self._session.worker(system, "consumer")
            producer.run("declare", server.ports, queue)
            options: dict[str, Any] = {"size": size, "vary": vary, "batch": batch}
            seconds = self._pace.publish_seconds
            before = server.usage()
            producer.begin("publish", server.ports, queue, seconds=seconds, warm_up_seconds=0.3 * seconds, **options)
            warm = server.usage()
            published = producer.result()
            after = server.usage()
            record = _figures("publish", published, after.cpu_seconds - warm.cpu_seconds)
            there = published["messages"] + published["warmed"]
            consumer.begin(
                "consume", server.ports, queue, seconds=self._pace.consume_seconds, messages=there, **options
            )
            consumed = consumer.result()
            record |= _figures("consume", consumed, server.usage().cpu_seconds - after.cpu_seconds)
            record["publish_p50_seconds"] = quantile(published["samples"], 0.5)
            record["server_memory_bytes"] = max(before.memory_bytes, server.usage().memory_bytes)
            producer.run("delete", server.ports, queue)
            return record

        self._each("rates", measure, systems, rounds, size=size, vary=vary, batch=batch)

    def one_in_flight(self, systems: list[System], rounds: int) -> None:
        """Publish one, wait for its confirm, publish the next."""

        def measure(system: System) -> Record:
            server, queue = self._session.server(system), self._queue("one")
            producer = self._session.worker(system)
            producer.run("declare", server.ports, queue)
            result = producer.run("one", server.ports, queue, seconds=self._pace.single_seconds, messages=100_000)
            producer.run("delete", server.ports, queue)
            return _latency(result["samples"])

        self._each("one in flight", measure, systems, rounds, size=100)

    def end_to_end(self, systems: list[System], rounds: int) -> None:
        """A producer at full speed and a consumer at once."""

        def measure(system: System) -> Record:
            return self._both(system, "publish", every=False, size=100, warm_up_seconds=0.0)

        self._each("end to end", measure, systems, rounds, size=100)

    def paced(self, systems: list[System], rounds: int) -> None:
        """A producer that sends one message each millisecond, and a consumer."""

        def measure(system: System) -> Record:
            return self._both(system, "paced", every=True, size=100, rate=1000)

        self._each("1,000/s", measure, systems, rounds, size=100)

    def _both(self, system: System, do: str, **options: Any) -> Record:
        server, queue = self._session.server(system), self._queue("both")
        producer, consumer = self._session.worker(system), self._session.worker(system, "consumer")
        producer.run("declare", server.ports, queue)
        seconds = self._pace.steady_seconds
        before = server.usage()
        consumer.begin("consume", server.ports, queue, stamp=True, patient=True, seconds=seconds + 0.2, **options)
        producer.begin(do, server.ports, queue, stamp=True, seconds=seconds, **options)
        consumed = consumer.result()
        published = producer.result()
        after = server.usage()
        producer.run("delete", server.ports, queue)
        working = consumed["seconds"] - consumed["first_seconds"]
        record = {
            "messages": consumed["messages"],
            "messages_per_second": consumed["messages"] / working if working > 0 else None,
            "published_per_second": published["messages"] / max(published["seconds"], 1e-9),
            "server_cpu_per_million": per_million(after.cpu_seconds - before.cpu_seconds, consumed["messages"]),
            "client_cpu_per_million": per_million(
                published["cpu_seconds"] + consumed["cpu_seconds"], consumed["messages"]
            ),
        }
        return record | _latency(consumed["samples"])

    def at_rest(self) -> None:
        """Watch all servers do nothing, at the same time, before they had anything to do."""
        if any(record["scenario"] == "at rest" for record in self.records):
            return
        for system in self._session.systems:
            self._session.server(system)
        with self._session.turn():
            time.sleep(2.0)
            kinds = _one_a_server(self._session.systems)
            before = {system.name: self._session.server(system).usage() for system in kinds}
            others = Others()
            time.sleep(REST_SECONDS)
            taken = others.processors()
            for system in kinds:
                usage = self._session.server(system).usage()
                self.records.append(
                    {
                        "scenario": "at rest",
                        "system": system.name,
                        "round": 0,
                        "load": os.getloadavg()[0],
                        "others_processors": taken,
                        "memory_bytes": usage.memory_bytes,
                        "cpu_percent": 100 * (usage.cpu_seconds - before[system.name].cpu_seconds) / REST_SECONDS,
                    }
                )
        note("at rest")

    def syncs(self, systems: list[System]) -> None:
        """Count fsync and fdatasync with strace, in runs that nobody times."""

        def measure(system: System) -> Record:
            trace = self._session.directory / f"trace-{system.name}"
            with self._session.fresh_server(system, (*STRACE, str(trace))) as server:
                producer, queue = self._session.worker(system), self._queue("sync")
                producer.run("declare", server.ports, queue)
                time.sleep(0.3)
                start = count_syncs(trace.read_text())
                messages = 1000 * COUNTED_BATCHES
                published = producer.run("publish", server.ports, queue, messages=messages, seconds=4.0)["messages"]
                time.sleep(0.3)
                middle = count_syncs(trace.read_text())
                singles = producer.run("one", server.ports, queue, messages=COUNTED_SINGLES, seconds=3.0)
                time.sleep(0.1)
                end = count_syncs(trace.read_text())
                return {
                    "batched_messages": published,
                    "batched_syncs": middle - start,
                    "single_messages": singles["messages"] + singles["warmed"],
                    "single_syncs": end - middle,
                    "synchronous_files": server.synchronous_files(),
                }

        self._each("syncs", measure, systems, 1)

    def backlog(self, systems: list[System]) -> None:
        """Fill a queue, stop the server cleanly, and see how long a start takes to the first delivery."""

        def measure(system: System) -> Record:
            with self._session.fresh_server(system) as server:
                producer, queue = self._session.worker(system), self._queue("backlog")
                consumer = self._session.worker(system, "consumer")
                producer.run("declare", server.ports, queue)
                seconds = self._pace.backlog_seconds
                filled = producer.run("publish", server.ports, queue, messages=BACKLOG_MESSAGES, seconds=seconds)
                full = server.usage()
                server.stop()
                started = time.monotonic()
                listening = server.start()
                first = consumer.run("consume", server.ports, queue, messages=1, seconds=60.0, batch=1, patient=True)
                return {
                    "messages": filled["messages"],
                    "memory_bytes": full.memory_bytes,
                    "listening_seconds": listening,
                    "first_delivery_seconds": first["first_at"] - started if first["messages"] else None,
                    "memory_after_bytes": server.usage().memory_bytes,
                }

        self._each("backlog", measure, systems, 1, size=100)


def _one_a_kind(systems: list[System]) -> list[System]:
    """Return one system for each configuration and kind of queue: two clients leave the same backlog."""
    return list({(system.server, system.kind): system for system in reversed(systems)}.values())[::-1]


def _one_a_server(systems: list[System]) -> list[System]:
    return list({system.server: replace(system) for system in reversed(systems)}.values())[::-1]


def count_syncs(trace: str) -> int:
    """Return how many fsync and fdatasync calls a trace of strace shows; a call in two lines counts once."""
    return len(re.findall(r"\b(?:fsync|fdatasync)\(", trace))


def _figures(name: str, result: Record, server_cpu_seconds: float) -> Record:
    messages, seconds = result["messages"], result["seconds"]
    return {
        f"{name}_messages": messages,
        f"{name}_per_second": messages / seconds if seconds > 0 else None,
        f"{name}_bytes_per_second": result["bytes"] / seconds if seconds > 0 and result["bytes"] else None,
        f"{name}_server_cpu_per_million": per_million(server_cpu_seconds, messages),
        f"{name}_client_cpu_per_million": per_million(result["cpu_seconds"], messages),
    }


def _latency(samples: list[float]) -> Record:
    return {"p50_seconds": quantile(samples, 0.5), "p99_seconds": quantile(samples, 0.99)}
