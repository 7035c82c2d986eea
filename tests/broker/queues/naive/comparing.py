"""Whether a machine holds what the world says: the same messages, in the same order, with the same past."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues.notes import NAMES
from tests.broker.queues.naive.world import GONE, Message, Queue, World, address, is_keyed, line, waiting, within

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue as MachineQueue
    from sluicemq.broker.queues.runs import Run
    from sluicemq.broker.queues.window import IdWindow
    from tests.broker.queues.naive.windows import Window

Row = tuple[Any, ...]
TOTALS = (
    *(f"{why}_total" for why in GONE),
    "published_total",
    "redelivered_total",
    "dead_total",
    "redriven_total",
    "discarded_total",
)


def rows_of(runs: Iterable[Run], notes: dict[int, Row]) -> list[Row]:
    """(ready, zxid, index, deliveries, attempts, expires, note, priority, key) of each message."""
    return [
        (run[1], run[0], index, run[7], run[8], run[10], notes.get(run[11]), run[12], run[9])
        for run in runs
        for index in range(run[2], run[2] + run[3])
    ]


def row_of(message: Message, ready: int) -> Row:
    return (
        ready,
        message["zxid"],
        message["index"],
        message["deliveries"],
        message["attempts"],
        message["expires"],
        message["note"],
        message["priority"],
        message["key"],
    )


def compare(machine: Machine, world: World, peek: Callable[[MachineQueue], list[Run]]) -> None:
    """Assert that both are the same; let the world follow where it does not decide."""
    assert {queue.id for queue in machine.queues()} == set(world.queues), "the same queues are there"
    for queue in machine.queues():
        try:
            compare_queue(queue, world.queues[queue.id], peek(queue))
        except AssertionError as error:
            raise AssertionError(f"{queue.name}: {error}") from None
    assert {topic.id for topic in machine.sources} == set(world.topics), "the same topics are there"
    for topic in machine.sources:
        naive = world.topics[topic.id]
        expected = naive["published"], naive["unrouted"], naive["expired"]
        assert (topic.published_total, topic.unrouted_total, topic.expired_total) == expected, topic.name
        delayed = [
            (run.ready, run.zxid, run.first + offset, topic.routes.text(run.note))
            for run in topic.delayed.runs()
            for offset in range(run.size)
        ]
        assert delayed == [(m["due"], m["zxid"], m["index"], m["route"]) for m in waiting(naive)], topic.name
        compare_window(topic.window, naive["window"])
    assert {session.number for session in machine.sessions.values() if session.closed} == world.closed, "who closed"
    halves = {half.number: (half.checks, half.next_check_ms) for half in machine.halves}
    assert halves == {number: (half["checks"], half["next"]) for number, half in world.halves.items()}, "half messages"
    assert {producer.number for producer in machine.producers} == set(world.producers), "the same producers are there"
    # Conservation: what was ever published is somewhere, or went in one way.
    alive = sum(queue.messages + queue.dead.messages for queue in machine.queues())
    gone = sum(getattr(queue, f"{why}_total") for queue in machine.queues() for why in GONE if why != "moved")
    assert alive + gone + world.deleted == world.born, "every published message is somewhere, exactly once"


def compare_queue(queue: MachineQueue, naive: Queue, ready: list[Run]) -> None:
    # Settings that no step changes are nothing that the world has to know.
    known = {name: queue.settings[name] for name in naive["settings"]}
    assert known == naive["settings"], "settings"
    assert queue.declared == set(naive["declared"]), "what was declared"
    notes = notes_of(queue)
    compare_ready(naive, rows_of(ready, notes))
    delayed = rows_of(queue.delayed.runs(), notes)
    assert delayed == [row_of(m, m["due"]) for m in waiting(naive)], "what is delayed"
    compare_dead(naive, rows_of(queue.dead.runs(), notes))
    leased = {
        (session, consumer, first_tag + offset): (mark, row)
        for (session, consumer), table in queue.leases.items()
        for first_tag, run, mark in table.pieces()
        for offset, row in enumerate(rows_of([run], notes))
    }
    expected = {(*m["holder"], m["tag"]): (int(m["handed"]), row_of(m, m["ready"])) for m in within(naive, "leased")}
    assert leased == expected, "what is leased"
    totals = {name: getattr(queue, name) for name in TOTALS}
    assert totals == {name: naive["totals"][name.removesuffix("_total")] for name in TOTALS}, "how many"
    assert (set(queue.keys.parked) if queue.keys is not None else set()) == naive["parked"], "what is parked"
    compare_window(queue.window, naive["window"])
    compare_window(queue.settled_window, naive["settled_ids"])


def compare_window(window: IdWindow | None, naive: Window | None) -> None:
    """Each row that counts in the world counts in the machine; those that do not may be gone there."""
    assert (window is None) == (naive is None), "whether there is a window of ids"
    if window is None or naive is None:
        return
    found = window.scope, window.age_ms, window.ids_max, window.confirmed_total
    assert found == (naive.scope, naive.age, naive.most, naive.confirmed), "a window of ids"
    assert window.ids <= len(naive.rows), "no id is remembered that never came"


def compare_ready(naive: Queue, rows: list[Row]) -> None:
    follow_deaths(naive, rows)
    if is_keyed(naive):
        follow_dues(naive, rows)
    expected = [row_of(m, m["ready"]) for m in line(naive)]
    if not is_keyed(naive):
        assert copies_in_any_order(rows) == copies_in_any_order(expected), "what is ready, in order"
        return
    for key in {row[-1] for row in rows} | {row[-1] for row in expected}:
        found, wanted = ([row for row in each if row[-1] == key] for each in (rows, expected))
        if not key:  # nobody promises an order to those beside the keys
            found, wanted = sorted(found, key=repr), sorted(wanted, key=repr)
        assert found == wanted, "order by key"


def copies_in_any_order(rows: list[Row]) -> list[Row]:
    """Put messages of one batch that lie beside each other in one order, where one of them is there more than once.

    A message that died in several subscriptions is in their grave as often. Once some of the copies came back, they
    have one place: the machine keeps neighbours of one copy together, and nobody promises which copy goes first.
    """
    ordered: list[Row] = []
    for _, group in groupby(rows, key=lambda row: (row[0], row[1], row[7])):
        batch = list(group)
        ordered += batch if len({row[2] for row in batch}) == len(batch) else sorted(batch, key=repr)
    return ordered


def follow_dues(naive: Queue, rows: list[Row]) -> None:
    """Take over in which order those of a key go that waited and became ready with one entry: any may be first."""
    places = {row[:3]: position for position, row in enumerate(rows)}
    groups: dict[tuple[int, int], list[Message]] = {}
    for message in line(naive):
        if message["ready"] != message["zxid"] and not message["back"]:
            groups.setdefault((message["key"], message["ready"]), []).append(message)
    for group in groups.values():
        if all((m["ready"], *address(m)) in places for m in group):
            turns = sorted(m["turn"] for m in group)
            group.sort(key=lambda m: places[m["ready"], *address(m)])
            for turn, message in zip(turns, group, strict=True):
                message["turn"] = turn


def follow_deaths(naive: Queue, rows: list[Row]) -> None:
    """Take over in which order those lined up that died in one entry; all others keep theirs."""
    for zxid in {m["died"] for m in naive["messages"] if "died" in m}:
        follow_order(naive, rows, {zxid}, zxid)


def follow_order(naive: Queue, rows: list[Row], zxids: set[int], zxid: int) -> None:
    """Take over with which of *zxids*, and in which order, those became ready that did with *zxid* here.

    Only those that died may stand in another order than here.
    """
    group = [m for m in line(naive) if m["ready"] == zxid and not m["back"]]
    left = list(group)
    ordered: list[Message] = []
    for row in rows:
        found = next((m for m in left if row[0] in zxids and row_of(m, 0)[1:] == row[1:]), None)
        if found is not None:
            left = [m for m in left if m is not found]
            ordered.append(found)
            found["ready"] = row[0]
    if left:
        return  # something else is wrong, and told by who compares
    for priority in {m["priority"] for m in group}:
        before = [m for m in group if m["priority"] == priority and "died" not in m]
        after = [m for m in ordered if m["priority"] == priority and "died" not in m]
        assert all(m is o for m, o in zip(before, after, strict=True)), "those that did not die keep their order"
    for turn, message in zip(sorted(m["turn"] for m in group), ordered, strict=True):
        message["turn"] = turn
        message.pop("died", None)


def follow_pieces(queue: MachineQueue, naive: Queue, ready: list[Run], zxids: set[int]) -> None:
    """Take over with which of *zxids* messages became ready or died that did with the last of them here."""
    notes = notes_of(queue)
    follow_order(naive, rows_of(ready, notes), zxids, max(zxids))
    for message in within(naive, "dead"):
        if message["ready"] == max(zxids):
            message["ready"] = min(zxids)


def notes_of(queue: MachineQueue) -> dict[int, Row]:
    return {
        number: (NAMES[note.kind], note.origin, note.text, note.at_ms // 1000, note.attempts)
        for number, note in queue.notes.items()
    }


def compare_dead(naive: Queue, rows: list[Row]) -> None:
    """Of dead letters the same are there; a rest of neighbours of which some were taken may lie further behind."""
    assert [row[0] for row in rows] == sorted(row[0] for row in rows), "dead letters lie in the order of dying"
    messages = within(naive, "dead")
    if not rows and not messages:
        return
    messages.sort(key=lambda m: repr((row_of(m, 0), m["ready"])))
    rows = sorted(rows, key=lambda row: repr(((0, *row[1:]), row[0])))
    assert [row[1:] for row in rows] == [row_of(m, 0)[1:] for m in messages], "what is dead"
    for message, row in zip(messages, rows, strict=True):
        assert message["ready"] <= row[0], "a dead letter never moves forward"
        message["ready"] = row[0]
