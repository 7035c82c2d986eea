"""What is the blocking client's own: threads that wait, the I/O thread that must not, leases of busy handlers."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from sluicemq.client.blocking import connect
from sluicemq.client.errors import ClientClosed, InternalError, LeaseLost, QueueNotFound, RequestTimeout
from sluicemq.client.publisher import Publisher
from tests.client.conformance.stories import WAIT_SECONDS
from tests.e2e.broker_process import START_SECONDS_MAX, BrokerProcess, unused_port
from tests.e2e.running import broker as broker

LEASE_SECONDS = 2.0
"""A third of it later the lease is renewed: broker and client may both stand still for a second."""


@pytest.fixture
def queue(request):
    return request.node.name


@pytest.fixture
def client(broker, queue):
    with connect(broker.url) as client:
        client.declare_queue(queue, retry=[0.001])
        yield client


def started(function):
    """Run *function* on a thread; once that is done, what it returned or raised is in the list."""
    outcome: list = []

    def work():
        try:
            outcome.append(function())
        except Exception as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, outcome


def ended(thread):
    thread.join(WAIT_SECONDS)
    assert not thread.is_alive(), "the thread hangs"


def test_a_handler_that_keeps_its_thread_for_many_leases_loses_none(client, queue):
    lost: list[LeaseLost] = []
    client.send(queue, b"long")
    with client.consumer(queue, lease=LEASE_SECONDS, on_lease_lost=lost.append) as consumer:
        message = next(consumer)
        time.sleep(2.5 * LEASE_SECONDS)
        message.ack(confirm=True)
        assert not message.lease_lost
    assert lost == []
    assert client.queue_info(queue)["redelivered_total"] == 0


def test_a_lease_that_ran_out_while_messages_lay_ready_for_threads_hands_out_none_of_them(client, queue):
    with client.producer(queue) as producer:
        producer.send_many([b"%d" % each for each in range(10)])
    with client.consumer(queue, lease=LEASE_SECONDS, auto_renew=False) as consumer:
        first = next(consumer)  # the other nine have crossed to this side by now
        time.sleep(1.2 * LEASE_SECONDS)
        with pytest.raises(LeaseLost):
            first.ack()
        seen = [next(consumer) for _ in range(10)]
        for message in seen:
            message.ack()
    assert sorted(message.body for message in seen) == [b"%d" % each for each in range(10)]
    # Only the first one was in somebody's hands when its lease ended. That is reported a little before the end: too
    # late where the machine stands still in that moment.
    assert {message.body for message in seen if message.attempt > 1} <= {b"0"}


def test_what_lay_ready_for_threads_goes_to_the_next_consumer_without_an_attempt(client, queue):
    with client.producer(queue) as producer:
        producer.send_many([b"%d" % each for each in range(50)])
    with client.consumer(queue) as consumer:
        next(consumer).ack()
        figures = consumer.statistics()
        assert (figures.handed_out, figures.buffered) == (1, 49)
    with client.consumer(queue) as consumer:
        batch = consumer.receive(49, max_wait=WAIT_SECONDS)
        assert batch.bodies == [b"%d" % each for each in range(1, 50)]
        assert {message.attempt for message in batch} == {1}
        batch.ack()


def test_receive_takes_first_what_lay_ready_for_iteration(client, queue):
    with client.producer(queue) as producer:
        producer.send_many([b"%d" % each for each in range(300)])
    with client.consumer(queue) as consumer:
        seen = [next(consumer).body]
        while len(seen) < 300:
            seen += consumer.receive(40, max_wait=WAIT_SECONDS).bodies
    assert seen == [b"%d" % each for each in range(300)]


def test_threads_that_wait_wake_with_client_closed(broker, queue):
    client = connect(broker.url).open()
    client.declare_queue(queue)
    consumer = client.consumer(queue).__enter__()
    receiving = client.consumer(queue).__enter__()
    waiting = [started(lambda: next(consumer)) for _ in range(3)] + [started(receiving.receive)]
    client.close()
    for thread, _ in waiting:
        ended(thread)
    assert [type(outcome[0]) for _, outcome in waiting] == [ClientClosed] * 4
    with pytest.raises(ClientClosed):
        client.queues()
    client.close()  # a second time does nothing


def test_closing_sends_what_was_submitted_and_settled(broker, queue):
    client = connect(broker.url).open()
    client.declare_queue(queue)
    producer = client.producer(queue).__enter__()
    submitted = [producer.submit(b"%d" % each) for each in range(500)]
    client.close()
    assert all(each.done for each in submitted)
    assert submitted[-1].result().position
    with connect(broker.url) as other:
        assert other.queue_info(queue)["ready"] == 500


def test_a_submission_can_be_waited_for_by_several_threads_and_for_a_while(broker, client, queue):
    with client.producer(queue) as producer:
        submitted = producer.submit(b"x")
        waiting = [started(submitted.result) for _ in range(4)]
        for thread, _ in waiting:
            ended(thread)
        assert len({outcome[0].position for _, outcome in waiting}) == 1
        os.kill(broker.pid, signal.SIGSTOP)
        try:
            held = producer.submit(b"y")
            assert not held.done
            with pytest.raises(RequestTimeout, match="still under way"):
                held.result(timeout=0.01)
        finally:
            os.kill(broker.pid, signal.SIGCONT)
        assert held.result().message_id


def test_a_call_on_the_io_thread_is_refused_instead_of_waiting_for_itself(client, queue, caplog):
    client.send(queue, b"x")
    refused: list[object] = []
    told = threading.Event()

    def lost(_error):
        waits = (client.queues, lambda: client.send(queue, b"x"), lambda: next(consumer), consumer.receive)
        for call in (*waits, consumer.statistics):
            with pytest.raises(RuntimeError, match="its own I/O thread"):
                call()
            refused.append(call)
        told.set()

    with client.consumer(queue, on_lease_lost=lost) as consumer:
        message = next(consumer)
        client.delete_queue(queue)
        assert told.wait(WAIT_SECONDS)
        assert message.lease_lost
    assert len(refused) == 5


def test_a_queue_that_goes_ends_every_thread_that_iterates(client, queue):
    with client.consumer(queue) as consumer:
        waiting = [started(lambda: next(consumer)) for _ in range(3)]
        client.delete_queue(queue)
        for thread, _ in waiting:
            ended(thread)
    assert [type(outcome[0]) for _, outcome in waiting] == [QueueNotFound] * 3


def test_a_broker_that_restarts_is_only_a_longer_wait_for_threads(tmp_path, queue):
    with BrokerProcess(tmp_path / "data", port=unused_port()) as broker, connect(broker.url) as client:
        client.declare_queue(queue)
        with client.producer(queue) as producer, client.consumer(queue) as consumer:
            waiting, outcome = started(lambda: next(consumer))
            broker.kill()
            late = producer.submit(b"after", timeout=2 * START_SECONDS_MAX)
            broker.start()
            assert late.result().position
            ended(waiting)
            assert outcome[0].body == b"after"
            outcome[0].ack(confirm=True)
        broker.stop()


@pytest.mark.parametrize("send", ["send", "send_many"])
def test_a_mistake_of_the_client_itself_reaches_the_thread_that_waits(client, queue, monkeypatch, send):
    def mistaken(*_args):
        raise KeyError("nonsense")

    monkeypatch.setattr(Publisher, "enter", mistaken)
    monkeypatch.setattr(Publisher, "enter_whole", mistaken)
    with client.producer(queue) as producer:
        thread, outcome = started(lambda: getattr(producer, send)(b"x" if send == "send" else [b"x"]))
        ended(thread)
    (error,) = outcome
    assert isinstance(error, InternalError)
    assert "nonsense" in str(error)
