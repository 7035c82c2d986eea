"""Sends: identity, batching, errors, and connections that break at every step."""

# ruff: noqa: PT012 (what a block does before it fails is the story)

from itertools import count

import anyio
import pytest

from sluicemq.broker.config import BrokerConfig
from sluicemq.client import NewMessage, connect
from sluicemq.client.errors import (
    BatchTooLarge,
    ClientClosed,
    ConnectionFailed,
    InvalidRequest,
    LimitReached,
    MessageTooLarge,
    NotLeader,
    OutcomeUnknown,
    ProducerFenced,
    ProducerNotFound,
    QueueNotFound,
    RequestTimeout,
    ResourceLow,
)
from sluicemq.client.publisher import Publisher
from sluicemq.wire import messages as m
from sluicemq.wire.batch import Batch
from tests.client.conftest import virtual_time
from tests.client.scripted_broker import CUT, SILENCE

pytestmark = pytest.mark.anyio


async def test_a_receipt_names_position_and_id(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        receipt = await producer.send(b"x", key="k", subject="s", headers={"a": [1, None]}, message_id="o-1")
        assert (receipt.position, receipt.message_id, receipt.duplicate) == ("0-100000001-0", "o-1", False)
        batch = Batch(broker.stored[0].data)
        assert (batch.bodies, batch.keys, batch.subjects) == ([b"x"], ["k"], ["s"])
        assert (batch.headers, batch.message_ids) == ([{"a": [1, None]}], ["o-1"])
        assert (await producer.send(bytearray(b"y"))).message_id == f"{2 << 22:016x}"


async def test_what_cannot_be_sent_is_refused_before_anything_leaves(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        with pytest.raises(TypeError, match=r"\.encode\(\)"):
            await producer.send("text")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"\.encode\(\)"):
            await producer.send_many([b"x", "text"])  # type: ignore[list-item]
        with pytest.raises(MessageTooLarge, match="1000001 bytes; the broker takes 1000000"):
            await producer.send(bytes(1_000_001))
        with pytest.raises(MessageTooLarge):
            await producer.send_many([b"x", bytes(1_000_001)])
        with pytest.raises(BatchTooLarge, match="10001 messages"):
            await producer.send_many([b""] * 10_001)
        with pytest.raises(BatchTooLarge):
            await producer.send_many([bytes(900_000)] * 5)
        with pytest.raises(InvalidRequest, match="cannot be sent"):
            await producer.send(b"x", headers={"a": object()})
        with pytest.raises(InvalidRequest, match="timeout is -1"):
            await producer.send(b"x", timeout=-1)
        with pytest.raises(TypeError, match="not NoneType"):
            await producer.send_many(None)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not bytes: use send for a single body"):
            await producer.send_many(b"abc")  # type: ignore[arg-type]
        for endless in (float("nan"), float("inf"), 10**400):
            with pytest.raises(InvalidRequest, match="timeout is"):
                await producer.send(b"x", timeout=endless)
        with pytest.raises(InvalidRequest, match="message_id is empty"):
            await producer.send(b"x", message_id="")
        with pytest.raises(TypeError, match="key must be str"):
            await producer.send_many([NewMessage(b"x", key=1)])  # type: ignore[arg-type]
        assert len(await producer.send_many([])) == 0
        assert broker.count(m.Publish) == 0


async def test_a_send_in_a_cancelled_scope_stores_nothing(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        for send in (
            lambda: producer.send(b"x"),
            lambda: producer.submit(b"x"),
            lambda: producer.send_many([b"x"]),
            lambda: client.send("orders", b"x"),
        ):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await send()
            assert scope.cancelled_caught
        await producer.send(b"y")
    assert broker.bodies == [b"y"]


async def test_a_mutable_body_may_change_right_after_the_call(broker):
    body = bytearray(b"before")
    async with connect(broker.url) as client, client.producer("orders") as producer:
        submitted = await producer.submit(body)
        body[:] = b"after!"
        await submitted
    assert broker.bodies == [b"before"]


async def test_sends_of_many_tasks_travel_together(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        await producer.send_many([b"warm", b"up"])  # tells the producer that it has company

        async def send(number):
            receipt = await producer.send(b"%d" % number)
            stored = next(stored for stored in broker.stored if receipt.position.startswith(f"0-{stored.zxid:x}-"))
            assert stored.bodies[int(receipt.position.rsplit("-", 1)[1], 16)] == b"%d" % number

        async with anyio.create_task_group() as tasks:
            for number in range(200):
                tasks.start_soon(send, number)
        assert broker.count(m.Publish) <= 5
        assert sorted(broker.bodies[2:], key=int) == [b"%d" % number for number in range(200)]


@pytest.mark.parametrize(
    "attributes",
    [
        {"key": "k", "subject": "s", "message_id": "i"},
        {"headers": {"list": [1, 2, [3, 4]], "map": {"a": {}}}},
        {"headers": {"text": "x", "list": []}, "key": "k"},
    ],
)
async def test_what_others_put_beside_their_messages_has_none_refused(broker, attributes):
    """The broker takes so many values beside the bodies of one batch; a window collects more messages than that."""
    async with connect(broker.url) as client, client.producer("orders") as producer:
        broker.on[m.Publish] = lambda _peer, _message, tail: Batch(tail).check()
        for number in range(9000):
            await producer.submit(b"%d" % number, **(attributes if number % 9 else {}))
        await producer.flush()
        assert broker.bodies == [b"%d" % number for number in range(9000)]
        assert len(broker.stored) < 100


async def test_a_message_with_too_much_beside_it_is_refused_alone_and_at_once(broker):
    headers = {str(number): list(range(200)) for number in range(100)}
    async with connect(broker.url) as client, client.producer("orders") as producer:
        before = await producer.submit(b"before")
        with pytest.raises(BatchTooLarge, match="values beside its bodies"):
            await producer.submit(b"x", headers=headers)
        headers.popitem()  # 99 * 201 = 19,899 items are fine
        after = await producer.submit(b"after", headers=headers, key="k", subject="s")
        await before
        await after
        assert broker.bodies == [b"before", b"after"]


async def test_send_many_is_one_entry_in_order_whatever_else_is_sent(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        before = await producer.submit(b"before")
        receipts = await producer.send_many([b"a", NewMessage(b"b", key="k"), bytearray(b"c")])
        await before
        assert broker.bodies == [b"before", b"a", b"b", b"c"]
        assert Batch(broker.stored[1].data).keys == [None, "k", None]
        assert [receipt.position for receipt in receipts] == [f"0-100000002-{index}" for index in range(3)]


async def test_submissions_keep_their_order_and_wait_only_for_room(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        submitted = [await producer.submit(b"%d" % number) for number in range(1_000)]
        await producer.flush()
        assert all(receipt.done for receipt in submitted)
        assert broker.bodies == [b"%d" % number for number in range(1_000)]
        first = await submitted[0]
        assert first == await submitted[0]  # as often as one likes


async def test_a_full_window_lets_senders_wait_in_line(broker):
    broker.on[m.Publish] = lambda *_: SILENCE
    async with connect(broker.url) as client, client.producer("orders") as producer:
        window = producer._publisher.window
        window.limits = window.limits._replace(messages=2)
        first = await producer.submit(b"0")
        await producer.submit(b"1")
        entered = []

        async def submit(number):
            await producer.submit(b"%d" % number)
            entered.append(number)

        async with anyio.create_task_group() as tasks:
            for number in (2, 3, 4):
                tasks.start_soon(submit, number)
                await anyio.wait_all_tasks_blocked()
            assert not entered
            del broker.on[m.Publish]
            await broker.peer.cut()  # the next connection confirms
            await first
        await producer.flush()
        assert sorted(entered) == [2, 3, 4]
        assert broker.bodies == [b"0", b"1", b"2", b"3", b"4"]


async def test_one_receipt_can_be_awaited_by_several_tasks(broker):
    broker.on[m.Publish] = lambda *_: SILENCE
    async with connect(broker.url) as client, client.producer("orders") as producer:
        submitted = await producer.submit(b"x")
        seen = []

        async def wait():
            seen.append(await submitted)

        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(wait)
                tasks.start_soon(wait)
                tasks.start_soon(wait)
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
            del broker.on[m.Publish]
            await broker.peer.cut()
        assert len(seen) == 3
        assert len(set(seen)) == 1


# --- refusals -----------------------------------------------------------------------------------------------------


async def test_a_refused_batch_fails_alone_and_burns_no_sequence(broker):
    async with connect(broker.url) as client, client.producer("orders") as good, client.producer("nowhere") as bad:
        with pytest.raises(QueueNotFound, match="nowhere"):
            await bad.send(b"x")
        with pytest.raises(QueueNotFound):
            await bad.send_many([b"x"] * 3)
        await good.send(b"y")
    assert broker.bodies == [b"y"]


async def test_what_was_sent_behind_a_refused_batch_arrives_in_order(broker):
    arrived = count(1)
    full = LimitReached("full", limit="max_length", value=1)
    broker.on[m.Publish] = lambda *_: full if next(arrived) == 2 else None
    async with connect(broker.url) as client, client.producer("orders") as producer:
        results: dict[int, object] = {}

        async def send(number):
            try:
                await producer.send_many([b"%d" % number])
                results[number] = "confirmed"
            except LimitReached as error:
                results[number] = (error.limit, error.retryable)

        async with anyio.create_task_group() as tasks:
            for number in range(8):
                tasks.start_soon(send, number)
        refused = [number for number, result in results.items() if result == ("max_length", True)]
        assert len(refused) == 1
        assert len(results) == 8
        assert sorted(broker.bodies, key=int) == [b"%d" % number for number in range(8) if number not in refused]
        assert [stored.sequence for stored in broker.stored] == list(range(1, 8))


async def test_one_shared_producer_serves_all_destinations(broker):
    broker.queues.add("stock")
    async with connect(broker.url) as client:
        await client.send("orders", b"1", key="k")
        await client.send("stock", b"2")
        with pytest.raises(QueueNotFound):
            await client.send("nowhere", b"3")
        with pytest.raises(InvalidRequest):
            await client.send("", b"4")
        await client.send("orders", b"5")
        assert [(stored.destination, stored.sequence) for stored in broker.stored] == [
            ("orders", 1),
            ("stock", 2),
            ("orders", 3),
        ]
        assert broker.count(m.OpenProducer) == 1


async def test_a_fenced_producer_stops(broker):
    async with connect(broker.url) as client, client.producer("orders", name="front") as producer:
        assert broker.peer.of(m.OpenProducer) == [m.OpenProducer(name="front")]
        broker.on[m.Publish] = lambda *_: ProducerFenced("a newer one")
        for _ in range(2):
            with pytest.raises(ProducerFenced):
                await producer.send(b"x")
        assert broker.count(m.Publish) == 1


async def test_an_answer_for_patience_is_never_shown(broker):
    answers = [NotLeader("moving", retry_after=0.01), None]
    broker.on[m.Publish] = lambda *_: answers.pop(0) if answers else None
    async with connect(broker.url) as client, client.producer("orders") as producer:
        await producer.send(b"x")
    assert broker.bodies == [b"x"]


async def test_a_failure_that_nobody_looked_at_is_raised_by_flush_and_on_leaving(broker):
    async with connect(broker.url) as client:
        async with client.producer("nowhere") as producer:
            await producer.submit(b"x")
            with pytest.raises(QueueNotFound):
                await producer.flush()
            await producer.flush()  # reported once
            seen = await producer.submit(b"y")
            with pytest.raises(QueueNotFound):
                await seen
        with pytest.raises(QueueNotFound):
            async with client.producer("nowhere") as producer:
                await producer.submit(b"x")


async def test_a_producer_is_used_inside_its_block_only(broker):
    async with connect(broker.url) as client:
        producer = client.producer("orders")
        with pytest.raises(ClientClosed, match="async with"):
            await producer.send(b"x")
        async with producer:
            await producer.send(b"x")
        with pytest.raises(ClientClosed, match="producer for 'orders' is closed"):
            await producer.send(b"x")
        await broker.until(lambda: broker.peer.of(m.CloseProducer))


# --- broken connections -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stored_before_cut", [False, True], ids=["before it is stored", "after it is stored"])
async def test_a_cut_neither_loses_nor_doubles_a_message(broker, stored_before_cut):
    cuts: list[int] = []

    def cut_sometimes(_peer, publish, tail):
        if len(cuts) < 3 and publish.sequence % 3 == 0 and publish.sequence not in cuts:
            cuts.append(publish.sequence)
            if stored_before_cut:
                broker.publish(publish, tail)
            return CUT
        return None

    broker.on[m.Publish] = cut_sometimes
    async with connect(broker.url) as client, client.producer("orders") as producer:
        receipts = {}

        async def send(number):
            receipts[number] = await producer.send_many([b"%d" % number])

        async with anyio.create_task_group() as tasks:
            for number in range(40):
                tasks.start_soon(send, number)
        assert len(cuts) == 3
        assert sorted(broker.bodies, key=int) == [b"%d" % number for number in range(40)]
        assert any(receipt.duplicate for receipt in receipts.values()) == stored_before_cut
        # Each receipt leads to its message.
        for number, (receipt,) in receipts.items():
            stored = broker.answers[broker.stored[0].producer, int(receipt.message_id, 16) >> 22]
            assert stored.bodies == [b"%d" % number]
            assert receipt.position == f"0-{stored.zxid:x}-0"
    assert broker.count(m.OpenProducer) == 1, "the producer number must outlive the connection"


@pytest.mark.parametrize("step", [m.Hello, m.Authenticate, m.Open, m.Publish])
async def test_a_resend_survives_cuts_at_every_step_of_the_way(broker, step):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        await producer.send(b"1")
        seen = count(1)
        broker.on[step] = lambda *_: CUT if next(seen) < 3 else None
        await broker.peer.cut()
        await producer.send(b"2")
        assert next(seen) > 3
        assert broker.bodies == [b"1", b"2"]


async def test_a_forgotten_producer_leaves_the_outcome_unknown_and_goes_on_under_a_new_number(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        await producer.send(b"1")
        number = broker.stored[0].producer
        broker.on[m.Publish] = lambda _peer, publish, _tail: (
            CUT if len(broker.peers) == 1 else ProducerNotFound("forgotten") if publish.producer == number else None
        )
        with pytest.raises(OutcomeUnknown) as caught:
            await producer.send(b"2")
        error = caught.value
        assert (error.producer, error.sequence, error.index, error.destination) == (number, 2, 0, "orders")
        assert isinstance(error.__cause__, ProducerNotFound)
        await producer.send(b"3")
        assert broker.stored[-1].producer != number
        assert (broker.stored[-1].sequence, broker.bodies[-1]) == (1, b"3")


async def test_a_resend_that_is_refused_for_now_is_tried_again(broker):
    answers = [CUT, ResourceLow("disk", retry_after=0.01), None]
    broker.on[m.Publish] = lambda *_: answers.pop(0) if answers else None
    async with connect(broker.url) as client, client.producer("orders") as producer:
        await producer.send(b"x")
        assert broker.bodies == [b"x"]
        broker.on[m.Publish] = lambda *_: ResourceLow("disk", retry_after=0.01)
        with pytest.raises(ResourceLow):  # a first send is refused for the user to see
            await producer.send(b"y")


# --- time -----------------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_send_without_answer_is_unknown_after_its_time_and_carries_its_identity(broker):
    broker.on[m.Publish] = lambda *_: SILENCE
    async with connect(broker.url) as client:
        with pytest.raises(OutcomeUnknown) as caught:
            async with client.producer("orders") as producer:
                began = anyio.current_time()
                with anyio.fail_after(31):
                    await producer.send(b"x")
        assert anyio.current_time() - began == pytest.approx(30, abs=0.1)
        assert (caught.value.sequence, caught.value.index, caught.value.retryable) == (1, 0, True)


@virtual_time
async def test_a_send_that_never_left_is_no_mystery(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        broker.open = False
        await broker.peer.cut()
        await anyio.sleep(1)
        with pytest.raises(ConnectionFailed, match="no broker could be reached"):
            await producer.send(b"x", timeout=5)
        broker.open = True
        broker.on[m.Publish] = lambda *_: SILENCE
        window = producer._publisher.window
        window.limits = window.limits._replace(collected_batches=1)
        first = await producer.submit(b"1", timeout=60)
        await anyio.sleep(3)
        with pytest.raises(RequestTimeout):
            await producer.send(b"2", timeout=2)
        del broker.on[m.Publish]
        await broker.peer.cut()
        await first
        assert broker.bodies == [b"1"]


@virtual_time
async def test_a_blocked_destination_waits_until_it_is_unblocked(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        await broker.peer.send(m.Blocked(reason="memory is high", destination="orders", retry_after=60))
        await anyio.sleep(1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(producer.send, b"x")
            await anyio.sleep(5)
            assert broker.bodies == []
            await broker.peer.send(m.Unblocked(destination="orders"))
        assert broker.bodies == [b"x"]


# --- cancellation -------------------------------------------------------------------------------------------------


async def test_a_send_cancelled_before_it_left_is_withdrawn_and_later_stays_sent(broker):
    broker.on[m.Publish] = lambda *_: SILENCE
    async with connect(broker.url) as client, client.producer("orders") as producer:
        window = producer._publisher.window
        window.limits = window.limits._replace(collected_batches=1)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(producer.send, b"sent")
            await broker.until(lambda: broker.count(m.Publish))
            tasks.start_soon(producer.send, b"withdrawn")
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        await producer.submit(b"after")
        del broker.on[m.Publish]
        await broker.peer.cut()
        await producer.flush()
    assert broker.bodies == [b"sent", b"after"]


def test_before_the_first_connection_a_batch_may_be_as_large_as_a_broker_takes_by_default():
    publisher = Publisher.__new__(Publisher)
    publisher._session = None
    config = BrokerConfig()
    assert publisher.batch_limits() == (config.batch_messages_max, config.batch_bytes_max)
