"""The links between nodes, everything that can happen next, and the invariants that need more than one node to judge.

Links deliver in order. A connection ends with a crash or a reset; what was under way before its end may still arrive,
or only a beginning of it, or nothing: that, together with a disk that keeps any beginning of its queue, is a crash at
every boundary between two effects. Between two nodes the number of a connection rises.

Bounds (`Bounds`) say how often what costs most may happen. Where nodes are alike, only one of the orders in which they
are first touched is walked: the others are the same with other names.

Left out: clocks (a timeout may happen at any moment instead, as often as the bounds allow), pings beyond those of
reads, changes of voters.
"""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.replication.history import (
    ENTRY_OVERHEAD_BYTES,
    EpochRecord,
    Position,
    epoch_of,
    show_zxid,
    zxid_of,
)
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.broker.replication.messages import Phase, Role
from sluicemq.broker.replication.options import Options
from tests.broker.replication.walks.bounds import STARTS, Bounds
from tests.broker.replication.walks.nodes import Moved, Nodes, Seen
from tests.broker.replication.walks.shell import ENTRY_BYTES, Broken, Log, Shell, sealed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluicemq.broker.replication import effects
    from tests.broker.replication.walks.nodes import Input

MESSAGE, UP, DOWN = 0, 1, 2
Channel = tuple[int, ...]
"""What is on its way, in order: a number and, in the two lowest bits, what it is."""


class Spent(NamedTuple):
    """What of the bounds is used up, and which nodes were touched (one bit each)."""

    entries: int = 0
    crashes: int = 0
    resets: int = 0
    timeouts: int = 0
    compactions: int = 0
    reads: int = 0
    elections: int = 0
    joins: int = 0
    touched: int = 0


class State(NamedTuple):
    """One state of the ensemble. Nodes count from 1; `channels` and `streams` are per ordered pair."""

    nodes: tuple[int, ...]
    channels: tuple[Channel, ...]
    streams: tuple[tuple[int, ...], ...]
    links: tuple[tuple[int, int], ...]
    """For each pair the connection that is open, or 0, and the highest number that was used."""
    history: int
    """Number of the sequence of all that was ever committed anywhere."""
    read_zxid: int
    """What the read under way must at least see."""
    spent: Spent


