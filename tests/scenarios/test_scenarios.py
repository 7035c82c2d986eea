"""Every scenario leaves the trace in its file. SLUICEMQ_TESTS_REWRITE=1 writes it anew; review the difference."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.scenarios.stage import Stage

FOLDER = Path(__file__).parent
SCENARIOS = sorted(FOLDER.glob("*.txt"))
REWRITE_VARIABLE = "SLUICEMQ_TESTS_REWRITE"
TRACE = "    "
SCENARIOS_MIN = 60


def played(text: str) -> str:
    """Return the scenario *text* with the trace that its commands leave now."""
    stage = Stage()
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith(TRACE):
            continue
        lines.append(line)
        command = line.partition("#")[0].strip()
        if command:
            lines += [TRACE + told for told in stage.play(command)]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_the_trace_is_what_the_file_says(path: Path) -> None:
    written = path.read_text(encoding="utf-8")
    assert written.startswith("# "), "a scenario opens with what it shows"
    now = played(written)
    if os.environ.get(REWRITE_VARIABLE):
        path.write_text(now, encoding="utf-8")
    else:
        assert now.splitlines() == written.splitlines(), f"if this is right: {REWRITE_VARIABLE}=1, and review"


def test_a_trace_that_differs_is_noticed() -> None:
    text = "# Shows nothing.\n\ncluster 1\nstart 1\n    1 starts\n"
    assert played(text) != text
    assert played(played(text)) == played(text)


def test_there_are_scenarios() -> None:
    assert len(SCENARIOS) >= SCENARIOS_MIN
