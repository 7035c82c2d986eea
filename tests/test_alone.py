"""Nothing runs beside a test that is marked `alone`, however many processes run tests."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import threading
from contextlib import closing
from itertools import pairwise
from pathlib import Path

from tests.alone import Turns

CHECKOUT = Path(__file__).resolve().parent.parent
WAIT_SECONDS = 180.0


def is_free(path: Path) -> bool:
    """Say whether nobody has it, and nobody waits there."""
    with path.open("wb") as probe:
        try:
            fcntl.flock(probe, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_many_run_together_and_who_wants_to_be_alone_waits_for_them_only(tmp_path: Path) -> None:
    with closing(Turns(tmp_path)) as one, closing(Turns(tmp_path)) as other, closing(Turns(tmp_path)) as measuring:
        one.begin(alone=False)
        other.begin(alone=False)
        alone = threading.Event()

        def measure() -> None:
            measuring.begin(alone=True)
            alone.set()

        thread = threading.Thread(target=measure)
        thread.start()
        while is_free(tmp_path / "door"):
            pass  # now it stands there, and nobody else can pass
        one.end(stay_alone=False)
        assert not alone.is_set()
        other.end(stay_alone=False)
        assert alone.wait(WAIT_SECONDS)
        thread.join()
        assert is_free(tmp_path / "door")
        assert not is_free(tmp_path / "room")
        measuring.end(stay_alone=True)
        assert not is_free(tmp_path / "room"), "the next one measures too"
        measuring.begin(alone=True)
        measuring.end(stay_alone=False)
        assert is_free(tmp_path / "room")


STORY = """
import os
import time
from pathlib import Path

import pytest


def write(line):
    with open(Path(__file__).with_name("diary"), "a") as diary:
        diary.write(line + "\\n")


@pytest.mark.alone
@pytest.mark.parametrize("number", range(3))
def test_measures(number):
    write("alone")
    time.sleep(0.05)
    write("done")


@pytest.mark.parametrize("number", range(20))
def test_runs(number):
    write("beside")
    time.sleep(0.01)
"""


def test_every_test_runs_once_and_none_beside_one_that_is_alone(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import *\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = alone\n")
    (tmp_path / "test_story.py").write_text(STORY)
    command = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "worksteal", "-p", "no:cacheprovider", "."]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    outcome = subprocess.run(
        command,
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    assert "23 passed" in outcome.stdout.splitlines()[-1]
    diary = (tmp_path / "diary").read_text().split()
    assert sorted(diary) == ["alone"] * 3 + ["beside"] * 20 + ["done"] * 3
    assert [following for line, following in pairwise(diary) if line == "alone"] == ["done"] * 3
