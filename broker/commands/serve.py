"""`sluicemq serve`: runs a broker in this process. Imports trio only when all settings are known to be right."""

from __future__ import annotations

import click

from sluicemq.broker.commands.settings import config_of, settings_options


@click.command(name="serve")
@settings_options
@click.pass_context
def command(ctx: click.Context, /, **_settings: object) -> None:
    """Run a broker.

    Prints `sluicemq N ready on sluicemq://HOST:PORT` once it serves; logs go to standard error. Ends cleanly on SIGTERM
    or Ctrl-C: what it has accepted is confirmed first.

    Every setting can be given as an option, as a variable SLUICEMQ_NAME, or in a TOML file; the first of these wins.
    `sluicemq config` shows what is in effect.
    """
    config, _origins = config_of(ctx)
    # From here on the imports that cost time: the settings are right.
    from sluicemq.broker.commands.interrupts import clean_up_on_interrupt
    from sluicemq.broker.commands.logs import start_logging
    from sluicemq.broker.node import serve

    start_logging(config.log_level, config.log_format)
    clean_up_on_interrupt()
    ctx.exit(serve(config))
