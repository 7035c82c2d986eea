"""Two decisions that carry all safety, on every small input, against definitions that look at entries one by one.

The synchronization's plan: all pairs of logs that a leader and a learner can have after up to four epochs of up to
three entries, all beginnings of both logs, and all lengths of the table that a learner tells. The commit rule: all
positions of four voters, under all configurations of them, alone and while they change.
"""

from __future__ import annotations

import itertools
from functools import cache
from hashlib import blake2b
from typing import TYPE_CHECKING

from sluicemq.broker.replication.broadcast import Broadcast
from sluicemq.broker.replication.history import History, Position, epoch_of, zxid_of
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.broker.replication.messages import Method
from sluicemq.broker.replication.synchronization import Plan, plan

if TYPE_CHECKING:
    from collections.abc import Iterator

Log = tuple[Position, ...]
ZERO = Position(0, bytes(8))
PLANS_MIN = 100_000
COMMITS_MIN = 150_000


# --- the plan ---------------------------------------------------------------------------------------------------------


def written_after(log: Log, epoch: int, count: int) -> Log:
    """Return *log* with *count* entries of *epoch* behind it."""
    for counter in range(count):
        previous = log[-1] if log else ZERO
        zxid = zxid_of(epoch, counter)
        log = (*log, Position(zxid, blake2b(previous.chain + zxid.to_bytes(8), digest_size=8).digest()))
    return log


def leaders_logs(epochs: int, entries_max: int) -> Iterator[tuple[Log, ...]]:
    """Yield all sets of logs that the leaders of *epochs* epochs can have left.

    A leader starts from any place in any earlier leader's log, since later entries may have reached nobody else.
    """

    def longer(logs: tuple[Log, ...], epoch: int) -> Iterator[tuple[Log, ...]]:
        if epoch > epochs:
            yield logs
            return
        places = sorted({log[:end] for log in logs for end in range(len(log) + 1)})
        for place, count in itertools.product(places, range(1, entries_max + 1)):
            yield from longer((*logs, written_after(place, epoch, count)), epoch + 1)

    yield from longer(((),), 1)


def all_pairs() -> set[tuple[Log, Log]]:
    """Return all pairs of a leader's and a learner's log; either may have any beginning of what a leader wrote."""
    pairs: set[tuple[Log, Log]] = set()
    for logs in leaders_logs(epochs=4, entries_max=3):
        beginnings = {log[:end] for log in logs for end in range(len(log) + 1)}
        pairs.update(itertools.product(logs, beginnings))
    return pairs


def table(log: Log, start: int) -> History:
    """Return what is known of *log* when its first *start* entries are in a snapshot."""
    last: dict[int, Position] = {}
    for position in log[start:]:
        last[epoch_of(position.zxid)] = position
    return History(log[start - 1] if start else ZERO, list(last.values()))


def expected_plan(leader: Log, start: int, learner: Log, told: tuple[Position, ...]) -> Plan:
    """Return the plan by its definition: keep all that is common, if both can name that place; else a snapshot."""
    shared = 0
    while shared < min(len(leader), len(learner)) and leader[shared] == learner[shared]:
        shared += 1
    place = leader[shared - 1] if shared else ZERO
    if shared < start or epoch_of(place.zxid) not in {epoch_of(end.zxid) for end in told}:
        return Plan(Method.SNAP, leader[start - 1] if start else ZERO)
    return Plan(Method.DIFF if shared == len(learner) else Method.TRUNC, place)


def test_the_plan_keeps_what_is_common_for_all_small_logs() -> None:
    checked = 0
    seen = dict.fromkeys(Method, 0)
    for leader, learner in all_pairs():
        shared = sum(
            1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(leader, learner, strict=False))
        )
        # What a learner has in a snapshot was committed, so every later leader has it too.
        tables = [table(learner, begun).ends for begun in range(shared + 1)]
        told = {ends[-rows:] for ends in tables for rows in range(1, len(ends) + 1)}
        for start in range(len(leader) + 1):
            ours = table(leader, start)
            chains = dict(leader[start:])
            chains[ours.start.zxid] = ours.start.chain
            for ends in told:
                made = plan(ours, chains.get, ends)
                assert made == expected_plan(leader, start, learner, ends), (leader, start, learner, ends)
                seen[made.method] += 1
                checked += 1
    assert checked >= PLANS_MIN
    assert min(seen.values()) > 1_000


# --- the commit rule --------------------------------------------------------------------------------------------------

NODES = (1, 2, 3, 4)
EPOCH = 2
OLD, RECORD, FIRST = zxid_of(1, 5), zxid_of(EPOCH, 0), zxid_of(EPOCH, 1)
POSITIONS = (0, OLD, RECORD, FIRST, FIRST + 1)


@cache
def voters(mask: int) -> frozenset[Member]:
    return frozenset(Member(node, b"first") for node in NODES if mask & 1 << node)


def masks() -> list[int]:
    """Return all sets of nodes, as bits."""
    return [sum(1 << node for node in chosen) for count in range(5) for chosen in itertools.combinations(NODES, count)]


def suffices(electorates: tuple[int, ...], holders: int) -> bool:
    """Say whether *holders* are more than half of each of the groups."""
    return all(
        (holders & group).bit_count() > group.bit_count() - (holders & group).bit_count() for group in electorates
    )


def test_what_is_committed_lies_on_a_quorum_from_the_epochs_record_on_for_all_small_positions() -> None:
    some = [mask for mask in masks() if mask]
    groups: list[tuple[int, ...]] = [(old,) for old in some]
    groups += list(itertools.product(some, repeat=2))
    configurations = [
        (Configuration(voters(group[0]), voters(group[1]) if len(group) > 1 else None), group) for group in groups
    ]
    enough = {(group, holders): suffices(group, holders) for group in groups for holders in masks()}
    vectors = itertools.product(POSITIONS, repeat=len(NODES))
    checked = committed = 0
    for reached in vectors:
        broadcast = Broadcast(EPOCH)
        # Whoever does not vote has everything and must not matter: an observer, and a voter's wiped disk.
        broadcast.durable(Member(9, b"first"), FIRST + 1)
        broadcast.durable(Member(1, b"wiped"), FIRST + 1)
        for node, zxid in zip(NODES, reached, strict=True):
            broadcast.durable(Member(node, b"first"), zxid)
        holders = {
            zxid: sum(1 << node for node, has in zip(NODES, reached, strict=True) if has >= zxid)
            for zxid in (RECORD, FIRST, FIRST + 1)
        }
        for configuration, group in configurations:
            expected = max((zxid for zxid, mask in holders.items() if enough[group, mask]), default=0)
            assert broadcast.commit_point(configuration) == expected, (reached, configuration)
            committed += expected > 0
            checked += 1
    assert checked >= COMMITS_MIN
    assert committed > checked // 20
