"""Two commits of ours against each other: a work tree and an environment for each, and rounds that alternate.

Both are measured by their own `sluicemq bench`, which every commit carries, on the same file system; what is compared
is what it reports as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench.report import rounded, table, times, with_range
from bench.session import note
from bench.statistics import paired_ratios, summary

ROOT = Path(__file__).parent.parent
MODES = ("publish", "send", "consume", "latency")
SECONDS = "2"
FIGURES = {
    "publish": ("messages_per_second", "broker_cpu_seconds_per_million"),
    "send": ("messages_per_second", "broker_cpu_seconds_per_million"),
    "consume": ("messages_per_second", "broker_cpu_seconds_per_million"),
    "latency": ("latency_p50_seconds", "latency_p99_seconds"),
}


def compare(commit_a: str, commit_b: str, rounds: int, data: Path) -> int:
    """Measure both commits in turns, A B A B, and print medians, ranges and the ratio B / A."""
    for commit in (commit_a, commit_b):
        known = ["git", "-C", str(ROOT), "rev-parse", "--verify", "--quiet", f"{commit}^{{commit}}"]
        if subprocess.run(known, check=False, stdout=subprocess.DEVNULL).returncode:
            note(f"{commit!r} is no commit of this repository; name a branch, a tag or a hash")
            return 2
    folder = Path(tempfile.mkdtemp(prefix="sluicemq-bench-compare-", dir=data))
    trees: list[Path] = []
    try:
        programs = []
        for name, commit in (("a", commit_a), ("b", commit_b)):
            trees.append(folder / name)
            programs.append(_install(commit, folder / name))
        measured: dict[tuple[str, str], tuple[list[Any], list[Any]]] = {}
        for number in range(rounds):
            for mode in MODES:
                for side, program in enumerate(programs):
                    figures = _measure(program, mode, folder)
                    for figure in FIGURES[mode]:
                        measured.setdefault((mode, figure), ([], []))[side].append(figures.get(figure))
            note(f"round {number + 1} of {rounds}")
    finally:
        for tree in trees:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)], check=False)
        shutil.rmtree(folder, ignore_errors=True)
    print(comparison(measured, commit_a, commit_b))
    return 0


def comparison(measured: dict[tuple[str, str], tuple[list[Any], list[Any]]], name_a: str, name_b: str) -> str:
    """Return the table of medians, ranges and ratios; `~` marks ratios that do not repeat within 20 %."""
    rows = []
    for (mode, figure), (of_a, of_b) in measured.items():
        ratio = paired_ratios(of_b, of_a)
        worst = "-" if ratio is None else f"{rounded(ratio['least'])} to {rounded(ratio['largest'])}"
        rows.append((f"{mode}: {figure}", with_range(summary(of_a)), with_range(summary(of_b)), times(ratio), worst))
    return table(("", name_a, name_b, "B / A", "range"), rows)


def _install(commit: str, tree: Path) -> Path:
    note(f"installing {commit}")
    subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--quiet", "--detach", str(tree), commit], check=True)
    environment = tree / ".venv"
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    pip = [str(environment / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, str(tree)], check=True, env=_clean_environment())
    return environment / "bin" / "sluicemq"


def _clean_environment() -> dict[str, str]:
    """Without a path that would put the same sources in front of both environments."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def _measure(program: Path, mode: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [str(program), "bench", mode, "--seconds", SECONDS, "--json"],
        cwd=folder,
        env=_clean_environment(),
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    figures: dict[str, Any] = json.loads(done.stdout)
    return figures
