"""What each feature costs the broker a message, beside plain messages: `python -m bench features`.

One broker of its own, clients that speak the bare protocol, batches of 1,000 bodies of 100 bytes. Publishing and
consuming are measured one after the other, in processor time of the broker, which other work on the machine disturbs
less than the clock; the rate is by the clock. Every case has a queue of its own. Must not know how features work.
"""

from __future__ import annotations

import os
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from bench.others import Others
from bench.report import table
from bench.run import as_text, facts_of
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from tests.e2e.broker_process import BrokerProcess
from tests.e2e.wire_client import WireClient

BATCH = 1_000
BODY = b"x" * 100
MESSAGES = 80_000
ROUNDS = 3
"""Of each case so often the cheapest round counts: other work on the machine only ever adds."""
WINDOW_BATCHES = 8
CREDIT = 8_000
DAY_MS = 86_400_000
YEAR_MS = 365 * DAY_MS

Columns = Callable[[random.Random], dict[str, list[Any]]]
"""Returns the columns of one batch beside its bodies."""


def _nothing(_chance: random.Random) -> dict[str, list[Any]]:
    return {}


@dataclass(frozen=True)
class Case:
    """One feature.

    Attributes:
        name: What is measured.
        settings: Of the queue, or of each subscription.
        columns: What the messages say.
        part: Which part of the messages is enough: of dear ones fewer are sent.
        subscriptions: So many, of a topic that is published to; 0: a queue.
        consumers: So many share the queue.
        verdict: What consumers say of each message.
        consume: Whether it is consumed; else only publishing is measured.
        attempts: How often each message comes, with that verdict.

    """

    name: str
    settings: dict[str, Any] = field(default_factory=dict)
    columns: Columns = _nothing
    part: float = 1.0
    subscriptions: int = 0
    consumers: int = 1
    verdict: int = m.VERDICT_ACK
    consume: bool = True
    attempts: int = 1


def _keys(count: int) -> Columns:
    return lambda chance: {"keys": [f"customer-{chance.randrange(count)}" for _ in range(BATCH)]}


CASES = [
    Case("plain"),
    Case("a key each, nobody asks for order", columns=_keys(10_000)),
    Case("ordering by key, 10,000 keys", {"ordering": "key"}, _keys(10_000), part=0.2),
    Case("a priority, one for a batch", columns=lambda chance: {"priorities": [chance.randrange(10)] * BATCH}),
    Case("a priority each, 0 to 9", columns=lambda chance: {"priorities": [chance.randrange(10) for _ in range(BATCH)]},
         part=0.2),
    Case("ttl of the queue", {"ttl": 3600.0}),
    Case("a ttl each", columns=lambda chance: {
        "ttls": [chance.randrange(DAY_MS, YEAR_MS) for _ in range(BATCH)]}, part=0.2),
    Case("delay, one for a batch", columns=lambda _: {"due_times": [-DAY_MS] * BATCH}, consume=False),
    Case("delay, each its own within a year", columns=lambda chance: {
        "due_times": [-chance.randrange(DAY_MS, YEAR_MS) for _ in range(BATCH)]}, consume=False),
    Case("topic with 1 subscription", subscriptions=1),
    Case("topic with 10 subscriptions", subscriptions=10, part=0.5),
    Case("topic with 100 subscriptions", subscriptions=100, part=0.2, consume=False),
    Case("a subject each, of 100, one subscription", columns=lambda chance: {
        "subjects": [f"eu.{chance.randrange(100)}" for _ in range(BATCH)]}, subscriptions=1, part=0.5),
    Case("retention", {"retention": {"seconds": 3600}}),
    Case("retry policy, every message acknowledged", {"retry": {"initial": 1.0, "jitter": 0.5}, "max_deliveries": 5}),
    Case("retry policy, two attempts each", {"retry": [0.0], "max_deliveries": 2}, verdict=m.VERDICT_NACK, attempts=2,
         part=0.2),
    Case("dead letter: every message rejected", verdict=m.VERDICT_REJECT, part=0.5),
    Case("max_length, far away", {"max_length": 10_000_000}),
    Case("max_length, drop_head at the limit", {"max_length": 10_000, "overflow": "drop_head"}, consume=False),
    Case("message ids, a window of a minute", {"dedup_window": 60.0}, columns=lambda chance: {
        "message_ids": [f"{chance.getrandbits(64):x}" for _ in range(BATCH)]}, part=0.5),
    Case("mode exclusive", {"mode": "exclusive"}),
    *(Case(f"4 consumers, {policy}", {"dispatch": policy}, consumers=4)
      for policy in ("round_robin", "weighted", "random", "least_in_flight", "two_choices")),
]  # fmt: skip


class Cost(NamedTuple):
    """What one case took: microseconds of the broker's processor a message, and messages a second by the clock."""

    publish_us: float
    publish_rate: float
    consume_us: float | None
    consume_rate: float | None


