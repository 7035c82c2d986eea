"""The command: run seeds, replay one with a trace, make a failing one small, try the mutants."""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from tests.sim.faults import PROFILES
from tests.sim.mutants import MUTANTS, hunt
from tests.sim.report import describe, show_trace, shrink
from tests.sim.simulation import Choice, run

SHOW_EVERY_SECONDS = 10.0
SEEDS_AT_ONCE = 20
COUNTED = ("committed", "epochs", "confirmed", "deliveries", "settled", "reads", "snapshots_installed")


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; return 1 if an invariant was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="run this seed only")
    parser.add_argument("--first", type=int, default=0, help="first seed (default 0)")
    parser.add_argument("--count", type=int, default=100, help="how many seeds (default 100)")
    parser.add_argument("--nodes", type=int, help="1 to 7 nodes (default: the seed chooses)")
    parser.add_argument("--profile", choices=[*PROFILES, "swarm"], default="swarm", help="which faults (default swarm)")
    parser.add_argument("--batches", type=int, default=Choice.batches, help="batches published in a run")
    parser.add_argument("--seconds", type=float, default=Choice.busy_seconds, help="virtual seconds with faults")
    parser.add_argument("--without", default="", help="numbers of faults to leave out, such as 3,4,9")
    parser.add_argument("--trace", action="store_true", help="print every transition of --seed")
    parser.add_argument("--shrink", action="store_true", help="leave out faults of --seed while it still fails")
    parser.add_argument("--resume", type=Path, help="file that remembers how far --count has come")
    parser.add_argument("--jobs", type=int, default=1, help="processes that run seeds side by side (default 1)")
    parser.add_argument("--limit", type=float, help="stop after so many real seconds")
    parser.add_argument(
        "--mutants", nargs="*", metavar="NAME", help=f"try mistakes, all or some of: {', '.join(MUTANTS)}"
    )
    options = parser.parse_args(arguments)
    without = tuple(int(number) for number in options.without.split(",") if number)
    choice = Choice(options.nodes, options.profile, options.batches, options.seconds, without)
    if options.mutants is not None:
        return hunt(options.mutants or list(MUTANTS), options.count, options.limit)
    if options.seed is None:
        return _run_many(choice, options)
    result = run(options.seed, choice, tracing=options.trace or options.shrink)
    if options.trace:
        show_trace(result)
    print(describe(result))
    if result.violation is None:
        return 0
    if options.shrink:
        shrink(result)
    return 1


def _run_many(choice: Choice, options: argparse.Namespace) -> int:
    seed = options.first
    resume: Path | None = options.resume
    if resume is not None and resume.exists():
        seed = int(resume.read_text())
    end = options.first + options.count
    begun = shown = time.monotonic()
    failed: list[int] = []
    totals: Counter[str] = Counter()
    done = 0
    with ProcessPoolExecutor(options.jobs) as pool:
        while seed < end and (options.limit is None or time.monotonic() - begun < options.limit):
            batch = range(seed, min(end, seed + SEEDS_AT_ONCE * options.jobs))
            for result in pool.map(run, batch, [choice] * len(batch)):
                if result.violation is not None:
                    failed.append(result.seed)
                    print(describe(result), flush=True)
                for name in (
                    "committed",
                    "epochs",
                    "confirmed",
                    "deliveries",
                    "settled",
                    "reads",
                    "snapshots_installed",
                ):
                    totals[name] += getattr(result, name)
                totals["faults"] += len(result.faults)
                done += 1
            seed = batch.stop
            if resume is not None:
                resume.write_text(f"{seed}\n")
            if time.monotonic() - shown > SHOW_EVERY_SECONDS:
                shown = time.monotonic()
                print(f"{done} seeds, {done / (shown - begun):.1f} a second, {len(failed)} failed", flush=True)
    seconds = time.monotonic() - begun
    figures = ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in totals.items())
    print(f"{done} seeds of {choice.profile} in {seconds:.0f} s ({done / seconds:.1f} a second), {len(failed)} failed")
    print(f"  {figures}")
    if failed:
        print(f"  failed: {', '.join(map(str, failed))}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
