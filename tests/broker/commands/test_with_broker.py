"""The commands against a real broker, as a person at a shell or a script uses them."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from sluicemq.broker.commands import processes
from sluicemq.broker.commands.manners import Failure
from sluicemq.broker.commands.processes import SELF, OwnBroker
from sluicemq.client import connect
from sluicemq.wire.settings import QUEUE_SETTINGS_DEFAULT
from tests.patience import WAIT_SECONDS

SECONDS_MAX = 60
TRIES_MAX = 10


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patient:
        patient.setattr(processes, "START_SECONDS_MAX", 2 * WAIT_SECONDS)
        with OwnBroker(tmp_path_factory.mktemp("broker") / "data") as broker:
            yield broker.url


class Shell:
    """Runs `sluicemq` with the broker's address in the environment."""

    def __init__(self, url: str) -> None:
        import os

        self.environment = {**os.environ, "SLUICEMQ_URL": url}

    def run(self, *arguments: str, give: bytes = b"", expect: int = 0) -> bytes:
        done = subprocess.run(
            [*SELF, *arguments], input=give, env=self.environment, capture_output=True, timeout=SECONDS_MAX, check=False
        )
        self.errors = done.stderr.decode()
        assert done.returncode == expect, (arguments, done.returncode, self.errors)
        assert "Traceback" not in self.errors
        return done.stdout

    def take(self, queue: str, messages: int, *options: str) -> bytes:
        """Consume a queue until so many lines came: a command ends once nothing came for a moment, which a broker on a
        busy machine may take to answer.
        """
        taken = b""
        for _ in range(TRIES_MAX):
            taken += self.run("consume", queue, *options)
            if taken.count(b"\n") >= messages:
                break
        return taken

    def json(self, *arguments: str, give: bytes = b"") -> Any:
        return json.loads(self.run(*arguments, "--json", give=give))

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*SELF, *arguments],
            env=self.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )


@pytest.fixture
def shell(url: str) -> Shell:
    return Shell(url)


def test_a_message_goes_in_and_comes_out(shell: Shell) -> None:
    assert shell.run("queue", "declare", "greetings") == b"greetings: created\n"
    position = shell.run("publish", "greetings", "hello world").decode().strip()
    assert shell.run("consume", "greetings", "--peek") == b"hello world\n"
    [found] = [json.loads(line) for line in shell.take("greetings", 1, "--json").splitlines()]
    assert (found["body"], found["position"], found["attempt"]) == ("hello world", position, 1)
    assert shell.run("consume", "greetings", "--timeout", "0.1") == b""
    assert shell.json("queue", "show", "greetings")["settled_total"] == 1


def test_what_accompanies_a_message_arrives_with_it(shell: Shell, tmp_path: Path) -> None:
    picture = tmp_path / "picture"
    picture.write_bytes(b"\xff\xd8\n\n")
    sent = shell.json(
        *("publish", "pictures", "--declare", "--file", str(picture)),
        *("--key", "k-1", "--header", "kind=jpeg", "--header", "empty=", "--message-id", "m-1"),
    )
    assert (sent["message_id"], sent["duplicate"]) == ("m-1", False)
    assert b"kind='jpeg'" in shell.run("consume", "pictures", "--peek", "--format", "full")
    found = shell.json("consume", "pictures", "--count", "1", "--timeout", str(SECONDS_MAX))
    assert found["body_encoding"] == "base64"
    assert found["body"] == "/9gKCg=="
    assert (found["key"], found["headers"], found["message_id"]) == ("k-1", {"kind": "jpeg", "empty": ""}, "m-1")


def test_every_line_becomes_a_message_and_keeps_its_place(shell: Shell) -> None:
    lines = b"".join(b"line %d\n" % number for number in range(5000)) + b"\nlast without an end"
    sent = shell.json("publish", "lines", "--declare", "--lines", "--batch", "300", give=lines)
    assert sent["messages"] == 5002
    assert sent["last_position"] != sent["first_position"]
    first = shell.run("consume", "lines", "--count", "1501", "--timeout", str(SECONDS_MAX))
    rest = shell.take("lines", 5002 - 1501)
    assert first + rest == lines + b"\n"


