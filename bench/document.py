"""`docs/performance.md` and the figures in README from the committed results; the words of the page stand here.

What `make bench` measures is for whoever measured it; what is committed, below `bench/committed`, is what the page
shows. A test compares the two, so a figure in the page is one of that run. This module must not measure anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.cluster_report import cluster_results, cluster_tables, fault_rounds
from bench.cluster_scenarios import FULL_FAULTS
from bench.losses import factors, losses
from bench.overview import overview
from bench.report import LOAD_MAX, Results, facts_text, rounded, tables
from bench.rounds import OTHERS_MAX
from bench.systems import System

COMMITTED = Path(__file__).parent / "committed"
PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
README = PAGE.parent.parent / "README.md"
CHARTS = PAGE.parent / "charts"
FILES = ("results.json", "cluster.json", "features.json")
MARKED = re.compile(r"(<!-- begin: `python -m bench document` writes this -->\n).*(<!-- end -->)", re.DOTALL)
"""Where the figures stand in README."""

INTRODUCTION = """# Performance

What does a durable message cost, compared with what a Python user would pick instead? The same work was done with
SluiceMQ, RabbitMQ, NATS JetStream, Redis Streams and beanstalkd, each as one server, and with SluiceMQ, RabbitMQ, NATS
and ZooKeeper as three nodes: on one machine, in turns, each through its own best clients for Python. Below:
[where we lose](#where-we-lose-and-why), [machine and versions](#what-it-was-measured-on),
[how to run it again](#run-it-yourself), [how to read the tables](#how-to-read-the-tables), the tables of
[one server](#like-with-like-synced-before-confirm) and of [three nodes](#three-nodes),
[lost leaders](#the-leader-is-lost) and [what each feature costs](#what-each-feature-costs)."""

LOST_TO = """\
With one server, against those that sync before they confirm, as we do; medians. [Three nodes](#three-nodes) have a
table of their own."""

RUN_IT = """## Run it yourself

On Linux, in a checkout:

```sh
make dev                                        # a virtual environment
.venv/bin/pip install -e '.[bench]'             # the clients of the others, and NATS's server
sudo bench/install-peers                        # the other servers, from Debian's packages; none stays running
.venv/bin/python -m bench run                   # one server each: 15 minutes
.venv/bin/python -m bench cluster               # three nodes each, and lost leaders: 20 minutes
.venv/bin/python -m bench features              # what each feature costs: 2 minutes
.venv/bin/python -m bench document --take bench/results    # this page of your figures
```

Leave the machine alone meanwhile. What is not installed is left out and named. `--quick` makes one short round of the
main things, `--only sluicemq,redis-always` picks systems, `--seconds 600 --go-on` measures in parts.
`sluicemq bench publish` says in seconds how fast your machine is, without any of this."""

WHY = """\
One message at a time, or a thousand a second each on its own, is what we are worst at. Redis and beanstalkd sync in
the thread that reads the socket. Ours hands the entry to the log's thread and the result back, and each hand-over
wakes a thread under one interpreter lock: that and two passes through event loops are what one message at a time costs
above the bare fdatasync. Syncing in the event loop would be faster for one client and would hold up all others; many
clients, or many messages under way, share syncs, and then it does not show. Large bodies are bytes rather than
messages: Redis answers from memory with one `write`. Memory and the time of a start are Python's for a good part: the
interpreter and its modules."""

HOW = f"""## How to read the tables

Each figure is the median over rounds, with the least and the largest in brackets; how many rounds stands below each
table. Rounds are interleaved (A B C, A B C), and ratios are taken round by round. A `-` is a figure that this run does
not have: it was not measured for this system, each of its rounds failed, or it has no meaning there. Rounds that
failed, and rounds left out because other work kept more than {OTHERS_MAX} of a processor busy meanwhile, are named with
the facts above. This is a virtual machine, and its disk has spells in which every sync takes several times as long:
take factors, not digits.

Bodies are incompressible and vary in length between half and one and a half of the nominal size; ours has a fast path
for equal lengths, shown in a line of its own and used in no ratio. *One in flight* publishes one message, waits for its
confirm, and publishes the next. CPU is user and system time of the whole process tree, in ticks of 10 ms: for slow
systems, with few messages in a round, it is coarse. Syncs were counted by strace in runs of their own; ours include
those of zeroing segments ahead.

Each adapter in `bench/adapters` says what it holds for the best practice of its client: asynchronous confirms,
pipelines, prefetch, cumulative acks. pika runs on its asyncio connection, because its blocking one has one confirm in
flight. beanstalkd knows no batches. NATS is newer than Debian's, which cannot sync before it acknowledges. A backlog
was filled for at most 10 s, so slower systems have fewer messages in it."""

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
cheapest of {rounds} rounds; rates by the clock. A `-`: it is published only. All is held against plain messages of the
same run. Commit {commit}, {date}; {others}."""

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

    about_faults = FAILOVER.format(rate=FULL_FAULTS.rate, rounds=fault_rounds(cluster), seconds=FULL_FAULTS.seconds)
    three, lost = cluster_tables(cluster).split("## The leader is lost\n\n")
    parts = [
        INTRODUCTION,
        "## Overview",
        overview(single, cluster),
        "## Where we lose, and why",
        LOST_TO,
        losses(single),
        WHY,
        goals(single),
        *(f"![{text}](charts/{name}.png)" for name, text in CHART_TITLES.items()),
        "## What it was measured on",
        facts_text(single),
        RUN_IT,
        HOW,
        tables(single).rstrip(),
        "## Three nodes",
        CLUSTER,
        facts_text(cluster),
        "Where we lose with three nodes:",
        losses(cluster),
        three.rstrip(),
        "## The leader is lost",
        about_faults,
        lost.rstrip(),
        "## What each feature costs",
        about_features(features),
        feature_table(features),
        FEATURES_WHY,
        WHERE,
    ]
    return "\n\n".join(parts) + "\n"


def about_features(features: dict[str, Any]) -> str:
    """Return how features were measured."""
    facts = features["facts"]
    least, most = features["loads"]
    if "others_processors" in features:
        taken = features["others_processors"]
        busy, others = taken > OTHERS_MAX, f"other work took {taken:.2f} of a processor meanwhile"
    else:
        busy, others = (
            most > LOAD_MAX,
            f"load average while it ran: {least:.1f} to {most:.1f}, of which 1.5 are its own",
        )
    rounds = features.get("rounds", 2)
    text = FEATURES.format(commit=facts["commit"], date=facts["date"], rounds=rounds, others=others)
    return text + (BUSY if busy else "")


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
        "What it aims at, for batches of 1,000 bodies of 100 B synced before confirm; ours / theirs in this run:",
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


def committed() -> tuple[Results, Results, dict[str, Any]]:
    """Return the committed results: of one server each, of three nodes each, and of features."""
    single, cluster, features = (json.loads((COMMITTED / name).read_text()) for name in FILES)
    return Results(single), cluster_results(cluster), features


def committed_page() -> str:
    """Return the page of the committed results."""
    return page(*committed())


def with_figures(readme: str) -> str:
    """Return the text of README with the figures of the committed results between its marks.

    Raises:
        ValueError: The marks are not there.

    """
    single, cluster, _features = committed()
    new, count = MARKED.subn(lambda found: found[1] + overview(single, cluster) + "\n" + found[2], readme)
    if count != 1:
        raise ValueError(f"README has {count} places for figures; one is needed, between {MARKED.pattern!r}")
    return new


def write_document(take: Path | None) -> int:
    """Write page, charts and README's figures; first commit the results in folder *take*, those that there are."""
    if take is not None:
        COMMITTED.mkdir(exist_ok=True)
        taken = [name for name in FILES if (take / name).exists()]
        for name in taken:
            (COMMITTED / name).write_text((take / name).read_text())
        print(f"took {', '.join(taken) or 'nothing'} from {take}")
    PAGE.write_text(committed_page(), encoding="utf-8")
    README.write_text(with_figures(README.read_text(encoding="utf-8")), encoding="utf-8")
    from bench.charts import draw_all

    draw_all(committed()[0], CHARTS)
    return 0
