"""How every command behaves: its errors, its exit codes, its tables, and the one way to name a broker.

This module owns what the user sees around the answers. It must not know any command.

Output is for people on a terminal (tables by rich, colours unless NO_COLOR) and for programs elsewhere (plain
columns, or `--json`). Answers go to standard output, everything else to standard error: a pipe carries answers only.
"""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_UNREACHABLE = 3
EXIT_NOT_FOUND = 4

UNBROKEN_CHARACTERS_MAX = 24
"""A cell up to this length is not broken into lines, however narrow the terminal."""

URL_DEFAULT = "sluicemq://127.0.0.1:7650"

if TYPE_CHECKING:
    ParameterType = click.ParamType[Any]
else:  # generic only in newer versions of click
    ParameterType = click.ParamType

Function = TypeVar("Function", bound=Callable[..., Any])


class FiniteRange(click.FloatRange):
    """A number within limits; unlike click's own range it refuses "nan", which is in no range, and "inf"."""

    unit = ""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the number, or refuse it by its value."""
        if not math.isfinite(click.FLOAT.convert(value, param, ctx)):
            self.fail(f"{str(value)!r:.80} is no number{self.unit}.", param, ctx)
        return super().convert(value, param, ctx)


class SecondsRange(FiniteRange):
    """Seconds within limits."""

    unit = " of seconds"


class Failure(click.ClickException):
    """An error as the user gets it: one line on standard error, and an exit code."""

    def __init__(self, text: str, exit_code: int = EXIT_FAILED) -> None:
        super().__init__(text)
        # click types it as a class variable, yet reads it from the instance.
        self.exit_code = exit_code  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """Print the line."""
        click.echo(f"sluicemq: {self.format_message()}", file=file, err=file is None)


def failure_of(error: BaseException) -> Failure | None:
    """Return what the user is told about *error*; None where it is a bug of ours, which deserves its traceback."""
    # Imported late: most calls never fail.
    from sluicemq.storage.errors import StorageError
    from sluicemq.wire import errors

    if isinstance(error, BaseExceptionGroup):
        inner = [failure_of(one) for one in error.exceptions]
        return inner[0] if len(inner) == 1 else None
    if isinstance(error, errors.ConnectionFailed):
        return Failure(str(error), EXIT_UNREACHABLE)
    if isinstance(error, errors.NotFound):
        return Failure(str(error), EXIT_NOT_FOUND)
    if isinstance(error, errors.InvalidRequest):
        return Failure(str(error), EXIT_USAGE)
    if isinstance(error, errors.SluiceError | StorageError):
        return Failure(str(error))
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        place = f"{error.filename}: " if error.filename is not None else ""
        return Failure(f"{place}{error.strerror}")
    return None


# --- options that several commands share ---------------------------------------------------------------------------


def json_option(function: Function) -> Function:
    """Add `--json`."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(function)


def url_option(function: Function) -> Function:
    """Add `--url`, which SLUICEMQ_URL can give as well."""
    return click.option(
        "--url",
        envvar="SLUICEMQ_URL",
        default=URL_DEFAULT,
        show_default=True,
        show_envvar=True,
        metavar="URL",
        help="The broker, or several as sluicemq://HOST:PORT,HOST:PORT.",
    )(function)


def data_option(function: Function) -> Function:
    """Add `--data`."""
    return click.option(
        "--data",
        type=click.Path(file_okay=False, path_type=Path),
        default="sluicemq-data",
        show_default=True,
        envvar="SLUICEMQ_DATA",
        metavar="DIR",
        help="The broker's data directory.",
    )(function)


# --- asking --------------------------------------------------------------------------------------------------------


def confirm_by_typing(word: str, *, yes: bool) -> None:
    """Return once the user has typed *word*, which does what cannot be undone, or at once with *yes*.

    Raises:
        Failure: He typed something else.

    """
    if yes:
        return
    answer = click.prompt(f"Type {word!r} to do it", default="", show_default=False, err=True)
    if answer.strip() != word:
        raise Failure("nothing was changed")


# --- output --------------------------------------------------------------------------------------------------------


def on_terminal(file: IO[str] | None = None) -> bool:
    """Whether a person reads *file* (standard output by default)."""
    try:
        return (file or sys.stdout).isatty()
    except ValueError:  # closed
        return False


def note(text: str) -> None:
    """Say something beside the answer, on standard error."""
    click.echo(text, err=True)


def print_json(value: Any) -> None:
    """Print *value* as one line of JSON; bytes as hexadecimal text."""
    import json

    click.echo(json.dumps(value, default=lambda item: item.hex() if isinstance(item, bytes) else str(item)))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], *, title: str | None = None) -> None:
    """Print rows: a table on a terminal, columns of text elsewhere; numbers stand to the right."""
    texts = [["" if cell is None else _cell(cell) for cell in row] for row in rows]
    right = [
        all(isinstance(row[place], int | float) or row[place] is None for row in rows) for place in range(len(columns))
    ]
    if on_terminal():
        _print_rich(columns, texts, right, title)
        return
    if title:
        click.echo(title)
    widths = [max([len(name), *(len(row[place]) for row in texts)]) for place, name in enumerate(columns)]
    for line in [list(columns), *texts]:
        cells = [
            text.rjust(width) if to_right else text.ljust(width)
            for text, width, to_right in zip(line, widths, right, strict=True)
        ]
        click.echo("  ".join(cells).rstrip())


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.2f}" if abs(value) < 1000 else f"{value:.0f}"
    # Plain digits elsewhere: a program that cuts columns wants numbers.
    if isinstance(value, int) and on_terminal():
        return f"{value:,}"
    return str(value)


def _print_rich(
    columns: Sequence[str], texts: Sequence[Sequence[str]], right: Sequence[bool], title: str | None
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 1, 0, 0))
    for place, (name, to_right) in enumerate(zip(columns, right, strict=True)):
        longest = max((len(row[place]) for row in texts), default=0)
        whole = to_right or longest <= UNBROKEN_CHARACTERS_MAX
        table.add_column(name, justify="right" if to_right else "left", no_wrap=whole, overflow="fold")
    for row in texts:
        table.add_row(*(Text(cell) for cell in row))  # Text: a queue named "[red]" stays a name
    # rich itself honours NO_COLOR and TERM=dumb.
    Console(highlight=False).print(table)


def silence_output() -> None:
    """Point standard output at nothing, so that the interpreter's last flush cannot complain about a closed pipe."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
