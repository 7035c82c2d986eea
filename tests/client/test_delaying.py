"""Messages for later, for a while, or ahead of others: what the user says, and what travels."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from sluicemq.client import NewMessage, connect
from sluicemq.client.errors import InvalidRequest
from sluicemq.client.options import delivery_of
from sluicemq.wire import messages as m
from sluicemq.wire.batch import DUE_MS_MAX, Batch

pytestmark = pytest.mark.anyio

NOON = datetime(2030, 6, 1, 12, 0, 0, 1_000, tzinfo=UTC)
NOON_MS = 1_906_545_600_001


def sent(broker: Any, number: int = 0) -> tuple[Any, Any, Any]:
    batch = Batch(broker.stored[number].data)
    batch.check()
    return batch.due_times, batch.ttls, batch.priorities


async def test_every_way_to_send_says_when_how_long_and_how_soon(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        await producer.send(b"a", delay=1.5, ttl=timedelta(minutes=1), priority=9)
        await (await producer.submit(b"b", at=NOON))
        await client.send("orders", b"c", delay=timedelta(days=365), priority=1)
        await producer.send_many([b"d", NewMessage(b"e", delay=2), NewMessage(b"f", ttl=0.001, priority=3)])
    assert sent(broker, 0) == ([-1500], [60_000], [9])
    assert sent(broker, 1) == ([NOON_MS], None, None)
    assert sent(broker, 2) == ([-365 * 86_400_000], None, [1])
    assert sent(broker, 3) == ([None, -2000, None], [None, None, 1], [None, None, 3])


async def test_a_message_that_says_nothing_travels_as_ever(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        await producer.send(b"a", delay=0, priority=0)
        await producer.send(b"b")
        await producer.send_many([NewMessage(b"c", priority=0)])
    assert [sent(broker, number) for number in range(3)] == [(None, None, None)] * 3


async def test_sends_that_wait_and_sends_that_do_not_travel_together(broker):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        await producer.send_many([b"warm", b"up"])
        receipts = [await producer.submit(b"%d" % n, delay=n if n % 2 else None) for n in range(20)]
        for receipt in receipts:
            await receipt
    found: dict[bytes, int | None] = {}
    for stored in broker.stored[1:]:
        batch = Batch(stored.data)
        found.update(zip(batch.bodies, batch.due_times or [None] * batch.count, strict=True))
    assert found == {b"%d" % n: -1000 * n if n % 2 else None for n in range(20)}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"delay": 1, "at": NOON}, TypeError, "give either delay or at"),
        ({"delay": "1"}, TypeError, "delay must be seconds or a timedelta, not str"),
        ({"delay": -1}, InvalidRequest, "delay is -1"),
        ({"delay": float("nan")}, InvalidRequest, "delay is nan"),
        ({"delay": 11 * 366 * 86_400}, InvalidRequest, "delay is"),
        ({"at": 5}, TypeError, "at must be a datetime, not int"),
        ({"at": NOON.replace(tzinfo=None)}, InvalidRequest, "without a time zone"),
        ({"at": datetime.max.replace(tzinfo=timezone(timedelta(hours=-5)))}, InvalidRequest, "year 9999"),
        ({"ttl": 0}, InvalidRequest, "ttl is 0"),
        ({"ttl": True}, TypeError, "ttl must be"),
        ({"priority": 10}, InvalidRequest, "priority is 10; it must be 0 to 9"),
        ({"priority": -1}, InvalidRequest, "priority is -1"),
        ({"priority": None}, TypeError, "priority must be an integer"),
        ({"priority": True}, TypeError, "priority must be an integer"),
    ],
)
async def test_what_makes_no_sense_is_named_and_nothing_is_sent(broker, options, error, words):
    async with connect(broker.url) as client, client.producer("orders") as producer:
        for send in (producer.send, producer.submit, lambda body, **given: client.send("orders", body, **given)):
            with pytest.raises(error, match=words):
                await send(b"x", **options)
        with pytest.raises(error, match=words):
            await producer.send_many([NewMessage(b"x", **options)])
        assert broker.count(m.Publish) == 0


def test_times_are_exact_to_the_millisecond_however_far():
    for at, due in (
        (datetime(1969, 1, 1, tzinfo=UTC), 0),
        (datetime(1970, 1, 1, 0, 0, 0, 999, tzinfo=UTC), 0),
        (NOON.astimezone(timezone(timedelta(hours=2))), NOON_MS),
        (datetime.max.replace(tzinfo=UTC), DUE_MS_MAX),
    ):
        assert delivery_of(None, at, None, 0) == (due, None, None)