def test_lines_of_a_file(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "lines.txt"
    file.write_bytes(b"a\nb\n")
    assert shell.run("publish", "file", "--declare", "--lines", "--file", str(file)).startswith(b"published 2 messages")
    assert shell.take("file", 2) == b"a\nb\n"


def test_nothing_in_nothing_out(shell: Shell) -> None:
    assert shell.json("publish", "nothing", "--declare", "--lines")["messages"] == 0
    assert shell.run("consume", "nothing", "--timeout", "0.1") == b""
    shell.run("consume", "nothing", "--timeout", "0.1", "--count", "2", expect=1)
    assert shell.errors == "sluicemq: only 0 of 2 messages came\n"


def test_an_unknown_queue_is_exit_code_4(shell: Shell) -> None:
    for arguments in (
        ["publish", "unknown", "x"],
        ["consume", "unknown"],
        ["consume", "unknown", "--peek"],
        *(["queue", action, "unknown"] for action in ("show", "delete", "purge", "peek")),
    ):
        shell.run(*arguments, expect=4)
        assert len(shell.errors.splitlines()) == 1
        assert "unknown" in shell.errors


def test_a_queue_from_its_declaration_to_its_end(shell: Shell) -> None:
    declared = shell.json("queue", "declare", "life", "--set", "retry_delay=2.5")
    assert declared["outcome"] == "created"
    changed = shell.run("queue", "declare", "life", "--set", "retry_delay=3")
    assert changed == b"life: changed\n  retry_delay: 2.5 -> 3.0\n"
    assert shell.json("queue", "declare", "life")["outcome"] == "unchanged"
    shell.run("publish", "life", "--lines", give=b"one\ntwo\nthree\n")
    peeked = shell.run("queue", "peek", "life", "--skip", "1", "--json").splitlines()
    assert [json.loads(line)["body"] for line in peeked] == ["two", "three"]
    assert b"one" in shell.run("queue", "peek", "life", "--count", "1")
    listed = {queue["name"]: queue for queue in shell.json("queue", "ls")}
    assert (listed["life"]["ready"], listed["life"]["settings"]) == (3, {**QUEUE_SETTINGS_DEFAULT, "retry_delay": 3.0})
    names = [line.split()[0] for line in shell.run("queue", "ls").splitlines()]
    assert names[0] == b"name"
    assert b"life" in names
    shown = [line.split() for line in shell.run("queue", "show", "life").splitlines()]
    assert [b"setting", b"retry_delay", b"3.0"] in shown
    shell.run("queue", "delete", "life", "--if-empty", expect=1)
    assert shell.json("queue", "purge", "life") == {"name": "life", "messages": 3}
    assert shell.run("queue", "delete", "life", "--if-empty") == b"life: deleted with 0 messages\n"


def test_a_follower_gets_what_comes_later_and_ends_on_ctrl_c(shell: Shell) -> None:
    shell.run("queue", "declare", "followed")
    follower = shell.start("consume", "followed", "--follow")
    with follower:
        assert follower.stdout is not None
        assert follower.stderr is not None
        for word in ("first", "second"):
            shell.run("publish", "followed", word)
            assert follower.stdout.readline() == word.encode() + b"\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(SECONDS_MAX) == 130
        assert (follower.stdout.read(), follower.stderr.read()) == (b"", b"")


def test_lines_are_sent_as_they_come(shell: Shell) -> None:
    shell.run("queue", "declare", "trickle")
    publisher, follower = shell.start("publish", "trickle", "--lines"), shell.start("consume", "trickle", "--follow")
    with publisher, follower:
        assert publisher.stdin is not None
        assert follower.stdout is not None
        for word in (b"drip\n", b"drop\n"):
            publisher.stdin.write(word)
            publisher.stdin.flush()
            assert follower.stdout.readline() == word
        publisher.stdin.close()
        assert publisher.wait(SECONDS_MAX) == 0
        follower.terminate()


def test_a_reader_that_goes_away_ends_consuming_silently(shell: Shell) -> None:
    shell.run("publish", "pipe", "--declare", "--lines", give=b"x" * 200 + b"\n" + b"y" * 99 + b"\n" * 3000)
    consumer = shell.start("consume", "pipe", "--timeout", str(SECONDS_MAX))
    with consumer:
        assert consumer.stdout is not None
        assert consumer.stderr is not None
        consumer.stdout.close()
        assert consumer.wait(SECONDS_MAX) == 1
        assert consumer.stderr.read() == b""
    assert shell.json("queue", "show", "pipe")["ready"] > 0, "what nobody could read is still there"


def test_a_running_brokers_log_can_be_looked_at(tmp_path: Path) -> None:
    with OwnBroker(tmp_path / "data") as broker:
        shell = Shell(broker.url)
        shell.run("publish", "seen", "--declare", "--lines", give=b"1\n2\n")
        found = shell.json("log", "verify", "--data", str(tmp_path / "data"))
        assert found["ok"] is True
        assert found["served_by_process"] > 0
        assert b"publish        queue=seen" in shell.run("log", "dump", "--data", str(tmp_path / "data"))
        with pytest.raises(Failure, match="did not start"), OwnBroker(tmp_path / "data"):
            pass
    assert shell.json("log", "verify", "--data", str(tmp_path / "data"))["served_by_process"] is None


@pytest.mark.parametrize("backend", ["trio", "asyncio"])
@pytest.mark.parametrize(
    "mode", [["publish"], ["send"], ["consume"], ["consume", "--each"], ["through"], ["latency"]], ids=" ".join
)
def test_a_benchmark_counts_what_it_says(shell: Shell, url: str, mode: list[str], backend: str) -> None:
    figures = shell.json("bench", *mode, "--url", url, "--backend", backend, "--seconds", "0.5")
    assert figures["messages"] > 0
    assert figures["messages_per_second"] == pytest.approx(figures["messages"] / figures["seconds"])
    assert figures["fsyncs"] > 0
    assert figures["broker_cpu_seconds_per_million"] > 0
    assert not [queue for queue in shell.json("queue", "ls") if queue["name"].startswith("bench-")]


def test_a_benchmark_of_so_many_messages(shell: Shell, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, *SELF[1:], "bench", "latency", "--messages", "20", "--json"],
        cwd=tmp_path,
        capture_output=True,
        timeout=SECONDS_MAX,
        check=True,
    )
    figures = json.loads(done.stdout)
    assert figures["messages"] == 20
    assert figures["bare_sync_p50_seconds"] > 0
    assert list(tmp_path.iterdir()) == [], "the own broker's data is gone"