class Ensemble:
    """Knows what can happen in a state, and what comes of it."""

    def __init__(self, bounds: Bounds, transitions: Counter[str] | None = None) -> None:
        self.bounds = bounds
        self.nodes = Nodes(bounds.votes, transitions)
        self._names = range(1, bounds.nodes + 1)
        self._places = {pair: place for place, pair in enumerate(itertools.permutations(self._names, 2))}
        self._links = {frozenset(pair): place for place, pair in enumerate(itertools.combinations(self._names, 2))}
        self._histories: list[tuple[Position, ...]] = []
        self._history_numbers: dict[tuple[Position, ...], int] = {}
        self._snapshots: list[tuple[effects.SendSnapshot, Log]] = []
        self._snapshot_numbers: dict[tuple[effects.SendSnapshot, Log], int] = {}
        self._quorums: dict[tuple[tuple[int, ...], int], bool] = {}
        self._matches: dict[tuple[int, int], bool] = {}
        self.pruned = 0
        """Steps that led beyond the highest epoch."""
        # Nodes of one class are alike until they are touched.
        logs = STARTS[bounds.start][: bounds.nodes]
        commonest = max(set(logs), key=logs.count)
        self._alike = {node for node, log in zip(self._names, logs, strict=True) if log == commonest}

    # --- where it begins

    def beginning(self) -> State:
        """Return the first state."""
        members = [Member(node, b"first") for node in self._names]
        nodes = tuple(self._first(member, members) for member in members)
        links = tuple((0, 0) for _ in self._links)
        empty: tuple[tuple[int, ...], ...] = tuple(() for _ in self._places)
        spent = Spent()
        history = () if self.bounds.votes else (_log([(1, 0)], members).last,)
        state = State(nodes, empty, empty, links, self._history(history), 0, spent)
        if self.bounds.votes:
            return state
        for node in self._names:
            state = self._after(state, node, ("start",))
            state = self._connect_all(state, node)
        while any(state.channels) or any(self.nodes.seen[one].queue for one in state.nodes):
            _, _, state = next(self.steps(state))
        return state

    def _first(self, member: Member, members: list[Member]) -> int:
        options = Options(tell_commit_seconds=0.0)  # time stands still here
        if self.bounds.message_entries:
            message_bytes_max = self.bounds.message_entries * (ENTRY_BYTES + ENTRY_OVERHEAD_BYTES)
            options = replace(options, message_bytes_max=message_bytes_max)
        log, promised_epoch = Log(), 0
        if not self.bounds.votes:
            log = _log(STARTS[self.bounds.start][member.node - 1], members)
            promised_epoch = max(epoch for log in STARTS[self.bounds.start] for epoch, _ in log)
        return self.nodes.intern(Shell(member, tuple(self._names), options, log, promised_epoch))

    # --- what can happen

    def steps(self, state: State) -> Iterator[tuple[int, str, State]]:
        """Yield everything that can happen in *state*: (what it costs, what happens, what comes of it).

        What the bounds ration costs nothing: it may happen at any moment. Of what happens by itself the first costs
        nothing, and any other one costs 1, for it delays the first. So a limit on the costs is a limit on how often a
        run leaves the course that it would take by itself. Raises `Broken`.
        """
        for place, (told, after) in enumerate(self._by_itself(state)):
            yield min(place, 1), told, after
        for told, after in self._rationed(state):
            yield 0, told, after

    def _by_itself(self, state: State) -> Iterator[tuple[str, State]]:
        for place, (sender, receiver) in enumerate(self._places):
            if state.channels[place]:
                yield self._deliver(state, sender, receiver, 0)
        for node in self._names:
            seen = self.nodes.seen[state.nodes[node - 1]]
            if seen.queue:
                yield f"disk {node}: {seen.queue[0]}", self._after(state, node, ("persist",))
            if not seen.alive:
                yield f"start {node}", self._connect_all(self._after(state, node, ("start",)), node)
        for (sender, receiver), place in self._places.items():
            if state.streams[place]:
                told, log = self._snapshots[state.streams[place][0]]
                left = state._replace(streams=_with(state.streams, place, state.streams[place][1:]))
                yield f"snapshot {sender}->{receiver}", self._after(left, receiver, ("snapshot", sender, told, log))
        for pair, place in self._links.items():
            one, other = sorted(pair)
            if state.links[place][0] == 0 and self._lives(state, one) and self._lives(state, other):
                yield f"connect {one}-{other}", self._connect(state, one, other)
        for place, (sender, receiver) in enumerate(self._places):
            channel = state.channels[place]
            end = next((index for index, item in enumerate(channel) if item & 3 == DOWN), 0)
            if end:
                yield self._deliver(state, sender, receiver, end)
        for node in self._names:
            if self.bounds.drops and self.nodes.seen[state.nodes[node - 1]].joins:
                yield f"disk {node} drops what is old", self._after(state, node, ("drop",))

    def _deliver(self, state: State, sender: int, receiver: int, index: int) -> tuple[str, State]:
        place = self._places[sender, receiver]
        channel = state.channels[place]
        number, kind = channel[index] >> 2, channel[index] & 3
        left = state._replace(channels=_with(state.channels, place, channel[index + 1 :]))
        if kind == MESSAGE:
            told = f"{sender}->{receiver}: {type(self.nodes.messages[number]).__name__}"
            return told, self._after(left, receiver, ("get", sender, number))
        told = f"{sender}->{receiver}: connection {number} {'up' if kind == UP else 'down'}"
        lost = f", {index} lost" if index else ""
        return told + lost, self._after(left, receiver, ("up" if kind == UP else "down", sender, number))

    def _rationed(self, state: State) -> Iterator[tuple[str, State]]:
        bounds, spent = self.bounds, state.spent
        for node in self._names:
            seen = self.nodes.seen[state.nodes[node - 1]]
            if not seen.alive:
                continue
            serves = (seen.role, seen.phase) == (Role.LEADING, Phase.BROADCAST)
            if serves and spent.entries < bounds.entries:
                paid = state._replace(spent=spent._replace(entries=spent.entries + 1))
                yield f"propose {node}", self._after(paid, node, ("propose", spent.entries))
            if serves and spent.reads < bounds.reads:
                wanted = self._histories[state.history][-1].zxid
                paid = state._replace(read_zxid=wanted, spent=spent._replace(reads=spent.reads + 1))
                yield f"read {node}", self._after(paid, node, ("read",))
            idle = not seen.queue and seen.committed_zxid > seen.durable.start.zxid
            if idle and spent.compactions < bounds.compactions:
                paid = state._replace(spent=spent._replace(compactions=spent.compactions + 1))
                yield f"snapshot on {node}", self._after(paid, node, ("compact",))
            if seen.role is not Role.LOOKING and spent.timeouts < bounds.timeouts:
                paid = state._replace(spent=spent._replace(timeouts=spent.timeouts + 1))
                yield f"patience of {node} ends", self._after(paid, node, ("timeout",))
            if spent.crashes < bounds.crashes and self._may_touch(spent.touched, node):
                yield from self._crashes(state, node, seen)
        if not bounds.votes:
            yield from self._elections(state)
        if spent.resets < bounds.resets:
            yield from self._resets(state)

    def _elections(self, state: State) -> Iterator[tuple[str, State]]:
        """The oracle speaks: a quorum turns to one of its own, or one more node to somebody who leads."""
        spent, bounds = state.spent, self.bounds
        living = [node for node in self._names if self._lives(state, node)]
        for leader in living:
            if spent.elections < bounds.elections and self._may_touch(spent.touched, leader):
                paid = spent._replace(elections=spent.elections + 1)
                others = [node for node in living if node != leader]
                for count in range(bounds.nodes // 2, len(others) + 1):
                    for followers in itertools.combinations(others, count):
                        yield from self._turn(state._replace(spent=paid), leader, followers)
            leads = self.nodes.seen[state.nodes[leader - 1]].role is Role.LEADING
            if leads and spent.joins < bounds.joins:
                paid = spent._replace(joins=spent.joins + 1)
                for node in living:
                    if node != leader:
                        yield from self._turn(state._replace(spent=paid), leader, (node,), joins=True)

    def _turn(
        self, state: State, leader: int, followers: tuple[int, ...], *, joins: bool = False
    ) -> Iterator[tuple[str, State]]:
        touched = state.spent.touched
        for node in followers if joins else (leader, *followers):
            if not self._may_touch(touched, node):
                return
            touched |= 1 << node
        told = f"oracle: {' and '.join(map(str, followers))} {'joins' if joins else 'elect'} {leader}"
        state = state._replace(spent=state.spent._replace(touched=touched))
        for node in followers if joins else (leader, *followers):
            state = self._after(state, node, ("elect", leader))
        yield told, state

    def _crashes(self, state: State, node: int, seen: Seen) -> Iterator[tuple[str, State]]:
        spent = state.spent
        spent = spent._replace(crashes=spent.crashes + 1, touched=spent.touched | 1 << node)
        down = self._cut_off(state._replace(spent=spent), node)
        for kept in range(len(seen.queue) + 1):
            torn = seen.torn[kept] if kept < len(seen.queue) else 0
            for entries in range(torn + 1):
                told = f"crash {node}, {kept} of {len(seen.queue)} writes kept, {entries} entries of the next"
                yield told, self._after(down, node, ("crash", kept, entries))

    def _resets(self, state: State) -> Iterator[tuple[str, State]]:
        for pair, place in self._links.items():
            one, other = sorted(pair)
            connection, used = state.links[place]
            touched = state.spent.touched | 1 << one
            if not connection or not self._may_touch(state.spent.touched, one) or not self._may_touch(touched, other):
                continue
            channels, streams = state.channels, state.streams
            for way in ((one, other), (other, one)):
                there = self._places[way]
                channels = _with(channels, there, (*channels[there], connection << 2 | DOWN))
                streams = _with(streams, there, ())
            spent = state.spent._replace(resets=state.spent.resets + 1, touched=touched | 1 << other)
            links = _with(state.links, place, (0, used))
            yield f"reset {one}-{other}", state._replace(channels=channels, streams=streams, links=links, spent=spent)

    # --- links

    def _lives(self, state: State, node: int) -> bool:
        return self.nodes.seen[state.nodes[node - 1]].alive

    def _connect_all(self, state: State, node: int) -> State:
        for peer in self._names:
            if peer != node and self._lives(state, peer):
                state = self._connect(state, node, peer)
        return state

    def _connect(self, state: State, one: int, other: int) -> State:
        place = self._links[frozenset((one, other))]
        number = state.links[place][1] + 1
        channels = state.channels
        for way in ((one, other), (other, one)):
            there = self._places[way]
            channels = _with(channels, there, (*channels[there], number << 2 | UP))
        return state._replace(channels=channels, links=_with(state.links, place, (number, number)))

    def _cut_off(self, state: State, node: int) -> State:
        """*node* is no more: its connections end, and what was on its way to it is lost."""
        channels, streams, links = state.channels, state.streams, state.links
        for peer in self._names:
            if peer == node:
                continue
            to, away = self._places[peer, node], self._places[node, peer]
            place = self._links[frozenset((node, peer))]
            connection, used = links[place]
            channels = _with(channels, to, ())
            streams = _with(_with(streams, to, ()), away, ())
            if connection:
                channels = _with(channels, away, (*channels[away], connection << 2 | DOWN))
                links = _with(links, place, (0, used))
        return state._replace(channels=channels, streams=streams, links=links)

    def _may_touch(self, touched: int, node: int) -> bool:
        """Of nodes that are alike, the first ones to be touched are those with the lowest numbers."""
        if node not in self._alike or self.bounds.votes or touched & 1 << node:
            return True
        return all(touched & 1 << lower for lower in self._alike if lower < node)

    # --- what comes of it

    def _after(self, state: State, node: int, happening: Input) -> State:
        """Return the state once *happening* has happened to *node*; check the invariants."""
        moved = self.nodes.move(state.nodes[node - 1], happening)
        if moved.broken is not None:
            raise Broken(moved.broken)
        channels, streams = state.channels, state.streams
        for peer, number in moved.sent:
            connection = state.links[self._links[frozenset((node, peer))]][0]
            if self.nodes.messages[number].connection == connection:
                place = self._places[node, peer]
                channels = _with(channels, place, (*channels[place], number << 2 | MESSAGE))
        for told in moved.snapshots:
            if state.links[self._links[frozenset((node, told.peer))]][0] == told.connection:
                place = self._places[node, told.peer]
                streams = _with(streams, place, (*streams[place], self._snapshot(moved.state, told)))
        nodes = _with(state.nodes, node - 1, moved.state)
        after = state._replace(nodes=nodes, channels=channels, streams=streams)
        return self._checked(after, node, moved)

    def _snapshot(self, node_state: int, told: effects.SendSnapshot) -> int:
        log = self.nodes.seen[node_state].durable
        made = told, Log(log.start, log.base)
        number = self._snapshot_numbers.setdefault(made, len(self._snapshots))
        if number == len(self._snapshots):
            self._snapshots.append(made)
        return number

    def _history(self, history: tuple[Position, ...]) -> int:
        number = self._history_numbers.setdefault(history, len(self._histories))
        if number == len(self._histories):
            self._histories.append(history)
        return number

    # --- invariants

    def _checked(self, state: State, node: int, moved: Moved) -> State:
        seen = self.nodes.seen[moved.state]
        for position in moved.committed:
            state = self._commit(state, node, seen, position)
        history = self._histories[state.history]
        for zxid in moved.ready:
            if zxid < state.read_zxid:
                raise Broken(f"I16: a read sees {show_zxid(zxid)}, but {show_zxid(state.read_zxid)} was committed")
        if moved.established and history and not seen.view.holds(history[-1]):
            raise Broken(
                f"I6: leader {node} begins epoch {moved.established} without {history[-1]}, which is committed"
            )
        for other in self._names:
            if other != node:
                self._compare(node, seen, other, self.nodes.seen[state.nodes[other - 1]])
        if history and not self._on_quorum(state.nodes, state.history):
            raise Broken(f"I5: {history[-1]} is committed and not durable on a quorum")
        return state

    def _commit(self, state: State, node: int, seen: Seen, position: Position) -> State:
        """I4: what is committed anywhere is one sequence that only grows."""
        history = self._histories[state.history]
        if history and position.zxid <= history[-1].zxid:
            if position not in history:
                raise Broken(f"I4: node {node} commits {position}, others committed something else there")
            return state
        if history and not seen.view.holds(history[-1]):
            raise Broken(f"I4: node {node} commits {position}, but not {history[-1]} before it")
        known = history[-1].zxid if history else -1
        news = [entry.position for entry in seen.view.entries if known < entry.zxid <= position.zxid]
        return state._replace(history=self._history((*history, *news)))

    def _compare(self, one: int, seen: Seen, other: int, beside: Seen) -> None:
        pair = seen.logs[1], beside.logs[1]
        matches = self._matches.get(pair)
        if matches is None:
            matches = self._matches[pair] = _match(seen.view, beside.view)
        if not matches:
            raise Broken(f"I3: the logs of {one} and {other} hold different entries under one name")
        serving = Role.LEADING, Phase.BROADCAST
        if seen.epoch == beside.epoch and (seen.role, seen.phase) == (beside.role, beside.phase) == serving:
            raise Broken(f"I1: {one} and {other} both lead epoch {seen.epoch}")

    def _on_quorum(self, nodes: tuple[int, ...], history: int) -> bool:
        logs = tuple(self.nodes.seen[one].logs[0] for one in nodes)
        known = self._quorums.get((logs, history))
        if known is None:
            last = self._histories[history][-1]
            holders = sum(self.nodes.seen[one].durable.holds(last) for one in nodes)
            known = self._quorums[logs, history] = 2 * holders > len(nodes)
        return known

    # --- what a report wants to know

    def beyond(self, state: State) -> bool:
        """Say whether *state* lies beyond the highest epoch, and is not walked from."""
        return any(self.nodes.seen[one].promised_epoch > self.bounds.epochs for one in state.nodes)

    def epoch(self, state: State) -> int:
        """Return the epoch of the last entry that is committed."""
        history = self._histories[state.history]
        return epoch_of(history[-1].zxid) if history else 0

    def settled(self, state: State) -> bool:
        """Say whether somebody serves, all follow, and all have committed the same log."""
        seen = [self.nodes.seen[one] for one in state.nodes]
        return (
            all(one.alive and one.phase is Phase.BROADCAST for one in seen)
            and len({(one.durable.last, one.committed_zxid) for one in seen}) == 1
            and seen[0].committed_zxid == seen[0].durable.last.zxid
        )

    def describe(self, state: State) -> str:
        """Say in a line how the nodes stand."""
        parts = []
        for node, number in enumerate(state.nodes, 1):
            seen = self.nodes.seen[number]
            role = f"{seen.role.value} {seen.phase.value} {seen.epoch}" if seen.alive else "down"
            end = f"durable {show_zxid(seen.durable.last.zxid)} of {show_zxid(seen.view.last.zxid)}"
            parts.append(f"{node}: {role}, {end}, committed {show_zxid(seen.committed_zxid)}")
        return "; ".join(parts)


def _log(names: Sequence[tuple[int, int]], members: list[Member]) -> Log:
    """Return the log with these entries; who led then does not matter, so all nodes stay alike."""
    log = Log()
    for epoch, counter in names:
        body = f"{epoch}.{counter}" if counter else EpochRecord(0, Configuration(frozenset(members)))
        log = Log(entries=(*log.entries, sealed(zxid_of(epoch, counter), log.last, body)))
    return log


def _match(one: Log, other: Log) -> bool:
    """I3: say whether no name stands for two entries; the chain makes it hold for everything before as well."""
    known = {entry.zxid: entry.chain for entry in one.entries}
    known[one.start.zxid] = one.start.chain
    return all(known.get(entry.zxid, entry.chain) == entry.chain for entry in other.entries)


def _with(values: tuple, place: int, value: object) -> tuple:
    return (*values[:place], value, *values[place + 1 :])
