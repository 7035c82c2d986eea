"""What pages show of a program, and is none by itself, runs too: here it gets what it leaves to the reader.

A block that opens with ```python app declares consumers of an app: the blocks of a page are one module, which is
imported. One that opens with ```python fragment is run within the surroundings that stand here, against a real broker.
"""

from __future__ import annotations

import ast
import inspect
import re
import sqlite3
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from sluicemq.client import Client, Decision, Inbox, connect
from sluicemq.client.app import App
from tests.e2e.broker_process import BrokerProcess
from tests.e2e.running import broker as broker

CHECKOUT = Path(__file__).resolve().parent.parent
PAGE = CHECKOUT / "docs" / "effectively-once.md"


def blocks(page: Path, kind: str) -> list[str]:
    """Return the blocks of one kind on a page."""
    return re.findall(rf"^```python {kind}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def fragment(word: str) -> str:
    """Return the one fragment that holds *word*."""
    (found,) = [text for text in blocks(PAGE, "fragment") if word in text]
    return found


async def run(text: str, **names: Any) -> None:
    """Run a fragment as the body of an asynchronous function."""
    code = compile(text, str(PAGE), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    returned = eval(code, names)
    if inspect.isawaitable(returned):
        await returned


@pytest.fixture
async def client(broker: BrokerProcess) -> AsyncIterator[Client]:
    async with connect(broker.url) as connected:
        yield connected


def test_every_block_of_python_is_of_a_kind_that_is_run() -> None:
    for page in (CHECKOUT / "README.md", *(CHECKOUT / "docs").rglob("*.md")):
        kinds = set(re.findall(r"^```python *(.*)$", page.read_text(encoding="utf-8"), re.MULTILINE))
        assert kinds <= {"runnable", "test", "app", "fragment"}, f"{page.name} has a block that nobody runs"
    assert len(blocks(PAGE, "fragment")) == 4, "each has its test below"


@pytest.mark.parametrize("page", [CHECKOUT / "README.md", CHECKOUT / "docs" / "app.md"], ids=lambda page: page.name)
def test_apps_that_a_page_declares_can_be_imported(page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("service")
    monkeypatch.setitem(sys.modules, "service", module)  # annotations are looked up there
    for text in blocks(page, "app"):
        exec(compile(text, str(page), "exec"), module.__dict__)
    assert isinstance(module.app, App)


class Base(DeclarativeBase):
    """What SQLAlchemy wants."""


class Bill(Base):
    """A row a bill."""

    __tablename__ = "bills"
    number: Mapped[int] = mapped_column(primary_key=True)
    customer: Mapped[str]


@pytest.mark.trio
async def test_an_inbox_in_a_session_of_sqlalchemy(client: Client, tmp_path: Path) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'shop.db'}")
    Base.metadata.create_all(engine)
    inbox = Inbox("billing")
    with Session(engine) as session:
        await inbox.create_table(session)
        session.commit()
    names = {"inbox": inbox, "engine": engine, "Session": Session, "Bill": Bill}
    await client.declare_queue("to-bill")
    async with client.consumer("to-bill") as consumer:
        for _ in range(2):
            await client.send("to-bill", b"Ada", message_id="order-42")
            async with await anext(consumer) as message:
                await run(fragment("Session(engine)"), message=message, **names)
    with Session(engine) as session:
        assert session.scalars(select(Bill.customer)).all() == ["Ada"]
    engine.dispose()


@pytest.mark.trio
async def test_an_inbox_is_cleaned(tmp_path: Path) -> None:
    database = sqlite3.connect(tmp_path / "shop.db")
    inbox = Inbox("billing")
    await inbox.create_table(database)
    database.commit()
    await run(fragment("inbox.clean"), inbox=inbox, database=database, timedelta=timedelta)
    database.close()


@pytest.mark.trio
async def test_a_message_is_taken_and_its_consequence_sent_in_one_transaction(client: Client) -> None:
    for name in ("taken", "billing"):
        await client.declare_queue(name)
    await client.send("taken", b"two lamps")
    async with client.consumer("taken") as taking:

        async def consumer() -> AsyncIterator[Any]:
            yield await anext(taking)

        await run(fragment("tx.send"), consumer=consumer(), client=client, transformed=bytes.upper)
    async with client.consumer("billing") as billing, await anext(billing) as message:
        assert message.body == b"TWO LAMPS"


@pytest.mark.trio
async def test_a_prepared_message_waits_for_the_database(client: Client) -> None:
    await client.declare_queue("orders")

    async def commit() -> None:
        assert (await client.queue_info("orders"))["ready"] == 0

    database = SimpleNamespace(commit=commit)
    await run(
        fragment("client.prepare"), client=client, Decision=Decision, database=database, is_paid=lambda _number: True
    )
    assert (await client.queue_info("orders"))["ready"] == 1
