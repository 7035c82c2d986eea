"""The manners of the command line: help, errors, exit codes."""

from __future__ import annotations

import json
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from sluicemq.broker.commands import program
from sluicemq.broker.commands.logs import start_logging
from sluicemq.broker.commands.manners import failure_of, print_table
from sluicemq.broker.config import BrokerConfig
from sluicemq.storage.errors import DirectoryLocked
from sluicemq.wire import errors

HEAVY_MODULES = ("trio", "rich", "anyio", "structlog", "asyncio", "sluicemq.client")


def sluicemq(*arguments: str) -> Result:
    return CliRunner().invoke(program.command, arguments)


def all_commands() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    context = click.Context(program.command)
    for name in program.command.list_commands(context):
        one = program.command.get_command(context, name)
        assert one is not None
        found.append((name,))
        if isinstance(one, click.Group):
            found += [(name, inner) for inner in sorted(one.commands)]
    return found


@pytest.mark.parametrize("path", all_commands(), ids=" ".join)
def test_every_command_explains_itself(path: tuple[str, ...]) -> None:
    for flag in ("--help", "-h"):
        result = sluicemq(*path, flag)
        assert result.exit_code == 0
        assert result.stdout.startswith("Usage: ")
        assert len(result.stdout.splitlines()) > 4


def test_every_command_can_answer_in_json() -> None:
    without = {(), ("serve",), ("run",), ("bench", "worker")}
    for path in all_commands():
        groups = ("queue", "topic", "delayed", "policy", "schedule", "dead-letter", "transaction", "cluster", "log")
        is_group_only = path in {(group,) for group in groups}
        if path not in without and not is_group_only:
            assert "--json" in sluicemq(*path, "--help").stdout, path


def test_commands_that_talk_to_a_broker_take_a_url() -> None:
    for path in [
        ("publish",),
        ("consume",),
        ("bench", "publish"),
        *(("queue", name) for name in ("ls", "show", "peek")),
    ]:
        assert "--url" in sluicemq(*path, "--help").stdout, path


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        "from sluicemq.broker.commands.program import command\n"
        "command.main(['--help'], standalone_mode=False)\n"
        f"heavy = [name for name in {HEAVY_MODULES!r} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_misspelt_command_is_answered_with_the_right_one() -> None:
    result = sluicemq("consum")
    assert result.exit_code == 2
    assert "there is no command 'consum'; did you mean consume?" in result.stderr


@pytest.mark.parametrize(
    ("error", "exit_code"),
    [
        (errors.QueueNotFound("there is no queue 'x'"), 4),
        (errors.ConnectionFailed("nobody listens on 127.0.0.1:1"), 3),
        (errors.HeartbeatLost("silence"), 3),
        (errors.InvalidRequest("too long"), 2),
        (errors.RequestTimeout("no answer"), 1),
        (errors.Conflict("no"), 1),
        (DirectoryLocked("/data", 17), 1),
        (FileNotFoundError(2, "there is no such file", "x"), 1),
        (ExceptionGroup("", [errors.QueueNotFound("there is no queue 'x'")]), 4),
    ],
)
def test_a_typed_error_becomes_one_line_and_an_exit_code(error: Exception, exit_code: int) -> None:
    failure = failure_of(error)
    assert failure is not None
    assert failure.exit_code == exit_code
    inner = error.exceptions[0] if isinstance(error, ExceptionGroup) else error
    assert str(inner.strerror if isinstance(inner, FileNotFoundError) else inner) in failure.format_message()


def test_a_bug_keeps_its_traceback() -> None:
    assert failure_of(ZeroDivisionError()) is None
    assert failure_of(ExceptionGroup("", [errors.Conflict("a"), errors.Conflict("b")])) is None


def run_raising(monkeypatch: pytest.MonkeyPatch, error: BaseException, *options: str) -> Result:
    @click.command(name="config")
    def raising() -> None:
        raise error

    monkeypatch.setattr("sluicemq.broker.commands.config.command", raising)
    return sluicemq(*options, "config")


def test_errors_leave_no_traceback_unless_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    result = run_raising(monkeypatch, errors.QueueNotFound("there is no queue 'x'"))
    assert result.exit_code == 4
    assert result.stderr == "sluicemq: there is no queue 'x'\n"
    assert result.stdout == ""
    result = run_raising(monkeypatch, errors.QueueNotFound("there is no queue 'x'"), "--debug")
    assert isinstance(result.exception, errors.QueueNotFound)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("", [KeyboardInterrupt()])])
