"""The broker that all tests of a module share; a conftest or a module that imports `broker` has it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.broker_process import BrokerProcess


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    """One broker for all tests of a module; it must survive them and end with 0, without a traceback."""
    process = BrokerProcess(tmp_path_factory.mktemp("broker") / "data")
    with process:
        yield process
        process.stop()
