"""Nodes by number: what the real core does with an event, computed once and remembered.

A node's state is a small number, and so is a message. `Nodes.move` says what becomes of a node's state when something
happens to it, and what it says to others. Since a replica has no clock and no chance of its own, the answer is always
the same; a walk asks millions of times and the core is called for what is new.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sluicemq.broker.replication import effects, events
from sluicemq.broker.replication.history import EpochRecord, Position, epoch_of
from sluicemq.broker.replication.messages import Message, Notification, Phase, Role
from tests.broker.replication.walks.canonical import copied, frozen
from tests.broker.replication.walks.shell import Broken, Log, Shell

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Callable

Input = tuple[Any, ...]
"""What happens to a node: its kind and what belongs to it; the kinds are the methods of `_Mover`."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a walk asks of a node's state."""

    alive: bool
    promised_epoch: int
    durable: Log
    view: Log
    logs: tuple[int, int]
    """Numbers of `durable` and `view`: equal numbers, equal logs."""
    queue: tuple[str, ...]
    torn: tuple[int, ...]
    """For each effect of the queue: how many beginnings of it a crash may leave beside none and all."""
    joins: bool
    """Whether something waits in the queue before a join."""
    role: Role
    phase: Phase
    epoch: int
    committed_zxid: int


@dataclass(frozen=True, slots=True)
class Moved:
    """What came of it: the new state, messages as (peer, message), snapshots, and the rest that others must know."""

    state: int
    sent: tuple[tuple[int, int], ...] = ()
    snapshots: tuple[effects.SendSnapshot, ...] = ()
    committed: tuple[Position, ...] = ()
    established: int = 0
    """The epoch whose record this node has just written as its leader."""
    ready: tuple[int, ...] = ()
    """Up to where reads that were answered must have seen everything."""
    broken: str | None = None


