"""The fixture `sluicemq` for pytest: a broker of its own for each test that asks for it.

pytest finds this by itself where SluiceMQ is installed (entry point `pytest11`), in every run of every project there:
so nothing is imported before a test asks. It must not be imported where pytest is missing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.testing.broker import InProcessBroker

MARKER = "sluicemq(data='memory', **settings): how the broker of the fixture `sluicemq` is started"
MEMORY, DIRECTORY = "memory", "directory"


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def sluicemq(request: pytest.FixtureRequest) -> Iterator[InProcessBroker]:
    """A running broker on an empty disk, for this test alone; killed when the test ends.

    `@pytest.mark.sluicemq(data="directory")` puts it into `tmp_path`; other arguments are settings of the broker.
    """
    from sluicemq.broker.testing.broker import InProcessBroker

    marker = request.node.get_closest_marker("sluicemq")
    settings = {} if marker is None else dict(marker.kwargs)
    where = settings.pop("data", MEMORY)
    if where not in (MEMORY, DIRECTORY):
        raise pytest.UsageError(f"the marker sluicemq wants data={MEMORY!r} or {DIRECTORY!r}, not {where!r}")
    path = request.getfixturevalue("tmp_path") / "sluicemq-data" if where == DIRECTORY else None
    with InProcessBroker(path, **settings) as broker:
        yield broker
