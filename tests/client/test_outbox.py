"""The outbox: what was committed is sent, once and in order by key, whoever dies; what was not is not."""

from __future__ import annotations

import logging
import sqlite3
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import anyio
import pytest

from sluicemq.client import Outbox, connect
from sluicemq.client.backoff import Backoff
from sluicemq.client.errors import (
    ClientClosed,
    InternalError,
    InvalidRequest,
    MessageTooLarge,
    QueueFull,
    TableMissing,
    TransactionRequired,
)
from sluicemq.client.outbox import relay as relay_module
from sluicemq.client.outbox import sending as sending_module
from sluicemq.client.outbox.statements import LANES, Failure, Statements, lane_of
from sluicemq.wire import messages as m
from sluicemq.wire.batch import Batch
from tests.client.conftest import every_database
from tests.client.databases import Database
from tests.client.scripted_broker import CUT, SILENCE
from tests.patience import WAIT_SECONDS

pytestmark = pytest.mark.anyio


def where(database: Database) -> object:
    """What the relay is told about the database: of the same kind as what the user's code uses."""
    if database.kind == "sqlite3":
        return f"sqlite:///{database.sqlite}"
    if database.kind in ("psycopg", "psycopg async"):
        return database.postgres_url
    return database.engine()


@asynccontextmanager
async def outbox_on(database: Database, **options):
    """An outbox with its tables."""
    outbox = Outbox(where(database), **options)
    async with database.connection() as connection:
        await outbox.create_tables(connection)
        await outbox.create_tables(connection)  # again: they are there already
        await database.commit(connection)
    try:
        yield outbox
    finally:
        await outbox.aclose()
        await database.dispose()


@asynccontextmanager
async def sqlite_outbox(tmp_path, **options):
    """The plainest outbox, and a connection to add to it."""
    path = tmp_path / "orders.db"
    outbox = Outbox(path, **options)
    connection = sqlite3.connect(path)
    outbox.create_tables_blocking(connection)
    connection.commit()
    try:
        yield outbox, connection
    finally:
        connection.close()
        await outbox.aclose()


async def until_empty(outbox: Outbox) -> None:
    """Wait until nothing waits any more."""

    async def is_empty() -> bool:
        return not (await outbox.status()).waiting

    await until(is_empty)


async def until(condition) -> None:
    """Look at the database again and again: it tells nobody."""
    with anyio.fail_after(WAIT_SECONDS):
        while not await condition():  # noqa: ASYNC110 - see above
            await anyio.sleep(0.005)


@every_database
async def test_what_is_committed_is_sent_and_what_is_rolled_back_is_not(database: Database, broker) -> None:
    async with outbox_on(database) as outbox, connect(broker.url) as client, database.connection() as connection:
        async with outbox.relay(client) as relay:
            await outbox.add_async(connection, "orders", b"never")
            await database.rollback(connection)
            for number in range(3):
                await outbox.add_async(connection, "orders", b"order-%d" % number, key="Ada")
            await database.commit(connection)
            await broker.until(lambda: len(broker.bodies) == 3)
            await until_empty(outbox)
        assert broker.bodies == [b"order-0", b"order-1", b"order-2"]
        assert relay.statistics().sent == 3
        assert (await outbox.status()).oldest_age_seconds is None


@every_database
async def test_blocking_code_adds_without_a_loop(database: Database, broker) -> None:
    async with outbox_on(database) as outbox, database.connection() as connection:
        if database.is_async:
            with pytest.raises(TypeError, match=r"asynchronous: use 'await outbox\.add_async"):
                outbox.add(connection, "orders", b"order")
            return
        outbox.add(connection, "orders", b"order")
        await database.commit(connection)
        assert (await outbox.status()).waiting == 1


