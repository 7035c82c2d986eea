"""What the user sees of a measurement."""

from __future__ import annotations

from typing import Any

import click

from sluicemq.broker.commands.benchmark.plan import MODES, Plan
from sluicemq.broker.commands.manners import print_table


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1e3:.2f} ms"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.2f} s"


def print_one(plan: Plan, figures: dict[str, Any], where: str) -> None:
    """Print the figures of one measurement, a line each."""
    end = "; the queue was empty then" if figures["ran_empty"] else ""
    rows = [
        ("messages", f"{figures['messages']:,} in {figures['seconds']:.1f} s{end}"),
        ("messages a second", f"{figures['messages_per_second']:,.0f}"),
        ("megabytes a second", f"{figures['megabytes_per_second']:.1f}"),
    ]
    if figures["latency_p50_seconds"] is not None:
        waits = ", ".join(_milliseconds(figures[f"latency_{name}_seconds"]) for name in ("p50", "p99", "max"))
        rows.append(("latency p50, p99, max", waits))
    rows.append(("broker CPU per million", _seconds(figures["broker_cpu_seconds_per_million"])))
    rows += [
        (f"{role} CPU per million", _seconds(figures[f"{role}_cpu_seconds_per_million"]))
        for role in ("producer", "consumer")
        if figures[f"{role}_cpu_seconds_per_million"] is not None
    ]
    rows.append(("fsyncs", f"{figures['fsyncs']:,}, {figures['fsyncs_per_second']:,.0f} a second"))
    if "sent_messages" in figures:
        rows.append(
            ("sent meanwhile", f"{figures['sent_messages']:,}, {figures['sent_messages_per_second']:,.0f} a second")
        )
    if "bare_sync_p50_seconds" in figures:
        rows.append(("bare fdatasync, 4 KiB", _bare_sync(figures)))
        rows.append(("above the bare disk", _milliseconds(figures["above_bare_sync_seconds"])))
    print_table(("figure", "value"), rows, title=f"{plan.mode}: {_what(plan)}; {where}")


def _what(plan: Plan) -> str:
    processes = [_count(plan.producers, "producer")] if plan.mode not in ("consume", "each") else []
    processes += [_count(plan.consumers, "consumer")] if plan.mode in ("consume", "each", "through") else []
    batch = f", batches of {plan.batch:,}" if plan.mode in ("publish", "consume", "through") else ""
    return f"{MODES[plan.mode]}{batch}, {plan.size} bytes, {' and '.join(processes)}, {plan.backend}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def print_all(measured: list[tuple[Plan, dict[str, Any]]], where: str) -> None:
    """Print one row a measurement."""
    columns = ("mode", "messages/s", "p50 ms", "p99 ms", "max ms", "broker CPU", "client CPU", "fsyncs/s")
    rows = []
    for plan, figures in measured:
        waits = [figures[f"latency_{name}_seconds"] for name in ("p50", "p99", "max")]
        client = sum(figures[f"{role}_cpu_seconds_per_million"] or 0.0 for role in ("producer", "consumer"))
        rows.append(
            (
                plan.mode,
                round(figures["messages_per_second"]),
                *(None if wait is None else wait * 1e3 for wait in waits),
                figures["broker_cpu_seconds_per_million"],
                client,
                round(figures["fsyncs_per_second"]),
            )
        )
    print_table(columns, rows, title=where)
    click.echo("CPU is seconds per million messages.")
    for plan, figures in measured:
        if "bare_sync_p50_seconds" in figures:
            above = _milliseconds(figures["above_bare_sync_seconds"])
            click.echo(
                f"{plan.mode}: a bare fdatasync of 4 KiB takes {_bare_sync(figures)}; the broker above it: {above}."
            )


def _bare_sync(figures: dict[str, Any]) -> str:
    """How long the disk alone takes, and whether that can be trusted."""
    text = f"{_milliseconds(figures['bare_sync_p50_seconds'])} (p50)"
    if not figures["bare_sync_steady"]:
        text += (
            f", {_milliseconds(figures['bare_sync_p50_afterwards_seconds'])} afterwards: something else used the disk"
        )
    return text
