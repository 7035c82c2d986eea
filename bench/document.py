"""`docs/performance.md` from the committed results, every figure in it; the words stand here.

What `make bench` measures is for whoever measured it; what is committed, below `bench/committed`, is what the page
shows. A test compares the two, so a figure in the page is one of that run. This module must not measure anything.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.cluster_report import cluster_results, cluster_tables, fault_rounds
from bench.cluster_scenarios import FULL_FAULTS
from bench.losses import factors, losses
from bench.report import LOAD_MAX, Results, facts_text, rounded, tables
from bench.systems import System

COMMITTED = Path(__file__).parent / "committed"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
CHARTS = PAGE.parent / "charts"
FILES = ("results.json", "cluster.json", "features.json")

INTRODUCTION = """# Performance

What a durable message costs, compared with what a Python user would pick instead: the same work, in one run, like
with like. This page is written by `python -m bench document` from the last committed run of `make bench`
(CONTRIBUTING says how to measure yours). Where we lose stands first."""

WHY = """\
**Why.** Redis and beanstalkd sync in the thread that reads the socket. Ours hands the entry to the log thread and the
result back, and each hand-over wakes a thread under one interpreter lock: that and two passes through the event loops
are what one message at a time costs above the bare fdatasync. Syncing in the event loop would be faster for one
client and would hold up all others. Large bodies are bytes rather than messages: Redis answers from memory with one
`write`. Memory and the time of a start are Python's, for a good part: the interpreter and its modules. The factors
repeat within 20 % where no `~` stands before them; this is a virtual machine, and its disk has spells in which every
sync takes several times as long. Take them as factors, not as digits."""

HOW = """## How to read it

Bodies are incompressible and vary in length between half and one and a half of the nominal size; ours has a fast path
for equal lengths, shown in a line of its own and used in no ratio. Figures are medians over interleaved rounds (A B
C, A B C), with the range; ratios are taken round by round. CPU is user and system time of the whole process tree from
the operating system's accounting, in ticks of 10 ms: for slow systems, with few messages in a round, it is coarse.
Syncs were counted by strace in runs of their own; ours include those of zeroing segments ahead. Each adapter in
`bench/adapters` says what it holds for the best practice of its client: asynchronous confirms, pipelines, prefetch,
cumulative acks. pika runs on its asyncio connection, because its blocking one has one confirm in flight. beanstalkd
knows no batches. NATS is newer than Debian's, which cannot sync before it acknowledges. One node each. A backlog was
filled for at most 10 s, so slower systems have fewer messages in it."""

CLUSTER = """\
Three nodes of each on the loopback interface of one machine, with defaults but for what the names say, so what is
compared is work, not networks: all nodes and the clients share the cores. Each client has the addresses of all nodes
and connects to one of them as its library does. ZooKeeper is no message broker; it stands here because its protocol
is a relative of ours. Its batches are one `multi` of a thousand creates, and its consumer lists, gets and deletes."""

FAILOVER = """\
Under {rate} publishes a second, each waiting for its own confirm, the leader's processes are killed with `kill -9`,
or stopped with SIGSTOP, as a machine that hangs; then the node comes back. Shown is the longest time between two
confirmed publishes, over {rounds} rounds, how many publishes raised an error, and how many had no answer when
watching ended. Nobody repeats a failed one; no call's own timeout is reached while it is watched; heartbeats and
elections are as the defaults have them, of which some wait for minutes. `>`: publishing had not gone on when watching
ended, after {seconds:.0f} s. Our client finds the leader by itself. The others' may be connected to the node that is
lost or to another; aio-pika, which knows one address, is given the next one half a second after its connection is
gone. The rounds are few: take the size of the figures, not their digits."""

FEATURES = """\
`python -m bench features`: microseconds of the broker's processor a message, batches of 1,000 bodies of 100 B, the
cheaper of two rounds; rates by the clock. Commit {commit}, {date}; load average while it ran: {least:.1f} to
{most:.1f}, the run itself makes about 1.5 of it. Against plain messages of the same run they compare."""

BUSY = """

