"""The tests in docs/testing.md run as they are printed, as those of somebody who has installed SluiceMQ and pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[3]
BLOCK = re.compile(r"^```python test\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PLUGIN = "sluicemq.broker.testing.pytest_plugin"
SECONDS_MAX = 120


def run_pytest(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in *folder* with the plugin, whether or not this checkout was installed since it has one."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-W",
        "error",
        "-p",
        PLUGIN,
        "-p",
        "pytest_trio.plugin",
        *arguments,
    ]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )


def test_every_example_of_the_how_to_page_passes(tmp_path: Path) -> None:
    blocks = BLOCK.findall((CHECKOUT / "docs" / "testing.md").read_text())
    assert len(blocks) >= 5
    for number, block in enumerate(blocks):
        (tmp_path / f"test_{number}.py").write_text(block)
    finished = run_pytest(tmp_path)
    assert finished.returncode == 0, finished.stdout + finished.stderr
    assert f"{len(blocks)} passed" in finished.stdout


def test_a_wrong_marker_is_told(tmp_path: Path) -> None:
    (tmp_path / "test_wrong.py").write_text(
        "import pytest\n@pytest.mark.sluicemq(data='cloud')\ndef test_it(sluicemq): ...\n"
        "@pytest.mark.sluicemq(dataa=1)\ndef test_that(sluicemq): ...\n"
    )
    finished = run_pytest(tmp_path, "--strict-markers")
    assert "wants data='memory' or 'directory', not 'cloud'" in finished.stdout
    assert "there is no setting 'dataa'; did you mean data?" in finished.stdout


def test_a_run_that_asks_for_no_broker_imports_none(tmp_path: Path) -> None:
    (tmp_path / "test_light.py").write_text(
        "import sys\n"
        "def test_it():\n"
        "    assert not {'trio', 'sluicemq.broker.node', 'sluicemq.client'} & set(sys.modules)\n"
    )
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    command = [sys.executable, "-m", "pytest", "-q", "-p", PLUGIN]
    finished = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    assert "1 passed" in finished.stdout, finished.stdout


def test_everything_but_the_fixture_works_without_pytest() -> None:
    program = (
        "import sys; sys.modules['pytest'] = None\n"
        "from sluicemq.broker.testing import InProcessBroker\n"
        "with InProcessBroker() as broker: print(broker)\n"
    )
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", program], capture_output=True, text=True, timeout=SECONDS_MAX, check=False
    )
    assert "running" in finished.stdout, finished.stderr
