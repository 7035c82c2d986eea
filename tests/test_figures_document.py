"""`docs/figures.md` describes every figure that a broker gives, and none that it does not give: a real one is asked."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from sluicemq.client import Client, StaleReads, connect
from tests.e2e.broker_process import BrokerProcess
from tests.e2e.running import broker as broker

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "figures.md"
ROW = re.compile(r"^\| `(\w+)` \| (.+) \|$", re.MULTILINE)
LEADER = "*Leader"


def described(section: str) -> dict[str, str]:
    """Return what the page says of each figure of a broker or of a queue."""
    (text,) = re.findall(
        rf"^## {section}$(.*?)(?=^## |\Z)", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    rows = ROW.findall(text)
    assert len(rows) == len(dict(rows)), "a figure is described once"
    return dict(rows)


async def declare_queues_that_show_every_figure(client: Client) -> None:
    """One queue has limits of every kind, the other is a subscription."""
    await client.declare_queue(
        "limited", delivery_rate=100, delivery_adaptive={"latency": 0.5}, publish_limit="leaky_bucket 50/s"
    )
    await client.declare_topic("events")
    await client.subscribe("events.#", "audit")


@pytest.mark.trio
async def test_the_page_has_the_figures_of_a_broker(broker: BrokerProcess) -> None:
    async with connect(broker.url) as client:
        figures = await client.statistics()
    assert set(figures) == set(described("Of a broker"))


@pytest.mark.trio
async def test_the_page_has_the_figures_of_a_queue(broker: BrokerProcess) -> None:
    page = described("Of a queue")
    async with connect(broker.url) as client:
        await declare_queues_that_show_every_figure(client)
        states = [await client.queue_info(name) for name in ("limited", "audit")]
        listed = await client.queues()
        async with client.consumer("limited"):
            (consumer,) = (await client.queue_info("limited"))["attached"]
    assert {name for state in states for name in state} == set(page)
    assert {name for state in listed for name in state} == set(page) - {"attached"}
    assert all(f"`{name}`" in page["attached"] for name in consumer)


@pytest.mark.trio
async def test_the_page_marks_what_only_a_leader_knows(broker: BrokerProcess) -> None:
    page = described("Of a queue")
    async with connect(broker.url) as client:
        await declare_queues_that_show_every_figure(client)
    states = [await StaleReads(broker.url).queue_info(name) for name in ("limited", "audit")]
    known = {name for state in states for name in state} - {"stale"}
    assert known == {name for name, text in page.items() if not text.startswith(LEADER)}
