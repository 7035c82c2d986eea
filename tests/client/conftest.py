"""Client tests run on both event loops."""

import pytest


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request):
    return request.param