def measure(only: Sequence[str] = (), out: Path | None = None) -> int:
    """Measure all cases, or those whose names hold one of *only*, print a table and write it to *out*; return 0."""
    cases = [case for case in CASES if not only or case.name == "plain" or any(word in case.name for word in only)]
    loads: list[float] = []
    measured: dict[str, list[Cost]] = {case.name: [] for case in cases}
    facts = facts_of(Path.cwd())
    started = time.monotonic()
    others = Others()
    with (
        tempfile.TemporaryDirectory(prefix="sluicemq-features-") as folder,
        BrokerProcess(Path(folder) / "data") as broker,
        WireClient(broker.url) as client,
    ):

        def run(case: Case) -> Cost:
            loads.append(os.getloadavg()[0])
            return _measure_case(broker, client, f"case-{len(loads)}", case)

        run(cases[0])  # files are made and memory is taken for the first time: that is no feature's cost
        # Case by case in every round: what the machine does for a while, or a younger broker, favours nobody.
        # Everything is held against plain messages, so they are measured at both ends.
        for case in (*cases * ROUNDS, cases[0]):
            measured[case.name].append(run(case))
        taken = others.processors()
    records = [{"feature": name, **_cheapest(costs)._asdict()} for name, costs in measured.items()]
    content = {
        "facts": facts,
        "seconds": time.monotonic() - started,
        "rounds": ROUNDS,
        "loads": [min(loads), max(loads)],
        "others_processors": taken,
        "records": records,
    }
    print(feature_table(content))
    print(f"\nOther work took {taken:.2f} of a processor while it ran.")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "features.json").write_text(as_text(content))
    return 0


def feature_table(content: dict[str, Any]) -> str:
    """Return what `measure` wrote as a table; everything is held against plain messages."""
    costs = {record.pop("feature"): Cost(**record) for record in map(dict, content["records"])}
    plain = next(iter(costs.values()))
    head = ("feature", "publish µs", "against plain", "messages/s", "consume µs", "against plain", "messages/s")
    return table(head, [_row(name, cost, plain) for name, cost in costs.items()])


def _cheapest(rounds: list[Cost]) -> Cost:
    consumed = [cost for cost in rounds if cost.consume_us is not None and cost.consume_rate is not None]
    return Cost(
        min(cost.publish_us for cost in rounds),
        max(cost.publish_rate for cost in rounds),
        min((cost.consume_us or 0.0 for cost in consumed), default=None),
        max((cost.consume_rate or 0.0 for cost in consumed), default=None),
    )


def _row(name: str, cost: Cost, plain: Cost) -> Sequence[str]:
    row = [name, f"{cost.publish_us:.2f}", f"{cost.publish_us / plain.publish_us:.1f}", f"{cost.publish_rate:,.0f}"]
    if cost.consume_us is None or cost.consume_rate is None or plain.consume_us is None:
        return [*row, "-", "-", "-"]
    return [*row, f"{cost.consume_us:.2f}", f"{cost.consume_us / plain.consume_us:.1f}", f"{cost.consume_rate:,.0f}"]


def _measure_case(broker: BrokerProcess, client: WireClient, name: str, case: Case) -> Cost:
    chance = random.Random(7)
    messages = int(MESSAGES * case.part) // BATCH * BATCH
    queues = [name]
    if case.subscriptions:
        client.request(m.DeclareTopic(name, {}), m.Declared)
        queues = [f"{name}-{number}" for number in range(case.subscriptions)]
        for queue in queues:
            client.request(m.Subscribe(f"{name}.#", queue, case.settings), m.Subscribed)
    else:
        client.declare(name, **case.settings)
    tails = [encode_batch([BODY] * BATCH, **case.columns(chance)) for _ in range(messages // BATCH)]
    publish_us, publish_rate = _timed(broker, messages, lambda: _publish(client, name, tails))
    consume_us = consume_rate = None
    if case.consume:

        def consume() -> None:
            for queue in queues:
                _consume(broker, queue, case, messages)

        consume_us, consume_rate = _timed(broker, messages * len(queues), consume)
    for queue in queues:
        client.request(m.PurgeQueue(queue), m.Purged)
    return Cost(publish_us, publish_rate, consume_us, consume_rate)


def _timed(broker: BrokerProcess, messages: int, work: Callable[[], object]) -> tuple[float, float]:
    """Return microseconds of the broker's processor a message, and messages a second."""
    before = _processor_seconds(broker.pid)
    began = time.perf_counter()
    work()
    seconds = time.perf_counter() - began
    return (_processor_seconds(broker.pid) - before) / messages * 1e6, messages / seconds


def _processor_seconds(pid: int) -> float:
    """Return what all threads of a process have had of processors, to the nanosecond; `times` counts hundredths."""
    threads = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9


def _publish(client: WireClient, destination: str, tails: list[bytes]) -> None:
    producer = client.open_producer()
    waiting: list[int] = []
    for sequence, tail in enumerate(tails, 1):
        if len(waiting) >= WINDOW_BATCHES:
            client.reply_to(waiting.pop(0))
        waiting.append(client.send(m.Publish(destination, producer, sequence), tail))
    for correlation in waiting:
        client.reply_to(correlation)


def _consume(broker: BrokerProcess, queue: str, case: Case, messages: int) -> None:
    """Consume everything, each message as often as it comes, and wait until all verdicts are committed."""
    with WireClient(broker.url) as client:
        for _ in range(case.consumers):
            client.consume(queue, credit=CREDIT // case.consumers)
        verdicts: list[int] = []
        left = messages * case.attempts
        while left > 0:
            delivery = client.delivery()
            left -= len(delivery.messages)
            verdicts.append(client.send(m.Settle(delivery.consumer, case.verdict, delivery.tags)))
        for correlation in verdicts:
            client.reply_to(correlation)
