"""The page of performance shows the committed results and nothing else; no other page keeps such figures by hand.

`SLUICEMQ_REWRITE_DOCUMENTS=1` writes the page anew.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from bench.document import COMMITTED, FILES, PAGE, committed_page

CHECKOUT = Path(__file__).resolve().parent.parent.parent
MEASURED = re.compile(r"\d messages/s|\d,\d{3} (?:messages )?a second|\d (?:ms|µs|s) on (?:two|2) cores")
"""How a page says what was measured on some machine."""
COMMAND = re.compile(r"`(?:python -m|sluicemq bench) ?[^`]*`")


def test_the_page_is_made_of_the_committed_results() -> None:
    if os.environ.get("SLUICEMQ_REWRITE_DOCUMENTS"):
        PAGE.write_text(committed_page(), encoding="utf-8")
    written = PAGE.read_text(encoding="utf-8")
    assert written == committed_page(), "run `python -m bench document`, and commit page and charts"


@pytest.mark.parametrize("name", FILES)
def test_committed_results_are_of_a_whole_run(name: str) -> None:
    content = json.loads((COMMITTED / name).read_text(encoding="utf-8"))
    assert not content.get("quick")
    assert not content.get("left_out")
    assert content["facts"]["commit"]
    assert content["records"]


def pages() -> list[Path]:
    """Return what people have written."""
    return [
        CHECKOUT / "README.md",
        CHECKOUT / "ARCHITECTURE.md",
        *(page for page in sorted((CHECKOUT / "docs").rglob("*.md")) if page != PAGE),
    ]


def sections(page: Path) -> list[str]:
    """Return the text of a page between its headings."""
    return re.split(r"^#+ ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_a_measured_figure_elsewhere_stands_beside_the_command_that_measures_it(page: Path) -> None:
    alone = [text[:80] for text in sections(page) if MEASURED.search(text) and not COMMAND.search(text)]
    assert not alone, "say which command measures this, or leave it to docs/performance.md"
