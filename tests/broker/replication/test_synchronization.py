"""The plan for a learner's log: every relation of two histories, against a search entry by entry."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from hashlib import blake2b

from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.replication.history import History, Position, epoch_of, zxid_of
from sluicemq.broker.replication.messages import Method
from sluicemq.broker.replication.synchronization import Plan, plan

ZERO = Position(0, bytes(8))
Log = tuple[Position, ...]


def grow(log: Log, epoch: int, count: int) -> Log:
    """Return *log* with the record of *epoch* and more, *count* entries, behind it."""
    for counter in range(count):
        previous = log[-1] if log else ZERO
        zxid = zxid_of(epoch, counter)
        log += (Position(zxid, blake2b(previous.chain + b"%d" % zxid, digest_size=8).digest()),)
    return log


def worlds(epochs: int, entries_max: int) -> Iterator[list[Log]]:
    """Yield everything that leaders of the epochs 1 to *epochs* could have written: for each its whole log.

    A leader begins with any beginning of any earlier leader's log, for it may have been cut off, or never have been
    reached by the rest, and writes up to *entries_max* entries; with none its epoch never began.
    """
    partial: list[list[Log]] = [[()]]
    for epoch in range(1, epochs + 1):
        longer = []
        for world in partial:
            bases = {log[:length] for log in world for length in range(len(log) + 1)}
            for base in sorted(bases):
                longer += [[*world, grow(base, epoch, count)] for count in range(1, entries_max + 1)]
            longer.append(world)
        partial = longer
    yield from partial


def history(log: Log, start: int = 0) -> History:
    """Return the history of *log* whose first *start* entries are in a snapshot."""
    last = {epoch_of(position.zxid): position for position in log[start:]}
    return History(log[start - 1] if start else ZERO, list(last.values()))


def common_beginning(one: Log, other: Log) -> int:
    """Return how many entries two logs share."""
    return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def planned(leader: Log, start: int, learner: Log, learner_start: int = 0, rows_max: int = 100) -> Plan:
    known = {position.zxid: position.chain for position in leader[start:]}
    leading = history(leader, start)
    known[leading.start.zxid] = leading.start.chain
    return plan(leading, known.get, history(learner, learner_start).ends[-rows_max:])


def obeyed(leader: Log, start: int, learner: Log, made: Plan) -> Log:
    """Return the learner's log once it has done what *made* says and appended what the leader sent."""
    if made.method is Method.SNAP:
        return leader
    kept = tuple(position for position in learner if position.zxid <= made.position.zxid)
    assert (kept[-1] if kept else ZERO) == made.position, "the position is one of the learner's"
    sent = tuple(position for position in leader[start:] if position.zxid > made.position.zxid)
    return kept + sent


def test_every_relation_of_two_histories_of_three_epochs() -> None:
    """All logs that two replicas can have after up to three epochs of up to two entries, all beginnings of the
    leader's log: the plan keeps exactly what is common, and asks for a snapshot only where the log begins too late."""
    seen = set()
    checked = 0
    pairs = {
        (whole, beginning[:length])
        for world in worlds(3, 2)
        for whole in world
        for beginning in world
        for length in range(len(beginning) + 1)
    }
    for leader, learner in sorted(pairs):
        shared = common_beginning(leader, learner)
        for start in range(len(leader) + 1):
            made = planned(leader, start, learner)
            if shared < start:
                expected = Plan(Method.SNAP, leader[start - 1])
            else:
                end = learner[shared - 1] if shared else ZERO
                expected = Plan(Method.DIFF if shared == len(learner) else Method.TRUNC, end)
            assert made == expected, (leader, start, learner)
            assert obeyed(leader, start, learner, made) == leader
            seen.add(made.method)
            checked += 1
    assert seen == set(Method)
    assert checked > 1_000


def test_a_learner_that_begins_with_a_snapshot_is_planned_by_its_own_beginning() -> None:
    leader = grow(grow((), 1, 4), 2, 3)
    for length, start in itertools.product(range(1, 8), repeat=2):
        if start <= length:
            assert planned(leader, 0, leader[:length], start) == Plan(Method.DIFF, leader[length - 1])


def test_a_learner_that_tells_only_its_newest_epochs_gets_a_snapshot_if_none_is_shared() -> None:
    shared = grow((), 1, 3)
    leader, learner = grow(shared, 4, 2), grow(grow(shared, 2, 1), 3, 1)
    assert planned(leader, 0, learner) == Plan(Method.TRUNC, shared[-1])
    assert planned(leader, 0, learner, rows_max=2) == Plan(Method.SNAP, ZERO)


def test_nothing_before_the_beginning_of_the_leaders_log_is_planned_with_even_if_it_is_remembered() -> None:
    leader, start = grow((), 1, 5), 3
    remembered = {position.zxid: position.chain for position in leader}
    learner = history(leader[:2]).ends
    assert plan(history(leader, start), remembered.get, learner) == Plan(Method.SNAP, leader[start - 1])


def test_the_plan_bears_the_leaders_chain_where_the_learners_differs() -> None:
    leader = grow((), 1, 3)
    damaged = (*leader[:2], Position(leader[2].zxid, b"another!"))
    assert planned(leader, 0, damaged).position == leader[2]


@st.composite
def two_logs(draw: st.DrawFn) -> tuple[Log, int, Log]:
    """Two replicas' logs after some epochs with leaders that saw more or less of each other's entries."""
    logs: list[Log] = [()]
    for epoch in range(1, draw(st.integers(1, 8)) + 1):
        base = draw(st.sampled_from(logs))
        logs.append(grow(base[: draw(st.integers(0, len(base)))], epoch, draw(st.integers(1, 6))))
    leader, other = draw(st.sampled_from(logs)), draw(st.sampled_from(logs))
    return leader, draw(st.integers(0, len(leader))), other[: draw(st.integers(0, len(other)))]


@given(two_logs(), st.integers(1, 10))
def test_whoever_obeys_the_plan_has_the_leaders_history(logs: tuple[Log, int, Log], rows_max: int) -> None:
    leader, start, learner = logs
    made = planned(leader, start, learner, rows_max=rows_max)
    assert obeyed(leader, start, learner, made) == leader
    if made.method is not Method.SNAP:
        kept = [position for position in learner if position.zxid <= made.position.zxid]
        assert len(kept) == common_beginning(leader, learner), "nothing common is cut off"