class Nodes:
    """All states of nodes that were met.

    Args:
        with_votes: Whether notifications are delivered; without, an oracle elects.
        transitions: Counts what happened in which role, if that is wanted.

    """

    def __init__(self, with_votes: bool, transitions: Counter[str] | None = None) -> None:
        self._with_votes = with_votes
        self._transitions = transitions
        self._shells: list[Shell] = []
        self._log_numbers: dict[Log, int] = {}
        self._numbers: dict[Any, int] = {}
        self.seen: list[Seen] = []
        self._moves: dict[tuple[int, Input], Moved] = {}
        self.messages: list[Message] = []
        self._message_numbers: dict[Message, int] = {}

    @property
    def count(self) -> int:
        """How many states of single nodes were met."""
        return len(self._shells)

    @property
    def steps(self) -> int:
        """How many steps the real core has made."""
        return len(self._moves)

    def intern(self, shell: Shell) -> int:
        """Return the number of the state that *shell* is in."""
        generation = shell.replica._local._generation if shell.replica is not None else 0
        key = frozen(shell, {}, generation)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self._shells)
            self._shells.append(shell)
            self.seen.append(self._look_at(shell))
        return number

    def copy(self, state: int) -> Shell:
        """Return a node in *state* to do as one likes with."""
        shell: Shell = copied(self._shells[state], {})
        return shell

    def move(self, state: int, happening: Input) -> Moved:
        """Return what comes of *happening* in *state*."""
        found = self._moves.get((state, happening))
        if found is None:
            found = self._moves[state, happening] = self._make(state, happening)
        return found

    def _make(self, state: int, happening: Input) -> Moved:
        shell = self.copy(state)
        before = self.seen[state]
        try:
            made = _KINDS[happening[0]](self, shell, *happening[1:])
            while shell.reads:
                made += shell.read(0.0)
        except AssertionError as error:
            text = str(error) if isinstance(error, Broken) else f"assertion of the core: {error}"
            return Moved(state, broken=text)
        after = self.intern(shell)
        if self._transitions is not None:
            self._count(before, happening, self.seen[after])
        return self._moved(shell, after, made)

    def _moved(self, shell: Shell, after: int, made: list[effects.Effect]) -> Moved:
        sent, snapshots, committed, ready = [], [], [], []
        established = 0
        for effect in made:
            if isinstance(effect, effects.Send):
                if self._with_votes or not isinstance(effect.message, Notification):
                    number = self._message_numbers.setdefault(effect.message, len(self.messages))
                    if number == len(self.messages):
                        self.messages.append(effect.message)
                    sent.append((effect.peer, number))
            elif isinstance(effect, effects.SendSnapshot):
                snapshots.append(effect)
            elif isinstance(effect, effects.Committed):
                chain = shell.disk.durable.chain_at(effect.zxid)
                assert chain is not None
                committed.append(Position(effect.zxid, chain))
            elif isinstance(effect, effects.ReadReady):
                ready.append(effect.zxid)
            elif isinstance(effect, effects.Fatal):
                return Moved(after, broken=f"node {shell.node} gives up without a fault: {effect.reason}")
            elif isinstance(effect, effects.Append):
                body = effect.entries[0].body
                if isinstance(body, EpochRecord) and body.leader == shell.node and shell.replica is not None:
                    leads = shell.replica.role is Role.LEADING
                    established = epoch_of(effect.entries[0].zxid) if leads else established
        return Moved(after, tuple(sent), tuple(snapshots), tuple(committed), established, tuple(ready))

    def _look_at(self, shell: Shell) -> Seen:
        disk, replica = shell.disk, shell.replica
        queue = disk.queue
        joins = [place for place, one in enumerate(queue) if isinstance(one, effects.Join)]
        return Seen(
            alive=replica is not None,
            promised_epoch=disk.promised_epoch if replica is None else replica.promised_epoch,
            durable=disk.durable,
            view=disk.view,
            logs=(self._number_of(disk.durable), self._number_of(disk.view)),
            queue=tuple(type(one).__name__ for one in queue),
            torn=tuple(len(one.entries) - 1 if isinstance(one, effects.Append) else 0 for one in queue),
            joins=bool(joins) and joins[-1] > 0,
            role=Role.LOOKING if replica is None else replica.role,
            phase=Phase.ELECTION if replica is None else replica.phase,
            epoch=0 if replica is None else replica.epoch,
            committed_zxid=shell.committed_zxid,
        )

    def _number_of(self, log: Log) -> int:
        return self._log_numbers.setdefault(log, len(self._log_numbers))

    def _count(self, before: Seen, happening: Input, after: Seen) -> None:
        assert self._transitions is not None
        what = happening[0]
        if what == "get":
            what = type(self.messages[happening[2]]).__name__
        elif what == "persist":
            what = f"{before.queue[0]} done"
        self._transitions[f"{_place(before)} | {what} | {_place(after)}"] += 1

    # --- what can happen to a node

    def _start(self, shell: Shell) -> list[effects.Effect]:
        return shell.start(0.0)

    def _up(self, shell: Shell, peer: int, connection: int) -> list[effects.Effect]:
        return shell.step(events.PeerUp(peer, connection), 0.0)

    def _down(self, shell: Shell, peer: int, connection: int) -> list[effects.Effect]:
        return shell.step(events.PeerDown(peer, connection), 0.0)

    def _get(self, shell: Shell, peer: int, message: int) -> list[effects.Effect]:
        return shell.step(events.Received(peer, self.messages[message]), 0.0)

    def _snapshot(self, shell: Shell, peer: int, told: effects.SendSnapshot, snapshot: Log) -> list[effects.Effect]:
        return shell.receive_snapshot(peer, told, snapshot, 0.0)

    def _persist(self, shell: Shell) -> list[effects.Effect]:
        return shell.persist(0.0)

    def _drop(self, shell: Shell) -> list[effects.Effect]:
        shell.disk.drop_old()
        return shell.persist(0.0)

    def _crash(self, shell: Shell, kept: int, kept_entries: int) -> list[effects.Effect]:
        shell.crash(kept, kept_entries)
        return []

    def _propose(self, shell: Shell, number: int) -> list[effects.Effect]:
        return shell.step(events.Propose(number, number), 0.0)

    def _read(self, shell: Shell) -> list[effects.Effect]:
        return shell.step(events.Read("read"), 0.0)

    def _compact(self, shell: Shell) -> list[effects.Effect]:
        """Put everything that is committed here into a snapshot."""
        disk = shell.disk
        assert not disk.queue
        disk.durable = disk.view = disk.durable.beginning_at(shell.committed_zxid)
        return []

    def _elect(self, shell: Shell, leader: int) -> list[effects.Effect]:
        """The oracle speaks: *leader* is elected, as far as this node is concerned."""
        assert shell.replica is not None
        shell.replica._local.turn_to(leader, "the oracle said so")
        return shell.step(events.Wake(), 0.0)

    def _timeout(self, shell: Shell) -> list[effects.Effect]:
        """The patience of whatever role there is ends."""
        assert shell.replica is not None
        shell.replica._local.look("the patience has ended")
        return shell.step(events.Wake(), 0.0)


_KINDS: dict[str, Callable[..., list[effects.Effect]]] = {
    "start": Nodes._start,
    "up": Nodes._up,
    "down": Nodes._down,
    "get": Nodes._get,
    "snapshot": Nodes._snapshot,
    "persist": Nodes._persist,
    "drop": Nodes._drop,
    "crash": Nodes._crash,
    "propose": Nodes._propose,
    "read": Nodes._read,
    "compact": Nodes._compact,
    "elect": Nodes._elect,
    "timeout": Nodes._timeout,
}


def _place(seen: Seen) -> str:
    return f"{seen.role.value} {seen.phase.value}" if seen.alive else "down"
