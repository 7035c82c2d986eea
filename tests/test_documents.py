"""The programs in README.md and docs/ run as they are printed.

A block that opens with ```python runnable is a whole program: it is run in a process of its own against a real broker,
and must end by itself with exit code 0. The address of a broker with default settings is the only thing that is
replaced in it; a program that reads its address from the environment finds it in SLUICEMQ_URL.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.e2e.broker_process import BrokerProcess
from tests.e2e.running import broker as broker

CHECKOUT = Path(__file__).resolve().parent.parent
DEFAULT_URL = "sluicemq://127.0.0.1:7650"
PROGRAM_SECONDS_MAX = 120
BLOCK = re.compile(r"^```python runnable\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Program:
    """A runnable block of a document."""

    document: Path
    line: int
    text: str

    def __str__(self) -> str:
        """Return where the block stands, as an editor understands it."""
        return f"{self.document.relative_to(CHECKOUT)}:{self.line}"


def programs() -> list[Program]:
    """Return the runnable blocks of all documents."""
    found = []
    for document in (CHECKOUT / "README.md", *sorted((CHECKOUT / "docs").rglob("*.md"))):
        text = document.read_text(encoding="utf-8")
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start(1)) + 1
            # Blank lines in front make the line numbers of a traceback those of the document.
            found.append(Program(document, line, "\n" * (line - 1) + block.group(1)))
    return found


def test_the_readme_shows_a_whole_program() -> None:
    assert any(program.document.name == "README.md" for program in programs())


@pytest.mark.parametrize("program", programs(), ids=str)
def test_a_printed_program_runs(program: Program, broker: BrokerProcess, tmp_path: Path) -> None:
    script = tmp_path / program.document.name.replace(".md", ".py")
    script.write_text(program.text.replace(DEFAULT_URL, broker.url), encoding="utf-8")
    outcome = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=os.environ | {"SLUICEMQ_URL": broker.url},
        capture_output=True,
        text=True,
        timeout=PROGRAM_SECONDS_MAX,
        check=False,
    )
    assert outcome.returncode == 0, f"{program} ended with {outcome.returncode}:\n{outcome.stdout}{outcome.stderr}"


def test_the_documentation_is_built_without_a_warning(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "sphinx",
        "-q",
        "-W",
        "--keep-going",
        "-b",
        "html",
        str(CHECKOUT / "docs"),
        str(tmp_path),
    ]
    outcome = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "send_many" in (tmp_path / "api" / "client.html").read_text(encoding="utf-8"), "docstrings are in it"
