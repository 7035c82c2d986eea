"""The page of performance and README show the committed results; no other page keeps such figures by hand.

`SLUICEMQ_REWRITE_DOCUMENTS=1` writes both anew; `python -m bench document` draws the charts as well.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest

from bench.charts import source_of
from bench.cluster_report import cluster_results
from bench.document import (
    CHART_TITLES,
    CHARTS,
    COMMITTED,
    FILES,
    PAGE,
    README,
    committed,
    committed_page,
    page,
    with_figures,
)
from bench.report import Results

CHECKOUT = Path(__file__).resolve().parent.parent.parent
MEASURED = re.compile(r"\d messages/s|\d,\d{3} (?:messages )?a second|\d (?:ms|µs|s) on (?:two|2) cores")
"""How a page says what was measured on some machine."""
COMMAND = re.compile(r"`(?:python -m|sluicemq bench) ?[^`]*`")


def test_the_page_is_made_of_the_committed_results() -> None:
    if os.environ.get("SLUICEMQ_REWRITE_DOCUMENTS"):
        PAGE.write_text(committed_page(), encoding="utf-8")
    written = PAGE.read_text(encoding="utf-8")
    assert written == committed_page(), "run `python -m bench document`, and commit page and charts"


def test_the_figures_in_the_readme_are_those_of_the_committed_results() -> None:
    readme = README.read_text(encoding="utf-8")
    if os.environ.get("SLUICEMQ_REWRITE_DOCUMENTS"):
        readme = with_figures(readme)
        README.write_text(readme, encoding="utf-8")
    assert readme == with_figures(readme), "run `python -m bench document`, and commit README.md"
    assert "| SluiceMQ | " in readme


def test_a_readme_without_a_place_for_figures_is_refused() -> None:
    with pytest.raises(ValueError, match="0 places"):
        with_figures("# SluiceMQ")


@pytest.mark.parametrize("name", CHART_TITLES)
def test_charts_are_drawn_from_the_committed_results(name: str) -> None:
    single, _cluster, _features = committed()
    drawn = (CHARTS / f"{name}.png").read_bytes()
    assert source_of(single).encode() in drawn, "run `python -m bench document`, and commit the charts"


@pytest.mark.parametrize(("share", "whole"), [(0.0, False), (0.1, False), (0.6, True)])
def test_a_run_that_was_stopped_early_makes_a_page_too(share: float, whole: bool) -> None:
    """The first round of everything comes before the second of anything."""
    contents = [json.loads((COMMITTED / name).read_text(encoding="utf-8")) for name in FILES]
    for content in contents[:2]:
        content["records"] = content["records"][: int(share * len(content["records"]))]
    shown = page(Results(contents[0]), cluster_results(contents[1]), contents[2])
    assert "## The leader is lost" in shown
    assert ("Not measured in this run." not in shown) == whole


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
        CHECKOUT / "CHANGELOG.md",
        CHECKOUT / "CONTRIBUTING.md",
        *(found for found in sorted((CHECKOUT / "docs").rglob("*.md")) if found != PAGE),
    ]


def sections(written: Path) -> list[str]:
    """Return the text of a page between its headings."""
    return re.split(r"^#+ ", written.read_text(encoding="utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize("written", pages(), ids=lambda written: written.name)
def test_a_measured_figure_elsewhere_stands_beside_the_command_that_measures_it(written: Path) -> None:
    alone = [text[:80] for text in sections(written) if MEASURED.search(text) and not COMMAND.search(text)]
    assert not alone, "say which command measures this, or leave it to docs/performance.md"