@every_database
async def test_everything_about_a_message_travels(database: Database, broker) -> None:
    due = datetime(2031, 5, 17, 12, tzinfo=UTC)
    async with outbox_on(database) as outbox, connect(broker.url) as client, database.connection() as connection:
        given = await outbox.add_async(
            connection,
            "orders",
            b"body",
            key="Ada",
            subject="paid",
            headers={"n": 1},
            message_id="o-1",
            at=due,
            ttl=60,
            priority=5,
        )
        made = await outbox.add_async(connection, "orders", bytearray(b"plain"), delay=3600)
        await database.commit(connection)
        async with outbox.relay(client):
            await broker.until(lambda: len(broker.bodies) == 2)
    assert given == "o-1"
    first: Any = Batch(broker.stored[0].data)
    assert list(first.message_ids) == ["o-1", made]
    assert list(first.keys) == ["Ada", None]
    assert list(first.subjects) == ["paid", None]
    assert first.headers[0] == {"n": 1}
    assert first.due_times[0] == round(due.timestamp() * 1000)
    assert abs(first.due_times[1] / 1000 - (datetime.now(UTC) + timedelta(hours=1)).timestamp()) < 60


@every_database
async def test_an_outbox_and_its_rows_outlive_everybody(database: Database, broker) -> None:
    async with outbox_on(database) as outbox:
        async with database.connection() as connection:
            await outbox.add_async(connection, "orders", b"order")
            await database.commit(connection)
        claim = await claimed(outbox, "a relay that has died")
        assert [row.body for row in claim.rows] == [b"order"]
        assert (await peeked(outbox)).lanes == [], "the rows are held"
        await outbox._own().transact(lambda d: outbox._statements.renew(d, "a relay that has died", -1.0))
        taken = await claimed(outbox, "another")
        assert [row.id for row in taken.rows] == [row.id for row in claim.rows]
        # The dead one comes to life, and has nothing to say any more; what the broker has may go all the same.
        failures = [Failure(claim.rows[0], "of no use", None)]
        assert await finished(outbox, claim, [], failures) == 0
        assert await outbox.parked() == []
        assert await finished(outbox, taken, [], failures) == 1
        (parked,) = await outbox.parked()
        assert (parked.error, parked.destination, parked.attempts) == ("of no use", "orders", 1)
        assert await outbox.retry() == 1
        assert await finished(outbox, claim, [claim.rows[0].id], []) == 0
        assert (await outbox.status()).waiting == 0


async def claimed(outbox: Outbox, owner: str):
    """What a relay of that name gets."""
    lanes = (await peeked(outbox)).lanes
    statements: Statements = outbox._statements
    return await outbox._own().transact(
        lambda d: statements.claim(d, owner, lanes, (), lease_seconds=30.0, rows_max=100, bytes_max=1 << 20)
    )


async def peeked(outbox: Outbox):
    """What a relay sees that has nothing yet."""
    return await outbox._own().transact(lambda d: outbox._statements.peek(d, ()))


async def finished(outbox: Outbox, claim, sent, failures) -> int:
    return await outbox._own().transact(lambda d: outbox._statements.finish(d, claim, sent, failures))


@every_database
async def test_two_relays_share_and_keep_the_order_of_each_key(database: Database, broker) -> None:
    keys = [f"customer-{number}" for number in range(40)]
    async with (
        outbox_on(database) as outbox,
        connect(broker.url) as client,
        database.connection() as connection,
        outbox.relay(client, batch_messages=20) as one,
        outbox.relay(client, batch_messages=20) as two,
    ):
        for number in range(8):
            for key in keys:
                await outbox.add_async(connection, "orders", b"%d" % number, key=key)
            await database.commit(connection)
        await until_empty(outbox)
    assert one.statistics().sent + two.statistics().sent == 8 * len(keys) == len(broker.bodies)
    arrived: dict[str, list[int]] = {}
    for stored in broker.stored:
        batch: Any = Batch(stored.data)
        for key, body in zip(batch.keys, batch.bodies, strict=True):
            arrived.setdefault(key, []).append(int(body))
    assert all(numbers == list(range(8)) for numbers in arrived.values())


