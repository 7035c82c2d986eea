"""The long run: `python -m tests.broker.queues.naive --examples 100000 --jobs 2`.

Each example is a life of 50 steps, which its seed decides. One that goes wrong is told with the fewest steps that do.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time

from tests.broker.queues.naive.running import chosen, live, problem, shortest

TOLD_EVERY = 1_000


def one(seed: int) -> tuple[int, str | None]:
    return seed, problem(seed, chosen(seed))


def tell(seed: int) -> None:
    """Show the shortest part of a life that goes wrong, and how."""
    steps = shortest(seed, chosen(seed))
    for name, arguments in steps:
        print(f"  {name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})")
    print(f"  {problem(seed, steps)}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.broker.queues.naive", description=__doc__)
    parser.add_argument("--examples", type=int, default=1_000, help="how many lives")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first")
    parser.add_argument("--jobs", type=int, default=1, help="how many at a time")
    parser.add_argument("--only", type=int, metavar="SEED", help="this life, with its traceback")
    parser.add_argument("--failures", type=int, default=3, help="after how many to stop")
    parser.add_argument("--mutants", action="store_true", help="let each known fault be caught instead")
    arguments = parser.parse_args()
    if arguments.mutants:
        from tests.broker.queues.naive.mutants import table

        return table(arguments.examples, arguments.seed)
    if arguments.only is not None:
        live(arguments.only, shortest(arguments.only, chosen(arguments.only)))
        return 0
    began = time.perf_counter()
    failed: list[int] = []
    seeds = range(arguments.seed, arguments.seed + arguments.examples)
    done = 0
    with multiprocessing.Pool(arguments.jobs) as pool:
        for seed, found in pool.imap_unordered(one, seeds, chunksize=10):
            done += 1
            if not done % TOLD_EVERY:
                print(f"{done} lives, {len(failed)} went wrong: {time.perf_counter() - began:.0f} s", flush=True)
            if found is not None:
                failed.append(seed)
                print(f"seed {seed}: {found:.2000}", flush=True)
                if len(failed) >= arguments.failures:
                    break
    print(f"{done} lives, {len(failed)} went wrong: {time.perf_counter() - began:.1f} s", flush=True)
    for seed in sorted(failed)[: arguments.failures]:
        print(f"seed {seed}:")
        tell(seed)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
