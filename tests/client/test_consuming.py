"""Consuming: who gets what, what verdicts become, and how a consumer ends."""

# ruff: noqa: PT012, SIM117 (what a block does before it fails is the story)

from datetime import UTC, datetime, timedelta

import anyio
import anyio.lowlevel
import pytest

from sluicemq.client import connect
from sluicemq.client.errors import (
    AlreadySettled,
    ClientClosed,
    InvalidRequest,
    LeaseLost,
    OutcomeUnknown,
    QueueNotFound,
)
from sluicemq.wire import messages as m
from sluicemq.wire.errors import error_to_wire
from tests.client.conftest import virtual_time
from tests.client.scripted_broker import CUT, SILENCE
from tests.patience import WAIT_SECONDS

pytestmark = pytest.mark.anyio

ACK, NACK, RELEASE, HANDED_OVER = m.VERDICT_ACK, m.VERDICT_NACK, m.VERDICT_RELEASE, m.VERDICT_HANDED_OVER


def numbered(first, last):
    return [b"%d" % number for number in range(first, last + 1)]


def verdicts(broker, peer=None):
    """(verdict, tags) of each SETTLE so far."""
    return [(settle.verdict, settle.tags) for settle in (peer or broker.peer).of(m.Settle)]


async def test_a_message_carries_what_its_sender_gave(broker):
    async with connect(broker.url) as client, client.consumer("orders", name="billing") as consumer:
        (consume,) = broker.peer.of(m.Consume)
        assert (consume.queue, consume.name, consume.credit_messages) == ("orders", "billing", 500)
        assert (consume.credit_bytes, consume.lease_seconds) == (16 << 20, 30.0)
        await broker.peer.deliver(
            1, [b"x", b"y"], keys=["k", None], subjects=["s", None], headers=[{"h": 1}, None], message_ids=["id", None]
        )
        first, second = await anext(consumer), await anext(consumer)
        assert (first.body, first.key, first.subject, first.message_id, first.attempt) == (b"x", "k", "s", "id", 1)
        assert dict(first.headers) == {"h": 1}
        assert first.published_at == datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)
        assert (first.position, second.position) == ("0-10000004d-0", "0-10000004d-1")
        assert (second.key, second.subject, dict(second.headers), second.message_id) == (
            None,
            None,
            {},
            "000000000000000a",
        )
        assert "attempt 1" in repr(first)


async def test_handled_messages_are_acknowledged_in_few_frames(broker, monkeypatch):
    # A machine that has others to serve takes many times 5 ms for 500 messages; then there is a frame every 5 ms.
    monkeypatch.setattr("sluicemq.client.consumer.CHECKPOINT_SECONDS", WAIT_SECONDS)
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, numbered(1, 300), numbered(301, 500))
        seen = []
        async for message in consumer:
            async with message:
                seen.append(message.body)
            if len(seen) == 500:
                break
        await consumer.flush()
        assert seen == numbered(1, 500)
        assert all(verdict == ACK for verdict, _ in verdicts(broker))
        assert verdicts(broker)[0][1][0] == 1
        assert verdicts(broker)[-1][1][-1] == 500
        assert len(verdicts(broker)) <= 10
        assert consumer.statistics().acked == 500


async def test_others_get_their_turn_while_messages_are_at_hand(broker):
    turns = 0

    async def count_turns():
        nonlocal turns
        while True:
            await anyio.lowlevel.checkpoint()
            turns += 1

    async with connect(broker.url) as client, client.consumer("orders", credit=1000) as consumer:
        await broker.peer.deliver(1, numbered(1, 640))
        first = await anext(consumer)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(count_turns)
            await anyio.lowlevel.checkpoint()
            turns = 0
            for _ in range(630):
                async with await anext(consumer):
                    pass
            assert turns >= 8, "64 messages at most between two turns of the loop"
            tasks.cancel_scope.cancel()
        await first.ack()


