"""Whether all replicas have made the same state of the same entries: the divergence alarm.

Equal logs do not prove equal states: a bug in the machine, or a bit that flipped in memory, would go unnoticed until
the broker that has it leads. So every shell hashes its state at the same places of the log, say at every entry whose
counter is a multiple of something, and tells the core (`StateHashed`):

1. With its pings the leader names one of these places, the newest that it has hashed itself, and its hash.
2. A learner answers with its own hash of that place, as soon as it has one.
3. The leader compares. What a quorum of the voters has counts as right; whoever differs is told so (`Diverged`)
   and ends, naming what differs; the leader too if it is the one. An observer is judged by the same.
4. Is no quorum of one mind though all voters have answered, those who differ from the leader end: there is no quorum
   left then, and nothing more is confirmed until an operator has looked. As long as some voter has not answered, there
   is an alarm and no verdict.
5. The next place is taken up when all who are connected have answered, or after so many pings.

This is an alarm, no cure: it says that something is broken, not what the right state is.

This module must not know messages, times or what a state is.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from sluicemq.broker.replication.membership import Configuration, Member

DIGEST_BYTES_MAX = 64
STATE_PARTS_MAX = 64


@dataclass(frozen=True, slots=True)
class StateHash:
    """The state after everything up to an entry was applied, in a few bytes.

    Attributes:
        zxid: The entry.
        digest: Hash of the whole state, at most `DIGEST_BYTES_MAX` bytes.
        parts: Names of parts of it with their hashes, at most `STATE_PARTS_MAX`, so that a difference can be named.

    """

    zxid: int
    digest: bytes
    parts: tuple[tuple[str, bytes], ...] = ()


def difference(one: StateHash, other: StateHash) -> str:
    """Say what differs between two hashes of the same place."""
    ours, theirs = dict(one.parts), dict(other.parts)
    names = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
    return ", ".join(names) if names else "the hash of the whole state"


class OwnHashes:
    """The last few hashes of this replica's own state.

    Args:
        kept_max: How many.

    """

    def __init__(self, kept_max: int) -> None:
        self._kept_max = kept_max
        self._kept: OrderedDict[int, StateHash] = OrderedDict()

    def add(self, state: StateHash) -> None:
        """Keep *state*; the oldest goes."""
        self._kept[state.zxid] = state
        while len(self._kept) > self._kept_max:
            self._kept.popitem(last=False)

    def at(self, zxid: int) -> StateHash | None:
        """Return the hash of that place, if there is one yet, or still."""
        return self._kept.get(zxid)

    @property
    def newest(self) -> StateHash | None:
        """The last one added."""
        return next(reversed(self._kept.values()), None)


@dataclass(frozen=True, slots=True)
class Verdict:
    """Who differs.

    Attributes:
        right: The hash that counts.
        agreeing: Who has it.
        wrong: Who has another one, and which.
        alarm: No verdict is possible yet, so nobody is wrong; `wrong` are those that differ from the leader.

    """

    right: StateHash
    agreeing: tuple[Member, ...]
    wrong: tuple[tuple[Member, StateHash], ...]
    alarm: bool = False


class Agreement:
    """The leader's comparison, one place of the log after another.

    Args:
        member: The leader.
        hashes: Its own hashes.
        pings_max: After so many pings another place is taken up, whoever has not answered.

    """

    def __init__(self, member: Member, hashes: OwnHashes, pings_max: int) -> None:
        self._member = member
        self._hashes = hashes
        self._pings_max = pings_max
        self._pings = 0
        self._answers: dict[Member, StateHash] = {}
        self._told: set[Member] = set()
        self._alarmed = False

    @property
    def _asked(self) -> StateHash | None:
        return self._answers.get(self._member)

    def question(self, learners: Collection[Member]) -> StateHash | None:
        """Return what the next ping asks for; *learners* are those who are in line."""
        asked, newest = self._asked, self._hashes.newest
        if newest is None:
            return None
        self._pings += 1
        over = asked is None or self._pings > self._pings_max or all(member in self._answers for member in learners)
        if over and newest != asked:
            self._pings, self._answers = 0, {self._member: newest}
            self._told.clear()
            self._alarmed = False
        return self._asked

    def answered(self, member: Member, state: StateHash, configuration: Configuration) -> Verdict | None:
        """Note the hash of *member*; return who differs if that is news."""
        asked = self._asked
        if asked is None or state.zxid != asked.zxid or member in self._answers:
            return None
        self._answers[member] = state
        verdict = self._judge(configuration)
        if verdict is None:
            return None
        if verdict.alarm:
            raised, self._alarmed = self._alarmed, True
            return None if raised else verdict
        news = tuple(one for one in verdict.wrong if one[0] not in self._told)
        self._told.update(one for one, _ in news)
        return Verdict(verdict.right, verdict.agreeing, news) if news else None

    def _judge(self, configuration: Configuration) -> Verdict | None:
        for state in self._answers.values():
            agreeing = self._having(state)
            if configuration.is_quorum(agreeing):
                return self._verdict(state, agreeing, alarm=False)
        asked = self._asked
        assert asked is not None, "the leader has answered itself"
        undecided = any(member not in self._answers for member in configuration.everybody)
        return self._verdict(asked, self._having(asked), alarm=undecided)

    def _having(self, state: StateHash) -> tuple[Member, ...]:
        return tuple(sorted(one for one, answer in self._answers.items() if answer.digest == state.digest))

    def _verdict(self, right: StateHash, agreeing: tuple[Member, ...], *, alarm: bool) -> Verdict | None:
        wrong = tuple((one, state) for one, state in sorted(self._answers.items()) if one not in agreeing)
        return Verdict(right, agreeing, wrong, alarm) if wrong else None
