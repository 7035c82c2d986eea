"""The commands of `sluicemq` as one: finds the command that was asked for, and imports nothing else.

This module owns the list of commands and what holds for all of them: exit codes, errors as one line, `--debug`. It must
not know what a command does. Each command lives in its own module of `sluicemq.broker.commands`, imported when it is
called, because importing trio or rich for `--help` would be felt.

Exit codes: 0 done, 1 failed, 2 wrong usage or settings, 3 no broker could be reached, 4 what was named does not exist,
130 interrupted by Ctrl-C.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

import click

from sluicemq.broker.commands.interrupts import EXIT_INTERRUPTED
from sluicemq.broker.commands.manners import failure_of

COMMANDS = {
    "serve": "serve",
    "publish": "publish",
    "consume": "consume",
    "run": "run",
    "queue": "queue",
    "topic": "topic",
    "delayed": "delayed",
    "explain": "explain",
    "policy": "policy",
    "schedule": "schedule",
    "dead-letter": "dead_letter",
    "cluster": "cluster",
    "transaction": "transaction",
    "log": "log",
    "bench": "bench",
    "demo": "demo",
    "config": "config",
}
"""Command -> module in `sluicemq.broker.commands`, whose attribute `command` it is; in the order of `--help`."""


class _Commands(click.Group):
    """A group whose commands are imported when they are asked for, and whose errors are one line each."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names in the order of a message's life, not of the alphabet."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import the command's module; None where there is no such command."""
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = import_module(f"sluicemq.broker.commands.{COMMANDS[cmd_name]}").command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does it, with the nearest right name in the error."""
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            from sluicemq.broker.config import nearest

            ctx.fail(f"there is no command {args[0]!r}{nearest(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what it raises becomes one line and an exit code, unless `--debug` asks for more."""
        try:
            return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, SystemExit):
            raise
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
        except BaseException as error:
            if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt) is not None:
                ctx.exit(EXIT_INTERRUPTED)
            if ctx.params.get("debug"):
                raise
            failure = failure_of(error)
            if failure is None:
                raise
            raise failure from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="sluicemq", prog_name="sluicemq")
@click.option("--debug", is_flag=True, help="Show where an error comes from.")
def command(debug: bool) -> None:
    """SluiceMQ: a durable message broker, its tools, and a demonstration.

    Start a broker with `sluicemq serve`, then try `sluicemq publish hello world --declare`
    and `sluicemq consume hello`. Commands that talk to a broker find it by --url or SLUICEMQ_URL.
    """
