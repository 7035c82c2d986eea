"""A voter of three, driven by hand: its disk answers only when told to, and nobody else exists."""

from __future__ import annotations

from typing import TypeVar

from sluicemq.broker.replication import effects, events
from sluicemq.broker.replication.history import Entry, EpochRecord, Position, zxid_of
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.broker.replication.messages import (
    Ack,
    AckEpoch,
    FollowerInfo,
    Message,
    Method,
    NewEpoch,
    Notification,
    Phase,
    Propose,
    Role,
    Synchronize,
    Vote,
)
from sluicemq.broker.replication.replica import Replica
from tests.broker.replication.network import CHAIN_START, MemoryLog

ME, LEADER, THIRD = 1, 3, 2
THREE = Configuration(frozenset(Member(node, b"first") for node in (1, 2, 3)))
LINK = {2: 20, 3: 30}
ZERO = Position(0, CHAIN_START)
One = TypeVar("One")


class Bench:
    """A voter of three with a log of epoch 1, whose disk answers only when told to."""

    def __init__(self, entries: int = 3, promised_epoch: int = 1) -> None:
        self.log = MemoryLog()
        bodies = [EpochRecord(LEADER, THREE), *range(entries - 1)]
        for counter, body in enumerate(bodies):
            self.log.append([self.log.seal(zxid_of(1, counter), self.log.last, body)])
        self.replica = Replica(Member(ME, b"first"), (1, 2, 3), promised_epoch, self.log)
        self.now = 0.0
        self.unanswered: list[effects.Token] = []
        self.seen: list[effects.Effect] = []
        self.step(events.Start())

    def step(self, event: events.Event) -> list[effects.Effect]:
        done = self.replica.step(event, self.now)
        for effect in done:
            if isinstance(effect, effects.Append):
                self.log.append(effect.entries)
            elif isinstance(effect, effects.Truncate):
                self.log.truncate(effect.position)
            if hasattr(effect, "token"):
                self.unanswered.append(effect.token)
        self.seen += done
        return done

    def disk(self) -> list[effects.Effect]:
        """Let the disk finish everything it was given."""
        token = self.unanswered[-1]
        self.unanswered.clear()
        return self.step(events.Persisted(token))

    def hear(self, peer: int, message: Message) -> list[effects.Effect]:
        return self.step(events.Received(peer, message))

    def follow(self) -> int:
        """Follow node 3; return the session."""
        self.disk()
        for peer, number in LINK.items():
            self.step(events.PeerUp(peer, number))
        vote = Vote(zxid_of(1, 9), LEADER)
        done = self.hear(LEADER, self.notification(LEADER, Role.LOOKING, vote))
        done += self.hear(THIRD, self.notification(THIRD, Role.LOOKING, vote))
        return said(done, FollowerInfo)[0].session

    def promise(self, epoch: int = 2) -> int:
        """Follow node 3 and promise it *epoch*; return the session."""
        session = self.follow()
        self.hear(LEADER, NewEpoch(epoch, LINK[LEADER], session))
        self.disk()
        return session

    def elect(self) -> None:
        """Be elected."""
        self.disk()
        for peer, number in LINK.items():
            self.step(events.PeerUp(peer, number))
        vote = Vote(self.log.last.zxid, ME)
        for peer in LINK:
            self.hear(peer, self.notification(peer, Role.LOOKING, vote))

    def gather(self, session: int = 5) -> None:
        """Be elected, and let both others introduce themselves."""
        self.elect()
        for peer, number in LINK.items():
            self.hear(peer, FollowerInfo(1, number, session, Member(peer, b"first")))
        self.disk()

    def lead(self, session: int = 5) -> None:
        """Be elected and serve in epoch 2, with node 2 in line and node 3 not planned yet."""
        self.gather(session)
        old = self.log.last
        self.hear(THIRD, AckEpoch(2, LINK[THIRD], session, True, (ZERO, old)))
        self.hear(THIRD, Ack(2, LINK[THIRD], session, old.zxid))
        read = only(self.seen, effects.ReadEntries)[-1]
        self.step(events.EntriesRead(THIRD, session, read.after, (self.log.entries[-1],)))
        self.hear(THIRD, Ack(2, LINK[THIRD], session, zxid_of(2, 0)))
        self.disk()

    def synchronize(self, epoch: int = 2) -> int:
        """Follow node 3 in a new epoch, in line with its log; return the session."""
        session = self.promise(epoch)
        position = self.log.last
        self.hear(LEADER, Synchronize(epoch, LINK[LEADER], session, Method.DIFF, position, 0))
        return session

    @property
    def status(self) -> tuple[Role, Phase]:
        return self.replica.role, self.replica.phase

    def notification(self, node: int, role: Role, vote: Vote) -> Notification:
        member = Member(node, b"first")
        return Notification(0, LINK[node], 1, role, vote, member, vote.zxid, zxid_of(1, 0), (1, 2, 3))

    def entry(self, zxid: int, body: object = "new", after: Position | None = None) -> Entry:
        return self.log.seal(zxid, after or self.log.last, body)


def said(done: list[effects.Effect], kind: type[One]) -> list[One]:
    return [one.message for one in done if isinstance(one, effects.Send) and isinstance(one.message, kind)]


def only(done: list[effects.Effect], kind: type[One]) -> list[One]:
    return [one for one in done if isinstance(one, kind)]


def proposal(bench: Bench, session: int, entry: Entry) -> Propose:
    return Propose(2, LINK[LEADER], session, bench.log.last, (entry,), 0)
