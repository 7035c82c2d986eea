"""A small deterministic ensemble for stories: replicas with logs in memory, links in order, one virtual clock.

It is no simulator: nothing fails unless the story says so. Disks take DISK_SECONDS, messages LINK_SECONDS.
"""

from __future__ import annotations

import heapq
import itertools
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import blake2b

from sluicemq.broker.replication import effects, events
from sluicemq.broker.replication.history import (
    Entry,
    EpochRecord,
    History,
    MembershipRecord,
    Position,
    configuration_in,
    epoch_of,
)
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.broker.replication.messages import Message, Phase, Role
from sluicemq.broker.replication.options import Options
from sluicemq.broker.replication.replica import Replica

DISK_SECONDS = 0.002
LINK_SECONDS = 0.001
CHAIN_START = bytes(8)


class MemoryLog:
    """A log view over a list, with what is durable of it."""

    def __init__(self) -> None:
        self.start = Position(0, CHAIN_START)
        self.base: tuple[int, Configuration] | None = None
        self.entries: list[Entry] = []
        self.durable = 0
        """How many of the entries survive a crash."""

    def ends(self) -> list[Position]:
        last = {epoch_of(entry.zxid): entry.position for entry in self.entries}
        return list(last.values())

    def chain_at(self, zxid: int) -> bytes | None:
        if zxid == self.start.zxid:
            return self.start.chain
        return next((entry.chain for entry in self.entries if entry.zxid == zxid), None)

    def configuration_at(self, zxid: int) -> tuple[int, Configuration] | None:
        for entry in reversed(self.entries):
            configuration = configuration_in(entry)
            if entry.zxid <= zxid and configuration is not None:
                return entry.zxid, configuration
        return self.base

    def seal(self, zxid: int, previous: Position, body: object) -> Entry:
        told = f"{zxid} {previous.zxid} {body_text(body)}".encode()
        chain = blake2b(previous.chain + told, digest_size=8).digest()
        return Entry(zxid, previous.zxid, chain, 100, body)

    def read(self, after: int, bytes_max: int) -> tuple[Entry, ...]:
        if after < self.start.zxid:
            return ()
        found = [entry for entry in self.entries if entry.zxid > after]
        return tuple(found[: max(1, bytes_max // 164)])

    def append(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            assert entry.previous_zxid == self.last.zxid
            assert self.seal(entry.zxid, self.last, entry.body).chain == entry.chain
            self.entries.append(entry)

    def truncate(self, position: Position) -> None:
        self.entries = [entry for entry in self.entries if entry.zxid <= position.zxid]
        assert self.last == position
        self.durable = min(self.durable, len(self.entries))

    def restart(self, position: Position, base: tuple[int, Configuration] | None) -> None:
        self.start, self.base, self.entries, self.durable = position, base, [], 0

    def begin_at(self, zxid: int) -> None:
        """Let a snapshot cover everything up to *zxid*."""
        chain = self.chain_at(zxid)
        assert chain is not None
        self.base = self.configuration_at(zxid)
        kept = [entry for entry in self.entries if entry.zxid > zxid]
        self.durable -= len(self.entries) - len(kept)
        self.start, self.entries = Position(zxid, chain), kept

    @property
    def last(self) -> Position:
        return self.entries[-1].position if self.entries else self.start

    @property
    def bodies(self) -> list[object]:
        return [one.body for one in self.entries if not isinstance(one.body, EpochRecord | MembershipRecord)]


def body_text(body: object) -> str:
    if isinstance(body, EpochRecord | MembershipRecord):
        groups = [sorted(voters) for voters in body.configuration.electorates]
        return f"{type(body).__name__} {getattr(body, 'leader', '')} {groups}"
    return repr(body)


class Node:
    """A replica with its shell and its disk."""

    def __init__(self, network: Network, node: int, listed: tuple[int, ...]) -> None:
        self.network = network
        self.node = node
        self.listed = listed
        self.member = Member(node, b"first")
        self.log = MemoryLog()
        self.promised_epoch = 0
        self.alive = False
        self.disk_seconds = DISK_SECONDS
        self.damaged_from: int | None = None
        self.replica: Replica
        self.life = 0

    def start(self) -> None:
        self.alive = True
        self.life += 1
        self.log.entries = self.log.entries[: self.log.durable]
        self.replica = Replica(
            self.member,
            self.listed,
            self.promised_epoch,
            self.log,
            self.network.options,
            damaged_from=self.damaged_from,
        )
        self.roles: list[tuple[Role, Phase]] = []
        self.answers: list[effects.Effect] = []
        self.fatal: str | None = None
        self.cause: effects.Cause | None = None
        self.alarms: list[str] = []
        self.snapshot: tuple[Position, tuple[int, Configuration] | None] | None = None
        self.disk: deque[effects.Effect] = deque()
        self.committed = 0
        self.step(events.Start())

    def wipe(self, incarnation: bytes) -> None:
        self.log, self.promised_epoch, self.member = MemoryLog(), 0, Member(self.node, incarnation)

    def damage(self, zxid: int) -> None:
        """The disk has lost everything from *zxid* on; the next start finds out, and notes it."""
        self.log.entries = [entry for entry in self.log.entries if entry.zxid < zxid]
        self.log.durable = len(self.log.entries)
        self.damaged_from = zxid

    def step(self, event: events.Event) -> None:
        if not self.alive:
            return
        for effect in self.replica.step(event, self.network.now):
            self.perform(effect)
        wake_at = self.replica.wake_at
        if wake_at is not None:
            self.network.at(max(wake_at, self.network.now + 1e-6), self, self.wake)

    def wake(self) -> None:
        wake_at = self.replica.wake_at
        if wake_at is not None and wake_at <= self.network.now:
            self.step(events.Wake())

    def perform(self, effect: effects.Effect) -> None:
        if isinstance(effect, effects.Send):
            self.network.carry(self, effect.peer, effect.message)
        elif isinstance(effect, effects.ReadEntries):
            entries = self.log.read(effect.after, effect.bytes_max)
            read = events.EntriesRead(effect.peer, effect.session, effect.after, entries)
            self.network.after(DISK_SECONDS, self, lambda: self.step(read))
        elif isinstance(effect, effects.SendSnapshot):
            self.network.carry_snapshot(self, effect)
        elif isinstance(effect, effects.Committed):
            assert self.committed < effect.zxid
            assert self.log.start.zxid == effect.zxid or any(e.zxid == effect.zxid for e in self.log.entries)
            self.committed = effect.zxid
        elif isinstance(effect, effects.RoleChanged):
            self.roles.append((effect.role, effect.phase))
        elif isinstance(effect, effects.Fatal):
            self.fatal, self.cause, self.alive = effect.reason, effect.cause, False
        elif isinstance(effect, effects.Alarm):
            self.alarms.append(effect.reason)
        elif isinstance(effect, effects.Proposed | effects.Refused | effects.ReadReady | effects.Done):
            self.answers.append(effect)
        else:
            self.write(effect)

    def write(self, effect: effects.Effect) -> None:
        if isinstance(effect, effects.Append):
            self.log.append(effect.entries)
        elif isinstance(effect, effects.Truncate):
            self.log.truncate(effect.position)
        elif isinstance(effect, effects.InstallSnapshot):
            assert self.snapshot is not None
            assert self.snapshot[0] == effect.position
            self.log.restart(*self.snapshot)
        self.disk.append(effect)
        self.network.after(self.disk_seconds, self, self.written)

    def written(self) -> None:
        effect = self.disk.popleft()
        if isinstance(effect, effects.Append):
            ends = [place for place, one in enumerate(self.log.entries, 1) if one.zxid == effect.entries[-1].zxid]
            self.log.durable = max(self.log.durable, *ends)
        elif isinstance(effect, effects.SavePromise):
            assert effect.epoch > self.promised_epoch
            self.promised_epoch = effect.epoch
        elif isinstance(effect, effects.NoteRepaired):
            self.damaged_from = None
        self.step(events.Persisted(effect.token))

    def answer_to(self, reference: object) -> effects.Effect | None:
        return next((one for one in self.answers if getattr(one, "reference", None) == reference), None)

    @property
    def status(self) -> tuple[Role, Phase]:
        return self.replica.role, self.replica.phase


class Network:
    """Nodes, the links between them, and the clock."""

    def __init__(self, *nodes: int, listed: tuple[int, ...] | None = None, options: Options | None = None) -> None:
        self.options = options or Options()
        self.now = 100.0
        self.link_seconds = LINK_SECONDS
        """How long a message takes that is sent now."""
        self._order = itertools.count()
        self._due: list[tuple[float, int, Node | None, int, Callable[[], None]]] = []
        self._numbers = itertools.count(1)
        self._cut: set[frozenset[int]] = set()
        self._frozen: dict[Node, float] = {}
        self.sent: list[tuple[int, int, Message]] = []
        self.links: dict[frozenset[int], int] = {}
        self.nodes = {node: Node(self, node, listed or nodes) for node in nodes}

    def __getitem__(self, node: int) -> Node:
        return self.nodes[node]

    # --- time

    def at(self, when: float, node: Node | None, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (when, next(self._order), node, node.life if node else 0, what))

    def after(self, seconds: float, node: Node | None, what: Callable[[], None]) -> None:
        self.at(self.now + seconds, node, what)

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self._due and self._due[0][0] <= end:
            self.now, _, node, life, what = heapq.heappop(self._due)
            if node is not None and self.now < self._frozen.get(node, 0.0):
                heapq.heappush(self._due, (self._frozen[node], next(self._order), node, life, what))
            elif node is None or (node.alive and node.life == life):
                what()
        self.now = end

    def run_until(self, condition: Callable[[], bool], seconds: float = 30.0) -> float:
        """Run until *condition* holds; return how long it took."""
        begun, end = self.now, self.now + seconds
        while not condition():
            assert self._due, "nothing will ever happen again"
            assert self._due[0][0] <= end, f"did not happen within {seconds} s"
            self.run(self._due[0][0] - self.now)
        return self.now - begun

    # --- nodes and links

    def start(self, *nodes: int) -> None:
        for node in nodes or tuple(self.nodes):
            self.nodes[node].start()
        for one, other in itertools.combinations(sorted(self.nodes), 2):
            self.connect(one, other)

    def add(self, node: int) -> Node:
        self.nodes[node] = Node(self, node, ())
        return self.nodes[node]

    def kill(self, node: int) -> None:
        self.nodes[node].alive = False
        for link in [link for link in self.links if node in link]:
            self.disconnect(*link)

    def freeze(self, node: int, seconds: float) -> None:
        """Let a node stand still for so long; what comes for it meanwhile waits, and its connections stand."""
        self._frozen[self[node]] = self.now + seconds

    def connect(self, one: int, other: int) -> None:
        link = frozenset((one, other))
        if link in self.links or link in self._cut or not (self[one].alive and self[other].alive):
            return
        number = self.links[link] = next(self._numbers)
        for node, peer in ((one, other), (other, one)):
            self.after(self.link_seconds, self[node], partial(self[node].step, events.PeerUp(peer, number)))

    def disconnect(self, one: int, other: int) -> None:
        link = frozenset((one, other))
        number = self.links.pop(link, None)
        if number is None:
            return
        for node, peer in ((one, other), (other, one)):
            self.after(self.link_seconds, self[node], partial(self[node].step, events.PeerDown(peer, number)))

    def partition(self, *groups: tuple[int, ...]) -> None:
        """Nodes of different groups hear nothing of each other any more; their connections stay open, in silence."""
        place = {node: index for index, group in enumerate(groups) for node in group}
        for one, other in itertools.combinations(sorted(self.nodes), 2):
            if place.get(one) != place.get(other):
                self._cut.add(frozenset((one, other)))

    def heal(self) -> None:
        """What was cut off is reset and connected anew."""
        cut, self._cut = self._cut, set()
        for link in sorted(cut, key=sorted):
            self.disconnect(*sorted(link))
        for one, other in itertools.combinations(sorted(self.nodes), 2):
            self.connect(one, other)

    def carry(self, sender: Node, peer: int, message: Message) -> None:
        link = frozenset((sender.node, peer))
        self.sent.append((sender.node, peer, message))
        if link in self._cut or self.links.get(link) != message.connection:
            return

        def deliver() -> None:
            if self.links.get(link) == message.connection:
                self[peer].step(events.Received(sender.node, message))

        self.after(self.link_seconds, self[peer], deliver)

    def carry_snapshot(self, sender: Node, effect: effects.SendSnapshot) -> None:
        log, peer = sender.log, self[effect.peer]
        position = log.start
        base = log.base
        assert position.zxid >= effect.start_zxid
        assert base is not None

        def deliver() -> None:
            if self.links.get(frozenset((sender.node, effect.peer))) != effect.connection:
                return
            peer.snapshot = (position, base)
            peer.step(events.SnapshotReceived(sender.node, effect.epoch, effect.session, position, base[1], base[0]))

        self.after(20 * self.link_seconds, peer, deliver)

    # --- what stories ask

    def leader(self) -> Node | None:
        """The one that leads and serves, in the latest epoch."""
        serving = [one for one in self.nodes.values() if one.alive and one.status == (Role.LEADING, Phase.BROADCAST)]
        return max(serving, key=lambda one: one.replica.epoch, default=None)

    def settled(self) -> bool:
        """Whether all that live are in broadcast and have the same committed log."""
        living = [one for one in self.nodes.values() if one.alive]
        if self.leader() is None or any(one.replica.phase is not Phase.BROADCAST for one in living):
            return False
        ends = {(one.log.last, one.committed, one.replica.epoch) for one in living}
        return len(ends) == 1 and all(one.committed == one.log.last.zxid for one in living)

    def publish(self, *bodies: object) -> None:
        leader = self.leader()
        assert leader is not None
        for body in bodies:
            leader.step(events.Propose(body, body))


def history_of(log: MemoryLog) -> History:
    return History(log.start, log.ends())
