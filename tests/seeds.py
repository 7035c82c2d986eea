"""Stories with power cuts, each told by a seed: running many of them, and proving that they catch mistakes.

Why here: the log, the snapshots and the whole road each have stories of their own, and all of them are run, counted,
replayed and proven alike. This module knows no story: it is given what tells one.

    CUTS = PowerCuts(module=__spec__.name, tell=..., mutants=..., promise="nothing lost")
    if __name__ == "__main__":
        CUTS.main(__doc__)
"""

from __future__ import annotations

import argparse
import collections
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from sluicemq.storage import StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from contextlib import AbstractContextManager

MUTANT_SEEDS_MAX = 2000
"""Seeds of the long run after which a mistake counts as not caught."""


class Told(Protocol):
    """A story that was told to its end."""

    cuts: int
    operations: int
    """Of the disk."""

    seen: collections.Counter[str]
    """What it met, by name."""


@dataclass
class Result:
    """Figures of many stories."""

    first_seed: int
    last_seed: int = 0
    cuts: int = 0
    operations: int = 0
    seen: collections.Counter[str] = field(default_factory=collections.Counter)


@dataclass(frozen=True)
class PowerCuts:
    """The stories of one module.

    Attributes:
        module: Its name, for `python -m`.
        tell: Tells the story of a seed; an AssertionError, or a StorageError, says what was broken.
        mutants: Known mistakes by name, each put into the product as long as its context lasts.
        promise: What held, in the words of the last line.

    """

    module: str
    tell: Callable[[int], Told]
    mutants: Mapping[str, Callable[[], AbstractContextManager[object]]]
    promise: str

    def run(self, count: int, seed: int) -> Result:
        """Tell stories from this seed on until so many power cuts happened. Raises what failed, naming the seed."""
        result = Result(seed)
        while result.cuts < count:
            try:
                told = self.tell(seed)
            except BaseException as failure:
                failure.add_note(f"replay: python -m {self.module} --count 1 --seed {seed}")
                raise
            result.cuts += told.cuts
            result.operations += told.operations
            result.seen += told.seen
            result.last_seed = seed
            seed += 1
        return result

    def first_seed_that_catches(self, mutant: str, seed: int, seeds_max: int) -> tuple[int, str] | None:
        """The first seed whose story fails with this mistake, and how it shows."""
        with self.mutants[mutant]():
            for candidate in range(seed, seed + seeds_max):
                try:
                    self.tell(candidate)
                except (AssertionError, StorageError, ExceptionGroup) as failure:
                    return candidate, f"{type(failure).__name__}: {failure}".partition("\n")[0]
        return None

    def main(self, description: str | None, arguments: list[str] | None = None) -> None:
        """Run from the command line, and end the process: 0 when all held and every mistake was caught."""
        parser = argparse.ArgumentParser(
            description=description,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            prog=f"python -m {self.module}",
        )
        parser.add_argument("--count", type=int, default=10_000, help="power cuts to make")
        parser.add_argument("--seed", type=int, default=1, help="first seed")
        parser.add_argument("--mutants", action="store_true", help="check that each known mistake is caught")
        options = parser.parse_args(arguments)
        try:
            sys.exit(self._catch_all(options.seed) if options.mutants else self._run_long(options.count, options.seed))
        except KeyboardInterrupt:
            sys.exit(130)

    def _catch_all(self, seed: int) -> int:
        missed = 0
        for mutant in self.mutants:
            caught = self.first_seed_that_catches(mutant, seed, MUTANT_SEEDS_MAX)
            missed += caught is None
            print(f"{mutant}: " + ("NOT CAUGHT" if caught is None else "caught by seed {}, {}".format(*caught)))
        return min(missed, 1)

    def _run_long(self, count: int, seed: int) -> int:
        started = time.perf_counter()
        result = self.run(count, seed)
        seconds = time.perf_counter() - started
        print(
            f"{result.cuts} power cuts, seeds {result.first_seed} to {result.last_seed}, {result.operations} disk "
            f"operations: {self.promise}; {seconds:.1f} s, {result.operations / seconds:.0f} operations/s"
        )
        print(", ".join(f"{number} {what}" for what, number in sorted(result.seen.items())))
        return 0
