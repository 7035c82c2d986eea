"""The inbox: one effect a message, whoever dies, waits, rolls back or comes second; on every kind of connection."""

from __future__ import annotations

import pickle
import sqlite3
from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import pytest

from sluicemq.client import Inbox, connect
from sluicemq.client.errors import InvalidRequest, TableMissing, TransactionRequired
from tests.client.conftest import every_database
from tests.client.databases import Database, in_thread

pytestmark = pytest.mark.anyio


async def prepared(database: Database) -> Inbox:
    """Make the inbox's table and one of the user's own."""
    inbox = Inbox("billing")
    async with database.connection() as connection:
        await inbox.create_table(connection)
        await inbox.create_table(connection)  # again: it is there already
        await database.execute(connection, "CREATE TABLE bills (customer TEXT)")
        await database.commit(connection)
    return inbox


async def bill(database: Database, connection: object, customer: str) -> None:
    await database.execute(connection, f"INSERT INTO bills VALUES ('{customer}')")


async def fail_in(inbox: Inbox, order: str, connection: object, handler: Callable[[], Awaitable[None]]) -> None:
    """Let the handler do its work, and fail behind it."""
    async with inbox.once(order, connection):
        await handler()
        raise ArithmeticError


async def bills(database: Database) -> list[str]:
    async with database.connection() as connection:
        rows = await database.execute(connection, "SELECT customer FROM bills ORDER BY customer")
        await database.rollback(connection)
    return [row[0] for row in rows]


@every_database
async def test_a_message_that_comes_again_takes_effect_once(database: Database) -> None:
    inbox = await prepared(database)
    seen = []
    for _ in range(3):
        async with database.connection() as connection:
            async with inbox.once("order-1", connection) as fresh:
                seen.append(fresh)
                if fresh:
                    await bill(database, connection, "Ada")
            await database.commit(connection)
    assert seen == [True, False, False]
    assert await bills(database) == ["Ada"]


@every_database
async def test_a_rollback_frees_the_message(database: Database) -> None:
    inbox = await prepared(database)
    async with database.connection() as connection:
        async with inbox.once("order-1", connection) as fresh:
            assert fresh
            await bill(database, connection, "Ada")
        await database.rollback(connection)
        async with inbox.once("order-1", connection) as fresh:
            assert fresh
        await database.commit(connection)
    assert await bills(database) == []


@every_database
async def test_a_handler_that_fails_leaves_nothing_even_if_the_transaction_is_committed(database: Database) -> None:
    inbox = await prepared(database)
    async with database.connection() as connection:
        await bill(database, connection, "before")
        handler = partial(bill, database, connection, "half done")
        with pytest.raises(ArithmeticError):
            await fail_in(inbox, "order-1", connection, handler)
        await bill(database, connection, "after")
        await database.commit(connection)
        async with inbox.once("order-1", connection) as fresh:
            assert fresh
        await database.commit(connection)
    assert await bills(database) == ["after", "before"]


@every_database
async def test_a_handler_that_is_cancelled_leaves_nothing_either(database: Database) -> None:
    inbox = await prepared(database)
    async with database.connection() as connection:
        with anyio.CancelScope() as scope:
            async with inbox.once("order-1", connection):
                await bill(database, connection, "half done")
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        await database.commit(connection)
        async with inbox.once("order-1", connection) as fresh:
            assert fresh
        await database.commit(connection)
    assert await bills(database) == []


@every_database
async def test_a_commit_inside_the_block_is_a_commit(database: Database) -> None:
    inbox = await prepared(database)
    async with database.connection() as connection:
        async with inbox.once("order-1", connection):
            await bill(database, connection, "Ada")
            await database.commit(connection)

        async def commit_too_early() -> None:
            await bill(database, connection, "Bob")
            await database.commit(connection)

        with pytest.raises(ArithmeticError):
            await fail_in(inbox, "order-2", connection, commit_too_early)
        for order in ("order-1", "order-2"):
            async with inbox.once(order, connection) as fresh:
                assert not fresh
        await database.commit(connection)
    assert await bills(database) == ["Ada", "Bob"]


@every_database
async def test_several_messages_share_a_transaction(database: Database) -> None:
    inbox = await prepared(database)
    async with database.connection() as connection:
        for order in ("order-1", "order-2", "order-1"):
            async with inbox.once(order, connection) as fresh:
                if fresh:
                    await bill(database, connection, order)
        await database.commit(connection)
    assert await bills(database) == ["order-1", "order-2"]


@every_database
@pytest.mark.parametrize(("ending", "second_is_fresh"), [("commit", False), ("rollback", True)])
async def test_of_two_workers_with_the_same_message_the_second_waits_for_the_first(
    database: Database, ending: str, second_is_fresh: bool
) -> None:
    inbox = await prepared(database)
    events = []
    async with database.connection() as first, other(database).connection() as second:
        waiting = anyio.Event()

        async def second_worker() -> None:
            waiting.set()
            async with inbox.once("order-1", second) as fresh:
                events.append(("second", fresh))
                if fresh:
                    await bill(database, second, "second")
            await database.commit(second)

        async with anyio.create_task_group() as tasks:
            async with inbox.once("order-1", first) as fresh:
                assert fresh
                await bill(database, first, "first")
                tasks.start_soon(second_worker)
                await waiting.wait()
                with anyio.move_on_after(0.05):
                    await anyio.sleep_forever()  # the loop runs on, whatever the second one does
                events.append(("first", True))
            await (database.commit if ending == "commit" else database.rollback)(first)
    assert events == [("first", True), ("second", second_is_fresh)]
    assert await bills(database) == ["second" if second_is_fresh else "first"]