async def test_a_poisoned_message_is_parked_and_holds_back_its_own_key_only(broker, tmp_path, caplog) -> None:
    caplog.set_level(logging.CRITICAL)
    broker.message_bytes_max = 100
    async with sqlite_outbox(tmp_path) as (outbox, connection), connect(broker.url) as client:
        outbox.add(connection, "orders", b"x" * 101, key="poisoned")
        outbox.add(connection, "orders", b"behind", key="poisoned")
        outbox.add(connection, "orders", b"x" * 102)
        for number in range(3):
            outbox.add(connection, "orders", b"fine-%d" % number, key="fine")
        connection.commit()
        async with outbox.relay(client):
            await broker.until(lambda: len(broker.bodies) == 3)
            await until(lambda: parked_are(outbox, 2))
        assert (await outbox.status()).waiting == 1
        assert await peeked(outbox) == ([], None), "what waits behind the parked one is no work for anybody"
        async with outbox.relay(client):
            assert broker.bodies == [b"fine-0", b"fine-1", b"fine-2"]
            parked = await outbox.parked()
            assert [(one.key, one.attempts) for one in parked] == [("poisoned", 1), (None, 1)]
            assert MessageTooLarge.__name__ in parked[0].error
            assert await outbox.discard([parked[0].id]) == 1, "what waits behind it goes on"
            await broker.until(lambda: len(broker.bodies) == 4)
            assert broker.bodies[3] == b"behind"
            broker.message_bytes_max = 1000
    async with sqlite_outbox(tmp_path) as (outbox, connection), connect(broker.url) as client, outbox.relay(client):
        assert await outbox.retry() == 1
        await broker.until(lambda: len(broker.bodies) == 5)
        await until_empty(outbox)


async def parked_are(outbox: Outbox, count: int) -> bool:
    return len(await outbox.parked()) == count


async def test_a_parked_message_lets_its_key_go_on_where_that_is_wanted(broker, tmp_path, caplog) -> None:
    caplog.set_level(logging.CRITICAL)
    broker.message_bytes_max = 100
    async with sqlite_outbox(tmp_path, parked_key="go_on") as (outbox, connection), connect(broker.url) as client:
        outbox.add(connection, "orders", b"x" * 101, key="poisoned")
        outbox.add(connection, "orders", b"behind", key="poisoned")
        connection.commit()
        async with outbox.relay(client):
            await broker.until(lambda: broker.bodies == [b"behind"])


async def test_a_destination_that_takes_nothing_holds_back_no_other(broker, tmp_path, caplog) -> None:
    caplog.set_level(logging.CRITICAL)
    full = True

    def publish(_peer, message, _tail):
        return QueueFull("full", retry_after=0.0) if full and message.destination == "full" else None

    broker.queues |= {"full"}
    broker.on[m.Publish] = publish
    async with sqlite_outbox(tmp_path) as (outbox, connection), connect(broker.url) as client:
        for number in range(3):
            outbox.add(connection, "full", b"full-%d" % number, key="Ada")
            outbox.add(connection, "missing", b"missing")
            outbox.add(connection, "orders", b"order-%d" % number, key="Ada")
        connection.commit()
        async with outbox.relay(client):
            await broker.until(lambda: len(broker.bodies) == 3)
            await until(lambda: failing_are(outbox, {"full", "missing"}))
            status = await outbox.status()
            assert (status.waiting, status.parked) == (6, 0)
            assert status.oldest_age_seconds is not None
            full = False
            broker.queues |= {"missing"}
            await until_empty(outbox)
    assert broker.bodies[:3] == [b"order-0", b"order-1", b"order-2"]
    assert [body for body in broker.bodies if body.startswith(b"full")] == [b"full-0", b"full-1", b"full-2"]
    assert len(broker.bodies) == 9


async def failing_are(outbox: Outbox, destinations: set[str]) -> bool:
    return {one.destination for one in await outbox.failing()} == destinations


