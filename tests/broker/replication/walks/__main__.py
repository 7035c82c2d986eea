"""Walk from the command line; see `--help`."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import coverage

from tests.broker.replication.walks.ensemble import Bounds
from tests.broker.replication.walks.search import Report, Walk

WALKS = {
    "two": Bounds(nodes=2, votes=True, epochs=2, entries=2, crashes=1),
    "two-oracle": Bounds(nodes=2, votes=False, start="ahead", epochs=3, entries=2, crashes=1),
    "three": Bounds(nodes=3, votes=False, epochs=3, entries=2, crashes=1, joins=0),
    "figure-8": Bounds(
        nodes=3, votes=False, start="figure-8", message_entries=1, epochs=4, entries=0, crashes=0, joins=0
    ),
}
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

    def run() -> Report:
        return Walk(bounds, options.states, options.seconds).run(lambda line: print(line, file=sys.stderr, flush=True))

    measured = (
        coverage.Coverage(data_file=None, config_file=False, branch=True, include=[f"{CORE}/*"])
        if options.coverage
        else None
    )
    if measured is not None:
        measured.start()
    if options.mutant:
        from tests.sim.mutants import MUTANTS

        with MUTANTS[options.mutant].patch():
            report = run()
    else:
        report = run()
    if measured is not None:
        measured.stop()
    show(report)
    if options.transitions:
        for what, count in sorted(report.transitions.items()):
            print(f"{count:>7}  {what}")
    if measured is not None:
        measured.report(show_missing=True, file=sys.stdout)
    return 1 if report.violation else 0


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
