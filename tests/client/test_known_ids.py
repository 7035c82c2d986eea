"""What the client says of message ids that the broker knows: of prepared messages, and where no window can judge."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from sluicemq.client import connect

if TYPE_CHECKING:
    from sluicemq.broker.testing import InProcessBroker

pytestmark = pytest.mark.anyio


async def test_a_prepared_message_whose_id_is_known_is_committed_as_a_duplicate(sluicemq: InProcessBroker) -> None:
    async with connect(sluicemq.url) as client:
        await client.declare_queue("orders", dedup_window=3600)
        first = await client.send("orders", b"first", message_id="order-42")
        async with client.prepare("orders", b"second", message_id="order-42", check="shop") as half:
            assert not half.receipt.duplicate, "nobody knows before it is committed"
            stored_at = half.id
        assert half.receipt.duplicate
        assert half.receipt.position == first.position
        assert half.id == stored_at != first.position, "tools go on calling it by its own place"
        await half.commit()
        assert half.receipt.duplicate, "the same decision again says the same"
        info = await client.queue_info("orders")
        assert (info["ready"], info["duplicates_total"]) == (1, 1)


async def test_what_was_prepared_and_committed_makes_others_duplicates_but_not_what_was_rolled_back(
    sluicemq: InProcessBroker,
) -> None:
    async with connect(sluicemq.url) as client:
        await client.declare_topic("orders", dedup_window=3600)
        await client.subscribe("orders.#", "bills")
        async with client.prepare("orders.eu", b"kept", message_id="order-1", check="shop"):
            pass
        with pytest.raises(ZeroDivisionError):
            async with client.prepare("orders.eu", b"dropped", message_id="order-2", check="shop"):
                raise ZeroDivisionError
        assert (await client.send("orders.us", b"again", message_id="order-1")).duplicate
        sluicemq.restart()
        assert (await client.send("orders.us", b"again", message_id="order-1")).duplicate
        assert not (await client.send("orders.us", b"first", message_id="order-2")).duplicate
        assert (await client.queue_info("bills"))["ready"] == 2


async def test_a_policy_that_gives_a_subscription_a_window_in_vain_is_told_so(
    sluicemq: InProcessBroker, caplog: pytest.LogCaptureFixture
) -> None:
    async with connect(sluicemq.url) as client:
        await client.declare_topic("orders")
        await client.declare_queue("jobs")
        await client.subscribe("orders.#", "bills")
        with caplog.at_level(logging.WARNING, "sluicemq.client"):
            await client.set_policy("ids", "jobs", dedup_window=3600)
            assert not caplog.records
            await client.set_policy("ids", "#", dedup_window=3600)
            assert "does nothing for the subscription 'bills'" in caplog.text
            assert "declare the topic 'orders' with it" in caplog.text
            caplog.clear()
            declared = await client.subscribe("orders.#", "mails")
            assert "does nothing for the subscription 'mails'" in declared.warnings[0]
