"""What a publish to a topic costs the machine: `python -m tests.broker.queues.routing.measure`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.routing.trie import PatternTrie


def microseconds(work: Callable[[int], object], rounds: int) -> float:
    """Mean of the best of three."""
    best = float("inf")
    for attempt in range(3):
        began = time.perf_counter()
        for number in range(rounds):
            work(attempt * rounds + number)
        best = min(best, time.perf_counter() - began)
    return best / rounds * 1e6


def pattern_of(number: int) -> str:
    """Patterns of a plausible mix: literal, one word, any words."""
    customer, kind = number // 4, number % 4
    return (f"eu.c{customer}.paid", f"*.c{customer}.sent", f"eu.c{customer}.#", f"#.c{customer}.lost")[kind]


def look(find: Callable[[str], object], routes: list[str], number: int) -> None:
    """Look for one route of them, in turn."""
    find(routes[number % len(routes)])


def matching() -> None:
    """Print what matching one route costs, kept and anew."""
    for patterns in (10, 1_000, 10_000):
        trie = PatternTrie((pattern_of(number), number) for number in range(patterns))
        routes = [f"eu.c{number % (patterns // 2)}.paid" for number in range(10_000)]
        anew = microseconds(partial(look, trie.find, routes), 20_000)
        kept = microseconds(partial(look, trie.match, routes), 20_000)
        print(f"{patterns:>6} patterns: {anew:5.2f} µs a route anew, {kept:5.2f} µs kept")


def publishing(subscriptions: int, patterns: int, messages: int) -> None:
    """Print what applying one batch costs with so many subscriptions that get it, among so many."""
    machine = Machine()
    zxid = 1

    def apply(entry: e.Entry) -> None:
        nonlocal zxid
        zxid += 1
        outcome = machine.apply(zxid, entry)
        assert outcome.error is None, outcome

    apply(e.Declare(1, "/", "topic" if patterns else "queue", "t", {}))
    target = zxid
    apply(e.ProducerOpen(1, "/", "", ""))
    producer = zxid
    for number in range(patterns):
        apply(t.Subscribe(1, "/", "t", "#" if number < subscriptions else pattern_of(number), f"s{number}", {}))
    payload = bytes(100 * messages)
    sequence = 0

    def publish(_number: int) -> None:
        nonlocal sequence
        sequence += 1
        fields = (1, target, producer, sequence, messages, 100 * messages, None, payload)
        apply(e.PublishGrouped(*fields, [messages, 0, 0, 0, 0, 1], ["a.b.c"]) if patterns else e.Publish(*fields))

    cost = microseconds(publish, 5_000 if subscriptions < 10 else 500)
    what = f"{patterns} subscriptions, {subscriptions} get it" if patterns else "a plain queue"
    print(f"a batch of {messages:>4} to {what}: {cost:7.1f} µs")


if __name__ == "__main__":
    matching()
    publishing(0, 0, 1)
    for subscriptions, patterns in ((1, 1), (1, 1_000), (100, 100), (100, 10_000)):
        publishing(subscriptions, patterns, 1)
