"""Turns the settings of a broker into options of a command, and options into a `BrokerConfig`.

This module owns the order of the places a setting may come from: flag over environment over file over default. It must
not know the settings themselves (`sluicemq.broker.config`). click does the looking up; a file joins as click's default
map.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import click
from click.core import ParameterSource

from sluicemq.broker.commands.manners import ParameterType
from sluicemq.broker.config import (
    SETTINGS,
    BrokerConfig,
    Setting,
    check_environment,
    format_setting,
    parse_setting,
    read_settings_file,
)
from sluicemq.wire.errors import InvalidRequest

Function = TypeVar("Function", bound=Callable[..., Any])

_ORIGINS = {
    ParameterSource.COMMANDLINE: "flag",
    ParameterSource.ENVIRONMENT: "environment",
    ParameterSource.DEFAULT_MAP: "file",
}


class Origin(NamedTuple):
    """Where the value of a setting came from: `flag`, `environment`, `file` or `default`, and its name there."""

    kind: str
    name: str


class _SettingType(ParameterType):
    """Lets the setting itself read what stands in the flag or in the environment."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.name = setting.shape

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        try:
            return parse_setting(self.setting.name, value)
        except InvalidRequest as error:
            source = ctx.get_parameter_source(self.setting.name) if ctx is not None else None
            where = f"{self.setting.variable}: " if source is ParameterSource.ENVIRONMENT else ""
            raise click.UsageError(f"{where}{error}", ctx=ctx) from None


def _read_file(ctx: click.Context, _param: click.Parameter, value: Path | None) -> Path | None:
    """Runs before all other options are looked up, so that the file's values stand ready as defaults."""
    check_environment(os.environ)
    if value is not None:
        ctx.default_map = read_settings_file(value)
    return value


def settings_options(function: Function) -> Function:
    """Add `--config` and one option for each setting."""
    defaults = BrokerConfig().settings()
    for setting in reversed(SETTINGS):
        shown = format_setting(setting.name, defaults[setting.name])
        function = click.option(
            setting.flag,
            setting.name,
            type=_SettingType(setting),
            envvar=setting.variable,
            metavar=setting.shape,
            default=None,
            help=f"{setting.help}  [default: {shown}]" if shown else setting.help,
        )(function)
    return click.option(
        "--config",
        "settings_file",
        type=click.Path(dir_okay=False, path_type=Path),
        envvar="SLUICEMQ_CONFIG",
        is_eager=True,
        callback=_read_file,
        metavar="FILE",
        help="TOML file with settings, named as the options are, with _ for -.",
    )(function)


def config_of(ctx: click.Context) -> tuple[BrokerConfig, dict[str, Origin]]:
    """Return the effective configuration of a command that has `settings_options`, and each setting's origin.

    Raises:
        InvalidRequest: Values that cannot work together.

    """
    given = {setting.name: ctx.params[setting.name] for setting in SETTINGS if ctx.params[setting.name] is not None}
    origins: dict[str, Origin] = {}
    for setting in SETTINGS:
        source = ctx.get_parameter_source(setting.name)
        kind = _ORIGINS.get(source, "default") if source is not None and setting.name in given else "default"
        name = {
            "flag": setting.flag,
            "environment": setting.variable,
            "file": str(ctx.params.get("settings_file")),
            "default": "",
        }[kind]
        origins[setting.name] = Origin(kind, name)
    return BrokerConfig.from_settings(given), origins
