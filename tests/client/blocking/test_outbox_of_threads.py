"""Inbox and outbox in a program without an event loop, on a real broker."""

from __future__ import annotations

import sqlite3

import pytest

from sluicemq.client import Inbox, Outbox, probe_cluster
from sluicemq.client.blocking import call, connect
from sluicemq.client.errors import TableMissing
from tests.e2e.running import broker as broker


def test_what_is_added_in_a_transaction_is_sent_and_takes_effect_once(broker, tmp_path):
    outbox, inbox = Outbox(tmp_path / "orders.db"), Inbox("billing")
    call(outbox.create_tables)
    database = sqlite3.connect(tmp_path / "orders.db")
    inbox.create_table_blocking(database)
    database.commit()
    with connect(broker.url) as client:
        client.declare_queue("orders")
        with client.consumer("orders") as consumer, client.relay(outbox, poll_interval=0.05) as relay:
            outbox.add(database, "orders", b"lost")
            database.rollback()
            outbox.add(database, "orders", b"kept", key="a")
            database.commit()
            message = next(consumer)
            assert (message.body, message.key) == (b"kept", "a")
            fresh = []
            for _ in range(2):
                with inbox.once(message, database) as new:
                    fresh.append(new)
                database.commit()
            assert fresh == [True, False]
            message.ack(confirm=True)
        assert relay.statistics().sent == 1
    assert call(outbox.status).waiting == 0
    call(outbox.aclose)
    database.close()


def test_a_relay_that_cannot_work_says_so(broker, tmp_path):
    outbox = Outbox(tmp_path / "empty.db")
    with connect(broker.url) as client, pytest.raises(TableMissing):
        client.relay(outbox).run()
    call(outbox.aclose)


def test_functions_that_need_no_client_run_on_the_io_thread_too(broker):
    assert call(probe_cluster, broker.url) is not None