def test_an_interrupt_ends_silently_with_130(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    result = run_raising(monkeypatch, error)
    assert (result.exit_code, result.stdout, result.stderr) == (130, "", "")


def test_a_reader_that_went_away_is_no_error() -> None:
    program = "import os, sys\nfrom sluicemq.broker.commands.program import command\ncommand.main(['config'])\n"
    reading, writing = socket.socketpair()
    reading.close()
    with writing:
        done = subprocess.run(
            [sys.executable, "-c", program], stdout=writing.fileno(), stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.stderr == ""


def test_a_broker_that_is_not_there_is_exit_code_3(silent_port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sluicemq.broker.commands.asking.CONNECT_SECONDS", 0.2)
    result = sluicemq("queue", "ls", "--url", f"sluicemq://127.0.0.1:{silent_port}")

    assert result.exit_code == 3, result.stderr
    assert f"127.0.0.1:{silent_port}" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port at which nobody listens, nor will: it is taken, and whoever calls is refused."""
    with socket.socket() as keeper:
        keeper.bind(("127.0.0.1", 0))
        yield keeper.getsockname()[1]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["publish", "q"], "give BODY, or --file, or --lines"),
        (["publish", "q", "body", "--lines"], "give BODY, or --file, or --lines"),
        (["publish", "q", "--lines", "--message-id", "1"], "--message-id is for a single message"),
        (["publish", "q", "body", "--header", "novalue"], "write NAME=VALUE"),
        (["publish", "q", "body", "--delay", "1h", "--at", "2030-01-01T00:00Z"], "give --delay or --at, not both"),
        (["publish", "q", "body", "--delay", "soon"], "'soon' is no duration: write seconds, or 90m"),
        (["publish", "q", "body", "--ttl", "-5"], "'-5' is no duration"),
        (["publish", "q", "body", "--at", "tomorrow"], "'tomorrow' is no time: write 2026-12-24T18:00"),
        (["publish", "q", "body", "--priority", "10"], "10 is not in the range 0<=x<=9"),
        (["consume", "q", "--peek", "--follow"], "cannot --follow"),
        (["queue", "declare", "q", "--set", "retry_dely=1"], "did you mean retry_delay?"),
        (["queue", "declare", "q", "--set", "retry_delay"], "write NAME=VALUE"),
        (["queue", "declare", "q", "--set", "retry_delay=long"], "retry_delay is 'long'"),
        (["log", "dump", "--kind", "publsh"], "did you mean publish?"),
        (["log", "dump", "--from", "17"], "write EPOCH.COUNTER"),
        (["bench", "publish", "--backend", "curio"], "curio"),
    ],
)
def test_wrong_usage_is_exit_code_2(arguments: list[str], complaint: str) -> None:
    result = sluicemq(*arguments)
    assert result.exit_code == 2
    assert complaint in result.stderr
    assert "Traceback" not in result.stderr


def test_serve_hands_its_settings_to_the_broker_and_its_exit_code_to_the_shell(monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[BrokerConfig] = []

    def serve(config: BrokerConfig) -> int:
        served.append(config)
        return 7

    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    monkeypatch.setattr("sluicemq.broker.node.serve", serve)
    try:
        result = sluicemq("serve", "--data", "here", "--listen", "[::1]:0", "--segment-bytes", "1MiB", "--node-id", "3")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    assert result.exit_code == 7
    assert served == [BrokerConfig(data=Path("here"), host="::1", port=0, segment_bytes=2**20, node_id=3)]


def test_tables_are_plain_columns_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name", "ready", "whole"), [("a", 1_000_000, True), ("[red]bcd", None, False)], title="Queues")
    assert capsys.readouterr().out.splitlines() == [
        "Queues",
        "name        ready  whole",
        "a         1000000    yes",
        "[red]bcd              no",
    ]


def test_a_line_of_the_log_in_both_forms(capsys: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        start_logging("info", "json")
        logging.getLogger("sluicemq.test").info("said %d", 3)
        logging.getLogger("sluicemq.test").debug("unsaid")
        start_logging("warning", "text")
        logging.getLogger("sluicemq.test").warning("said again")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    first, second = capsys.readouterr().err.splitlines()
    found = json.loads(first)
    assert (found["level"], found["logger"], found["text"]) == ("info", "sluicemq.test", "said 3")
    assert found["time"].endswith("Z")
    assert second.endswith("Z warning sluicemq.test said again")


def test_the_version_is_that_of_the_package() -> None:
    result = sluicemq("--version")
    if isinstance(result.exception, RuntimeError):
        pytest.skip("the package is not installed: tools/environment dev")
    assert result.stdout.startswith("sluicemq, version ")


def test_no_command_leaves_the_place_where_data_lies(tmp_path: Path) -> None:
    result = sluicemq("log", "verify", "--data", str(tmp_path / "none"))
    assert result.exit_code == 1
    assert "there is no such data directory" in result.stderr
    assert not (tmp_path / "none").exists()
