"""Ctrl-C at any moment: nothing on the terminal, exit code 130, and what was begun is ended."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from tests.patience import WAIT_SECONDS

HELD_IMPORT = """
import signal, sys, time

class Held:
    def find_spec(self, name, path, target=None):
        if name == {held!r}:
            print("importing", flush=True)
            while True:  # a signal between the word and a single wait would be noticed after it: never
                time.sleep(0.05)

signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite in the background of a shell ignores it
sys.meta_path.insert(0, Held())
sys.argv = ["sluicemq", *{arguments!r}]
from sluicemq.broker.cli import main
main()
"""


BEGUN = """
import importlib, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)

def begin(*_arguments, **_options):
    print("interrupts clean up:", signal.getsignal(signal.SIGINT) is signal.default_int_handler)
    sys.exit(0)

module, name = {begins!r}
setattr(importlib.import_module(module), name, begin)
sys.argv = ["sluicemq", *{arguments!r}]
from sluicemq.broker.cli import main
main()
"""


def interrupted(program: str) -> tuple[int, str, str]:
    """Run *program*, interrupt it after its first line; return exit code, the rest of its output, and its errors."""
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=WAIT_SECONDS)
    return process.returncode, out, errors


@pytest.mark.parametrize(
    ("held", "arguments"),
    [
        ("click", ("--help",)),
        ("sluicemq.broker.commands.queue", ("queue", "ls")),
        ("trio", ("queue", "ls")),
        ("sluicemq.client", ("consume", "orders")),
        ("sluicemq.client", ("publish", "orders", "x")),
        ("sluicemq.broker.node", ("serve",)),
        ("sluicemq.broker.commands.benchmark.run", ("bench", "latency")),
        ("sluicemq.examples.first_look.demo", ("demo",)),
        ("sluicemq.broker.commands.log_files", ("log", "verify")),
        ("json", ("config", "--json")),
    ],
)
def test_an_interrupt_while_a_command_is_imported_ends_it_silently_with_130(
    held: str, arguments: tuple[str, ...]
) -> None:
    assert interrupted(HELD_IMPORT.format(held=held, arguments=arguments)) == (130, "", "")


@pytest.mark.parametrize(
    ("begins", "arguments"),
    [
        (("trio", "run"), ("queue", "ls")),
        (("trio", "run"), ("consume", "orders")),
        (("trio", "run"), ("publish", "orders", "x")),
        (("sluicemq.broker.node", "serve"), ("serve", "--listen", "127.0.0.1:0")),
        (("sluicemq.broker.commands.bench", "_broker"), ("bench", "latency")),
        (("sluicemq.examples.first_look.demo", "run_demo"), ("demo",)),
    ],
)
def test_what_connects_serves_or_starts_processes_is_left_in_good_order(
    begins: tuple[str, str], arguments: tuple[str, ...]
) -> None:
    program = BEGUN.format(begins=begins, arguments=arguments)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("interrupts clean up: True\n", "")


def test_a_command_that_has_begun_something_ends_it_before_it_goes() -> None:
    program = """
import signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)
from sluicemq.broker.commands.interrupts import clean_up_on_interrupt, end_at_once
end_at_once()
clean_up_on_interrupt()
try:
    print("working", flush=True)
    while True:
        time.sleep(0.05)
except KeyboardInterrupt:
    print("cleaned up")
"""
    assert interrupted(program) == (0, "cleaned up\n", "")


def test_who_was_started_with_interrupts_ignored_goes_on() -> None:
    program = """
import os, signal
signal.signal(signal.SIGINT, signal.SIG_IGN)
from sluicemq.broker.commands.interrupts import clean_up_on_interrupt, end_at_once
end_at_once()
clean_up_on_interrupt()
os.kill(os.getpid(), signal.SIGINT)
print("went on")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "went on\n"


def test_tests_and_programs_that_import_us_keep_their_own_handler() -> None:
    from sluicemq.broker.commands.interrupts import clean_up_on_interrupt

    before = signal.getsignal(signal.SIGINT)
    clean_up_on_interrupt()
    assert signal.getsignal(signal.SIGINT) is before