def test_what_was_taken_is_read_again_from_a_time_or_a_position_on(shell: Shell) -> None:
    shell.run("queue", "declare", "kept", "--set", 'retention={"seconds": 3600, "bytes": 1000000}')
    shell.run("publish", "kept", "--lines", give=b"one\ntwo\nthree\n")
    assert shell.run("consume", "kept", "--count", "3", "--timeout", str(SECONDS_MAX)) == b"one\ntwo\nthree\n"

    assert shell.run("consume", "kept", "--from", "start") == b"one\ntwo\nthree\n"
    assert shell.run("consume", "kept", "--from", "-1h", "--count", "2") == b"one\ntwo\n"
    assert shell.run("consume", "kept", "--from", "now") == b""
    places = [
        json.loads(line)["position"] for line in shell.run("consume", "kept", "--from", "-1h", "--json").splitlines()
    ]
    assert shell.run("consume", "kept", "--from", places[1]) == b"two\nthree\n"
    assert shell.run("consume", "kept", "--from", "start", "--to", places[1]) == b"one\n"
    assert shell.take("kept", 1, "--from", places[2], "--follow", "--timeout", "0.2") == b"three\n"

    state = shell.json("queue", "show", "kept")
    assert (state["ready"], state["retained"]) == (0, 3)
    assert b"oldest retained" in shell.run("queue", "show", "kept")

    following = shell.start("consume", "kept", "--from", places[2], "--follow", "--count", "2")
    shell.run("publish", "kept", "four")
    out, errors = following.communicate(timeout=SECONDS_MAX)
    assert (out, following.returncode) == (b"three\nfour\n", 0), errors


