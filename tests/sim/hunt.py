"""The hunt for mutants: how many seeds each mistake needs to be found, and the table that says so (`MUTANTS.md`)."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tests.sim.mutants_of_once import MUTANTS
from tests.sim.simulation import Choice, run

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

SEEDS_MAX = 200
TABLE = Path(__file__).with_name("MUTANTS.md")
NOT_FOUND = "**not found**"
TITLE = """\
# Mutants of the simulator

What `python -m tests.sim --mutants --table` said last, with at most {seeds_max} seeds: after how many of them each
mistake was found, under which faults, and by what. A mistake is one replaced function of `mutants.py`, or of
`mutants_of_once.py`. {caught} With names behind `--mutants` only their rows are written anew.

| mutant | mistake | faults | seeds | found by |
| --- | --- | --- | ---: | --- |
"""


def hunt(names: Sequence[str], seeds_max: int = SEEDS_MAX, *, jobs: int = 1, table: Path | None = None) -> int:
    """Try mutants, print how it went, and put it into a table, if there is a path; return 1 if one of them survives."""
    rows: dict[str, str] = {}
    survived = []
    with ProcessPoolExecutor(jobs) as pool:
        for name, (seeds, found) in zip(names, pool.map(catch, names, [seeds_max] * len(names)), strict=True):
            mutant = MUTANTS[name]
            if found is None:
                survived.append(name)
            print(f"{name:26} {seeds:>5}  {mutant.profile:11} {found or 'SURVIVES'}"[:160], flush=True)
            faults = mutant.profile + (f", {mutant.nodes} nodes" if mutant.nodes else "")
            faults += "" if mutant.mood is None else f", {mutant.mood}"
            faults += ", things happen once" if mutant.once else ""
            shown = NOT_FOUND if found is None else _shortened(found)
            rows[name] = f"| `{name}` | {mutant.says} | {faults} | {seeds} | {shown} |"
    print(f"{_told(rows.values())}{'; left: ' if survived else ''}{', '.join(survived)}")
    if table is not None:
        _write(table, rows, seeds_max)
    return 1 if survived else 0


def rows_of(table: Path) -> dict[str, str]:
    """Return the rows of a table, by mutant."""
    lines = [line for line in table.read_text().splitlines() if line.startswith("| `")]
    return {line.split("|")[1].strip(" `"): line for line in lines}


def _write(table: Path, rows: dict[str, str], seeds_max: int) -> None:
    """Put new rows beside those of mutants that were not tried now."""
    known = rows_of(table) | rows
    lines = [known[name] for name in MUTANTS if name in known]
    table.write_text(TITLE.format(seeds_max=seeds_max, caught=f"{_told(lines)}.") + "\n".join(lines) + "\n")


def _told(rows: Collection[str]) -> str:
    return f"{sum(NOT_FOUND not in row for row in rows)} of {len(rows)} are found"


def catch(name: str, seeds_max: int = SEEDS_MAX) -> tuple[int, str | None]:
    """Run seeds with a mutant until an invariant breaks; return how many it took, and what broke."""
    mutant = MUTANTS[name]
    wanted = True if mutant.once else None
    choice = Choice(mutant.nodes, mutant.profile, conditions=mutant.conditions, features=wanted, once=wanted)
    for seed in range(seeds_max):
        with mutant.patch():
            violation = run(seed, choice).violation
        assert "mutants" not in str(violation), f"{name} does not fit the code any more: {violation}"
        # A seed in which the same breaks without the mutant proves nothing about it.
        if violation is not None and _invariant(violation) != _invariant(run(seed, choice).violation):
            return seed + 1, str(violation)
    return seeds_max, None


def _invariant(violation: object) -> str:
    return str(violation).split(":")[0]


def _shortened(found: str) -> str:
    invariant = found.split(":")[0]
    if invariant == "error":
        return found.split(":")[1].strip()
    return invariant.split(" on node")[0]