async def test_an_exception_nacks_by_the_queues_policy_and_goes_on_its_way(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, [b"x"])
        problem = ValueError("handler")
        with pytest.raises(ValueError, match="handler") as caught:
            async with await anext(consumer):
                raise problem
        assert caught.value is problem
        await consumer.flush()
        (settle,) = broker.peer.of(m.Settle)
        assert (settle.verdict, settle.tags, settle.delay_seconds) == (NACK, [1, 1], None)


async def test_a_nack_may_name_its_delay(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, numbered(1, 3))
        await (await anext(consumer)).nack(delay=2.5)
        await (await anext(consumer)).nack(delay=timedelta(minutes=1))
        third = await anext(consumer)
        with pytest.raises(InvalidRequest, match="delay is -1"):
            await third.nack(delay=-1)
        await third.nack()
        await consumer.flush()
        assert [settle.delay_seconds for settle in broker.peer.of(m.Settle)] == [2.5, 60.0, None]


async def test_cancelling_a_handler_gives_its_message_back_without_an_attempt(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, [b"x"])
        entered = anyio.Event()

        async def handle():
            async with await anext(consumer):
                entered.set()
                await anyio.sleep_forever()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(handle)
            await entered.wait()
            tasks.cancel_scope.cancel()
        await broker.until(lambda: verdicts(broker) == [(RELEASE, [1, 1])])


async def test_a_generator_that_is_thrown_away_gives_its_message_back(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, [b"x"])

        async def handling():
            async with await anext(consumer) as message:
                yield message

        generator = handling()
        assert (await anext(generator)).body == b"x"
        await generator.aclose()
        await broker.until(lambda: verdicts(broker) == [(RELEASE, [1, 1])])


