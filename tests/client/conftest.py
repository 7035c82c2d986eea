"""Client tests run on both event loops; tests about durations run on trio's virtual clock."""

import uuid

import pytest
import trio.testing

from tests.client.databases import BLOCKING, KINDS, Database
from tests.client.scripted_broker import scripted_broker
from tests.postgres import library, start_cluster

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


@pytest.fixture(scope="session")
def cluster():
    """A PostgreSQL server of the tests' own."""
    running = start_cluster()
    yield running
    running.stop()


@pytest.fixture
def postgres(cluster):
    """What libpq is told to reach an empty schema."""
    psycopg = library("psycopg")
    schema = f"test_{uuid.uuid4().hex}"
    with psycopg.connect(cluster.conninfo, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {schema}")
        yield f"{cluster.conninfo} options='-c search_path={schema}'"
        connection.execute("SET lock_timeout = '20s'")  # a connection that somebody left in a transaction
        connection.execute(f"DROP SCHEMA {schema} CASCADE")


every_database = pytest.mark.parametrize(
    ("anyio_backend", "database"),
    [(loop, kind) for kind in KINDS for loop in ("trio", "asyncio") if loop == "asyncio" or kind in BLOCKING],
    indirect=True,
)
"""The story runs in each of the ways that users have, on the loops on which the library works."""


@pytest.fixture
def database(request, tmp_path):
    """An empty database."""
    postgres = "" if "sqlite" in request.param else request.getfixturevalue("postgres")
    return Database(request.param, tmp_path / "orders.db", postgres)
