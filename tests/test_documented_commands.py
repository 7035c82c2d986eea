"""What pages tell a reader to type exists: commands with their options, modules, and the files that links name.

Commands are parsed as the program parses them, and not run. A line that shows what somebody may leave out or choose
(`send | consume`) is read up to there.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from sluicemq.broker.commands.program import command

CHECKOUT = Path(__file__).resolve().parent.parent
GENERATED = ("cli.md", "protocol.md", "settings.md", "recovery.md")
PAGES = [
    *(CHECKOUT / name for name in ("README.md", "CONTRIBUTING.md", "ARCHITECTURE.md")),
    *sorted(page for page in (CHECKOUT / "docs").rglob("*.md") if page.name not in GENERATED),
    *sorted((CHECKOUT / "examples").rglob("README.md")),
]
SHOWN = re.compile(r"^(?:\$ |    )?(?:\.venv/bin/)?(sluicemq [a-z].*)$", re.MULTILINE)
"""A line of its own in a block that begins with the program."""
INLINE = re.compile(r"`(sluicemq [a-z][^`]*)`")
ASSIGNED = re.compile(r"^([A-Z]+)=(\S+)$", re.MULTILINE)
SUBSTITUTED = re.compile(r"\$\([^)]*\)")
MODULE = re.compile(r"python -m ([a-z_]+(?:\.[a-z_0-9]+)*)")
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")
PLACEHOLDER = re.compile(r"[A-Z]+")
SETTINGS = "/etc/sluicemq.toml"
"""Is read while options are parsed; an empty file does as well."""
ENDS = {"&", "&&", "|", ";", "||", ">"}


def commands(page: Path) -> list[list[str]]:
    """Return the words of each command of ours that a page shows."""
    text = SUBSTITUTED.sub("something", page.read_text(encoding="utf-8")).replace(SETTINGS, os.devnull)
    for name, value in ASSIGNED.findall(text):
        text = text.replace(f"${name}", value)
    return [words for line in (*SHOWN.findall(text), *INLINE.findall(text)) for words in _each(line)]


def _each(line: str) -> Iterator[list[str]]:
    words: list[str] = []
    for word in [*shlex.split(line, comments=True), ";"]:
        if word not in ENDS:
            words.append("1" if PLACEHOLDER.fullmatch(word) else word)
            continue
        if words[:1] == ["sluicemq"]:
            yield words[1:]
        words = []


def parse(words: list[str]) -> click.Command:
    """Return the command that these words name, after they were parsed with all its options."""
    context = command.make_context("sluicemq", list(words))
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        if not rest:
            break
        name, inner, rest = context.command.resolve_command(context, rest)
        assert inner is not None
        context = inner.make_context(name, rest, parent=context)
    return context.command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_commands_that_a_page_shows_are_understood(page: Path) -> None:
    for words in commands(page):
        try:
            parse(words)
        except (click.exceptions.Exit, click.MissingParameter):
            continue  # --help; or text that speaks of a command, and leaves out what it is about
        except click.ClickException as error:
            pytest.fail(f"{page.name} shows `sluicemq {shlex.join(words)}`: {error.format_message()}")


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    for wrong in (["queue", "declair", "orders"], ["serve", "--dta", "x"]):
        with pytest.raises(click.ClickException):
            parse(wrong)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(CHECKOUT)))
def test_modules_and_files_that_a_page_names_are_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for module in MODULE.findall(text):
        assert importlib.util.find_spec(module), f"{page.name} names python -m {module}"
    for link in LINK.findall(text):
        assert (page.parent / link).exists() or link.startswith("/"), f"{page.name} links to {link}"
