"""How a client ends: nobody hangs, nothing is forgotten, errors stay what they were."""

# ruff: noqa: PT012, SIM117 (what a block does before it fails is the story)

import anyio
import pytest

from sluicemq.client import connect
from sluicemq.client.errors import AuthenticationFailed, ClientClosed, InternalError, OutcomeUnknown, SluiceError
from sluicemq.wire import messages as m
from sluicemq.wire.errors import error_to_wire
from tests.client.conftest import virtual_time
from tests.client.scripted_broker import SILENCE
from tests.patience import WAIT_SECONDS

pytestmark = pytest.mark.anyio


class Problem(Exception):
    """Raised by the user's body."""


class Abort(BaseException):
    """The same, outside of Exception."""


@pytest.mark.parametrize("kind", [Problem, Abort, KeyboardInterrupt])
async def test_an_exception_of_the_body_leaves_connect_as_the_same_object(broker, kind):
    problem = kind("mine")
    with pytest.raises(kind) as caught:
        async with connect(broker.url) as client, client.consumer("orders"), client.producer("orders") as producer:
            await producer.send(b"x")
            raise problem
    assert caught.value is problem
    assert problem.__cause__ is None


async def test_cancelling_the_body_is_plain_cancellation(broker):
    with anyio.CancelScope() as scope:
        async with connect(broker.url) as client, client.consumer("orders") as consumer:
            await broker.peer.deliver(1, [b"x", b"y"])
            await (await anext(consumer)).ack()
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught
    # What was acknowledged was still sent, shielded; what was not handed out was given back.
    await broker.until(lambda: broker.peer.of(m.Close))
    settled = sorted((settle.verdict, settle.tags) for settle in broker.peer.of(m.Settle))
    assert settled == [(m.VERDICT_ACK, [1, 1]), (m.VERDICT_RELEASE, [2, 2])]


async def test_every_waiter_wakes_with_client_closed(broker):
    for kind in (m.Publish, m.QueueInfo, m.Settle, m.Extend):
        broker.on[kind] = lambda *_: SILENCE
    woken: dict[str, SluiceError | None] = {}
    started = 0

    async def wait(name, call, *arguments):
        nonlocal started
        started += 1
        try:
            await call(*arguments)
        except SluiceError as error:
            woken[name] = error
        else:
            woken[name] = None

    async with anyio.create_task_group() as tasks, connect(broker.url, close_timeout=0) as client:
        consumer = client.consumer("orders")
        producer = client.producer("orders")
        await consumer.__aenter__()
        await producer.__aenter__()
        await broker.peer.deliver(1, [b"a", b"b"])
        first, second = await anext(consumer), await anext(consumer)
        submitted = await producer.submit(b"x")
        for name, call, *arguments in [
            ("send", producer.send, b"x"),
            ("send_many", producer.send_many, [b"x"]),
            ("submitted", submitted._wait),
            ("shared send", client.send, "orders", b"x"),
            ("next", consumer.__anext__),
            ("receive", consumer.receive),
            ("question", client.queue_info, "orders"),
        ]:
            tasks.start_soon(wait, name, call, *arguments)
        tasks.start_soon(wait, "confirm", first.ack, True)
        tasks.start_soon(wait, "extend", second.extend, 60)
        tasks.start_soon(wait, "flush", producer.flush)
        await anyio.wait_all_tasks_blocked()
    assert len(woken) == started == 10
    assert {name for name, error in woken.items() if not isinstance(error, ClientClosed)} == {
        "confirm",  # its outcome is unknown: more than "closed" can say
        "extend",  # its lease is over
        "flush",  # each send that it waited for has its own answer
    }
    assert isinstance(woken["submitted"], ClientClosed)
    assert (woken["submitted"].sequence, woken["submitted"].index) == (1, 0)
    assert "may or may not have been stored" in str(woken["submitted"])


async def test_leaving_waits_for_verdicts_to_be_committed(broker):
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, [b"x"])
        async with await anext(consumer):
            pass
    assert [settle.tags for settle in broker.peers[0].of(m.Settle)] == [[1, 1]]


