"""Reads that must see everything confirmed before they began (ReadIndex), without a lease and without trust in clocks.

1. A read comes in while the leader is in broadcast. It waits for the next round.
2. A round begins: remember what is committed now, ping every learner with a new number.
3. A quorum has answered that number or a later one: nobody else can have led when the round began, so whoever has
   applied what was committed then may answer.

A read that comes in during a round waits for the next: a ping sent before it proves nothing for it. The numbers belong
to one leader's epoch and die with it. This module must not know learners or messages.
"""

from __future__ import annotations

from sluicemq.broker.replication.membership import Configuration, Member


class Reads:
    """Reads of one epoch.

    Args:
        member: The leader, which always answers itself.
        reads_max: Most reads that wait, the running round included.

    """

    def __init__(self, member: Member, reads_max: int) -> None:
        self._member = member
        self._reads_max = reads_max
        self._waiting: list[object] = []
        self._asked: list[object] = []
        self._number = 0
        self._zxid = 0
        self._answered: dict[Member, int] = {}

    @property
    def full(self) -> bool:
        """Whether no further read may wait."""
        return len(self._waiting) + len(self._asked) >= self._reads_max

    @property
    def wants_round(self) -> bool:
        """Whether reads wait and no round is running."""
        return bool(self._waiting) and not self._asked

    def wait(self, reference: object) -> None:
        """Let a read wait for the next round."""
        self._waiting.append(reference)

    def begin_round(self, number: int, committed_zxid: int) -> None:
        """The ping *number* goes out now."""
        self._asked, self._waiting = self._waiting, []
        self._number, self._zxid = number, committed_zxid

    def answered(self, member: Member, number: int) -> None:
        """*member* has answered the ping *number*."""
        if number > self._answered.get(member, 0):
            self._answered[member] = number

    def ready(self, configuration: Configuration) -> tuple[int, list[object]]:
        """Return the zxid to have applied, and the reads of the round if a quorum has answered; else none."""
        if not self._asked:
            return 0, []
        answered = {member for member, number in self._answered.items() if number >= self._number}
        if not configuration.is_quorum(answered | {self._member}):
            return 0, []
        done, self._asked = self._asked, []
        return self._zxid, done

    def abandon(self) -> list[object]:
        """Return all reads that will never be answered."""
        left = self._asked + self._waiting
        self._asked, self._waiting = [], []
        return left