Other work took turns with it on the same cores: that makes single rows dearer, some by a factor of several, and rates
mean little. Believe no difference that a second run does not show."""

FEATURES_WHY = """\
What a batch says as a whole (its queue's lifetime, one priority, one delay) costs next to nothing. What each message
says for itself makes a row of each, and where batches are cut into single messages their delivery costs as well.
Order by key takes each message from its place among the others. A delivery of a subscription is counted as one
message; subscriptions share one stored copy."""

WHERE = """## Where the time goes

Batches keep Python out of the way of single messages: the broker checks a batch at the door, in C, writes it as it
came and cuts it only where a grant ends within it. One by one it is Python work per message, most of it parking and
waking the sender's task and announcing what is durable. CONTRIBUTING shows how to see it with py-spy."""


def page(single: Results, cluster: Results, features: dict[str, Any]) -> str:
    """Return the page."""
    from bench.features import feature_table

    least, most = features["loads"]
    busy = BUSY if most > LOAD_MAX else ""
    about_features = FEATURES.format(
        commit=features["facts"]["commit"], date=features["facts"]["date"], least=least, most=most
    )
    about_faults = FAILOVER.format(rate=FULL_FAULTS.rate, rounds=fault_rounds(cluster), seconds=FULL_FAULTS.seconds)
    three, lost = cluster_tables(cluster).split("## The leader is lost\n\n")
    parts = [
        INTRODUCTION,
        facts_text(single),
        "## Where we lose, and why",
        "Against those that sync before they confirm, as we do; medians.",
        "\n".join(losses(single)) or "Nowhere.",
        WHY,
        goals(single),
        *(f"![{text}](charts/{name}.png)" for name, text in CHART_TITLES.items()),
        HOW,
        tables(single).rstrip(),
        "## Three nodes",
        CLUSTER,
        facts_text(cluster),
        "Where we lose:",
        "\n".join(losses(cluster)) or "Nowhere.",
        three.rstrip(),
        "## The leader is lost",
        about_faults,
        lost.rstrip(),
        "## What each feature costs",
        about_features + busy,
        feature_table(features),
        FEATURES_WHY,
        WHERE,
    ]
    return "\n\n".join(parts) + "\n"


CHART_TITLES = {"rates": "publish and consume rates", "latency": "one in flight", "cpu": "server CPU"}


def goals(single: Results) -> str:
    """Return what was asked of the product, and whether this run reaches it."""

    def group(word: str) -> Callable[[System], bool]:
        return lambda system: word in system.name

    def peers(system: System) -> bool:
        return "rabbitmq" in system.name or "nats" in system.name

    rates = [("publish_per_second", "publish"), ("consume_per_second", "consume")]
    brokers = [f for name, _ in rates for f in factors(single, peers, "rates", name, size=100)]
    redis = [f for name, _ in rates for f in factors(single, group("redis"), "rates", name, size=100)]
    rabbit_latency = factors(single, group("rabbitmq"), "one in flight", "p50_seconds")
    redis_latency = factors(single, group("redis"), "one in flight", "p50_seconds")
    cpu = [
        f
        for _, verb in rates
        for f in factors(single, lambda _system: True, "rates", f"{verb}_server_cpu_per_million", size=100)
    ]
    lines = [
        "What was asked of the product, for batches of 1,000 bodies of 100 B synced before confirm; ours / theirs:",
        "",
        _goal("publish and consume at least 10 times RabbitMQ and NATS", brokers, lambda f: f >= 10),
        _goal("publish and consume at least 5 times Redis", redis, lambda f: f >= 5),
        _goal("one in flight below RabbitMQ", rabbit_latency, lambda f: f < 1),
        _goal("one in flight below Redis", redis_latency, lambda f: f < 1),
        _goal("server CPU per message below each", cpu, lambda f: f < 1),
    ]
    return "\n".join(lines)


def _goal(text: str, found: list[float], reached: Callable[[float], bool]) -> str:
    if not found:
        return f"- {text}: not measured"
    shown = rounded(found[0]) if len(found) == 1 else f"{rounded(min(found))} to {rounded(max(found))}"
    verdict = "reached" if all(map(reached, found)) else "**not reached**"
    if verdict != "reached" and any(map(reached, found)):
        verdict = "**not reached** everywhere"
    return f"- {text}: {shown}; {verdict}"


def committed_page() -> str:
    """Return the page of the committed results."""
    single, cluster, features = (json.loads((COMMITTED / name).read_text()) for name in FILES)
    return page(Results(single), cluster_results(cluster), features)


def write_document(take: Path | None) -> int:
    """Write the page and its charts; first replace the committed results by those in folder *take*, if there is one."""
    if take is not None:
        COMMITTED.mkdir(exist_ok=True)
        for name in FILES:
            if (take / name).exists():
                (COMMITTED / name).write_text((take / name).read_text())
    PAGE.write_text(committed_page())
    from bench.charts import draw_all

    draw_all(Results(json.loads((COMMITTED / FILES[0]).read_text())), CHARTS)
    return 0
