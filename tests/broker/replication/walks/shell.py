"""One replica with its disk, moved by hand: nothing happens unless it is asked for, one effect of the disk at a time.

The scenarios and the walks both drive the core through this. It keeps the rules of the driver loop in the docstring
of `sluicemq.broker.replication`, and checks with every step what can be judged from one node alone (`Broken` names the
invariant). Whatever is durable is held in values that never change, so that a copy of a node is cheap.

It must not know of other nodes, links or clocks.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING

from sluicemq.broker.replication import effects, events
from sluicemq.broker.replication.history import (
    Entry,
    EpochRecord,
    MembershipRecord,
    Position,
    configuration_in,
    epoch_of,
    follows,
    show_zxid,
)
from sluicemq.broker.replication.messages import Ack, AckEpoch, NewEpoch, Role, SnapshotInstalled
from sluicemq.broker.replication.replica import Replica

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.replication.membership import Configuration, Member
    from sluicemq.broker.replication.options import Options

START = Position(0, bytes(8))
ENTRY_BYTES = 100
DISK_EFFECTS = (
    effects.Join,
    effects.SavePromise,
    effects.Append,
    effects.Truncate,
    effects.InstallSnapshot,
    effects.NoteRepaired,
)


class Broken(AssertionError):
    """An invariant does not hold."""


def body_text(body: object) -> str:
    """Write a body so that equal bodies are written equally."""
    if isinstance(body, EpochRecord | MembershipRecord):
        groups = [sorted(voters) for voters in body.configuration.electorates]
        return f"{type(body).__name__} {getattr(body, 'leader', '')} {groups}"
    return repr(body)


def sealed(zxid: int, previous: Position, body: object) -> Entry:
    """Make the entry *zxid* that follows *previous*."""
    told = f"{zxid} {previous.zxid} {body_text(body)}".encode()
    return Entry(zxid, previous.zxid, blake2b(previous.chain + told, digest_size=8).digest(), ENTRY_BYTES, body)


@dataclass(frozen=True)
class Log:
    """A log, as it is at one moment: where it begins, the configuration before that, and its entries."""

    start: Position = START
    base: tuple[int, Configuration] | None = None
    entries: tuple[Entry, ...] = ()

    @property
    def last(self) -> Position:
        return self.entries[-1].position if self.entries else self.start

    def after(self, effect: object, snapshot: Log | None = None) -> Log:
        """Return the log once *effect* is done to it; *snapshot* is what an installation puts in its place."""
        if isinstance(effect, effects.Append):
            return dataclasses.replace(self, entries=self.entries + effect.entries)
        if isinstance(effect, effects.Truncate):
            kept = tuple(entry for entry in self.entries if entry.zxid <= effect.position.zxid)
            cut = dataclasses.replace(self, entries=kept)
            if cut.last != effect.position:
                raise Broken(f"I3: a log is cut off after {effect.position}, which it does not hold")
            return cut
        if isinstance(effect, effects.InstallSnapshot):
            assert snapshot is not None
            if snapshot.start != effect.position:
                raise Broken(f"a snapshot at {effect.position} is put in place, but another one came")
            return snapshot
        return self

    def part(self, count: int) -> Log:
        """Return the log with the first *count* entries only."""
        return dataclasses.replace(self, entries=self.entries[:count])

    def beginning_at(self, zxid: int) -> Log:
        """Return the log with everything up to *zxid* in a snapshot."""
        chain = self.chain_at(zxid)
        assert chain is not None
        kept = tuple(entry for entry in self.entries if entry.zxid > zxid)
        return Log(Position(zxid, chain), self.configuration_at(zxid), kept)

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

    def holds(self, position: Position) -> bool:
        """Say whether everything up to *position* is here; what a snapshot covers is taken for granted."""
        return position.zxid < self.start.zxid or self.chain_at(position.zxid) == position.chain

    def check(self) -> None:
        """I12: no gap, no repetition, and every entry seals the one before it."""
        previous = self.start
        for entry in self.entries:
            if entry.previous_zxid != previous.zxid or not follows(previous.zxid, entry.zxid):
                raise Broken(f"I12: {entry} cannot follow {show_zxid(previous.zxid)}")
            if sealed(entry.zxid, previous, entry.body) != entry:
                raise Broken(f"I3: {entry} was sealed behind another entry than {show_zxid(previous.zxid)}")
            previous = entry.position


class Disk:
    """The log view, the superblock, and what the core has asked for and has not got yet."""

    def __init__(self, log: Log, promised_epoch: int) -> None:
        self.durable = log
        self.view = log
        self.promised_epoch = promised_epoch
        self.queue: tuple[effects.Effect, ...] = ()
        self.damaged_from: int | None = None
        """The first entry that was lost to damage, as the superblock notes it."""
        self.received: Log | None = None
        """The snapshot that lies beside the log, and is not in use."""

    # --- the log view of the core

    @property
    def start(self) -> Position:
        return self.view.start

    def ends(self) -> Sequence[Position]:
        return list({epoch_of(entry.zxid): entry.position for entry in self.view.entries}.values())

    def chain_at(self, zxid: int) -> bytes | None:
        return self.view.chain_at(zxid)

    def configuration_at(self, zxid: int) -> tuple[int, Configuration] | None:
        return self.view.configuration_at(zxid)

    def seal(self, zxid: int, previous: Position, body: object) -> Entry:
        return sealed(zxid, previous, body)

    # --- what it is asked for

    def take(self, effect: effects.Effect) -> None:
        """Put *effect* into the queue; the view shows it at once."""
        self.queue += (effect,)
        self.view = self.view.after(effect, self.received)

    def do_next(self) -> effects.Effect:
        """Carry out the first effect of the queue, durably, and return it."""
        done, self.queue = self.queue[0], self.queue[1:]
        self._make_durable(done)
        return done

    def drop_old(self) -> None:
        """Forget what was asked for before the last join: the other way to bring the disk to rest.

        Promises are carried out all the same: the core counts on having made them.
        """
        last = max(place for place, one in enumerate(self.queue) if isinstance(one, effects.Join))
        for old in self.queue[:last]:
            if isinstance(old, effects.SavePromise):
                self._make_durable(old)
        self.queue = self.queue[last:]
        self.view = self.durable
        for left in self.queue[1:]:
            self.view = self.view.after(left, self.received)

    def crash(self, kept: int, kept_entries: int = 0) -> None:
        """Keep the first *kept* effects of the queue and *kept_entries* entries of the one behind; lose the rest."""
        for effect in self.queue[:kept]:
            self._make_durable(effect)
        if kept_entries:
            torn = self.queue[kept]
            assert isinstance(torn, effects.Append)
            part = torn.entries[:kept_entries]
            self._make_durable(dataclasses.replace(torn, entries=part))
        self.queue, self.received, self.view = (), None, self.durable

    def _make_durable(self, effect: effects.Effect) -> None:
        if isinstance(effect, effects.SavePromise):
            if effect.epoch <= self.promised_epoch:
                raise Broken(f"I2: the promise goes back from {self.promised_epoch} to {effect.epoch}")
            self.promised_epoch = effect.epoch
        elif isinstance(effect, effects.NoteRepaired):
            self.damaged_from = None
        else:
            self.durable = self.durable.after(effect, self.received)
            self.durable.check()
        if epoch_of(self.durable.last.zxid) > self.promised_epoch:
            raise Broken(f"I2: the log has {show_zxid(self.durable.last.zxid)}, promised is {self.promised_epoch}")


class Shell:
    """A node: its replica while it lives, its disk, and what it has said so far and may not contradict."""

    def __init__(
        self, member: Member, listed: tuple[int, ...], options: Options, log: Log, promised_epoch: int
    ) -> None:
        self.member = member
        self.listed = listed
        self.options = options
        self.disk = Disk(log, promised_epoch)
        self.replica: Replica | None = None
        self.reads: tuple[effects.ReadEntries, ...] = ()
        """Entries that the core wants from the log and has not got yet."""
        self.committed_zxid = 0
        self.promised_to: tuple[tuple[int, int], ...] = ()
        """To whom each epoch was promised, durably: (epoch, leader). Kept over crashes, for it has left the node."""
        self.confirmed_epoch = 0
        """The latest epoch of an AckEpoch that counted."""

    @property
    def node(self) -> int:
        return self.member.node

    @property
    def alive(self) -> bool:
        return self.replica is not None

    def start(self, now: float) -> list[effects.Effect]:
        """Begin a life with what is durable."""
        assert self.replica is None
        self.committed_zxid = 0
        disk = self.disk
        self.replica = Replica(
            self.member, self.listed, disk.promised_epoch, disk, self.options, damaged_from=disk.damaged_from
        )
        return self.step(events.Start(), now)

    def crash(self, kept: int = 0, kept_entries: int = 0) -> None:
        """End this life; of the disk's queue keep what is said."""
        self.replica = None
        self.reads = ()
        self.disk.crash(kept, kept_entries)

    def persist(self, now: float) -> list[effects.Effect]:
        """Let the disk carry out the next effect, and tell the core."""
        done = self.disk.do_next()
        assert isinstance(done, DISK_EFFECTS)
        return self.step(events.Persisted(done.token), now)

    def read(self, now: float) -> list[effects.Effect]:
        """Answer the oldest reading of the log."""
        wanted, self.reads = self.reads[0], self.reads[1:]
        log = self.disk.view
        found: tuple[Entry, ...] = ()
        if wanted.after >= log.start.zxid:
            found = tuple(entry for entry in log.entries if entry.zxid > wanted.after)
            found = found[: max(1, wanted.bytes_max // (ENTRY_BYTES + 64))]
        return self.step(events.EntriesRead(wanted.peer, wanted.session, wanted.after, found), now)

    def receive_snapshot(
        self, peer: int, told: effects.SendSnapshot, snapshot: Log, now: float
    ) -> list[effects.Effect]:
        """Take in a whole snapshot that *peer* has sent as it was *told* to."""
        assert snapshot.base is not None
        self.disk.received = Log(snapshot.start, snapshot.base)
        zxid, configuration = snapshot.base
        received = events.SnapshotReceived(peer, told.epoch, told.session, snapshot.start, configuration, zxid)
        return self.step(received, now)

    def step(self, event: events.Event, now: float) -> list[effects.Effect]:
        """Let the core take in *event*; give the disk its work; check what is said; return all effects."""
        assert self.replica is not None
        made = self.replica.step(event, now)
        for effect in made:
            if isinstance(effect, effects.Send):
                self._check_message(effect)
            elif isinstance(effect, effects.Committed):
                self._check_commit(effect.zxid)
            elif isinstance(effect, effects.ReadEntries):
                self.reads += (effect,)
            elif isinstance(effect, effects.Proposed):
                if self.replica.role is not Role.LEADING:
                    raise Broken("I17: a proposal is taken by a node that does not lead")
            elif isinstance(effect, effects.Truncate):
                if effect.position.zxid < self.committed_zxid:
                    raise Broken(f"I7: what was committed is cut off after {effect.position}")
                self.disk.take(effect)
            elif isinstance(effect, DISK_EFFECTS):
                self.disk.take(effect)
        return made

    def _check_commit(self, zxid: int) -> None:
        if zxid <= self.committed_zxid:
            raise Broken(f"I8: committed goes back to {show_zxid(zxid)}")
        if self.disk.durable.chain_at(zxid) is None:
            raise Broken(f"I8: node {self.node} commits {show_zxid(zxid)}, which is not durable here")
        self.committed_zxid = zxid

    def _check_message(self, sent: effects.Send) -> None:
        """Check what may only be said once the disk has it, and what must not contradict what was said before."""
        message, disk = sent.message, self.disk
        if isinstance(message, NewEpoch | AckEpoch) and disk.promised_epoch < message.epoch:
            raise Broken(f"I10: node {self.node} speaks of epoch {message.epoch}, durable is {disk.promised_epoch}")
        if isinstance(message, NewEpoch):
            self._promise(message.epoch, self.node)
        elif isinstance(message, AckEpoch):
            if message.ends[-1] != disk.durable.last or disk.view != disk.durable:
                raise Broken(f"rule 8: node {self.node} tells a log that is not the durable one")
            if message.promised:
                self._promise(message.epoch, sent.peer)
                self.confirmed_epoch = max(self.confirmed_epoch, message.epoch)
        elif isinstance(message, Ack):
            if disk.durable.chain_at(message.zxid) is None:
                raise Broken(f"I9: node {self.node} acknowledges {show_zxid(message.zxid)}, which is not durable")
            self._check_age(message.epoch)
        elif isinstance(message, SnapshotInstalled):
            if disk.durable.chain_at(message.position.zxid) != message.position.chain:
                raise Broken(f"I9: the snapshot at {message.position} is not durable on node {self.node}")
            self._check_age(message.epoch)

    def _check_age(self, epoch: int) -> None:
        if epoch < self.confirmed_epoch:
            raise Broken(f"I10: node {self.node} promised {self.confirmed_epoch}, acknowledges in {epoch}")

    def _promise(self, epoch: int, leader: int) -> None:
        known = dict(self.promised_to)
        if known.get(epoch, leader) != leader:
            raise Broken(f"I11: node {self.node} promised epoch {epoch} to {known[epoch]} and to {leader}")
        known[epoch] = leader
        self.promised_to = tuple(sorted(known.items()))
