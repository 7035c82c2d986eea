"""Sends whose outcome is unknown, sent again by the user under their first identity."""

# ruff: noqa: PT012, SIM117 (what a block does before it fails is the story)

import pickle

import anyio
import pytest

from sluicemq.client import connect
from sluicemq.client.errors import (
    ClientClosed,
    Conflict,
    InvalidRequest,
    OutcomeUnknown,
    ProducerNotFound,
    QueueNotFound,
    SequenceGap,
)
from sluicemq.wire import messages as m
from tests.client.conftest import virtual_time
from tests.client.scripted_broker import SILENCE

pytestmark = pytest.mark.anyio


def store_without_a_word(broker):
    """The broker appends, and dies before it confirms."""

    def publish(_peer, message, tail):
        broker.publish(message, tail)
        return SILENCE

    broker.on[m.Publish] = publish


def store_nothing(broker):
    broker.on[m.Publish] = lambda *_: SILENCE


async def leave_in_doubt(broker, send):
    """Send with a client that is closed before the answer; return what the user is left with."""
    with pytest.raises(ClientClosed, match="may or may not have been stored") as caught:
        async with connect(broker.url, close_timeout=0) as client, client.producer("orders") as producer:
            submitted = await send(producer)
            await broker.until(lambda: broker.count(m.Publish))
            producer._publisher.close(ClientClosed("the process goes down"))
            await submitted
    broker.on.pop(m.Publish)
    return caught.value


async def submit_one(producer):
    return await producer.submit(b"once", message_id="o-1")


async def test_what_was_stored_is_answered_with_its_first_position(broker):
    store_without_a_word(broker)
    error = await leave_in_doubt(broker, submit_one)
    async with connect(broker.url) as client:
        (receipt,) = await client.resend(error)
        assert (receipt.duplicate, receipt.message_id) == (True, "o-1")
        assert receipt.position == f"0-{broker.stored[0].zxid:x}-0"
        assert [*await client.resend(error)] == [receipt], "asking again changes nothing"
    assert broker.bodies == [b"once"]
    assert broker.count(m.CloseProducer) == 0, "the broker must not forget the number"


async def test_what_is_sent_again_asks_for_the_same_disks(broker):
    store_nothing(broker)
    error = await leave_in_doubt(broker, lambda producer: producer.submit(b"once", acks="all"))
    async with connect(broker.url) as client:
        (receipt,) = await client.resend(error)
    assert receipt.acks == "all"


async def test_what_was_not_stored_is_stored_under_its_first_identity(broker):
    store_nothing(broker)
    error = await leave_in_doubt(broker, submit_one)
    async with connect(broker.url) as client:
        (receipt,) = await client.resend(error)
        assert not receipt.duplicate
    (stored,) = broker.stored
    assert (stored.producer, stored.sequence, stored.bodies) == (error.producer, error.sequence, [b"once"])


@virtual_time
async def test_single_sends_of_one_batch_are_resent_together_and_each_gets_its_own_receipt(broker):
    errors = {}

    async def send(producer, number):
        try:
            await producer.send(b"%d" % number, timeout=5)
        except OutcomeUnknown as error:
            errors[number] = error

    async with connect(broker.url) as first:
        async with first.producer("orders") as producer:
            await producer.send_many([b"warm", b"up"])
            store_nothing(broker)
            async with anyio.create_task_group() as tasks:
                for number in range(3):
                    tasks.start_soon(send, producer, number)
            assert sorted(error.index for error in errors.values()) == [0, 1, 2]
            broker.on.pop(m.Publish)
            await broker.peer.cut()  # the window sends it again by itself, and the resend waits for that
            for number, error in errors.items():
                (receipt,) = await first.resend(error)
                stored = broker.stored[-1]
                assert receipt.position == f"0-{stored.zxid:x}-{error.index:x}"
                assert stored.bodies[error.index] == b"%d" % number
    assert broker.bodies == [b"warm", b"up", *broker.stored[-1].bodies]


