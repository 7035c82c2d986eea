"""Who votes, and what a quorum is, also while the voters change.

A member is a node *and* an incarnation of its disk: a node whose disk was wiped has forgotten its promises, so it comes
back as somebody new, who learns but does not vote until a change makes it a voter.

A change of voters takes two records in the log, one change at a time:

1. `Configuration(voters, next_voters)`: from the moment it is *appended*, every quorum (of votes, promises, durable
   copies) must be a quorum of the old voters and a quorum of the new ones.
2. When that is committed, `Configuration(next_voters, None)`; when this too is committed, the change is done and a
   removed voter may be switched off.

The second record is why a node that restarts need not guess whether the first was committed: the log says which quorums
count, and as long as it says "both", both are needed. A single record would leave the last voter of a shrinking cluster
waiting for a removed one.

Nodes that do not vote need no record: whoever is connected may learn (observers).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

_Voter = TypeVar("_Voter")


class Member(NamedTuple):
    """A node with the incarnation of its disk, which is never used again once the disk was wiped."""

    node: int
    incarnation: bytes

    def __str__(self) -> str:
        return f"{self.node}.{self.incarnation.hex()[:4]}"


Voters = frozenset[Member]


@dataclass(frozen=True, slots=True)
class Configuration:
    """Who votes. With `next_voters` a change is on its way, and quorums of both are needed."""

    voters: Voters
    next_voters: Voters | None = None

    def __post_init__(self) -> None:
        for voters in self.electorates:
            if not voters:
                raise ValueError("a configuration without voters can never decide anything")
            if len({member.node for member in voters}) != len(voters):
                raise ValueError("one node cannot vote under two incarnations")

    @property
    def electorates(self) -> tuple[Voters, ...]:
        """The groups of which each must have a majority."""
        return (self.voters,) if self.next_voters is None else (self.voters, self.next_voters)

    @property
    def everybody(self) -> Voters:
        """All who vote in any of the groups."""
        return self.voters if self.next_voters is None else self.voters | self.next_voters

    def is_quorum(self, supporters: Collection[Member]) -> bool:
        """Say whether *supporters* hold a majority of each group."""
        return all(is_majority(voters, supporters) for voters in self.electorates)

    def settled(self) -> Configuration:
        """Return what holds once the change is through."""
        return self if self.next_voters is None else Configuration(self.next_voters)


def is_majority(voters: Collection[_Voter], supporters: Collection[_Voter]) -> bool:
    """Say whether more than half of *voters* are among *supporters*."""
    return 2 * sum(member in supporters for member in voters) > len(voters)


def reached_by_majority(voters: Collection[Member], reached: Mapping[Member, int]) -> int:
    """Return the highest zxid that more than half of *voters* have reached; 0 if too few were heard."""
    ranked = sorted((reached.get(member, 0) for member in voters), reverse=True)
    return ranked[len(ranked) // 2]


def reached_by_quorum(configuration: Configuration, reached: Mapping[Member, int]) -> int:
    """Return the highest zxid that a quorum has reached: the lower of both groups while the voters change."""
    return min(reached_by_majority(voters, reached) for voters in configuration.electorates)


def with_voter(configuration: Configuration, member: Member) -> Configuration:
    """Return the first record of a change that makes *member* a voter, in the place of its node's older incarnation."""
    others = frozenset(voter for voter in configuration.voters if voter.node != member.node)
    return Configuration(configuration.voters, others | {member})


def without_voter(configuration: Configuration, node: int) -> Configuration:
    """Return the first record of a change after which *node* votes no more."""
    others = frozenset(voter for voter in configuration.voters if voter.node != node)
    return Configuration(configuration.voters, others)


def nodes_of(members: Iterable[Member]) -> tuple[int, ...]:
    """Return the nodes of *members*, rising."""
    return tuple(sorted(member.node for member in members))
