"""Peak shaving between a real broker and real clients on trio and asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from sluicemq.client import connect
from sluicemq.wire.errors import InvalidRequest
from tests.e2e.rates import measure

if TYPE_CHECKING:
    from tests.e2e.broker_process import BrokerProcess

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 60.0


@pytest.fixture(params=["trio", "asyncio"])
def anyio_backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def queue(request: pytest.FixtureRequest) -> str:
    """A queue name of the test's own, since all tests of the module share one broker."""
    return request.node.name


@pytest.mark.parametrize(("rate", "burst"), [(20, 1), (20, 50), (20_000, None)])
async def test_the_rate_holds_and_so_does_the_burst(
    broker: BrokerProcess, queue: str, rate: float, burst: int | None
) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            found = await measure(client, queue, rate=rate, burst=burst, seconds=1.0)
    # The machine may be busy: what is behind may lag by a slice, and a first slice is more than a second's share.
    assert found.rate == pytest.approx(rate, rel=0.1)
    if burst is not None:
        assert burst <= found.at_once <= burst + 2


async def test_the_cap_holds_over_all_consumers_and_can_change(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client, connect(broker.url) as other:
            await client.declare_queue(queue, max_concurrency=3)
            async with client.producer(queue) as producer:
                await producer.send_many([b"%d" % number for number in range(10)])
            async with client.consumer(queue) as mine, other.consumer(queue) as theirs:
                held = [*await mine.receive(max_messages=10, max_wait=0.3)]
                held += await theirs.receive(max_messages=10, max_wait=0.3)
                held += await mine.receive(max_messages=10, max_wait=0.3)
                assert len(held) == 3
                await held.pop().ack()
                held += await mine.receive(max_messages=10, max_wait=0.3)
                held += await theirs.receive(max_messages=10, max_wait=0.3)
                assert len(held) == 3
                declared = await client.declare_queue(queue, max_concurrency=None)
                assert declared.changes == {"max_concurrency": (3, None)}
                while len(held) < 9:
                    held += await mine.receive(max_messages=10, max_wait=0.1)
                    held += await theirs.receive(max_messages=10, max_wait=0.1)
                for message in held:
                    await message.ack()


async def test_limits_are_there_after_a_restart_and_a_policy_can_set_them(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.set_policy("slow", f"{queue}.#", delivery_rate="5/s from 9 to 17; 50/s; in Europe/Berlin")
            await client.declare_queue(f"{queue}.one")
            settings = (await client.queue_info(f"{queue}.one"))["settings"]
            assert settings["delivery_rate"] == "5/s from 9 to 17; 50/s; in Europe/Berlin"
            with pytest.raises(InvalidRequest, match="no time zone that this broker knows"):
                await client.set_policy("slow", f"{queue}.#", delivery_rate="5/s from 9 to 17; in Europe/Atlantis")
            await client.delete_policy("slow")