async def test_an_error_that_nobody_knows_is_tried_a_few_times(broker, tmp_path, caplog, monkeypatch) -> None:
    caplog.set_level(logging.CRITICAL)
    monkeypatch.setattr(relay_module, "ROW_BACKOFF", Backoff(0.001, 0.001))
    broker.on[m.Publish] = lambda _peer, _message, _tail: InternalError("a bug")
    async with sqlite_outbox(tmp_path) as (outbox, connection), connect(broker.url) as client:
        outbox.add(connection, "orders", b"order")
        connection.commit()
        async with outbox.relay(client, attempts_max=3):
            await until(lambda: parked_are(outbox, 1))
            assert (await outbox.parked())[0].attempts == 3


async def test_a_broken_connection_neither_loses_nor_repeats(broker, tmp_path) -> None:
    cut = True

    def publish(peer, message, tail):
        nonlocal cut
        if cut:
            cut = False
            broker.publish(message, tail)  # it is stored, and the answer is lost
            return CUT
        return None

    broker.on[m.Publish] = publish
    async with sqlite_outbox(tmp_path) as (outbox, connection), connect(broker.url) as client:
        for number in range(3):
            outbox.add(connection, "orders", b"order-%d" % number)
        connection.commit()
        async with outbox.relay(client):
            await until_empty(outbox)
    assert broker.bodies == [b"order-0", b"order-1", b"order-2"]