@virtual_time
async def test_leaving_takes_no_longer_than_close_timeout(broker):
    broker.on[m.Settle] = lambda *_: SILENCE
    broker.on[m.Publish] = lambda *_: SILENCE
    with pytest.raises(Problem):
        async with connect(broker.url, close_timeout=2) as client, client.consumer("orders") as consumer:
            await broker.peer.deliver(1, [b"x"])
            async with await anext(consumer):
                pass
            began = anyio.current_time()
            raise Problem
    assert anyio.current_time() - began == pytest.approx(2, abs=0.1)
    with pytest.raises(Problem):
        async with connect(broker.url, close_timeout=3) as client, client.producer("orders") as producer:
            await producer.submit(b"x")
            began = anyio.current_time()
            raise Problem
    assert anyio.current_time() - began == pytest.approx(3, abs=0.1)


@virtual_time
async def test_a_failure_in_the_background_waits_for_the_next_call(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        async with client.consumer("orders") as consumer:
            broker.on[m.Authenticate] = lambda *_: m.Close(error=error_to_wire(AuthenticationFailed("revoked")))
            await broker.peer.cut()
            await anyio.sleep(60)  # the body goes on undisturbed
            for call in (client.queues(), producer.send(b"x"), consumer.receive(), client.send("orders", b"x")):
                with pytest.raises(AuthenticationFailed, match="revoked"):
                    await call


def fail(*_):
    raise ZeroDivisionError


async def test_a_bug_in_the_background_reaches_the_callers_with_its_cause(broker, caplog, monkeypatch):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        monkeypatch.setattr(producer._publisher, "_answered", fail)
        with anyio.fail_after(WAIT_SECONDS), pytest.raises(OutcomeUnknown) as caught:
            await producer.send(b"x")
        assert isinstance(caught.value.__cause__, InternalError)
        assert isinstance(caught.value.__cause__.__cause__, ZeroDivisionError)
        with pytest.raises(InternalError):
            await client.queues()


async def test_a_client_closes_while_the_broker_is_gone(broker):
    async with anyio.create_task_group() as tasks:

        async def ask(client):
            with pytest.raises(ClientClosed):
                await client.queues()

        with anyio.fail_after(WAIT_SECONDS):
            async with connect(broker.url) as client:
                broker.open = False
                await broker.peer.cut()
                tasks.start_soon(ask, client)
                await anyio.wait_all_tasks_blocked()


async def test_cancelling_while_connecting_leaves_nothing_behind(broker):
    for _ in range(20):
        with anyio.CancelScope() as scope:
            scope.cancel()
            async with connect(broker.url):
                pytest.fail("must not open")
    broker.on[m.Hello] = lambda *_: SILENCE
    with anyio.move_on_after(0.02):
        async with connect(broker.url):
            pytest.fail("must not open")


async def test_an_interrupt_while_the_client_stops_leaves_the_loop_whole(broker, monkeypatch):
    """SIGINT passes every shield: the wait for the background tasks is where it lands when a program is being left."""
    interrupt = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt) as caught:
        async with connect(broker.url) as client:
            parts = client._parts
            assert parts is not None
            park = parts.runtime.park

            async def interrupted(holder):
                if holder is parts._all_ended:
                    raise interrupt
                await park(holder)

            monkeypatch.setattr(parts.runtime, "park", interrupted)
    assert caught.value is interrupt
    async with connect(broker.url) as client:  # tasks can be started and ended as before
        await client.queues()


async def test_an_interrupt_while_the_last_verdicts_are_sent_ends_the_client_all_the_same(broker, monkeypatch):
    async def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        async with connect(broker.url) as client:
            monkeypatch.setattr(client._parts, "flush", interrupted)
    await broker.until(lambda: broker.peer.of(m.Close))


@virtual_time
async def test_leaving_a_producer_gives_up_when_nothing_is_answered_any_more(broker):
    async with connect(broker.url, close_timeout=2) as client:
        broker.on[m.Publish] = lambda *_: SILENCE
        began = anyio.current_time()
        with pytest.raises(ClientClosed, match="may or may not have been stored"):
            async with client.producer("orders") as producer:
                await producer.submit(b"x")
        assert anyio.current_time() - began == pytest.approx(2, abs=0.1)


@virtual_time
async def test_leaving_a_producer_waits_as_long_as_answers_come(broker):
    async def take_time(*_):
        await anyio.sleep(1.5)

    async with connect(broker.url, close_timeout=2) as client:
        broker.on[m.Publish] = take_time
        began = anyio.current_time()
        async with client.producer("orders") as producer:
            for number in range(5):
                await producer.submit(b"%d" % number)
                await anyio.sleep(0.2)
        assert anyio.current_time() - began > 4
    assert len(broker.bodies) == 5
