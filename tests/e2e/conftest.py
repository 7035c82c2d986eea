"""Brokers for the tests of this folder."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.broker_process import BrokerProcess

if TYPE_CHECKING:
    from pathlib import Path

StartBroker = Callable[..., BrokerProcess]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """One broker for all tests of a module; it must survive them and end with 0, without a traceback."""
    process = BrokerProcess(tmp_path_factory.mktemp("broker") / "data")
    with process:
        yield process
        process.stop()


@pytest.fixture
def start_broker(tmp_path: Path) -> Iterator[StartBroker]:
    """Start brokers on directories below `tmp_path`; whatever still runs at the end of the test is killed."""
    started: list[BrokerProcess] = []

    def start(name: str = "data", **arguments: Any) -> BrokerProcess:
        process = BrokerProcess(tmp_path / name, **arguments)
        started.append(process)
        return process.start()

    yield start
    for process in started:
        process.kill()
