"""What is said of a failing run: what broke, which faults struck, what each node did last; and how to make it small."""

from __future__ import annotations

import dataclasses
import re
from typing import TYPE_CHECKING

from tests.sim.faults import draw
from tests.sim.simulation import Choice, Simulation, run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.sim.simulation import Result

LAST_LINES = 12
TEXT_MAX = 400
_NOISE = (
    (re.compile(r"<(\w+)\.(\w+): '\w+'>"), r"\2"),
    (re.compile(r"incarnation=b(['\"]).*?\1\)"), ")"),
    (re.compile(r", chain=b(['\"]).*?\1"), ""),
    (re.compile(r"Body\(.*?entry=(\w+)\(.*?\)\)"), r"\1"),
    (re.compile(r"Token\(generation=(\d+), number=(\d+)\)"), r"\1#\2"),
    (re.compile(r"\b(zxid|previous_zxid|commit|own_zxid|configuration_zxid|position)=(\d{10,})"), "_zxid"),
)


def _show_zxid(found: re.Match[str]) -> str:
    number = int(found[2])
    return f"{found[1]}={number >> 32}.{number & 0xFFFFFFFF}"


def plain(text: str) -> str:
    """Return a line of the trace without what nobody reads."""
    for pattern, replacement in _NOISE:
        text = pattern.sub(_show_zxid if replacement == "_zxid" else replacement, text)
    return text if len(text) < TEXT_MAX else text[:TEXT_MAX] + "..."


def describe(result: Result) -> str:
    """Return what came of a run, in a few lines."""
    what = "ok" if result.violation is None else f"VIOLATION {result.violation}"
    choice = result.choice
    nodes = "" if choice.nodes is None else f" --nodes {choice.nodes}"
    replay = f"--seed {result.seed}{nodes} --profile {choice.profile}"
    if choice.batches != Choice.batches:
        replay += f" --batches {choice.batches}"
    if choice.busy_seconds != Choice.busy_seconds:
        replay += f" --seconds {choice.busy_seconds}"
    if choice.without:
        replay += f" --without {','.join(map(str, choice.without))}"
    return (
        f"seed {result.seed}: {what}\n"
        f"  {result.events} events in {result.seconds:.1f} virtual s, {result.committed} entries in {result.epochs} "
        f"epochs, {result.confirmed} batches confirmed, {result.deliveries} deliveries, {len(result.faults)} faults, "
        f"trace {result.digest:08x}\n"
        f"  python -m tests.sim {replay} --trace"
    )


def show_trace(result: Result) -> None:
    """Print every transition."""
    for now, node, text in result.lines or ():
        lines = text.split("\n")
        print(f"{now:9.4f} {node}  {plain(lines[0])}")
        for line in lines[1:]:
            print(f"             {plain(line)}")


def shrink(result: Result) -> list[int]:
    """Leave out faults as long as the same invariant breaks; print what is left. Returns what can be left out."""
    invariant = str(result.violation).split(":")[0]
    choice = result.choice
    count = len(Simulation(result.seed, choice).nodes)
    faults = draw(result.seed, choice.profile, count, choice.busy_seconds)
    left_out = list(choice.without)
    kept = [number for number in range(len(faults)) if number not in left_out]
    size = max(1, len(kept) // 2)
    while True:
        shrunk = False
        for start in range(0, len(kept), size):
            tried = kept[:start] + kept[start + size :]
            if _fails(result.seed, choice, faults, tried, invariant):
                kept, shrunk = tried, True
                break
        if not shrunk:
            if size == 1:
                break
            size //= 2
    left_out = [number for number in range(len(faults)) if number not in kept]
    final = run(result.seed, dataclasses.replace(choice, without=tuple(left_out)), tracing=True)
    print(describe(final))
    print(f"  {len(kept)} of {len(faults)} faults are needed:")
    for number in kept:
        print(f"    {number:3} {faults[number]}")
    for node in sorted({node for _, node, _ in final.lines or ()}):
        print(f"  the last transitions of node {node}:")
        for now, _, text in [line for line in final.lines or () if line[1] == node][-LAST_LINES:]:
            print(f"    {now:9.4f} {plain(text.replace(chr(10), ' | '))}")
    return left_out


def _fails(seed: int, choice: Choice, faults: Sequence[object], kept: Sequence[int], invariant: str) -> bool:
    without = tuple(number for number in range(len(faults)) if number not in kept)
    found = run(seed, dataclasses.replace(choice, without=without)).violation
    return found is not None and str(found).split(":")[0] == invariant