@virtual_time
async def test_a_whole_send_many_gets_all_its_receipts(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        store_without_a_word(broker)
        with pytest.raises(OutcomeUnknown) as caught:
            await producer.send_many([b"a", b"b", b"c"], timeout=5)
        broker.on.pop(m.Publish)
        with pytest.raises(OutcomeUnknown) as again:
            await client.resend(caught.value, timeout=1)  # the connection stands: the window waits for its answer
        await broker.peer.cut()
        receipts = await client.resend(again.value)
        assert (len(receipts), receipts.duplicate) == (3, True)
        assert [*await client.resend(caught.value)] == [*receipts], "the first error stands for the same messages"
    assert broker.bodies == [b"a", b"b", b"c"]


@virtual_time
async def test_what_the_broker_refused_meanwhile_is_known_not_to_be_stored(broker):
    """Its sequence has gone to another batch since: sent again, it would be taken for that one."""
    async with connect(broker.url) as client, client.producer("orders") as producer:
        held: list[None] = []

        async def hold(*_):
            held.append(None)
            await anyio.sleep(10)
            return QueueNotFound("gone") if len(held) == 1 else None

        broker.on[m.Publish] = hold
        with pytest.raises(OutcomeUnknown) as caught:
            await producer.send(b"refused", timeout=5)
        await anyio.sleep(6)
        await producer.send(b"other")
        assert broker.stored[0].sequence == caught.value.sequence
        with pytest.raises(QueueNotFound):
            await client.resend(caught.value)
    assert broker.bodies == [b"other"]


@virtual_time
async def test_one_task_at_a_time_resends(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        store_nothing(broker)
        with pytest.raises(OutcomeUnknown) as caught:
            await producer.send(b"x", timeout=5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(client.resend, caught.value)
            await anyio.sleep(1)
            with pytest.raises(Conflict, match="another task"):
                await client.resend(caught.value)
            broker.on.pop(m.Publish)
            await broker.peer.cut()
        with anyio.move_on_after(0):
            await client.resend(caught.value)
    assert broker.bodies == [b"x"]


async def test_a_forgotten_producer_leaves_the_choice_to_the_user(broker):
    store_nothing(broker)
    error = await leave_in_doubt(broker, submit_one)
    broker.on[m.Publish] = lambda *_: ProducerNotFound("forgotten", producer=error.producer)
    async with connect(broker.url) as client:
        with pytest.raises(ProducerNotFound, match="look into the queue, or send the messages anew") as caught:
            await client.resend(error)
        assert caught.value.producer == error.producer
        broker.on[m.Publish] = lambda *_: SequenceGap("ahead", expected=1, sequence=2)
        with pytest.raises(SequenceGap, match="resend those first"):
            await client.resend(error)


@virtual_time
async def test_a_resend_without_an_answer_stays_unknown_and_may_be_repeated(broker):
    store_nothing(broker)
    error = await leave_in_doubt(broker, submit_one)
    async with connect(broker.url) as client:
        store_nothing(broker)
        with pytest.raises(OutcomeUnknown) as caught:
            await client.resend(error, timeout=3)
        assert (caught.value.producer, caught.value.sequence, caught.value.index) == (
            error.producer, error.sequence, error.index,
        )  # fmt: skip
        broker.on.pop(m.Publish)
        await broker.peer.cut()
        (receipt,) = await client.resend(caught.value)
        assert not receipt.duplicate
    assert broker.bodies == [b"once"]


async def test_only_the_error_of_a_send_can_be_resent(broker):
    store_nothing(broker)
    error = await leave_in_doubt(broker, submit_one)
    async with connect(broker.url) as client:
        for empty in (pickle.loads(pickle.dumps(error)), OutcomeUnknown("a purge")):
            with pytest.raises(InvalidRequest, match="holds no messages"):
                await client.resend(empty)
        with pytest.raises(TypeError, match="OutcomeUnknown of a send, not ValueError"):
            await client.resend(ValueError())  # type: ignore[arg-type]
