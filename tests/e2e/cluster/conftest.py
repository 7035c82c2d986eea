"""The clusters that the tests of this folder work with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.cluster.processes import Cluster
from tests.e2e.cluster.trio_of_brokers import Brokers

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path


@pytest.fixture
def options() -> Iterable[str]:
    """What the brokers are told besides; a module that wants other settings has a fixture of its own."""
    return ()


@pytest.fixture
def cluster(tmp_path: Path, options: Iterable[str]) -> Iterator[Cluster]:
    """Three brokers, started on empty directories."""
    three = Cluster(tmp_path, options)
    three.prepare(1, 2, 3)
    three.start(1, 2, 3)
    yield three
    three.end()


@pytest.fixture
def brokers(tmp_path: Path) -> Iterator[Brokers]:
    """The same without an event loop: for tests that look at processes from outside."""
    found = Brokers(tmp_path)
    found.start()
    yield found
    found.end()
