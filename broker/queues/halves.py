"""Half messages: batches that are stored and that nobody sees until somebody decides.

A half message waits for its sender, which commits it or rolls it back after its own database has decided. A sender that
falls silent is asked, through any live member of its group, at growing intervals and a bounded number of times; then
the half message is parked, for operators. A decision holds once and for all, and is remembered for a while: the same
one again changes nothing, the opposite one is refused.

All of it lies in memory, a few hundred bytes each, and is bounded. Bodies lie in the log. This module must not know
entries, queues, or who asks whom.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any, NamedTuple

from sortedcontainers import SortedSet

from sluicemq.broker.queues.runs import Run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sluicemq.broker.queues.lost import LostEntries

HALVES_ID = (1 << 64) - 1
"""What stands for all half messages among the numbers of queues: no entry has this number."""

PREPARED = "prepared messages"
"""What tools call them where they name queues."""

HALF_BYTES = 1_024
"""About what one takes in memory beside what its messages say about delivery."""

# Frozen by the log's format, see `MachineLimits`.
CHECKS_MAX = 15
"""So often a group is asked about one half message; then it is parked."""
CHECK_INTERVAL_MS_MAX = 60_000
"""Intervals between two questions double up to this, unless the first one is longer."""
DECIDED_MS = 24 * 3_600_000
"""So long a decision is remembered, in log time,"""
DECIDED_MAX = 100_000
"""but never more than so many."""
DECIDED_KNOWN_NUMBERS_MAX = 64
"""So many of the numbers that say which of its messages were duplicates are remembered with a decision."""


class Half(NamedTuple):
    """A half message: a batch, mostly of one message.

    Attributes:
        number: The zxid of the entry that stored it.
        vhost: Its vhost.
        target: Number of the queue or topic that it is for.
        target_name: Its name: should it be deleted and declared again, that one gets the message.
        to_topic: Whether it is a topic.
        destination: The name that it was published to: that of the queue, or one below the topic's.
        group: Whom to ask.
        identity: Who prepared it.
        producer: Number of the producer.
        sequence: Its number among the producer's batches.
        messages: How many messages it holds.
        batch_bytes: Bytes of the batch.
        prepared_ms: Log time at which it was stored.
        check_after_ms: How long after that it is asked about for the first time.
        checks: How often somebody was asked.
        next_check_ms: Log time from which on somebody is to be asked; 0: it is parked.
        groups: What its messages say about delivery, as in `entries.PublishGrouped`.
        routes: Their routes.
        scope: 0: their ids are not judged when it is committed; else one more than the scope that they are hashed for.
        ids: Hashes of its messages' ids, as in `entries_of_transactions.Prepare`.

    """

    number: int
    vhost: str
    target: int
    target_name: str
    to_topic: bool
    destination: str
    group: str
    identity: str
    producer: int
    sequence: int
    messages: int
    batch_bytes: int
    prepared_ms: int
    check_after_ms: int
    checks: int
    next_check_ms: int
    groups: tuple[int, ...]
    routes: tuple[str, ...]
    scope: int = 0
    ids: bytes = b""

    @property
    def parked(self) -> bool:
        """Whether nobody is asked any more."""
        return not self.next_check_ms

    @property
    def state_bytes(self) -> int:
        """About how much memory it takes."""
        return HALF_BYTES + 8 * len(self.groups) + sum(map(len, self.routes)) + len(self.ids)

    @property
    def run(self) -> Run:
        """All of its messages."""
        return Run(self.number, self.number, 0, self.messages, self.messages, self.batch_bytes, self.prepared_ms)

    def checked(self, now_ms: int) -> Half:
        """Return it after somebody was asked once more, or was asked too often."""
        if self.checks >= CHECKS_MAX:
            return self._replace(next_check_ms=0)
        checks = self.checks + 1
        interval_ms = min(self.check_after_ms << checks, max(CHECK_INTERVAL_MS_MAX, self.check_after_ms))
        return self._replace(checks=checks, next_check_ms=now_ms + interval_ms)


class Decision(NamedTuple):
    """What was decided about a half message that is none any more.

    Attributes:
        number: Its number.
        vhost: Its vhost.
        committed: Whether it became ready, or is gone.
        decided_ms: When, in log time.
        known: Which of its messages were duplicates, the first ones, in the numbers of `IdWindow.judge`.

    """

    number: int
    vhost: str
    committed: bool
    decided_ms: int
    known: tuple[int, ...] = ()


class Halves:
    """The half messages of all vhosts, in the order in which they were stored, and what was decided lately.

    Attributes:
        state_bytes: About how much memory the undecided ones take.

    """

    def __init__(self) -> None:
        self._halves: dict[int, Half] = {}
        self._decided: OrderedDict[int, Decision] = OrderedDict()
        # (when to ask, number) of those that are not parked, by vhost and group.
        self._due: dict[tuple[str, str], SortedSet[tuple[int, int]]] = {}
        self._parked = 0
        self.state_bytes = 0

    def __len__(self) -> int:
        return len(self._halves)

    def __iter__(self) -> Iterator[Half]:
        return iter(self._halves.values())

    @property
    def parked(self) -> int:
        """How many are parked."""
        return self._parked

    def get(self, number: int) -> Half | None:
        """Return the half message of this number, if it is not decided."""
        return self._halves.get(number)

    def decision(self, number: int) -> Decision | None:
        """Return what was decided about the one of this number, as far as that is remembered."""
        return self._decided.get(number)

    def after(self, number: int) -> Iterator[Half]:
        """Yield those that were stored after this number, oldest first."""
        return (half for half in self if half.number > number)

    def undecided(self, vhost: str, group: str) -> int:
        """How many of a group are neither decided nor parked."""
        return len(self._due.get((vhost, group), ()))

    def first_due(self, vhost: str, group: str) -> tuple[int, int] | None:
        """Return when somebody of the group is to be asked first, in log time, and about which; None: never."""
        due = self._due.get((vhost, group))
        first: tuple[int, int] | None = due[0] if due else None
        return first

    def due(self, vhost: str, group: str, now_ms: int, count_max: int) -> list[int]:
        """Return the numbers of those that the group is to be asked about by now, the first one first."""
        due = self._due.get((vhost, group))
        if due is None:
            return []
        return [number for _, number in due.islice(0, count_max) if self._halves[number].next_check_ms <= now_ms]

    # --- changes ---------------------------------------------------------------------------------------------------

    def put(self, half: Half) -> None:
        """Take *half* up, in the place of the one of its number."""
        known = self._halves.get(half.number)
        if known is not None:
            self._leave(known)
        self._halves[half.number] = half
        self.state_bytes += half.state_bytes
        if half.parked:
            self._parked += 1
        else:
            self._due.setdefault((half.vhost, half.group), SortedSet()).add((half.next_check_ms, half.number))

    def decide(self, half: Half, committed: bool, now_ms: int, known: list[int] | None = None) -> None:
        """Note that *half* is none any more, and why, and which messages were *known*; forget decisions of long ago."""
        del self._halves[half.number]
        self._leave(half)
        decided = self._decided
        kept = tuple(known[:DECIDED_KNOWN_NUMBERS_MAX]) if known else ()
        decided[half.number] = Decision(half.number, half.vhost, committed, now_ms, kept)
        while len(decided) > DECIDED_MAX or next(iter(decided.values())).decided_ms + DECIDED_MS <= now_ms:
            decided.popitem(last=False)

    def forget(self, lost: LostEntries) -> list[Half]:
        """Give up those of *lost* entries, undecided; return them."""
        gone = [half for half in self if half.number in lost]
        for half in gone:
            del self._halves[half.number]
            self._leave(half)
        return gone

    def _leave(self, half: Half) -> None:
        self.state_bytes -= half.state_bytes
        if half.parked:
            self._parked -= 1
            return
        key = half.vhost, half.group
        due = self._due[key]
        due.remove((half.next_check_ms, half.number))
        if not due:
            del self._due[key]

    # --- images ----------------------------------------------------------------------------------------------------

    def frozen(self) -> tuple[list[Half], list[Decision]]:
        """Return all rows, which nothing changes."""
        return list(self._halves.values()), list(self._decided.values())

    def restore_decisions(self, decisions: Iterable[Decision]) -> None:
        """Take over what an image held."""
        self._decided.update((decision.number, decision) for decision in decisions)

    def canonical(self) -> Iterator[Any]:
        """Yield all that further judgements depend on."""
        yield list(self)
        yield list(self._decided.values())

    def check(self) -> None:
        """Assert that the indexes agree with the rows.

        Raises:
            AssertionError: They do not.

        """
        numbers = list(self._halves)
        assert numbers == sorted(numbers), "half messages are in the order in which they were stored"
        assert not self._halves.keys() & self._decided.keys(), "what is decided is no half message any more"
        assert self.state_bytes == sum(half.state_bytes for half in self), "their memory is counted"
        assert self._parked == sum(half.parked for half in self), "parked ones are counted"
        due = {(half.next_check_ms, half.number) for half in self if not half.parked}
        indexed = [entry for entries in self._due.values() for entry in entries]
        assert len(indexed) == len(due) == len(due & set(indexed)), "each half message is due once"
        assert all(0 <= half.checks <= CHECKS_MAX for half in self), "nobody is asked more often than allowed"
        times = [decision.decided_ms for decision in self._decided.values()]
        assert times == sorted(times), "decisions are in order"
