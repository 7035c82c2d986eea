"""`sluicemq topic` against a real broker, as a person at a shell or a script uses it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sluicemq.broker.commands.processes import OwnBroker
from tests.broker.commands.test_with_broker import Shell


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    with OwnBroker(tmp_path_factory.mktemp("broker") / "data") as broker:
        yield Shell(broker.url)


def test_a_topic_from_its_declaration_to_its_end(shell: Shell) -> None:
    assert shell.run("topic", "declare", "orders", "--set", 'retention={"seconds": 60}').startswith(
        b"orders: created\n"
    )
    assert shell.run("topic", "subscribe", "orders.*.paid", "billing") == b"billing: created\n"
    shell.run("publish", "orders.eu.paid", "one")
    shell.run("publish", "orders", "two", "--subject", "us.paid")
    shell.run("publish", "orders.eu.sent", "three")
    assert shell.run("consume", "billing") == b"one\ntwo\n"
    assert shell.run("topic", "subscribe", "orders.#", "audit", "--start", "beginning") == b"audit: created\n"
    assert shell.run("consume", "audit", "--count", "3") == b"one\ntwo\nthree\n"
    [topic] = shell.json("topic", "ls")
    assert (topic["name"], topic["subscriptions"], topic["unrouted_total"], topic["retained"]) == ("orders", 2, 1, 3)
    assert b"orders" in shell.run("topic", "ls")
    shown = shell.json("queue", "show", "billing")
    assert (shown["topic"], shown["pattern"]) == ("orders", "orders.*.paid")
    shell.run("topic", "delete", "orders", expect=1)
    assert "2 subscriptions" in shell.errors
    assert shell.run("topic", "unsubscribe", "billing") == b"billing: deleted with 0 messages\n"
    assert shell.run("topic", "delete", "orders", "--force") == b"orders: deleted with 0 messages\n"
    assert shell.json("topic", "ls") == []


def test_what_makes_no_sense_is_refused(shell: Shell) -> None:
    shell.run("topic", "declare", "events", "--set", "max_length=3", expect=2)
    assert "topics have no setting 'max_length'" in shell.errors
    shell.run("topic", "subscribe", "nothing.#", "x", expect=4)
    shell.run("topic", "delete", "nothing", expect=4)
    shell.run("topic", "declare", "events")
    shell.run("topic", "subscribe", "events.#", "late", "--start", "yesterday", expect=2)
    shell.run("queue", "declare", "events.eu", expect=1)
    assert "lies below the topic 'events'" in shell.errors
