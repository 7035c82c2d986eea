"""Runs an example as its reader would run it: in a process of its own, with what it prints kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM_SECONDS_MAX = 150.0


def run_python(
    *arguments: str | Path, folder: Path | None = None, url: str | None = None, seconds_max: float = PROGRAM_SECONDS_MAX
) -> subprocess.CompletedProcess[str]:
    """Run `python` with these arguments, in this folder, beside the broker at *url*; return how it ended."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=folder,
        env=os.environ | ({} if url is None else {"SLUICEMQ_URL": url}),
        capture_output=True,
        text=True,
        timeout=seconds_max,
        check=False,
    )


def run_demonstration(name: str, folder: Path, *arguments: str, seconds_max: float) -> subprocess.CompletedProcess[str]:
    """Run one that says how it went by its exit code, and leaves a picture; return what it printed."""
    places = ("--folder", folder / "data", "--picture", folder / "picture.png")
    outcome = run_python("-m", f"sluicemq.examples.{name}", *arguments, *places, seconds_max=seconds_max)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert (folder / "picture.png").read_bytes().startswith(b"\x89PNG")
    return outcome
