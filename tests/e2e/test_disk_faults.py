"""A bad disk and a full one, on the real process: what of `disk_faults` takes seconds and needs no root."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import needs
from tests.e2e.disk_faults import (
    FAULTS,
    SYNC_CALLS,
    WRITE_CALLS,
    Fault,
    judge_confirms,
    judge_end,
    judge_trace,
    publish,
    run_fault,
    tracing_everything,
)
from tests.e2e.mutants import program_of
from tests.e2e.small_disk import EXIT_IMPOSSIBLE, namespace_command
from tests.e2e.test_no_confirm_before_sync import skip_where_nothing_can_be_traced

if TYPE_CHECKING:
    from tests.e2e.conftest import StartBroker

STRACE_NEEDED = needs("strace", "apt-get install strace")
QUICK = ("sync of the log, EIO", "write to the log, ENOSPC", "sync of the superblock, EIO", "sync of a snapshot, EIO")
FIRST_CALLS = 60
"""Calls of the log's thread before this one belong to the start."""


@STRACE_NEEDED
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.name in QUICK], ids=lambda fault: fault.name)
def test_a_failing_call_ends_the_process_with_one_clear_text_and_loses_nothing(fault: Fault, tmp_path: Path) -> None:
    skip_where_nothing_can_be_traced()
    outcome = run_fault(fault, tmp_path, random.Random(1))
    assert outcome.problems == []
    assert outcome.confirmed > 0


@STRACE_NEEDED
@pytest.mark.parametrize("calls", [WRITE_CALLS, SYNC_CALLS], ids=["write", "sync"])
def test_nothing_is_confirmed_after_a_failed_call(
    calls: tuple[str, ...], start_broker: StartBroker, tmp_path: Path
) -> None:
    skip_where_nothing_can_be_traced()
    trace = tmp_path / "trace"
    broker = start_broker(prefix=tracing_everything(calls, "EIO", trace, FIRST_CALLS), options=("--spares-max", "0"))
    confirmed, _heard = publish(broker)
    assert broker.wait() not in (0, -9)
    proven, problems = judge_confirms(trace.read_text(errors="replace"), broker.data)
    assert problems == []
    assert proven >= len(confirmed) > 0


@STRACE_NEEDED
def test_a_process_that_goes_on_after_a_failed_sync_is_found_out(start_broker: StartBroker, tmp_path: Path) -> None:
    skip_where_nothing_can_be_traced()
    trace = tmp_path / "trace"
    broker = start_broker(
        prefix=tracing_everything(SYNC_CALLS, "EIO", trace, FIRST_CALLS),
        options=("--spares-max", "0"),
        program=program_of("ignore-failed-sync"),
    )
    publish(broker, publishes_max=2 * FIRST_CALLS)
    broker.stop()
    _proven, problems = judge_confirms(trace.read_text(errors="replace"), broker.data)
    assert any("confirms after the fault" in problem for problem in problems), problems


def test_the_judges_find_what_is_wrong(tmp_path: Path) -> None:
    fault = FAULTS[0]
    good = "the broker stops: write on /d/segment-1 failed: Input/output error (EIO, errno 5). Exit and start again"
    assert judge_end(fault, 1, good) == []
    for code, said in [
        (0, good),
        (-9, good),
        (1, ""),
        (1, good + "\nTraceback (most recent call last)"),
        (1, good + "\n" + good),
        (1, good.replace("segment-1", "a file")),
        (1, good.replace("start again", "despair")),
        (1, good.replace("EIO", "ENOENT")),
    ]:
        assert len(judge_end(fault, code, said)) == 1, said
    failed = f"7 fdatasync(5<{tmp_path}/segment-1>) = -1 EIO (Input/output error) (INJECTED)"
    later = f'7 pwritev2(5<{tmp_path}/segment-1>, ""..., 1, 0) = 1'
    assert judge_trace(f"{later}\n{failed}", tmp_path) == []
    assert judge_trace(f"{failed}\n{later}", tmp_path)
    assert judge_trace(later, tmp_path), "a fault that never happened proves nothing"


def test_a_small_disk_is_filled_and_freed(tmp_path: Path) -> None:
    command = namespace_command()
    if command is None:
        pytest.skip("nobody lets us mount here: neither root nor user namespaces")
    told = subprocess.run(
        [*command, sys.executable, "-m", "tests.e2e.small_disk", "tmpfs", "48", str(tmp_path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=Path(__file__).resolve().parents[2],
        env=dict(os.environ),
        timeout=280,
    )
    if told.returncode == EXIT_IMPOSSIBLE:
        pytest.skip(told.stdout)
    assert told.returncode == 0, told.stdout + told.stderr
