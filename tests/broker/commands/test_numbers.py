"""Numbers that are none: every option that takes one refuses them, by their value, before anything is done."""

from __future__ import annotations

import os
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from sluicemq.broker.commands.log import _ZxidType
from sluicemq.broker.commands.program import command
from sluicemq.broker.commands.settings import _SettingType
from sluicemq.broker.config import SETTINGS, BrokerConfig, Setting, parse_bytes, parse_setting
from sluicemq.wire.errors import InvalidRequest

NUMBERS = (click.types.IntParamType, click.types.FloatParamType, _ZxidType)
NUMERIC_SETTINGS = ("N", "S", "SIZE")
DIGITS = "9" * 5000
"""More than Python turns into a number."""


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SLUICEMQ_")]:
        monkeypatch.delenv(name)


def numeric_options() -> list[tuple[str, ...]]:
    """Return every command line up to, and with, the name of an option that takes a number."""
    found: list[tuple[str, ...]] = []

    def look_at(path: tuple[str, ...], one: click.Command) -> None:
        arguments = tuple("orders" for parameter in one.params if isinstance(parameter, click.Argument))
        for parameter in one.params:
            kind = parameter.type
            numeric = isinstance(kind, NUMBERS)
            if isinstance(kind, _SettingType):
                numeric = kind.setting.shape in NUMERIC_SETTINGS
            if isinstance(parameter, click.Option) and numeric:
                found.append((*path, *arguments, parameter.opts[0]))
        if isinstance(one, click.Group):
            context = click.Context(one)
            for name in one.list_commands(context):
                inner = one.get_command(context, name)
                assert inner is not None
                look_at((*path, name), inner)

    look_at((), command)
    return found


def test_there_are_such_options() -> None:
    options = numeric_options()
    for known in (("bench", "--seconds"), ("consume", "orders", "--timeout"), ("serve", "--heartbeat-seconds")):
        assert known in options
    assert len(options) > 50


@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e400", "0x10", "", DIGITS])
@pytest.mark.parametrize("line", numeric_options(), ids=" ".join)
def test_an_option_refuses_what_is_no_number_for_it(line: tuple[str, ...], value: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [*line, value])

    assert result.exit_code == 2, result.output
    assert value[:20] in result.stderr
    assert result.exception is None or isinstance(result.exception, SystemExit)
    assert list(tmp_path.iterdir()) == [], "nothing was begun"


@pytest.mark.parametrize("value", ["NaN", "Infinity", "-Infinity", "nan", "-1", "1e400", DIGITS, "[" * 100_000])
def test_a_setting_of_a_queue_refuses_what_is_no_number_for_it(value: str) -> None:
    result = CliRunner().invoke(command, ["queue", "declare", "orders", "--set", f"retry_delay={value}"])

    assert result.exit_code == 2, result.output
    assert "retry_delay" in result.stderr
    assert isinstance(result.exception, SystemExit)


@pytest.mark.parametrize("name", ["heartbeat_seconds", "drain_seconds", "switch_interval_seconds"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf"), -1.0])
def test_a_settings_file_is_no_way_around(name: str, value: float) -> None:
    with pytest.raises(InvalidRequest, match=f"setting {name} is "):
        BrokerConfig.from_settings({name: value})


def test_sizes_are_exact_however_large() -> None:
    assert parse_bytes("9007199254740993") == 9007199254740993
    assert parse_bytes("1.5KiB") == 1536
    with pytest.raises(InvalidRequest):
        parse_bytes(f"1.{DIGITS}")


def test_a_peer_with_a_number_beyond_all_measure_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="names no peer"):
        parse_setting("peers", f"{DIGITS}=a:1")


@pytest.mark.parametrize(
    "setting", [each for each in SETTINGS if each.shape in NUMERIC_SETTINGS], ids=lambda each: each.name
)
@pytest.mark.parametrize("value", ["٣", "1_0"])
def test_a_setting_takes_the_digits_of_everybody_and_nothing_between_them(setting: Setting, value: str) -> None:
    with pytest.raises(InvalidRequest, match=f"setting {setting.name}: '{value}' is no "):
        parse_setting(setting.name, value)


@pytest.mark.parametrize("value", ["", " ", ","])
def test_an_empty_list_of_peers_is_a_variable_that_was_not_filled_in(value: str) -> None:
    with pytest.raises(InvalidRequest, match=r"setting peers: .* names no peers"):
        parse_setting("peers", value)
    result = CliRunner().invoke(command, ["serve", "--peers", value])
    assert result.exit_code == 2, result.output
    assert "names no peers" in result.stderr


def test_a_port_is_written_with_the_digits_of_everybody() -> None:
    with pytest.raises(InvalidRequest, match="is no address"):
        parse_setting("listen", "127.0.0.1:٧٦٥٠")
