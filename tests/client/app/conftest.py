"""A broker for the apps of these tests, and a way to run an app beside a test."""

from __future__ import annotations

from contextlib import asynccontextmanager

import anyio
import pytest

from sluicemq.client import connect
from tests.e2e.running import broker as broker

TEST_SECONDS_MAX = 60


@pytest.fixture
def queue(request):
    """A queue name of the test's own, since all tests of the module share one broker."""
    return request.node.name


@pytest.fixture
async def client(broker, anyio_backend):
    async with connect(broker.url) as client:
        yield client


class Up:
    """Hears when the app handles messages."""

    def __init__(self):
        self._event = anyio.Event()
        self.wait = self._event.wait

    def started(self, _value=None):
        self._event.set()


@asynccontextmanager
async def running(app):
    """Run *app* beside the block; what ends it otherwise cancels the block, and is raised as it is."""
    failures: list[Exception] = []

    async def serve(group):
        try:
            await app.serve(task_status=up)
        except Exception as error:
            failures.append(error)
            group.cancel_scope.cancel()

    up = Up()
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with anyio.create_task_group() as group:
            group.start_soon(serve, group)
            await up.wait()
            try:
                yield
            finally:
                app.stop()
    if failures:
        raise failures[0]


async def ended(app):
    """Run *app* until it ends by itself."""
    async with running(app):
        await anyio.sleep_forever()
