"""The life of one message, as the broker's log tells it, on both event loops."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING

import anyio
import pytest

from sluicemq.client import NewMessage, Reject, connect
from sluicemq.client.errors import Conflict, MessageNotFound
from tests.e2e.broker_process import unused_port
from tests.e2e.command_line import on_one_loop, sluicemq

if TYPE_CHECKING:
    from sluicemq.client import Explanation
    from tests.e2e.broker_process import BrokerProcess
    from tests.e2e.conftest import StartBroker

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 180.0


def told(life: Explanation) -> list[str]:
    return [event.what for event in life.events]


async def test_a_message_is_told_from_its_acceptance_to_its_acknowledgement(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url, name="billing") as client:
            await client.declare_queue(queue, retry=[0.0])
            async with client.producer(queue) as producer:
                receipts = await producer.send_many([NewMessage(b"%d" % n, key=f"k{n}") for n in range(10)])
            receipt = receipts[4]
            life = await client.explain(receipt)
            assert (told(life), life.status, life.complete) == (["accepted"], f"ready in {queue}", True)
            assert (life.position, life.message_id, life.facts["key"]) == (receipt.position, receipt.message_id, "k4")
            assert (life.facts["destination"], life.facts["body_bytes"]) == (queue, 1)
            async with client.consumer(queue) as consumer:
                for _ in range(10):
                    message = await anext(consumer)
                    if message.body == b"4":
                        assert (await client.explain(message)).status == f"leased in {queue}"
                        await message.nack(reason="no ink")
                    else:
                        await message.ack()
                message = await anext(consumer)
                assert (message.body, message.attempt) == (b"4", 2)
                await message.ack(confirm=True)
            life = await client.explain(message_id=receipt.message_id)
            leased = ["leased", "nacked", "leased", "attempt_began", "acknowledged"]
            assert told(life) == ["accepted", *leased]
            assert [event.queue for event in life.events] == [queue] * 6
            assert life.events[2].facts["reason"] == "no ink"
            assert life.events[1].facts["client"] == "billing"
            assert life.events[1].facts["tag"] == 5
            assert (life.status, life.places) == ("acknowledged", [])
            assert [event.at for event in life.events] == sorted(event.at for event in life.events)
            assert [event.zxid for event in life.events] == sorted({event.zxid for event in life.events})


async def test_a_dead_letter_tells_why_and_a_redrive_where_to(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(f"{queue}-dead")
            await client.declare_queue(queue, dead_letter=f"{queue}-dead")
            receipt = await client.send(queue, b"bad")
            async with client.consumer(queue) as consumer:
                async with await anext(consumer):
                    raise Reject("no address")
                await consumer.flush()
            life = await client.explain(receipt)
            assert told(life) == ["accepted", "leased", "rejected"]
            assert life.status == f"ready in {queue}-dead"
            assert life.places[0]["note"]["text"] == "no address"
            assert await client.redrive(f"{queue}-dead") == 1
            life = await client.explain(receipt)
            assert told(life)[-1] == "redriven"
            assert life.status == f"ready in {queue}"


async def test_delays_duplicates_transactions_and_topics_are_told(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue, dedup_window=3600)
            first = await client.send(queue, b"x", message_id="o-1", delay=3600)
            again = await client.send(queue, b"x", message_id="o-1")
            assert again.duplicate
            life = await client.explain(message_id="o-1", queue=queue)
            assert (life.position, life.status) == (first.position, f"delayed in {queue}")
            assert life.facts["duplicate_of"] == ""
            with pytest.raises(MessageNotFound, match="dedup_window"):
                await client.explain(message_id="o-2", queue=queue)

            await client.declare_topic(f"{queue}.events")
            await client.subscribe(f"{queue}.events.#", f"{queue}-audit")
            await client.subscribe(f"{queue}.events.paid", f"{queue}-paid")
            async with client.transaction() as transaction:
                await transaction.send(f"{queue}.events.paid", b"y")
            (receipt,) = transaction.receipts
            life = await client.explain(receipt)
            assert {place["queue"] for place in life.places} == {f"{queue}-audit", f"{queue}-paid"}
            assert life.facts["kind"] == "transaction"
            async with client.consumer(f"{queue}-paid") as consumer, await anext(consumer):
                pass
            async with client.transaction() as transaction, client.consumer(f"{queue}-audit") as consumer:
                await transaction.ack(await anext(consumer))
            life = await client.explain(receipt)
            assert sorted(event.what for event in life.events) == [
                "accepted", "acknowledged", "acknowledged", "leased", "leased",
            ]  # fmt: skip
            assert life.places == []


async def test_what_the_log_does_not_hold_is_not_made_up(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            receipt = await client.send(queue, b"x")
            group, zxid, _ = receipt.position.split("-")
            for position in (f"{group}-{zxid}-1", f"{group}-{int(zxid, 16) + 10_000:x}-0", "0-100000001-0"):
                with pytest.raises(MessageNotFound, match="never published"):
                    await client.explain(position)
            with pytest.raises(MessageNotFound):
                await client.explain(message_id="0000000000000000")
            with pytest.raises(TypeError, match="not int"):
                await client.explain(5)  # type: ignore[arg-type]
            await client.purge_queue(queue)
            assert (await client.explain(receipt)).status == "purged"
            await client.delete_queue(queue)
            assert (await client.explain(receipt)).status == "purged"
            await client.declare_queue(queue)
            receipt = await client.send(queue, b"x")
            with pytest.raises(Conflict):
                await client.delete_queue(queue, if_empty=True)
            assert told(await client.explain(receipt)) == ["accepted"], "what was refused did not happen"
            await client.delete_queue(queue)
            life = await client.explain(receipt)
            assert (told(life), life.status) == (["accepted", "queue_deleted"], "queue_deleted")
            assert life.events[-1].facts["name"] == queue


async def test_a_restart_changes_nothing_of_the_story(start_broker: StartBroker) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        broker = await anyio.to_thread.run_sync(partial(start_broker, port=unused_port()))
        async with connect(broker.url) as client:
            await client.declare_queue("orders")
            receipts = [await client.send("orders", b"x") for _ in range(3)]
            async with client.consumer("orders") as consumer:
                await (await anext(consumer)).ack(confirm=True)
            stories = [await client.explain(receipt) for receipt in receipts]
        await anyio.to_thread.run_sync(broker.stop)
        await anyio.to_thread.run_sync(broker.start)
        async with connect(broker.url) as client:
            after = [await client.explain(receipt) for receipt in receipts]
            assert told(after[0]) == told(stories[0]) == ["accepted", "leased", "acknowledged"]
            assert [life.status for life in after[1:]] == ["ready in orders"] * 2
            assert all(life.complete for life in after)
            assert (await client.explain(message_id=receipts[0].message_id)).position == receipts[0].position


async def test_history_tells_what_was_settled_long_before_the_last_snapshots(start_broker: StartBroker) -> None:
    small = ["--segment-bytes", "256KiB", "--snapshot-every-bytes", "128KiB"]
    with anyio.fail_after(TEST_SECONDS_MAX):
        start = partial(start_broker, port=unused_port(), options=[*small, "--history-bytes-max", "1GiB"])
        broker = await anyio.to_thread.run_sync(start)
        async with connect(broker.url) as client:
            await client.declare_queue("orders")
            receipt = await client.send("orders", b"x")
            async with client.consumer("orders") as consumer:
                await (await anext(consumer)).ack(confirm=True)
                async with client.producer("orders") as producer:
                    for _ in range(100):
                        await producer.send_many([bytes(1_000)] * 20)
                        for message in await consumer.receive(20):
                            await message.ack()
            before = await client.explain(receipt)
            assert (told(before), before.complete) == (["accepted", "leased", "acknowledged"], True)
        await anyio.to_thread.run_sync(broker.stop)
        await anyio.to_thread.run_sync(broker.start)
        async with connect(broker.url) as client:
            life = await client.explain(receipt)
            assert (life.events, life.complete) == (before.events, True)
            assert (await client.explain(message_id=receipt.message_id)).events == before.events
        await anyio.to_thread.run_sync(broker.stop)
        # Whoever switches it off gets the disk back with the next snapshots, and is told that nothing is known.
        forgetful = await anyio.to_thread.run_sync(partial(start_broker, port=unused_port(), options=small))
        async with connect(forgetful.url) as client, client.producer("orders") as producer:
            for _ in range(40):
                await producer.send_many([bytes(1_000)] * 20)
            while True:
                try:
                    life = await client.explain(receipt)
                except MessageNotFound:
                    break
                await producer.send_many([bytes(1_000)] * 20)


@on_one_loop
async def test_the_command_line_tells_it_too(broker: BrokerProcess, queue: str) -> None:
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with connect(broker.url) as client:
            await client.declare_queue(queue)
            receipt = await client.send(queue, b"x")
        for name in (receipt.position, receipt.message_id):
            shown = await anyio.to_thread.run_sync(sluicemq, broker, "explain", name, "--json")
            life = json.loads(shown.stdout)
            assert (life["position"], life["status"], life["complete"]) == (receipt.position, f"ready in {queue}", True)
            assert [event["what"] for event in life["events"]] == ["accepted"]
        shown = await anyio.to_thread.run_sync(sluicemq, broker, "explain", receipt.position)
        assert f"ready in {queue}" in shown.stdout
        shown = await anyio.to_thread.run_sync(sluicemq, broker, "explain", "nobody-gave-this-id")
        assert shown.returncode == 4
