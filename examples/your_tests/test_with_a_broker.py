"""Your own tests: a real broker for each, in the process of the test, with a clock to turn.

`pytest examples/your_tests` runs them.

The fixture `sluicemq` comes with SluiceMQ, pytest and pytest-trio with `pip install '.[test]'`; nothing is mocked. See
docs/testing.md.
"""

import pytest

from sluicemq.broker.testing import InProcessBroker
from sluicemq.client import Client, connect


async def place_order(client: Client, number: str) -> None:
    """Send an order, and a reminder for those who do not pay: what is tested here."""
    await client.send("orders", number.encode(), message_id=number)
    await client.send("reminders", number.encode(), delay=3 * 86_400.0)


@pytest.mark.trio
async def test_an_order_that_is_placed_twice_is_one_order(sluicemq: InProcessBroker) -> None:
    """The queue knows ids for an hour."""
    async with connect(sluicemq.url) as client:
        await client.declare_queue("orders", dedup_window=3600.0)
        await client.declare_queue("reminders")
        await place_order(client, "o-1")
        await place_order(client, "o-1")
        assert (await client.queue_info("orders"))["ready"] == 1


@pytest.mark.trio
async def test_a_reminder_comes_after_three_days_and_survives_a_crash(sluicemq: InProcessBroker) -> None:
    """Three days take no time here."""
    async with connect(sluicemq.url) as client:
        await client.declare_queue("orders")
        await client.declare_queue("reminders")
        await place_order(client, "o-2")
        await sluicemq.clock.advance("2 days 23 hours")
        sluicemq.restart()  # as kill -9 would
        assert (await client.queue_info("reminders"))["ready"] == 0
        await sluicemq.clock.advance("1 hour")
        assert (await client.queue_info("reminders"))["ready"] == 1
