"""`docs/cli.md` is what `--help` says. SLUICEMQ_TESTS_REWRITE=1 writes it anew; review the difference, then commit."""

from __future__ import annotations

import os
from pathlib import Path

import click

from sluicemq.broker.commands.program import COMMANDS, command

DOCUMENT = Path(__file__).parents[3] / "docs" / "cli.md"
REWRITE_VARIABLE = "SLUICEMQ_TESTS_REWRITE"
WIDTH = 100
HEAD = """# The command line

Made from `--help` by a test; `sluicemq COMMAND --help` shows the same.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 no broker could be reached, 4 what was named does not exist,
130 interrupted. Answers go to standard output, everything else to standard error. On a terminal answers are tables,
elsewhere plain columns; `--json` gives JSON.
"""


def sections(one: click.Command, path: str, parent: click.Context | None) -> list[str]:
    # As click itself makes it, so that -h is there; only the width is ours.
    context = one.make_context(path.split()[-1], [], parent=parent, resilient_parsing=True)
    context.terminal_width = WIDTH
    found = [f"## `{path}`\n\n```text\n{one.get_help(context)}\n```\n"]
    if isinstance(one, click.Group):
        for name in one.list_commands(context):
            inner = one.get_command(context, name)
            assert inner is not None
            if not inner.hidden:
                found += sections(inner, f"{path} {name}", context)
    return found


def document() -> str:
    return "\n".join([HEAD, *sections(command, "sluicemq", None)])


def test_the_document_is_what_help_says() -> None:
    expected = document()
    if os.environ.get(REWRITE_VARIABLE):
        DOCUMENT.parent.mkdir(exist_ok=True)
        DOCUMENT.write_text(expected, encoding="utf-8")
    # By words: versions of click break lines differently.
    assert DOCUMENT.read_text(encoding="utf-8").split() == expected.split(), (
        f"{REWRITE_VARIABLE}=1 writes {DOCUMENT} anew"
    )


def test_every_command_is_in_it() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in COMMANDS:
        assert f"## `sluicemq {name}`" in text
