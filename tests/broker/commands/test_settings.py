"""Where the settings of a broker come from, and what a wrong one gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sluicemq.broker.commands.program import command
from sluicemq.broker.config import (
    SETTINGS,
    BrokerConfig,
    check_environment,
    format_setting,
    parse_address,
    parse_bytes,
    parse_setting,
    read_settings_file,
)
from sluicemq.wire.batch import BATCH_BYTES_DEFAULT, MESSAGE_BYTES_DEFAULT
from sluicemq.wire.errors import InvalidRequest, UnknownOption

MIB = 1024 * 1024


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("SLUICEMQ_")]:
        monkeypatch.delenv(name)


def sluicemq(*arguments: str) -> Result:
    return CliRunner().invoke(command, arguments)


def effective(*arguments: str) -> dict[str, dict[str, object]]:
    result = sluicemq("config", "--json", *arguments)
    assert result.exit_code == 0, result.output
    settings: dict[str, dict[str, object]] = json.loads(result.stdout)
    return settings


# --- precedence ----------------------------------------------------------------------------------------------------


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("spares_max = 3\nconnections_max = 300\ndrain_seconds = 3.5\n")
    monkeypatch.setenv("SLUICEMQ_SPARES_MAX", "4")
    monkeypatch.setenv("SLUICEMQ_CONNECTIONS_MAX", "400")
    found = effective("--config", str(file), "--spares-max", "5")
    assert found["spares_max"] == {"value": 5, "origin": "flag", "origin_name": "--spares-max"}
    assert found["connections_max"] == {
        "value": 400,
        "origin": "environment",
        "origin_name": "SLUICEMQ_CONNECTIONS_MAX",
    }
    assert found["drain_seconds"] == {"value": 3.5, "origin": "file", "origin_name": str(file)}
    assert found["node_id"] == {"value": 1, "origin": "default", "origin_name": ""}


def test_the_file_can_be_named_by_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "broker.toml"
    file.write_text('listen = "0.0.0.0:7777"\n[peers]\n1 = "a:7777"\n2 = "b:7650"\n')
    monkeypatch.setenv("SLUICEMQ_CONFIG", str(file))
    found = effective()
    assert found["listen"]["value"] == "0.0.0.0:7777"
    assert found["peers"]["value"] == {"1": "a:7777", "2": "b:7650"}


def test_config_shows_every_setting_to_people(tmp_path: Path) -> None:
    result = sluicemq("config", "--data", str(tmp_path))
    assert result.exit_code == 0
    for setting in SETTINGS:
        assert setting.name in result.stdout
    assert "--data" in result.stdout
    assert "64 MiB" in result.stdout


def test_check_only_says_that_all_is_right() -> None:
    result = sluicemq("config", "--check")
    assert (result.exit_code, result.stdout) == (0, "The settings are right.\n")


# --- what is refused -----------------------------------------------------------------------------------------------


def test_an_unknown_name_in_the_file_is_refused_with_the_nearest_right_one(tmp_path: Path) -> None:
    file = tmp_path / "broker.toml"
    file.write_text("segment_byte = 1\n")
    with pytest.raises(
        UnknownOption, match=r"broker\.toml: there is no setting 'segment_byte'; did you mean segment_bytes\?"
    ):
        read_settings_file(file)
    result = sluicemq("config", "--config", str(file))
    assert result.exit_code == 2
    assert "did you mean segment_bytes?" in result.stderr
    assert "Traceback" not in result.stderr


def test_an_unknown_variable_is_refused_with_the_nearest_right_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEMQ_NODEID", "4")
    result = sluicemq("config")
    assert result.exit_code == 2
    assert "did you mean SLUICEMQ_NODE_ID?" in result.stderr


def test_what_kubernetes_sets_unasked_is_no_setting() -> None:
    check_environment(
        [
            "SLUICEMQ_SERVICE_HOST",
            "SLUICEMQ_SERVICE_PORT",
            "SLUICEMQ_SERVICE_PORT_NATIVE",
            "SLUICEMQ_PORT",
            "SLUICEMQ_PORT_7650_TCP",
            "SLUICEMQ_PORT_7650_TCP_ADDR",
            "SLUICEMQ_URL",
            "PATH",
        ]
    )
    with pytest.raises(UnknownOption):
        check_environment(["SLUICEMQ_PORTS"])


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("node_id = 'one'", "setting node_id: 'one' is no whole number"),
        ("node_id = true", "must not be true or false"),
        ("segment_bytes = '64 parsecs'", "is no size"),
        ("drain_seconds = 'soon'", "is no number of seconds"),
        ("listen = 'localhost:port'", "is no address"),
        ("listen = 7650", "is no text"),
        ("peers = '1:a'", "names no peer"),
        ("peers = '1=a:1,1=b:1'", "peer 1 is named twice"),
        ("data = ''", "is no path"),
        ("data = [", "is no TOML"),
    ],
)
def test_a_wrong_value_in_the_file_is_named_with_file_and_setting(tmp_path: Path, text: str, complaint: str) -> None:
    file = tmp_path / "broker.toml"
    file.write_text(text)
    with pytest.raises(InvalidRequest, match=complaint) as caught:
        read_settings_file(file)
    assert str(file) in str(caught.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    result = sluicemq("config", "--config", str(tmp_path / "none.toml"))
    assert result.exit_code == 2
    assert "none.toml" in result.stderr


def test_a_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLUICEMQ_HEARTBEAT_SECONDS", "often")
    result = sluicemq("config")
    assert result.exit_code == 2
    assert "SLUICEMQ_HEARTBEAT_SECONDS: setting heartbeat_seconds: 'often' is no number of seconds" in result.stderr


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"node_id": 0}, "node_id"),
        ({"node_id": 65_536}, "node_id"),
        ({"listen": ("", 7650)}, "listen"),
        ({"segment_bytes": 64 * 1024 + 1}, "segment_bytes"),
        ({"segment_bytes": 4096}, "segment_bytes"),
        ({"spares_max": -1}, "spares_max"),
        ({"cache_bytes_max": 1}, "cache_bytes_max"),
        ({"connections_max": 0}, "connections_max"),
        ({"batch_bytes_max": 17 * MIB}, "batch_bytes_max"),
        ({"segment_bytes": MIB, "batch_bytes_max": MIB // 2}, "batch_bytes_max"),
        ({"batch_bytes_max": MIB, "message_bytes_max": MIB + 1}, "message_bytes_max"),
        ({"batch_messages_max": 0}, "batch_messages_max"),
        ({"frame_bytes_max": 4 * MIB}, "frame_bytes_max"),
        ({"heartbeat_seconds": 0}, "heartbeat_seconds"),
        ({"heartbeat_seconds": float("nan")}, "heartbeat_seconds"),
        ({"drain_seconds": -1}, "drain_seconds"),
        ({"switch_interval_seconds": 2}, "switch_interval_seconds"),
        ({"log_level": "loud"}, "log_level"),
        ({"log_format": "xml"}, "log_format"),
        ({"advertise": "a:0"}, "advertise"),
        ({"advertise": "0.0.0.0:7650"}, "advertise"),
        ({"advertise": "b:7650", "peers": {1: "127.0.0.1:7650"}}, "peers"),
        ({"peers": {1: "a:0"}}, "peers"),
        ({"peers": {2: "a:1"}}, "peers"),
        ({"peers": {1: "127.0.0.1", 2: "a:1", 3: "a:1"}}, "peers"),
        ({"peers": {1: "127.0.0.1", 2: "0.0.0.0:7651"}}, "peers"),
        ({"listen": ("0.0.0.0", 7650), "peers": {1: "0.0.0.0:7650", 2: "a"}}, "peers"),
        ({"peers": {0: "a:1", 1: "b:1"}}, "peers"),
        ({"peers": {1: "127.0.0.1:7651"}}, "peers"),
        ({"peers": {1: "10.0.0.1:7650"}}, "peers"),
        ({"peers": {1: "[::1]:7650"}}, "peers"),
        ({"listen": ("127.0.0.1", 0), "peers": {1: "127.0.0.1:7650"}}, "peers"),
        ({"listen": ("0.0.0.0", 7651), "peers": {1: "10.0.0.1:7650"}}, "peers"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(settings: dict[str, object], name: str) -> None:
    with pytest.raises(InvalidRequest, match=f"setting {name} is ") as caught:
        BrokerConfig.from_settings(settings)
    assert caught.value.setting == name


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "127.0.0.1:7650"),
        ({"listen": ("0.0.0.0", 7651), "peers": {1: "a:7651", 2: "b"}}, "a:7651"),
        ({"listen": ("0.0.0.0", 7651), "advertise": "a"}, "a:7650"),
        ({"listen": ("0.0.0.0", 7651), "advertise": "a:80", "peers": {1: "a:80", 2: "b"}}, "a:80"),
    ],
)
def test_the_address_that_others_are_told(settings: dict[str, Any], address: str) -> None:
    assert BrokerConfig.from_settings(settings).address == address


@pytest.mark.parametrize(
    ("listen", "own"),
    [
        (("127.0.0.1", 7650), "127.0.0.1:7650"),
        (("0.0.0.0", 7650), "10.0.0.1:7650"),
        (("::", 7650), "[fe80::1]:7650"),
        (("127.0.0.1", 7650), "localhost:7650"),
        (("broker-a", 7650), "10.0.0.1:7650"),
    ],
)
def test_peers_may_name_this_broker_in_every_way_that_may_be_its_listen_address(
    listen: tuple[str, int], own: str
) -> None:
    assert BrokerConfig.from_settings({"listen": listen, "peers": {1: own, 2: "b:1"}}).peers[1] == own


def test_a_setting_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UnknownOption, match="known are: data, listen"):
        BrokerConfig.from_settings({"xyzzy": 1})


# --- values --------------------------------------------------------------------------------------------------------


def test_small_segments_bring_small_batches_along() -> None:
    config = BrokerConfig(segment_bytes=MIB)
    assert config.batch_bytes_max == MIB // 2 - 64 * 1024
    assert config.message_bytes_max == config.batch_bytes_max * 15 // 16
    assert BrokerConfig().batch_bytes_max == BATCH_BYTES_DEFAULT == 4 * MIB
    assert BrokerConfig().message_bytes_max == MESSAGE_BYTES_DEFAULT == 4 * MIB - 64 * 1024


def test_a_large_batch_brings_the_largest_message_along() -> None:
    assert BrokerConfig(batch_bytes_max=16 * MIB).message_bytes_max == 8 * MIB
    assert BrokerConfig(batch_bytes_max=1024).message_bytes_max == 960


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("example.org:80", ("example.org", 80)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("localhost", ("localhost", 7650)),
        ("[::1]:7651", ("::1", 7651)),
        ("[fe80::1%eth0]", ("fe80::1%eth0", 7650)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address


@pytest.mark.parametrize("text", ["", ":7650", "a:b", "::1", "[::1", "a:65536", "a b:1"])
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_address(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (5, 5),
        ("5", 5),
        ("64KiB", 65536),
        ("1.5 mib", 3 * MIB // 2),
        ("2 GB", 2 * 10**9),
        ("1GiB", 1024 * MIB),
        ("3B", 3),
    ],
)
def test_sizes(text: object, size: int) -> None:
    assert parse_bytes(text) == size


def test_every_default_survives_being_shown_and_read_again() -> None:
    for name, value in BrokerConfig().settings().items():
        shown = format_setting(name, value)
        if shown:
            assert parse_setting(name, shown) == value


def test_every_setting_of_the_configuration_can_be_set() -> None:
    fields = set(BrokerConfig.__slots__) - {"host", "port"} | {"listen"}
    assert fields == {setting.name for setting in SETTINGS}
