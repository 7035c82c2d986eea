"""The tables of decisions: complete, unambiguous, what the real recovery does, and what `docs/recovery.md` says.

SLUICEMQ_TESTS_REWRITE=1 writes the document anew; review the difference, then commit.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sluicemq.storage import StorageError
from sluicemq.storage.decision_tables import TABLES
from sluicemq.storage.decisions import Decision, Row, Table
from tests.storage.recovery_stories import STORIES

DOCUMENT = Path(__file__).parents[2] / "docs" / "recovery.md"
REWRITE_VARIABLE = "SLUICEMQ_TESTS_REWRITE"
ROWS = {row.name: row for table in TABLES for row in table.rows}
NEVER_ASKED = {"name-incoming", "name-set-aside", "name-strange"}
"""Names that no code of the log looks at; `log verify` does."""


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_combination_of_observations_matches_exactly_one_row(table):
    for seen in table.combinations():
        assert len([row.name for row in table.rows if row.matches(seen)]) == 1, seen
        table.decide(*seen)


def test_no_row_is_in_vain_and_no_name_is_taken_twice():
    for table in TABLES:
        met = {table.decide(*seen).name for seen in table.combinations()}
        assert met == {row.name for row in table.rows}
    assert len(ROWS) == sum(len(table.rows) for table in TABLES)


def test_only_a_torn_tail_is_ever_cut_and_only_without_any_proof():
    """Corruption is never truncated in silence: this is the one row, and it says what it stands on."""
    cuts = [row for row in ROWS.values() if row.decision is Decision.CUT]
    assert [row.name for row in cuts] == ["end-torn"]
    named = {str(value) for value in cuts[0].when}
    assert "Proof.NONE" in named
    assert "Proof.BEYOND" not in named
    assert "BadPlace.DISCONTINUED" not in named


def test_every_row_has_its_story():
    assert set(STORIES) == set(ROWS)


@pytest.mark.parametrize("name", STORIES)
def test_the_real_recovery_decides_as_the_row_says(name, monkeypatch):
    row = ROWS[name]
    disk, start = STORIES[name]()
    asked: list[Row] = []
    decide = Table.decide

    def recorded(table, *seen):
        asked.append(decide(table, *seen))
        return asked[-1]

    monkeypatch.setattr(Table, "decide", recorded)
    before = {each: disk.content_of(each) for each in disk.names()}

    if row.decision is Decision.REFUSE:
        with pytest.raises(StorageError) as refused:
            start()
        assert asked[-1] is row, "the row that refuses ends the start"
        after = {each: disk.content_of(each) for each in disk.names()}
        assert {each: after.get(each) for each in before} == before, "a refusal changes nothing"
        text = str(refused.value)
        assert len(text) > 40, "it says what is wrong and what to do"
    else:
        start()
        assert row in asked or name in NEVER_ASKED
        assert not any(each.decision is Decision.REFUSE for each in asked)


# --- The document -------------------------------------------------------------------------------------------

HEAD = """# What a start finds, and what it does about it

Made from `storage/decisions*.py` by a test, which also proves that every combination of observations matches exactly
one row and that the recovery does what the row says.

A broker asks these tables in their order; the first row that refuses ends the start, with nothing changed and a text
that names file, place and the way on. What may have been confirmed is never cut, removed or passed over in silence: the
only thing that is ever cut is a torn tail, a last write of which nothing proves that it was durable.

`sluicemq log verify` looks without changing anything. `sluicemq log repair` is the way on when there is neither a
backup nor another broker: it shows what is lost before it does anything, and keeps every damaged file under `damaged/`.
"""


def document() -> str:
    parts = [HEAD]
    for number, table in enumerate(TABLES, 1):
        parts.append(f"## {number}. {table.name.capitalize()}\n\n{table.about}\n")
        lines = [
            "| found | decision | what happens | what the operator does | row |",
            "| --- | --- | --- | --- | --- |",
        ]
        lines += [
            f"| {row.found} | **{row.decision.value}** | {row.happens} | {row.operator} | `{row.name}` |"
            for row in table.rows
        ]
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def test_the_document_is_what_the_tables_say():
    expected = document()
    if os.environ.get(REWRITE_VARIABLE):
        DOCUMENT.write_text(expected, encoding="utf-8")
    assert DOCUMENT.read_text(encoding="utf-8") == expected, f"{REWRITE_VARIABLE}=1 writes {DOCUMENT.name} anew"
