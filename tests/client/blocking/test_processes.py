"""The blocking client and its process: forks, Ctrl-C, and an end in the middle of things."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap

import pytest

from sluicemq.client.blocking import connect
from sluicemq.client.blocking.io_thread import _Call
from sluicemq.client.errors import ClientForked
from tests.e2e.running import broker as broker

PROGRAM_SECONDS_MAX = 60
CHILD_SECONDS_MAX = 60


def program(broker, text, *, first_line=""):
    """Start a program that finds `client`, open; return the process."""
    head = f"""
        import signal, sys, threading
        from sluicemq.client.blocking import connect
        client = connect({broker.url!r}).open()
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(head) + textwrap.dedent(text)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def said(process, code=0):
    out, err = process.communicate(timeout=PROGRAM_SECONDS_MAX)
    assert process.returncode == code, err
    return out


def test_a_program_that_just_ends_has_sent_and_settled_everything(broker):
    process = program(
        broker,
        """
        client.declare_queue("exit")
        client.send("exit", b"handled")
        consumer = client.consumer("exit").__enter__()
        next(consumer).ack()
        producer = client.producer("exit").__enter__()
        for number in range(2_000):
            producer.submit(b"%d" % number)
        """,
    )
    assert said(process) == ""
    with connect(broker.url) as client:
        info = client.queue_info("exit")
        assert (info["ready"], info["leased"], info["settled_total"]) == (2_000, 0, 1)


def test_a_finalizer_that_runs_after_all_threads_have_ended_is_refused_and_does_not_hang(broker):
    process = program(
        broker,
        """
        client.declare_queue("farewell")

        class Farewell:
            def __del__(self):
                for last in (lambda: client.send("farewell", b"bye"), lambda: connect("sluicemq://127.0.0.1:1").open()):
                    try:
                        last()
                    except Exception as error:
                        print(type(error).__name__)

        farewell = Farewell()
        farewell.itself = farewell
        """,
    )
    assert said(process) == "ClientClosed\nClientClosed\n"


def test_ctrl_c_when_a_batch_has_come_already_gives_it_back_at_once(broker, monkeypatch):
    def interrupted(call):
        raise KeyboardInterrupt

    with connect(broker.url) as client:
        client.declare_queue("arrived")
        client.send("arrived", b"x")
        with client.consumer("arrived") as consumer:
            with monkeypatch.context() as patch:
                patch.setattr(_Call, "outcome", interrupted)
                with pytest.raises(KeyboardInterrupt):
                    consumer.receive()
            with consumer.receive() as batch:
                assert [(message.body, message.attempt) for message in batch] == [(b"x", 1)]


def test_ctrl_c_interrupts_a_thread_that_waits_for_a_message_and_loses_nothing(broker):
    process = program(
        broker,
        """
        client.declare_queue("interrupted")
        with client.consumer("interrupted") as consumer:
            for waits in (lambda: next(consumer), consumer.receive):
                try:
                    print("waiting", flush=True)
                    waits()
                except KeyboardInterrupt:
                    print("interrupted", flush=True)
            client.send("interrupted", b"x")
            print(next(consumer).body, flush=True)
        """,
    )
    for _ in range(2):
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "interrupted\n"
    assert said(process) == "b'x'\n"


@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_every_call_of_a_child_fails_at_once_and_the_parent_goes_on(broker):
    with connect(broker.url) as client:
        client.declare_queue("forked")
        with client.producer("forked") as producer, client.consumer("forked") as consumer:
            producer.send_many([b"1", b"2", b"3"])
            message = next(consumer)
            submitted = producer.submit(b"4")
            submitted.result()
            reader, writer = os.pipe()
            child = os.fork()
            if not child:
                signal.alarm(CHILD_SECONDS_MAX)
                calls = [
                    client.queues,
                    lambda: client.send("forked", b"x"),
                    lambda: producer.send(b"x"),
                    lambda: producer.submit(b"x"),
                    lambda: producer.send_many([b"x"]),
                    producer.flush,
                    lambda: next(consumer),
                    consumer.receive,
                    consumer.drain,
                    message.ack,
                    lambda: message.ack(confirm=True),
                    lambda: connect(broker.url).open().queues(),
                ]
                said = []
                for call in calls:
                    try:
                        call()
                        said.append("nothing")
                    except Exception as error:
                        said.append(type(error).__name__)
                for leave in (consumer.__exit__, producer.__exit__, client.__exit__):
                    leave(None, None, None)
                os.write(writer, " ".join(said).encode())
                os._exit(0)
            os.close(writer)
            with os.fdopen(reader, "rb") as result:
                words = result.read().decode().split()
            os.waitpid(child, 0)
            assert words == [ClientForked.__name__] * 11 + ["nothing"]
            message.ack(confirm=True)
            assert [next(consumer).body for _ in range(3)] == [b"2", b"3", b"4"]
            producer.send(b"from the parent")
