"""`sluicemq bench`: the options of a benchmark, and the broker that it measures.

What is measured, and how, stands in `sluicemq.broker.commands.benchmark`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from sluicemq.broker.commands.manners import SecondsRange, json_option, note, print_json

if TYPE_CHECKING:
    from sluicemq.broker.commands.benchmark.plan import Plan

Function = TypeVar("Function", bound=Callable[..., Any])

IN_FLIGHT_DEFAULT = {"send": 64, "latency": 1}
OTHERS_IN_FLIGHT_DEFAULT = 4
WARM_UP_SECONDS = 1.0
"""How long a worker works before it is measured; less where the measurement itself is short."""

_OPTIONS = {
    "size": click.option(
        "--size", type=click.IntRange(1, 4_000_000), default=100, show_default=True, help="Bytes of a body."
    ),
    "batch": click.option(
        "--batch", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Messages a call."
    ),
    "producers": click.option(
        "--producers", type=click.IntRange(1, 64), default=1, show_default=True, help="Producer processes."
    ),
    "consumers": click.option(
        "--consumers", type=click.IntRange(1, 64), default=1, show_default=True, help="Consumer processes."
    ),
    "in_flight": click.option(
        "--in-flight",
        type=click.IntRange(1, 10_000),
        default=None,
        help="Sends at once in each producer.  [default: 4; send: 64]",
    ),
}


def _options(*names: str) -> Callable[[Function], Function]:
    """Add the named options, and those that every measurement has."""

    def add(function: Function) -> Function:
        function = json_option(function)
        function = click.option(
            "--backend",
            type=click.Choice(["trio", "asyncio"]),
            default="trio",
            show_default=True,
            help="What the clients run on.",
        )(function)
        function = click.option(
            "--url",
            metavar="URL",
            default=None,
            help="Measure this broker instead of an own one in the current directory.",
        )(function)
        function = click.option(
            "--messages",
            type=click.IntRange(1, 1_000_000_000),
            default=None,
            help="Measure so many messages instead of a time.",
        )(function)
        function = click.option(
            "--seconds", type=SecondsRange(0.1, 3600), default=10.0, show_default=True, help="How long to measure."
        )(function)
        for name in reversed(names):
            function = _OPTIONS[name](function)
        return function

    return add


@click.group(name="bench", invoke_without_command=True)
@_options("size", "batch")
@click.pass_context
def command(ctx: click.Context, /, **options: Any) -> None:
    """Measure how fast a broker is on this machine.

    Measures one mode, or all of them when none is named. Clients run as processes of their own; every message is
    durable before it counts as sent. Without --url a broker of its own runs on a directory below the current one, so
    that the figures are those of this disk. Each measurement warms up for a second first. All modes together take two
    minutes, and some gigabytes of disk while they run.
    """
    if ctx.invoked_subcommand is None:
        _bench(["publish", "send", "consume", "each", "through", "latency"], options)


@command.command(name="publish")
@_options("size", "batch", "producers", "in_flight")
def publish(**options: Any) -> None:
    """Batches by `send_many`, from one process or several."""
    _bench(["publish"], options)


@command.command(name="send")
@_options("size", "producers", "in_flight")
def send(**options: Any) -> None:
    """Single messages by `send`, from many tasks at once."""
    _bench(["send"], options)


@command.command(name="consume")
@click.option("--each", is_flag=True, help="One message at a time by `async for`, with an ack each.")
@_options("size", "batch", "consumers")
def consume(each: bool, **options: Any) -> None:
    """Empty a queue that was filled before: `receive` and one ack for each batch."""
    _bench(["each" if each else "consume"], options)


@command.command(name="through")
@_options("size", "batch", "producers", "consumers", "in_flight")
def through(**options: Any) -> None:
    """Producers and consumers at once; what consumers have settled counts, latency is from send to receipt."""
    _bench(["through"], options)


@command.command(name="latency")
@_options("size")
def latency(**options: Any) -> None:
    """One message in flight: how long `send` takes, and how much of that a bare fdatasync takes here."""
    _bench(["latency"], options)


@command.command(name="worker", hidden=True)
@click.argument("role", type=click.Choice(["producer", "consumer"]))
@click.argument("plan")
def worker(role: str, plan: str) -> None:
    """Be one process of a measurement."""
    from sluicemq.broker.commands.benchmark.plan import Plan
    from sluicemq.broker.commands.benchmark.worker import work
    from sluicemq.broker.commands.interrupts import clean_up_on_interrupt

    clean_up_on_interrupt()
    work(Plan.from_json(plan), role)


def _plan(mode: str, url: str, options: dict[str, Any]) -> Plan:
    import secrets

    from sluicemq.broker.commands.benchmark.plan import Plan

    given = {name: value for name, value in options.items() if value is not None}
    given.setdefault("warm_up_seconds", min(WARM_UP_SECONDS, options["seconds"] / 10))
    given.setdefault("in_flight", IN_FLIGHT_DEFAULT.get(mode, OTHERS_IN_FLIGHT_DEFAULT))
    return Plan(mode=mode, url=url, queue=f"bench-{mode}-{secrets.token_hex(4)}", **given)


def _bench(modes: list[str], options: dict[str, Any]) -> None:
    from sluicemq.broker.commands.benchmark.disk import against_bare_disk, file_system_of, sync_latency
    from sluicemq.broker.commands.benchmark.report import print_all, print_one
    from sluicemq.broker.commands.benchmark.run import platform_facts, run
    from sluicemq.broker.commands.interrupts import clean_up_on_interrupt

    clean_up_on_interrupt()
    as_json = options.pop("as_json")
    url = options.pop("url")
    measured: list[tuple[Plan, dict[str, Any]]] = []
    for mode in modes:
        if len(modes) > 1:
            note(f"{mode} ...")
        # A broker for each mode: none pays for what the others left, and only one of them lies on the disk.
        with _broker(url) as (broker_url, directory):
            where = (
                f"broker at {broker_url}" if directory is None else f"own broker, data on {file_system_of(directory)}"
            )
            plan = _plan(mode, broker_url, options)
            if mode == "latency" and directory is not None:
                before = sync_latency(directory)
                figures = run(plan)
                figures.update(against_bare_disk(figures["latency_p50_seconds"], before, sync_latency(directory)))
            else:
                figures = run(plan)
            measured.append((plan, figures))
    if as_json:
        for plan, figures in measured:
            facts = {"mode": plan.mode, "where": where, **platform_facts()}
            settings = {
                name: getattr(plan, name)
                for name in ("backend", "size", "batch", "producers", "consumers", "in_flight")
            }
            print_json({**facts, **settings, **figures})
    elif len(measured) == 1:
        print_one(*measured[0], where)
    else:
        print_all(measured, where)


@contextmanager
def _broker(url: str | None) -> Iterator[tuple[str, Path | None]]:
    """Yield the broker to measure and, where it is our own, the directory that holds its data."""
    if url is not None:
        yield url, None
        return
    import tempfile

    from sluicemq.broker.commands.processes import OwnBroker

    with tempfile.TemporaryDirectory(prefix="sluicemq-bench-", dir=Path.cwd()) as folder:
        directory = Path(folder)
        with OwnBroker(directory / "data") as broker:
            yield broker.url, directory
