"""Attempts that end with their lease, on a real broker in this process and on a virtual clock.

Nobody settles a message whose handler hangs: all that the broker ever hears of it is that user code has it.
"""

# ruff: noqa: SIM117 (what a block does before it ends is the story)

from __future__ import annotations

import math
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline.append import AppendStage
from sluicemq.client import connect
from sluicemq.client.errors import LeaseLost
from tests.broker.server.talk import open_port
from tests.client.conftest import AUTOJUMP_SECONDS

VIRTUAL_SECONDS_MAX = 3600


@pytest.fixture
def autojump_clock():
    """A virtual clock that stands until `let_time_pass` turns it."""
    return trio.testing.MockClock()


async def let_time_pass(append: AppendStage, clock: trio.testing.MockClock) -> None:
    """Let the clock jump to the next moment that somebody waits for, whenever all is quiet.

    The clock by itself would not see that the log's thread is at work, or waits for a processor that others have: it
    would let half a minute pass while the machine stands still for half a second.
    """
    while True:
        before = append.submitted_records, append.pending_bytes
        await append.run_on_log_thread(nothing)  # what it had to say of earlier entries, it has said then
        await trio.testing.wait_all_tasks_blocked(AUTOJUMP_SECONDS)
        if before == (append.submitted_records, 0):
            seconds = trio.lowlevel.current_statistics().seconds_to_next_deadline
            if 0 < seconds < math.inf:
                clock.jump(seconds)


def nothing() -> None:
    """Is done at once."""


@asynccontextmanager
async def broker_with(*bodies: bytes):
    """A broker whose queue 'orders' holds *bodies*, and two clients of it: each with connections of its own."""
    clock = trio.lowlevel.current_clock()
    assert isinstance(clock, trio.testing.MockClock)
    async with open_port() as port, trio.open_nursery() as nursery:
        nursery.start_soon(let_time_pass, port.road.append, clock)
        url = f"sluicemq://127.0.0.1:{port._address[1]}"
        with trio.fail_after(VIRTUAL_SECONDS_MAX):
            async with connect(url) as one, connect(url) as other:
                await one.declare_queue("orders")
                for body in bodies:
                    await one.send("orders", body)
                yield one, other
        nursery.cancel_scope.cancel()  # the broker needs no time to end


@pytest.mark.trio
@pytest.mark.parametrize("options", [{"auto_renew": False}, {"max_lease": 60}], ids=["no renewal", "renewal ended"])
async def test_a_first_handler_that_hangs_until_its_lease_ends_was_an_attempt(autojump_clock, options):
    async with broker_with(b"hangs", b"waits") as (one, other):
        async with one.consumer("orders", lease=30, **options) as hanging:
            message = await anext(hanging)
            assert (message.body, message.attempt) == (b"hangs", 1)
            await trio.sleep(130)
            assert message.lease_lost
        async with other.consumer("orders") as consumer:
            attempts = {message.body: message.attempt for message in [await anext(consumer), await anext(consumer)]}
        assert attempts == {b"hangs": 2, b"waits": 1}, "what lay in the buffer was no attempt"


@pytest.mark.trio
async def test_what_is_handed_out_shortly_before_its_lease_ends_is_an_attempt_too(autojump_clock):
    async with broker_with(b"one", b"two", b"three") as (one, other):
        async with one.consumer("orders", lease=30, auto_renew=False) as slow:
            await anext(slow)
            await trio.sleep(27)
            assert (await slow.receive(1)).bodies == [b"two"]
            await trio.sleep(10)
            async with other.consumer("orders") as consumer:
                messages = [await anext(consumer) for _ in range(3)]
                assert {message.body: message.attempt for message in messages} == {b"one": 2, b"two": 2, b"three": 1}


@pytest.mark.trio
async def test_a_lease_that_its_handler_made_shorter_ends_in_an_attempt(autojump_clock):
    async with broker_with(b"short") as (one, other):
        async with one.consumer("orders", lease=30, auto_renew=False) as hanging:
            message = await anext(hanging)
            await message.extend(5)
            await trio.sleep(7)
            async with other.consumer("orders") as consumer:
                assert (await anext(consumer)).attempt == 2


@pytest.mark.trio
async def test_a_handler_that_is_given_time_and_then_cancelled_made_no_attempt(autojump_clock):
    async with broker_with(b"patient") as (one, other):
        async with one.consumer("orders", lease=30, auto_renew=False) as consumer:
            with trio.move_on_after(29):
                async with await anext(consumer):
                    await trio.sleep_forever()
        async with other.consumer("orders") as consumer:
            assert (await anext(consumer)).attempt == 1


@pytest.mark.trio
async def test_after_its_queue_was_deleted_a_message_blames_the_queue(autojump_clock):
    lost: list[LeaseLost] = []
    async with broker_with(b"one", b"two") as (one, other):
        async with one.consumer("orders", on_lease_lost=lost.append) as consumer:
            first, second = await anext(consumer), await consumer.receive(1)
            await other.delete_queue("orders")
            await trio.sleep(1)
            assert [(error.messages, error.reason) for error in lost] == [(2, "queue_deleted")]
            with pytest.raises(LeaseLost, match="its queue was deleted") as caught:
                await first.ack()
            assert caught.value.reason == "queue_deleted"
            with pytest.raises(LeaseLost, match="its queue was deleted"):
                await second.ack()