async def test_each_message_goes_to_one_of_the_tasks_that_share_a_consumer(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        seen = []

        async def work():
            async for message in consumer:
                async with message:
                    seen.append(message.body)
                    await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            for _ in range(7):
                tasks.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            for first in range(1, 100, 3):
                await broker.peer.deliver(1, numbered(first, first + 2))
            await broker.until(
                lambda: (
                    sum(tags[i + 1] - tags[i] + 1 for _, tags in verdicts(broker) for i in range(0, len(tags), 2)) == 99
                )
            )
            tasks.cancel_scope.cancel()
        assert sorted(seen, key=int) == numbered(1, 99)


async def test_a_message_whose_waiter_is_cancelled_goes_to_the_next_one(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        got = []

        async def work():
            got.append(await anext(consumer))

        async with anyio.create_task_group() as tasks:
            scope = anyio.CancelScope()

            async def cancelled():
                with scope:
                    await work()

            tasks.start_soon(cancelled)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            # Both happen before the first waiter runs again: it is woken by the message and cancelled.
            attachment = consumer._attachment
            assert attachment is not None
            consumer.delivered(attachment, m.Deliver(consumer=1, first_tag=1, runs=one_message()[0]), one_message()[1])
            scope.cancel()
            # On trio the first waiter gets it all the same: being woken came before being cancelled.
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
        assert [message.body for message in got] == [b"x"]


def one_message():
    from sluicemq.wire.batch import encode_batch

    data = encode_batch([b"x"])
    return [7, 0, 1, len(data), 0, 5, 9, 1, 0], memoryview(data)


# --- verdicts -----------------------------------------------------------------------------------------------------


async def test_the_same_verdict_twice_is_nothing_and_another_one_an_error(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, numbered(1, 2))
        first, second = await anext(consumer), await anext(consumer)
        await first.ack()
        await first.ack()
        with pytest.raises(AlreadySettled, match="acknowledged before"):
            await first.nack()
        with pytest.raises(AlreadySettled):
            await first.extend(5)
        async with second:
            await second.nack()  # the block leaves it at that
        with pytest.raises(AlreadySettled, match="nacked before"):
            await second.ack()
        await consumer.flush()
        assert sorted(verdicts(broker)) == [(ACK, [1, 1]), (NACK, [2, 2])]


async def test_a_confirmed_ack_waits_for_the_commit(broker):
    broker.on[m.Settle] = lambda *_: SILENCE
    async with connect(broker.url, close_timeout=0) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, [b"x"])
        message = await anext(consumer)
        returned = []

        async def confirm():
            await message.ack(confirm=True)
            returned.append(1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(confirm)
            await broker.until(lambda: verdicts(broker) == [(ACK, [1, 1])])
            await anyio.wait_all_tasks_blocked()
            assert not returned, "the broker has it, and has not said so"
            tasks.cancel_scope.cancel()


async def test_a_late_refusal_reaches_whoever_asked_to_know(broker):
    lost: list[LeaseLost] = []
    broker.on[m.Settle] = lambda _peer, settle, _tail: m.Settled(
        lost=[2, 2] if settle.tags[-1] >= 2 > settle.tags[0] - 1 else []
    )
    async with connect(broker.url) as client, client.consumer("orders", on_lease_lost=lost.append) as consumer:
        await broker.peer.deliver(1, numbered(1, 3))
        first, second, third = [await anext(consumer) for _ in range(3)]
        await first.ack(confirm=True)
        with pytest.raises(LeaseLost):
            await second.ack(confirm=True)
        assert [(error.queue, error.messages, error.reason) for error in lost] == [("orders", 1, "refused")]
        with pytest.raises(LeaseLost) as caught:
            await consumer.flush()
        assert caught.value.messages == 1
        await third.ack()
        await consumer.flush()
        assert consumer.statistics().leases_lost == 1


async def test_ack_through_settles_everything_handed_out_before(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, numbered(1, 10))
        messages = [await anext(consumer) for _ in range(6)]
        await messages[1].nack()
        await consumer.ack_through(messages[4])
        await messages[0].ack()  # nothing new
        with pytest.raises(AlreadySettled):
            await messages[3].nack()
        await consumer.flush()
        assert sorted(verdicts(broker)) == [(ACK, [1, 1, 3, 5]), (NACK, [2, 2])]
        async with client.consumer("orders") as other:
            with pytest.raises(ValueError, match="another consumer"):
                await other.ack_through(messages[5])


# --- receive ------------------------------------------------------------------------------------------------------


async def test_a_batch_has_bodies_messages_and_one_verdict_for_all(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, numbered(1, 3), numbered(4, 5))
        batch = await consumer.receive(max_messages=4)
        assert (len(batch), batch.bodies) == (4, numbered(1, 4))
        assert [message.body for message in batch] == numbered(1, 4)
        assert batch[3].body == b"4"
        assert batch[1] is batch[1:][0]
        await batch[2].nack()
        await batch.ack()
        await batch.ack()
        with pytest.raises(AlreadySettled):
            await batch.nack()
        await batch[0].ack()
        with pytest.raises(AlreadySettled):
            await batch[0].nack()
        async with await consumer.receive() as rest:
            assert rest.bodies == [b"5"]
        await consumer.flush()
        assert sorted(verdicts(broker)) == [(ACK, [1, 2, 4, 5]), (NACK, [3, 3])]


@pytest.mark.parametrize(("problem", "verdict"), [(ValueError(), NACK), (KeyboardInterrupt(), RELEASE)])
async def test_a_batch_is_settled_by_its_block_like_a_message(broker, problem, verdict):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, numbered(1, 3))
        with pytest.raises(type(problem)):
            async with await consumer.receive():
                raise problem
        await consumer.flush()
        assert verdicts(broker) == [(verdict, [1, 3])]


async def test_receive_raises_the_credit_to_twice_what_it_asks_for(broker):
    async with connect(broker.url) as client, client.consumer("orders", credit=10, credit_bytes=99) as consumer:
        await broker.peer.deliver(1, [b"x"])
        await consumer.receive(max_messages=5)
        assert broker.count(m.Credit) == 0
        await broker.peer.deliver(1, [b"x"])
        await consumer.receive(max_messages=6)
        await broker.until(
            lambda: broker.peer.of(m.Credit) == [m.Credit(consumer=1, credit_messages=12, credit_bytes=99)]
        )
        with pytest.raises(InvalidRequest):
            await consumer.receive(max_messages=0)


@virtual_time
async def test_an_empty_batch_comes_when_the_wait_is_over(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        began = anyio.current_time()
        batch = await consumer.receive(max_wait=timedelta(seconds=3))
        assert (len(batch), batch.bodies, list(batch)) == (0, [], [])
        assert anyio.current_time() - began == pytest.approx(3)
        await batch.ack()
        await batch.nack()
        async with batch:
            pass


async def test_cancelling_receive_loses_nothing(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        with anyio.move_on_after(0):
            await consumer.receive()
        await broker.peer.deliver(1, numbered(1, 5))
        await broker.until(lambda: True)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await anyio.lowlevel.checkpoint()
            await consumer.receive()
        assert (await consumer.receive()).bodies == numbered(1, 5)


# --- attempts -----------------------------------------------------------------------------------------------------


async def test_a_redelivered_message_is_reported_before_user_code_gets_it(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, [b"new"])
        await broker.peer.deliver(1, numbered(1, 2), deliveries=3, attempts=1)
        assert (await anext(consumer)).attempt == 1
        assert (await anext(consumer)).attempt == 2
        await broker.until(lambda: verdicts(broker) == [(HANDED_OVER, [2, 2])])
        batch = await consumer.receive()
        await batch.ack()
        await consumer.flush()
        assert verdicts(broker)[1:] == [(HANDED_OVER, [3, 3]), (ACK, [3, 3])]
        assert consumer.statistics().redelivered == 2


# --- ends ---------------------------------------------------------------------------------------------------------


async def test_drain_ends_every_loop_and_gives_back_what_nobody_has(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        handled, waiting = [], []

        async def work():
            async for message in consumer:
                async with message:
                    handled.append(message.tag)
                    await consumer.drain()

        async def wait():
            waiting.append(len(await consumer.receive()))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await broker.peer.deliver(1, numbered(1, 10))
            await broker.until(lambda: broker.count(m.CancelConsumer))
        assert handled == [1]
        async for _ in consumer:
            pytest.fail("a drained consumer hands nothing out")
        with pytest.raises(ClientClosed, match="drained"):
            await consumer.receive()
        await broker.until(lambda: sorted(verdicts(broker)) == [(ACK, [1, 1]), (RELEASE, [2, 10])])
        await consumer.drain()


@pytest.mark.parametrize("way", ["leave", "drain"])
async def test_whoever_parts_wants_nothing_more_first_and_is_gone_when_the_rest_is_back(broker, way):
    """Else the broker gives back to us what we gave back, or serves our next consumer before it has it."""
    order: list[str] = []

    def settled(_peer, message, _tail):
        order.append(f"settle {message.verdict} {message.tags}")

    async def cancelled(peer, _message, _tail):
        order.append("cancel")
        await peer.deliver(1, [b"crossed our cancelling"])

    broker.on[m.Settle], broker.on[m.CancelConsumer] = settled, cancelled
    async with connect(broker.url) as client:
        async with client.consumer("orders") as consumer:
            await broker.peer.deliver(1, numbered(1, 500))
            await (await consumer.receive(10)).ack(confirm=True)
            if way == "drain":
                await consumer.drain()
                order.append("gone")
        if way == "leave":
            order.append("gone")
        assert order == [
            f"settle {ACK} [1, 10]", "cancel", f"settle {RELEASE} [11, 500]", f"settle {RELEASE} [501, 501]", "gone",
        ]  # fmt: skip


@virtual_time
async def test_parting_takes_no_longer_than_close_timeout_and_survives_the_end_of_the_connection(broker):
    broker.on[m.Settle] = lambda *_: SILENCE
    async with connect(broker.url, close_timeout=3) as client:
        for number in (1, 2):
            began = anyio.current_time()
            with anyio.CancelScope() as scope:
                async with client.consumer("orders"):
                    await broker.peer.deliver(number, [b"x"])
                    await anyio.sleep(0.5)
                    scope.cancel()
            assert anyio.current_time() - began == pytest.approx(3.5, abs=0.2)
        broker.on[m.Settle] = lambda *_: CUT
        began = anyio.current_time()
        async with client.consumer("orders"):
            await broker.peer.deliver(3, [b"x"])
            await anyio.sleep(0.5)
        assert anyio.current_time() - began == pytest.approx(0.5, abs=0.2)


async def test_drain_wakes_those_who_wait(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        ended: list[object] = []

        async def iterate():
            async for _ in consumer:
                pytest.fail("nothing was delivered")
            ended.append("loop")

        async def receive():
            ended.append(len(await consumer.receive()))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(iterate)
            tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            await consumer.drain()
        assert sorted(map(str, ended)) == ["0", "loop"]


async def test_what_was_handed_out_can_be_settled_after_the_consumer_was_left(broker):
    async with connect(broker.url) as client:
        async with client.consumer("orders") as consumer:
            await broker.peer.deliver(1, numbered(1, 4))
            message = await anext(consumer)
        await broker.until(lambda: verdicts(broker) == [(RELEASE, [2, 4])])
        await broker.peer.deliver(1, [b"late"])
        await broker.until(lambda: verdicts(broker)[1:] == [(RELEASE, [5, 5])])
        await message.ack(confirm=True)
        assert verdicts(broker)[2:] == [(ACK, [1, 1])]
        with pytest.raises(ClientClosed, match="consumer of 'orders' is closed"):
            await anext(consumer)
        assert client._parts is not None
        assert not client._parts.by_number, "a consumer that is done must not be remembered"
        with pytest.raises(ClientClosed):
            async with consumer:
                pytest.fail("must not be entered twice")


async def test_a_queue_that_does_not_exist_is_named_on_entering(broker):
    async with connect(broker.url) as client:
        with pytest.raises(QueueNotFound, match="nowhere"):
            async with client.consumer("nowhere"):
                pytest.fail("must not open")
        consumer = client.consumer("orders")
        with pytest.raises(ClientClosed, match="async with"):
            await consumer.receive()
        with pytest.raises(InvalidRequest, match="lease"):
            client.consumer("orders", lease=0)
        with pytest.raises(InvalidRequest, match="credit"):
            client.consumer("orders", credit=0)


async def test_a_deleted_queue_ends_its_consumer_with_the_reason(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        async with anyio.create_task_group() as tasks:

            async def work():
                with pytest.raises(QueueNotFound, match="was deleted"):
                    async for _ in consumer:
                        pytest.fail("nothing was delivered")

            tasks.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            await broker.peer.send(m.ConsumerEnded(consumer=1, error=error_to_wire(QueueNotFound("it was deleted"))))
        with pytest.raises(QueueNotFound):
            await consumer.receive()


@pytest.mark.parametrize("count", [0, -1, 1_000_001, 2**31, 2**32])
async def test_a_count_out_of_range_is_named_and_leaves_no_trace(broker, count):
    async with connect(broker.url) as client, client.consumer("orders", credit=7) as consumer:
        with pytest.raises(InvalidRequest, match=f"max_messages is {count}; it must be 1 to 1000000"):
            await consumer.receive(max_messages=count)
        with pytest.raises(InvalidRequest, match=f"credit is {count}; it must be 1 to 1000000"):
            client.consumer("orders", credit=count)
        await broker.peer.cut()
        await broker.until(lambda: len(broker.peers) == 2 and broker.peer.of(m.Consume))
        (consume,) = broker.peer.of(m.Consume)
        assert consume.credit_messages == 7
        await broker.peer.deliver(1, [b"x"])
        assert (await consumer.receive(1_000_000)).bodies == [b"x"]
        await broker.until(lambda: [credit.credit_messages for credit in broker.peer.of(m.Credit)] == [2_000_000])


async def test_a_consumer_that_cannot_be_restored_ends_alone(broker):
    async with connect(broker.url) as client, client.consumer("orders") as bad, client.consumer("orders") as good:
        bad._requests.credit = 2**40  # whatever bug of ours it may be
        await broker.peer.cut()
        await broker.until(lambda: len(broker.peers) == 2 and broker.peer.of(m.Consume))
        with pytest.raises(InvalidRequest):
            await bad.receive()
        await broker.peer.deliver(1, [b"x"])
        assert (await anext(good)).body == b"x"


# --- reconnect ----------------------------------------------------------------------------------------------------


async def test_a_new_connection_restores_the_consumer_and_its_loop_goes_on(broker):
    lost: list[LeaseLost] = []
    async with connect(broker.url) as client:
        async with client.consumer("orders", credit=7, name="n", on_lease_lost=lost.append) as consumer:
            await broker.peer.deliver(1, numbered(1, 3))
            bodies = []
            async for message in consumer:
                async with message:
                    bodies.append(message.body)
                    if message.body == b"2":
                        old = broker.peer
                        await old.cut()
                        await broker.until(lambda: len(broker.peers) == 2 and broker.peer.of(m.Consume))
                        assert broker.peer.of(m.Consume) == old.of(m.Consume)
                        await broker.peer.deliver(1, [b"again"])
                        await broker.until(lambda: consumer.statistics().attachments == 2)
                if message.body == b"again":
                    break
            # The third lay in the buffer: it was dropped there, and the broker delivers it again.
            assert bodies == [b"1", b"2", b"again"]
            assert sum(error.messages for error in lost) in (1, 2)  # "2", and "1" if its verdict was cut off too
    assert verdicts(broker) == [(ACK, [1, 1])], "only what the new connection delivered is settled on it"


async def test_an_old_message_is_known_to_be_lost_and_an_open_confirm_is_unknown(broker):
    broker.on[m.Settle] = lambda *_: SILENCE
    async with connect(broker.url, close_timeout=0) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, numbered(1, 2))
        first, second = await anext(consumer), await anext(consumer)
        async with anyio.create_task_group() as tasks:

            async def confirm():
                with pytest.raises(OutcomeUnknown, match="may come again"):
                    await first.ack(confirm=True)

            tasks.start_soon(confirm)
            await broker.until(lambda: verdicts(broker))
            await broker.peer.cut()
        with pytest.raises(LeaseLost, match="connection that delivered it has ended"):
            await second.ack()
        assert second.lease_lost
        assert consumer.statistics().leases_lost == 2
        async with second:
            pass  # reported before: a handler's loop survives it


async def test_verdicts_wait_when_too_many_are_under_way(broker, monkeypatch):
    monkeypatch.setattr("sluicemq.client.attachment.SETTLES_UNDER_WAY_MAX", 1)
    monkeypatch.setattr("sluicemq.client.attachment.SETTLE_RANGES_WAITING_MAX", 2)
    answer = anyio.Event()

    async def settled(*_):
        await answer.wait()

    broker.on[m.Settle] = settled
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, numbered(1, 9))
        batch = await consumer.receive()
        await batch[0].ack()
        await broker.until(lambda: verdicts(broker))
        await batch[2].ack()  # waits in the buffer, as one range
        returned = []

        async def ack():
            await batch[4].ack()
            returned.append(1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ack)
            await anyio.wait_all_tasks_blocked()
            assert not returned, "the buffer is full: this one has to wait"
            answer.set()
        await consumer.flush()
        assert verdicts(broker) == [(ACK, [1, 1]), (ACK, [3, 3, 5, 5])]
