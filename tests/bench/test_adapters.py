"""Every adapter does what the timed loops expect, on its real server: publish, receive in order, acknowledge.

A system whose server or client is not installed is skipped by name, with the command that installs it.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.systems import SYSTEMS, System
from bench.workers import Worker

MESSAGES = 2000


@pytest.mark.parametrize("system", SYSTEMS, ids=lambda system: system.name)
def test_what_was_published_is_consumed(system: System, tmp_path: Path) -> None:
    missing = system.missing()
    if missing:
        pytest.skip(missing)
    server = system.server_class()(tmp_path)
    worker = None
    try:
        server.start()
        worker = Worker(system.name)
        worker.run("declare", server.ports, "story")
        published = worker.run("publish", server.ports, "story", messages=MESSAGES, seconds=30.0, in_flight=1)
        single = worker.run("one", server.ports, "story", messages=10, seconds=30.0)
        there = published["messages"] + single["messages"] + single["warmed"]
        consumed = worker.run("consume", server.ports, "story", messages=there, seconds=30.0)
        assert consumed["messages"] == there
        again = worker.run("consume", server.ports, "story", messages=1, seconds=0.1)
        assert again["messages"] == 0, "what was acknowledged came again"
        worker.run("delete", server.ports, "story")
        assert server.usage().cpu_seconds > 0
    finally:
        if worker is not None:
            worker.close()
        server.stop()
