"""From durations to percentiles, and from several processes to one figure. Pure.

Durations of one process go into a histogram whose buckets grow by one percent, so that a million of them cross a pipe
in a few kilobytes and add up over processes; the largest is kept exactly.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_GROWTH = math.log(1.01)
_LEAST_SECONDS = 1e-6


@dataclass(slots=True)
class Histogram:
    """Durations, to one percent.

    Attributes:
        counts: How many durations fell into each bucket.
        largest: The largest one, exactly, in seconds.

    """

    counts: Counter[int] = field(default_factory=Counter)
    largest: float = 0.0

    def add_all(self, durations: Iterable[float]) -> None:
        """Add durations in seconds."""
        for duration in durations:
            self.counts[round(math.log(max(duration, _LEAST_SECONDS) / _LEAST_SECONDS) / _GROWTH)] += 1
            self.largest = max(self.largest, duration)

    def merge(self, other: Histogram) -> None:
        """Add what *other* holds."""
        self.counts.update(other.counts)
        self.largest = max(self.largest, other.largest)

    def quantile(self, part: float) -> float | None:
        """Return the duration in seconds that *part* (0 to 1) of all do not exceed; None without any."""
        total = self.counts.total()
        if total == 0:
            return None
        rest = math.ceil(total * part)
        for bucket in sorted(self.counts):
            rest -= self.counts[bucket]
            if rest <= 0:
                return min(_LEAST_SECONDS * math.exp(bucket * _GROWTH), self.largest)
        return self.largest

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON can carry."""
        return {"counts": {str(bucket): count for bucket, count in self.counts.items()}, "largest": self.largest}

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Histogram:
        """Return the histogram that `to_plain` made plain."""
        return cls(Counter({int(bucket): count for bucket, count in plain["counts"].items()}), plain["largest"])


@dataclass(frozen=True, slots=True)
class WorkerResult:
    """What one process did in its measured part.

    Attributes:
        role: `producer` or `consumer`.
        messages: Sent and confirmed, or received and settled.
        started: Start, on the system's monotonic clock, in seconds; comparable among processes of one machine.
        ended: When the last message was done.
        cpu_seconds: CPU time of the process.
        latency: Of each call that waits; for `through`, from send to receipt.

    """

    role: str
    messages: int
    started: float
    ended: float
    cpu_seconds: float
    latency: Histogram

    def to_plain(self) -> dict[str, Any]:
        """Return what JSON can carry."""
        return {
            "role": self.role,
            "messages": self.messages,
            "started": self.started,
            "ended": self.ended,
            "cpu_seconds": self.cpu_seconds,
            "latency": self.latency.to_plain(),
        }

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> WorkerResult:
        """Return the result that `to_plain` made plain."""
        return cls(**{**plain, "latency": Histogram.from_plain(plain["latency"])})


def _rate(messages: int, seconds: float) -> float:
    return messages / seconds if seconds > 0 else 0.0


def figures_of(
    results: list[WorkerResult], size: int, before: Mapping[str, Any], after: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the figures of one measurement.

    Args:
        results: One for each process; consumers decide where there are any: what they count went all the way.
        size: Bytes of a body.
        before: The broker's statistics before the measured part.
        after: The same after it.

    """
    consumers = [result for result in results if result.role == "consumer"]
    producers = [result for result in results if result.role == "producer"]
    deciding = consumers or producers
    messages = sum(result.messages for result in deciding)
    started = min(result.started for result in results)
    seconds = max(result.ended for result in deciding) - started
    latency = Histogram()
    for result in deciding:
        latency.merge(result.latency)
    cpu_seconds = sum(after[name] - before[name] for name in ("cpu_user_seconds", "cpu_system_seconds"))
    fsyncs = after["fsyncs_total"] - before["fsyncs_total"]
    elapsed = after["uptime_seconds"] - before["uptime_seconds"]
    millions = messages / 1e6
    figures: dict[str, Any] = {
        "messages": messages,
        "seconds": seconds,
        "messages_per_second": _rate(messages, seconds),
        "megabytes_per_second": _rate(messages * size, seconds) / 1e6,
        "latency_p50_seconds": latency.quantile(0.5),
        "latency_p99_seconds": latency.quantile(0.99),
        "latency_max_seconds": latency.largest if latency.counts else None,
        "broker_cpu_seconds": cpu_seconds,
        "broker_cpu_seconds_per_million": cpu_seconds / millions if messages else None,
        "producer_cpu_seconds_per_million": _cpu_per_million(producers),
        "consumer_cpu_seconds_per_million": _cpu_per_million(consumers),
        "fsyncs": fsyncs,
        "fsyncs_per_second": _rate(fsyncs, elapsed),
        "broker_memory_resident_bytes": after["memory_resident_bytes"],
    }
    if consumers and producers:
        sent = sum(result.messages for result in producers)
        figures["sent_messages"] = sent
        figures["sent_messages_per_second"] = _rate(sent, max(result.ended for result in producers) - started)
    return figures


def _cpu_per_million(results: list[WorkerResult]) -> float | None:
    messages = sum(result.messages for result in results)
    return sum(result.cpu_seconds for result in results) / messages * 1e6 if messages else None
