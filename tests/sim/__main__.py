"""The command: run seeds, replay one with a trace, make a failing one small, try the mutants."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.sim.campaign import EACH, chosen, run_many, summary
from tests.sim.crash_points import crash_everywhere
from tests.sim.faults import PROFILES
from tests.sim.hunt import SEEDS_MAX, TABLE, hunt
from tests.sim.mutants_of_once import MUTANTS
from tests.sim.report import describe, show_trace, shrink
from tests.sim.simulation import Choice, run

STATES = Path(".simulations")
KEPT_FROM_SEEDS = 1_000


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return 1 if an invariant was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed only")
    parser.add_argument("--first", type=int, default=0, help="first seed (default 0)")
    parser.add_argument("--count", type=int, help=f"how many seeds (default 100; {SEEDS_MAX} a mutant)")
    parser.add_argument("--nodes", type=int, help="1 to 7 nodes (default: the seed chooses)")
    parser.add_argument(
        "--profile",
        choices=[*PROFILES, "swarm", EACH],
        default="swarm",
        help=f"which faults (default swarm, any mix; {EACH}: one kind after the other)",
    )
    parser.add_argument("--batches", type=int, default=Choice.batches, help="batches published in a run")
    parser.add_argument("--seconds", type=float, default=Choice.busy_seconds, help="virtual seconds with faults")
    parser.add_argument("--without", default="", help="numbers of faults to leave out, such as 3,4,9")
    parser.add_argument("--trace", action="store_true", help="print every transition of --seed")
    parser.add_argument("--shrink", action="store_true", help="leave out faults of --seed while it still fails")
    parser.add_argument(
        "--state",
        type=Path,
        metavar="FILE",
        help=f"remembers how far --count has come (default from {KEPT_FROM_SEEDS} seeds on: {STATES}/PROFILE-FIRST)",
    )
    parser.add_argument("--again", action="store_true", help="forget what the state file remembers")
    parser.add_argument("--jobs", type=int, default=1, help="processes that run seeds side by side (default 1)")
    parser.add_argument("--limit", type=float, help="stop after so many real seconds")
    parser.add_argument(
        "--mutants", nargs="*", metavar="NAME", help=f"try mistakes, all or some of: {', '.join(MUTANTS)}"
    )
    parser.add_argument("--table", action="store_true", help=f"write what --mutants finds into {TABLE.name}")
    parser.add_argument(
        "--crash-points",
        nargs="?",
        type=int,
        const=1,
        metavar="EVERY",
        help="crash the scripted run at every effect, in every way; or at every so manieth",
    )
    options = parser.parse_args(arguments)
    if options.crash_points is not None:
        return min(1, crash_everywhere(options.crash_points, options.jobs, options.limit))
    without = tuple(int(number) for number in options.without.split(",") if number)
    choice = Choice(options.nodes, options.profile, options.batches, options.seconds, without)
    if options.mutants is not None:
        names = options.mutants or list(MUTANTS)
        return hunt(names, options.count or SEEDS_MAX, jobs=options.jobs, table=TABLE if options.table else None)
    if options.seed is None:
        return _campaign(choice, options)
    result = run(options.seed, chosen(choice, options.seed), tracing=options.trace or options.shrink)
    if options.trace:
        show_trace(result)
    print(describe(result))
    if result.violation is None:
        return 0
    if options.shrink:
        shrink(result)
    return 1


def _campaign(choice: Choice, options: argparse.Namespace) -> int:
    count: int = options.count or 100
    path: Path | None = options.state
    if path is None and count >= KEPT_FROM_SEEDS:
        STATES.mkdir(exist_ok=True)
        path = STATES / f"{choice.profile}-{options.first}"
    if options.again and path is not None:
        path.unlink(missing_ok=True)
    state = run_many(choice, options.first, count, jobs=options.jobs, path=path, limit_seconds=options.limit)
    print(summary(choice, state))
    if path is not None and state.next_seed < options.first + count:
        print(f"  the same command goes on from here ({path})")
    return 1 if state.failed else 0


if __name__ == "__main__":
    sys.exit(main())
