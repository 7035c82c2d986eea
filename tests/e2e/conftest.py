"""Brokers for the tests of this folder, and both event loops for those that use the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.broker_process import BrokerProcess
from tests.e2e.running import broker as broker

if TYPE_CHECKING:
    from pathlib import Path

StartBroker = Callable[..., BrokerProcess]


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    """The event loop on which a test marked `anyio` runs."""
    return str(request.param)


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    """A queue name of the test's own, since all tests of the module share one broker; without brackets, for shells."""
    return str(request.node.name).translate(str.maketrans("[]", "--"))


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
