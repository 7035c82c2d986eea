"""What others take of the machine is told apart from what a run takes itself, its servers included."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from bench import others
from bench.servers import usage_of

BUSY_SECONDS = 0.3


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """Return what the machine has counted so far; tests add to it."""
    machine = SimpleNamespace(user=100.0, nice=0.0, system=50.0, steal=0.0, idle=1000.0)
    monkeypatch.setattr("psutil.cpu_times", lambda: machine)
    monkeypatch.setattr(others, "_kernel_seconds", lambda: 0.0)
    return machine


def test_what_processes_of_the_run_work_is_not_others(counted: SimpleNamespace) -> None:
    watch = others.Others()
    before = usage_of(os.getpid()).cpu_seconds
    subprocess.run([sys.executable, "-c", f"import time\nwhile time.process_time() < {BUSY_SECONDS}: pass"], check=True)
    counted.user += usage_of(os.getpid()).cpu_seconds - before
    assert watch.processors() < 0.1


def test_what_strangers_and_the_hypervisor_take_is_others(counted: SimpleNamespace) -> None:
    began = time.monotonic()
    watch = others.Others()
    counted.system += 100.0
    counted.steal += 20.0
    counted.idle += 500.0
    assert watch.processors() > 100.0 / (time.monotonic() - began)