def other(database: Database) -> Database:
    """Another process's way to the same database."""
    return Database(database.kind, database.sqlite, database.postgres)


@every_database
async def test_consumers_have_their_own_ids(database: Database) -> None:
    inbox = await prepared(database)
    async with database.connection() as connection:
        for consumer in (inbox, Inbox("shipping")):
            async with consumer.once("order-1", connection) as fresh:
                assert fresh
        await database.commit(connection)


@every_database
async def test_a_connection_that_commits_by_itself_is_refused(database: Database) -> None:
    inbox = await prepared(database)
    async with database.connection(autocommit=True) as connection:
        with pytest.raises(TransactionRequired, match="commits every statement by itself"):
            async with inbox.once("order-1", connection):
                raise AssertionError
        if database.kind in ("sqlite3", "psycopg", "psycopg async"):
            # But not inside a transaction that the user began.
            await database.execute(connection, "BEGIN")
            async with inbox.once("order-1", connection) as fresh:
                assert fresh
            await database.execute(connection, "COMMIT")


@every_database
async def test_a_missing_table_says_what_to_call(database: Database) -> None:
    async with database.connection() as connection:
        with pytest.raises(TableMissing, match=r"sluicemq_inbox.*await inbox\.create_table\(connection\)") as caught:
            async with Inbox("billing").once("order-1", connection):
                raise AssertionError
        await database.rollback(connection)
    assert pickle.loads(pickle.dumps(caught.value)).text == caught.value.text


@every_database
async def test_old_ids_are_cleaned_in_pieces(database: Database) -> None:
    inbox = await prepared(database)
    async with database.connection() as connection:
        for number in range(5):
            async with inbox.once(f"order-{number}", connection):
                pass
        await database.execute(
            connection, "UPDATE sluicemq_inbox SET stored_at = stored_at - 3600 WHERE message_id <> 'order-4'"
        )
        await database.commit(connection)
        assert await inbox.clean(connection, older_than=7200) == 0
        deleted: list[int] = []
        while not deleted or deleted[-1]:
            deleted.append(await inbox.clean(connection, older_than=1800, rows_max=3))
            await database.commit(connection)
        assert deleted == [3, 1, 0]
        async with inbox.once("order-4", connection) as fresh:
            assert not fresh
        async with inbox.once("order-3", connection) as fresh:
            assert fresh
        await database.commit(connection)


@every_database
async def test_the_printed_schema_makes_the_same_table(database: Database) -> None:
    inbox = Inbox("billing", table="ids_of_billing")
    async with database.connection() as connection:
        for statement in Inbox.schema(database.dialect, "ids_of_billing"):
            await database.execute(connection, statement)
        async with inbox.once("order-1", connection) as fresh:
            assert fresh
        await database.commit(connection)


@every_database
async def test_blocking_code_needs_no_loop(database: Database) -> None:
    inbox = await prepared(database)
    async with database.connection() as connection:
        if database.is_async:
            with pytest.raises(TypeError, match="asynchronous: use 'async with"), inbox.once("order-1", connection):
                raise AssertionError
            return
        seen = []
        for _ in range(2):
            with inbox.once("order-1", connection) as fresh:
                seen.append(fresh)
            await database.commit(connection)
        with pytest.raises(ArithmeticError), inbox.once("order-2", connection):
            raise ArithmeticError
        with inbox.once("order-2", connection) as fresh:
            seen.append(fresh)
        await database.commit(connection)
    assert seen == [True, False, True]


async def test_a_lock_that_is_held_too_long_is_the_databases_own_error(tmp_path) -> None:
    path = tmp_path / "orders.db"
    with sqlite3.connect(path) as holder, sqlite3.connect(path, timeout=0.05) as connection:
        inbox = Inbox("billing")
        inbox.create_table_blocking(holder)
        holder.commit()
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            async with inbox.once("order-1", connection):
                raise AssertionError
        holder.rollback()
        assert connection.execute("PRAGMA busy_timeout").fetchone() == (50,), "it is as the user set it"
        async with inbox.once("order-1", connection) as fresh:
            assert fresh
    holder.close()
    connection.close()


async def test_a_handler_uses_it_with_the_message_that_it_got(broker, tmp_path) -> None:
    inbox = Inbox("billing")
    connection = await in_thread(lambda: sqlite3.connect(tmp_path / "orders.db", check_same_thread=False))
    inbox.create_table_blocking(connection)
    async with connect(broker.url) as client, client.consumer("orders") as consumer:
        await broker.peer.deliver(1, [b"order"], [b"order"], message_ids=["o-1"])
        seen = []
        for _ in range(2):
            message = await anext(consumer)
            async with message, inbox.once(message, connection) as fresh:
                seen.append(fresh)
        connection.commit()
    connection.close()
    assert seen == [True, False]


async def test_what_cannot_be_an_id_or_a_connection_is_refused() -> None:
    inbox = Inbox("billing")
    with pytest.raises(TypeError, match="Message or a str, not bytes"):
        inbox.once(b"order-1", None)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="the id has 0 bytes"):
        inbox.once("", None)
    with pytest.raises(TypeError, match=r"connection must be a sqlite3\.Connection.*not builtins.dict"):
        async with inbox.once("order-1", {}):
            raise AssertionError
    with pytest.raises(InvalidRequest, match="table is 'a; DROP'"):
        Inbox("billing", table="a; DROP")
    with pytest.raises(InvalidRequest, match="dialect is 'oracle'"):
        Inbox.schema("oracle")
