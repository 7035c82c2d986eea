"""`sluicemq run`: an app as a process, its signals, its mistakes, and --reload."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from sluicemq.client.blocking import connect
from tests.e2e.running import broker as broker
from tests.postgres import library

PROCESS_SECONDS_MAX = 60

SERVICE = """
import os, sys, time
import anyio
from sluicemq.client import App

app = App()

@app.on_startup
def up():
    print("up", flush=True)

@app.consumer("{queue}")
async def handle(text: str):
    print(text, flush=True)
    if text == "slow":
        await anyio.to_thread.run_sync(sys.stdin.readline)
        print("slow is done", flush=True)
    if text == "stuck":
        time.sleep(60)

@app.on_shutdown
def down():
    print("down", flush=True)
"""


@pytest.fixture
def client(broker):
    with connect(broker.url) as client:
        yield client


@pytest.fixture
def start(broker, tmp_path):
    """Start `sluicemq run` beside a module `service.py` with this text."""
    started = []

    def run(text, *arguments):
        (tmp_path / "service.py").write_text(text)
        process = subprocess.Popen(
            [sys.executable, "-m", "sluicemq.broker.cli", "run", *(arguments or ("service:app",))],
            cwd=tmp_path,
            env=os.environ | {"SLUICEMQ_URL": broker.url},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield run
    for process in started:
        process.kill()
        process.communicate()


def lines(process, count):
    return [process.stdout.readline().strip() for _ in range(count)]


def says(process, words):
    """Wait until the process says so; False if it ends without."""
    return any(words in line for line in iter(process.stderr.readline, ""))


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_lets_the_app_drain(start, client, backend, number):
    queue = f"drain-{backend}-{number}"
    process = start(SERVICE.format(queue=queue), "service:app", "--backend", backend)
    assert lines(process, 1) == ["up"]
    client.declare_queue(queue)
    with client.producer(queue) as producer:
        producer.send_many([b"slow", b"never"])
    assert lines(process, 1) == ["slow"]
    process.send_signal(number)
    assert says(process, "draining because of")
    out, err = process.communicate("go on\n", timeout=PROCESS_SECONDS_MAX)
    assert process.returncode == 0, err
    assert out.split("\n")[:2] == ["slow is done", "down"]
    assert [message.body for message in client.peek(queue)] == [b"never"]


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_second_signal_ends_at_once_what_blocks_the_event_loop(start, client, backend):
    queue = f"stuck-{backend}"
    process = start(SERVICE.format(queue=queue), "service:app", "--backend", backend)
    assert lines(process, 1) == ["up"]
    client.declare_queue(queue)
    client.send(queue, b"stuck")
    assert lines(process, 1) == ["stuck"]
    process.terminate()
    assert says(process, "draining because of")
    began = time.monotonic()
    process.terminate()
    assert process.wait(PROCESS_SECONDS_MAX) == -signal.SIGTERM
    assert time.monotonic() - began < 30  # the handler would take 60


@pytest.mark.parametrize(
    ("text", "target", "says"),
    [
        ("", "service", "MODULE:APP"),
        ("", "nowhere:app", "no module 'nowhere'"),
        ("", "service:app", "has no 'app'"),
        ("app = 7", "service:app", "no App but of the type int"),
        ("import nothing_like_this", "service:app", "ModuleNotFoundError"),
        ("", "--reload-dir . service:app", "give both"),
    ],
)
def test_a_target_that_is_no_app_is_refused_in_words(start, text, target, says):
    process = start(text, *target.split())
    _, err = process.communicate(timeout=PROCESS_SECONDS_MAX)
    assert process.returncode != 0
    assert says in err


def test_a_change_starts_the_app_anew_also_after_a_mistake(start, tmp_path):
    library("watchfiles")
    unwatched = tmp_path.with_name(f"{tmp_path.name}.py")

    def rewrite(text):
        unwatched.write_text(text)
        unwatched.replace(tmp_path / "service.py")  # in one step: two would start the app twice if they lie apart

    text = SERVICE.format(queue="reloaded")
    process = start(text, "service:app", "--reload")
    assert lines(process, 1) == ["up"]
    rewrite(text.replace('"up"', '"up again"'))
    assert lines(process, 2) == ["down", "up again"]
    rewrite("this is a mistake")
    assert lines(process, 1) == ["down"]
    assert says(process, "started anew when a file changes")
    rewrite(text)
    assert lines(process, 1) == ["up"]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PROCESS_SECONDS_MAX)
    assert (process.returncode, out) == (0, "down\n"), err
