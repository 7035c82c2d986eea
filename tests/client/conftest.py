"""Client tests run on both event loops; tests about durations run on trio's virtual clock."""

import pytest
import trio.testing

from tests.client.scripted_broker import scripted_broker

AUTOJUMP_SECONDS = 0.02
"""Real seconds of silence after which the virtual clock jumps; loopback needs microseconds."""


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request):
    if request.param == "virtual time":
        return ("trio", {"clock": trio.testing.MockClock(autojump_threshold=AUTOJUMP_SECONDS)})
    return request.param


virtual_time = pytest.mark.parametrize("anyio_backend", ["virtual time"], indirect=True)


@pytest.fixture
async def broker(anyio_backend):
    async with scripted_broker() as running:
        yield running
