"""Walk from the command line; see `--help`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import coverage

from tests.broker.replication.walks.bounds import WALKS, Bounds

if TYPE_CHECKING:
    from tests.broker.replication.walks.search import Report

CORE = Path(__file__).parents[4] / "broker" / "replication"


def main(arguments: list[str] | None = None) -> int:
    """Walk; return 1 if an invariant broke."""
    parser = argparse.ArgumentParser(prog="python -m tests.broker.replication.walks", description=__doc__)
    parser.add_argument("walk", choices=WALKS, nargs="?", default="two", help="which ensemble (default: two)")
    parser.add_argument("--states", type=int, default=1_000_000, help="stop after so many states")
    parser.add_argument("--seconds", type=float, default=900, help="stop after so long")
    parser.add_argument("--coverage", action="store_true", help="say which lines and branches of the core were seen")
    parser.add_argument("--transitions", action="store_true", help="say what happened in which role, how often")
    parser.add_argument("--mutant", help="walk with a mistake of tests/sim/mutants.py; it has to be found")
    for item in dataclasses.fields(Bounds):
        kind = str if item.name == "start" else int
        parser.add_argument(f"--{item.name.replace('_', '-')}", type=kind, help=f"another bound for {item.name}")
    options = parser.parse_args(arguments)
    changed = {item.name: getattr(options, item.name) for item in dataclasses.fields(Bounds)}
    bounds = dataclasses.replace(WALKS[options.walk], **{name: one for name, one in changed.items() if one is not None})

    measured = coverage.Coverage(data_file=None, config_file=False, branch=True, include=[f"{CORE}/*"])
    if options.coverage:
        measured.start()  # before the core is imported, so that only what a walk leaves out is reported as missing
    report = run(bounds, options)
    if options.coverage:
        measured.stop()
    show(report)
    if options.transitions:
        for what, count in sorted(report.transitions.items()):
            print(f"{count:>7}  {what}")
    if options.coverage:
        measured.exclude("if TYPE_CHECKING:")
        measured.exclude(r"\.\.\.$")
        measured.report(show_missing=True, file=sys.stdout)
    return 1 if report.violation else 0


def run(bounds: Bounds, options: argparse.Namespace) -> Report:
    """Walk as the *options* say, with a mistake if they name one."""
    from tests.broker.replication.walks.search import Walk

    mistake: AbstractContextManager[object] = nullcontext()
    if options.mutant:
        from tests.sim.mutants import MUTANTS

        mistake = MUTANTS[options.mutant].patch()
    with mistake:
        walk = Walk(bounds, options.states, options.seconds)
        return walk.run(lambda line: print(line, file=sys.stderr, flush=True))


def show(report: Report) -> None:
    """Print what a walk has seen."""
    print(report.bounds)
    end = "all of them" if report.complete else "and more are left"
    print(f"{report.states} states, {end}; {report.steps} steps, depth {report.depth}, {report.seconds:.1f} s")
    print(f"with 0, 1, 2, ... delays: {', '.join(map(str, report.by_delays))}")
    print(
        f"{report.node_states} states of single nodes, {report.core_steps} steps of the real core, the rest remembered"
    )
    print(f"{len(report.transitions)} kinds of transitions, {report.beyond} steps beyond the highest epoch")
    served = ", ".join(map(str, sorted(report.epochs_served)))
    print(f"{report.resting} states at rest, {report.settled} of them settled, in the epochs {served}")
    for way in report.unsettled:
        print(f"  at rest, not settled: {'; '.join(way)}")
    if report.violation:
        print(f"VIOLATION: {report.violation}")
        for line in report.way:
            print(f"  {line}")
    else:
        print("0 violations")


if __name__ == "__main__":
    sys.exit(main())