def test_why_nothing_can_be_read_again(shell: Shell) -> None:
    shell.run("queue", "declare", "forgetful")
    shell.run("consume", "forgetful", "--from", "start", expect=1)
    assert "declare it with the setting retention" in shell.errors
    shell.run("publish", "forgetful", "gone")
    shell.run("queue", "declare", "forgetful", "--set", 'retention={"seconds": 60}')
    shell.run("consume", "forgetful", "--from", "-1h", expect=4)
    assert "the oldest position that it retains" in shell.errors
    shell.run("consume", "forgetful", "--from", "soon", expect=2)
    assert "neither a position" in shell.errors
    shell.run("consume", "forgetful", "--to", "now", expect=2)
    shell.run("consume", "forgetful", "--peek", "--from", "start", expect=2)


def test_a_message_for_later_waits_and_arrives(shell: Shell) -> None:
    shell.run("publish", "later", "soon", "--declare", "--delay", "100ms")
    shell.run("publish", "later", "--lines", "--at", "2099-12-24T18:00Z", give=b"one\ntwo\n")
    shell.run("publish", "later", "next year", "--delay", "52w")
    assert shell.run("consume", "later", "--count", "1", "--timeout", str(SECONDS_MAX)) == b"soon\n"
    (found,) = [queue for queue in shell.json("queue", "ls") if queue["name"] == "later"]
    assert (found["ready"], found["delayed"]) == (0, 3)


def test_prepared_messages_are_listed_shown_and_decided(shell: Shell) -> None:
    shell.run("queue", "declare", "prepared")

    async def prepare() -> list[str]:
        names = []
        async with connect(shell.environment["SLUICEMQ_URL"]) as client:
            for body in (b"first", b"second"):
                half = client.prepare("prepared", body, key="42", check="shop", check_after=3600.0)
                await half.__aenter__()
                names.append(half.id)
        return names

    first, second = trio.run(prepare)
    rows = [json.loads(line) for line in shell.run("transaction", "ls", "--group", "shop", "--json").splitlines()]
    assert [(row["transaction"], row["state"], row["members"]) for row in rows] == [
        (first, "prepared", 0),
        (second, "prepared", 0),
    ]
    assert first.encode() in shell.run("transaction", "ls")
    assert shell.run("transaction", "ls", "--parked", "--json") == b""
    assert b"first" in shell.run("transaction", "show", first)
    assert shell.json("transaction", "show", first)["contents"][0]["key"] == "42"
    assert shell.run("transaction", "commit", first) == f"{first} committed\n".encode()
    assert shell.run("transaction", "commit", first) == f"{first} was committed before\n".encode()
    assert shell.json("transaction", "rollback", second)["committed"] is False
    shell.run("transaction", "rollback", first, expect=1)
    assert "was committed before, and that holds" in shell.errors
    assert b"rolled_back" in shell.run("transaction", "show", second)
    assert shell.take("prepared", 1) == b"first\n"


def test_dead_letters_are_listed_shown_tried_again_and_dropped(shell: Shell) -> None:
    shell.run("queue", "declare", "small", "--set", "max_length=1", "--set", "overflow=dead_letter")
    for body in ("first", "second", "third"):
        shell.run("publish", "small", body, "--key", body[0])
    shown = shell.run("dead-letter", "ls", "small").decode()
    assert shown.count("overflow") == 2, "both are said to have died of it"
    letters = [json.loads(line) for line in shell.run("dead-letter", "ls", "small", "--json").splitlines()]
    assert [(one["body"], one["reason"], one["origin"]) for one in letters] == [
        ("first", "overflow", "small"),
        ("second", "overflow", "small"),
    ]
    assert b"second" in shell.run("dead-letter", "show", "small", letters[1]["position"])
    assert shell.run("dead-letter", "ls", "small", "--key", "x", "--json") == b""
    assert shell.run("dead-letter", "redrive", "small", "--older-than", "1d") == b"small: 0 dead letters tried again\n"
    shell.run("queue", "declare", "large")
    assert shell.json("dead-letter", "redrive", "small", "--key", "f", "--to", "large", "--rate", "100") == {
        "queue": "small",
        "messages": 1,
    }
    assert shell.take("large", 1) == b"first\n"
    assert shell.run("dead-letter", "discard", "small", "--yes") == b"small: 1 dead letters dropped\n"
    assert shell.json("queue", "show", "small")["dead"] == 0
    shell.run("dead-letter", "show", "small", letters[1]["position"], expect=1)