async def test_a_send_that_nobody_answers_is_asked_for_and_not_repeated(broker, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(sending_module, "SEND_SECONDS", 0.05)
    silent = True

    def publish(_peer, message, tail):
        if not silent:
            return None
        if not broker.stored:
            broker.publish(message, tail)
        return SILENCE

    broker.on[m.Publish] = publish
    async with sqlite_outbox(tmp_path) as (outbox, connection), connect(broker.url) as client:
        outbox.add(connection, "orders", b"order")
        connection.commit()
        async with outbox.relay(client):
            await broker.until(lambda: broker.count(m.Publish))
            with anyio.move_on_after(0.3):  # several of its tries end without an answer
                await anyio.sleep_forever()
            silent = False
            await broker.peer.cut()
            await until_empty(outbox)
    assert broker.bodies == [b"order"]


async def test_an_outage_needs_no_hands(broker, tmp_path) -> None:
    async with sqlite_outbox(tmp_path) as (outbox, connection), connect(broker.url) as client, outbox.relay(client):
        broker.open = False
        await broker.peer.cut()
        for number in range(3):
            outbox.add(connection, "orders", b"order-%d" % number)
        connection.commit()
        with anyio.move_on_after(0.3):
            await anyio.sleep_forever()
        assert broker.bodies == []
        broker.open = True
        await until_empty(outbox)
    assert broker.bodies == [b"order-0", b"order-1", b"order-2"]


async def test_a_relay_that_ends_waits_for_what_is_under_way(broker, tmp_path) -> None:
    answer = anyio.Event()
    began = anyio.Event()

    async def publish(_peer, message, tail):
        began.set()
        await answer.wait()
        return broker.publish(message, tail)

    broker.on[m.Publish] = publish
    async with sqlite_outbox(tmp_path) as (outbox, connection), connect(broker.url) as client:
        outbox.add(connection, "orders", b"order")
        connection.commit()
        async with anyio.create_task_group() as tasks:

            async def relay() -> None:
                await outbox.relay(client)

            tasks.start_soon(relay)
            await began.wait()
            tasks.cancel_scope.cancel()
            answer.set()
        assert (await outbox.status()).waiting == 0
        # And nothing is held: another relay could go on at once.
        assert connection.execute("SELECT COUNT(*) FROM sluicemq_outbox_lanes WHERE held_until > 0").fetchone() == (0,)


async def test_a_relay_without_an_answer_ends_all_the_same(broker, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(relay_module, "CLOSE_SECONDS", 0.05)
    broker.on[m.Publish] = lambda *_: SILENCE
    async with sqlite_outbox(tmp_path) as (outbox, connection):
        async with connect(broker.url, close_timeout=0.05) as client, outbox.relay(client):
            outbox.add(connection, "orders", b"order")
            connection.commit()
            await broker.until(lambda: broker.count(m.Publish))
        assert (await outbox.status()).waiting == 1, "it may be stored: the next relay sends it under the same id"


async def test_a_relay_whose_client_is_closed_says_so(broker, tmp_path, caplog) -> None:
    caplog.set_level(logging.CRITICAL)
    async with sqlite_outbox(tmp_path) as (outbox, _connection):
        async with connect(broker.url) as client:
            pass
        with pytest.raises(ClientClosed):
            await outbox.relay(client)
        with pytest.raises(ClientClosed):
            async with outbox.relay(client):
                await anyio.wait_all_tasks_blocked()


async def test_missing_tables_say_what_to_call(broker, tmp_path) -> None:
    outbox = Outbox(tmp_path / "orders.db")
    with sqlite3.connect(tmp_path / "orders.db") as connection:
        with pytest.raises(TableMissing, match=r"await outbox\.create_tables\(connection\)"):
            outbox.add(connection, "orders", b"order")
        async with connect(broker.url) as client:
            with pytest.raises(TableMissing):
                await outbox.relay(client)
        await outbox.create_tables()
        outbox.add(connection, "orders", b"order")
    connection.close()
    assert (await outbox.status()).waiting == 1
    await outbox.aclose()


async def test_a_database_that_fails_for_a_while_is_waited_for(broker, tmp_path, caplog) -> None:
    caplog.set_level(logging.CRITICAL)
    path = tmp_path / "orders.db"
    broken = False

    def opens() -> sqlite3.Connection:
        if broken:
            raise sqlite3.OperationalError("disk I/O error")
        return sqlite3.connect(path)

    outbox = Outbox(opens)
    await outbox.create_tables()
    with sqlite3.connect(path) as connection:
        async with connect(broker.url) as client, outbox.relay(client, poll_interval=0.01) as relay:
            broken = True
            await until(lambda: has_failed(relay))
            outbox.add(connection, "orders", b"order")
            connection.commit()
            broken = False
            await broker.until(lambda: broker.bodies == [b"order"])
    connection.close()


async def has_failed(relay) -> bool:
    return relay.statistics().database_failures > 1


@every_database
async def test_what_another_process_commits_is_heard_of(database: Database, broker) -> None:
    if database.dialect == "sqlite":
        return  # polled
    elsewhere = Outbox()
    async with (
        outbox_on(database) as outbox,
        connect(broker.url) as client,
        # An interval beyond the test's patience: only NOTIFY can wake the relay.
        outbox.relay(client, poll_interval=600),
        database.connection() as connection,
    ):
        for number in range(2):
            await elsewhere.add_async(connection, "orders", b"order-%d" % number)
            await database.commit(connection)
            await broker.until(lambda: len(broker.bodies) == number + 1)  # noqa: B023 - waited for here


async def test_wrong_values_are_refused_when_they_are_given(tmp_path) -> None:
    async with sqlite_outbox(tmp_path) as (outbox, connection):
        with pytest.raises(TypeError, match=r"call \.encode\(\)"):
            outbox.add(connection, "orders", "text")
        with pytest.raises(InvalidRequest, match="destination"):
            outbox.add(connection, "", b"order")
        with pytest.raises(InvalidRequest, match="priority is 11"):
            outbox.add(connection, "orders", b"order", priority=11)
        assert not connection.in_transaction
        connection.isolation_level = None
        with pytest.raises(TransactionRequired):
            outbox.add(connection, "orders", b"order")
    with pytest.raises(InvalidRequest, match="knows no database of its own"):
        await Outbox().status()
    with pytest.raises(InvalidRequest, match="parked_key is 'stop'"):
        Outbox(parked_key="stop")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="begins with 'mysql://root"):
        Outbox("mysql://root:secret@host/db")
    with pytest.raises(TypeError, match="database must be an address"):
        Outbox(42)


def test_messages_of_one_key_share_a_lane_and_others_spread() -> None:
    assert lane_of("orders", "Ada", "1") == lane_of("orders", "Ada", "2")
    assert len({lane_of("orders", None, str(number)) for number in range(1000)}) == LANES
