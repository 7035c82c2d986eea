"""Many seeds, side by side, with a memory: a campaign goes on where it stopped and adds up what all its runs have seen.

The state is one small JSON file, replaced as a whole after each batch of seeds, so that it survives any end of the
process; at most one batch is run twice then. A seed that fails is described at once and made small.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from typing import TYPE_CHECKING, Any

from tests.sim.faults import KIND_PROFILES
from tests.sim.report import describe, shrink
from tests.sim.simulation import Choice, Result, run

if TYPE_CHECKING:
    from pathlib import Path

SHOW_EVERY_SECONDS = 30.0
SEEDS_AT_ONCE = 20
SHRUNK_MAX = 3
"""So many failing seeds are made small; the others are only described."""
LEADER_SECONDS_NOTED = 5.0
"""What the notes ask for; how many clusters take longer is counted."""
EACH = "each"
"""Profile: one kind of fault after the other, by the seed's number."""
COUNTED = (
    "committed",
    "epochs",
    "confirmed",
    "deliveries",
    "settled",
    "delayed",
    "reads",
    "snapshots_installed",
    "damages",
    "refusals",
    "salvaged",
    "repaired",
    "unseen_damages",
)


@dataclasses.dataclass
class State:
    """How far a campaign has come.

    Attributes:
        next_seed: The first that was not run.
        seeds: How many were.
        seconds: Real seconds that took.
        failed: Which of them broke an invariant.
        totals: What happened in all of them.
        weighed: How often each invariant was looked at with something at stake (see `truth`).
        leader_slow: How many clusters took longer than `LEADER_SECONDS_NOTED` to have a leader.
        leader_seconds_most: The longest that a cluster took to have a leader after all faults, in virtual seconds.
        heal_seconds_most: The longest that a cluster took to be one again after all faults, in virtual seconds.

    """

    next_seed: int = 0
    seeds: int = 0
    seconds: float = 0.0
    failed: list[int] = dataclasses.field(default_factory=list)
    totals: Counter[str] = dataclasses.field(default_factory=Counter)
    weighed: Counter[str] = dataclasses.field(default_factory=Counter)
    leader_slow: int = 0
    heal_seconds_most: float = 0.0
    leader_seconds_most: float = 0.0

    @classmethod
    def load(cls, path: Path | None, first: int) -> State:
        """Return what the file remembers, or the beginning."""
        if path is None or not path.exists():
            return cls(first)
        kept: dict[str, Any] = json.loads(path.read_text())
        kept["totals"], kept["weighed"] = Counter(kept["totals"]), Counter(kept.get("weighed", {}))
        return cls(**kept)

    def save(self, path: Path) -> None:
        """Replace the file."""
        new = path.with_name(f"{path.name}.new")
        new.write_text(json.dumps(vars(self), indent=1))
        new.replace(path)

    def take(self, result: Result) -> None:
        """Count a run."""
        self.seeds += 1
        if result.violation is not None:
            self.failed.append(result.seed)
        self.leader_slow += result.leader_seconds > LEADER_SECONDS_NOTED
        self.leader_seconds_most = max(self.leader_seconds_most, result.leader_seconds)
        self.heal_seconds_most = max(self.heal_seconds_most, result.heal_seconds)
        for name in COUNTED:
            self.totals[name] += getattr(result, name)
        self.weighed.update(result.weighed)
        self.totals["faults"] += len(result.faults)
        self.totals["virtual_seconds"] += round(result.seconds)
        self.totals["events"] += result.events
        for name, times in (*result.methods.items(), (f"of_{result.nodes}_nodes", 1)):
            self.totals[name] += times

    @property
    def pace(self) -> str:
        """Seeds a minute."""
        return f"{60 * self.seeds / max(self.seconds, 1e-9):.0f} seeds a minute"


def run_many(
    choice: Choice, first: int, count: int, *, jobs: int, path: Path | None, limit_seconds: float | None
) -> State:
    """Run all seeds from *first* on that the state at *path* does not know yet; tell what is found. Return the sum."""
    state = State.load(path, first)
    end = first + count
    begun = shown = time.monotonic()
    if state.next_seed > first:
        print(
            f"goes on with seed {state.next_seed}: {state.seeds} seeds before, {len(state.failed)} failed", flush=True
        )
    with ProcessPoolExecutor(jobs) as pool:
        while state.next_seed < end and (limit_seconds is None or time.monotonic() - begun < limit_seconds):
            before = time.monotonic()
            batch = range(state.next_seed, min(end, state.next_seed + SEEDS_AT_ONCE * jobs))
            for result in pool.map(run, batch, [chosen(choice, seed) for seed in batch]):
                state.take(result)
                if result.violation is not None:
                    print(describe(result), flush=True)
                    if len(state.failed) <= SHRUNK_MAX:
                        shrink(result)
            state.next_seed = batch.stop
            state.seconds += time.monotonic() - before
            if path is not None:
                state.save(path)
            if time.monotonic() - shown > SHOW_EVERY_SECONDS:
                shown = time.monotonic()
                print(f"{state.seeds} seeds, {state.pace}, {len(state.failed)} failed", flush=True)
    return state


def chosen(choice: Choice, seed: int) -> Choice:
    """Return what *seed* runs with."""
    if choice.profile != EACH:
        return choice
    return dataclasses.replace(choice, profile=KIND_PROFILES[seed % len(KIND_PROFILES)])


def summary(choice: Choice, state: State) -> str:
    """Return all figures, in a few lines."""
    figures = ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in sorted(state.totals.items()))
    text = (
        f"{state.seeds:,} seeds of {choice.profile} in {state.seconds:.0f} s ({state.pace}), {len(state.failed)} failed"
    )
    failed = f"\n  failed: {', '.join(map(str, state.failed))}" if state.failed else ""
    healed = f"a leader after at most {state.leader_seconds_most:.1f} virtual seconds ({state.leader_slow} clusters "
    healed += f"took over {LEADER_SECONDS_NOTED:.0f}), "
    healed += f"one again after at most {state.heal_seconds_most:.1f}"
    weighed = ", ".join(
        f"{name} {state.weighed[name]:,}" for name in sorted(state.weighed, key=lambda name: int(name[1:]))
    )
    return f"{text}\n  {figures}; {healed}\n  looked at with something at stake: {weighed}{failed}"
