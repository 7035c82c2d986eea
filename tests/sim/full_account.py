"""The account of a run in which clients use everything: the naive world of the queue machine follows the history.

`history` keeps a ledger of its own for plain queues; here the other opinion on all features is that of
`tests.broker.queues.naive`. It answers every entry as the machine does, and holds the same messages in the end. Beside,
what no model of one entry sees: messages are handed out for the first time in the order in which they became ready, by
priority or key; of a key only so many are out, with one consumer; of several consumers only the active one has any.
What has to happen once is looked at by `once_account`, against what clients saw.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues.outcomes import Granted, Settled
from sluicemq.broker.replication.history import show_zxid
from sluicemq.wire.errors import LimitReached
from sluicemq.wire.messages import VERDICT_ACK
from tests.broker.queues.naive.comparing import compare
from tests.broker.queues.naive.judging import judge
from tests.broker.queues.naive.life import given_back, plain
from tests.broker.queues.naive.settling import grant
from tests.broker.queues.naive.world import Address, World, address, is_keyed, tags_in, within
from tests.sim.entries import MACHINE_LIMITS
from tests.sim.features import GRAVE
from tests.sim.history import Account, Lease
from tests.sim.once_account import OnceAccount, invariant_of
from tests.sim.world import Violation

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Sequence

    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.replication.history import Entry
    from tests.sim.clients import Seen

COMPARE_EVERY = 64
AS_A_WHOLE = (x.Transaction, x.Prepare, x.Resolve)
"""Entries after which everything is compared at once: a part of what they do would soon be hidden by others."""
GRANT_UNDER_WAY_MS = 1_000
"""A grant goes by the settings that held when it was picked, at the log time that it carries; what is declared
holds for picks once it is applied. A leader that hears of no majority leads for less than this, so that is no later."""


class FullAccount(Account):
    """The committed history, followed by the naive world; see `Account`.

    Args:
        committed: All committed entries, in order.
        weighed: Counts how often an invariant was at stake.
        sent: See `truth.Truth`.

    """

    def __init__(self, committed: Sequence[Entry], weighed: Counter[str], sent: dict[int, int]) -> None:
        self.world = World(MACHINE_LIMITS.receipts_max, MACHINE_LIMITS.fenced_max)
        self.once = OnceAccount(weighed, sent)
        self._acknowledged: set[Lease] = set()
        self._fronts: dict[tuple[int, int, int], int] = {}
        # Of queues whose `key_in_flight_max` was lowered: what it was before, and until when picks may go by that.
        self._lowered: dict[int, tuple[int, int]] = {}
        super().__init__(committed)
        try:
            self._compare()
        except AssertionError as error:
            raise Violation(f"account: the machine holds something else than the naive world: {error}") from error

    def _follow(self, zxid: int, entry: e.Entry, outcome: Outcome) -> None:
        self.world.time = max(self.world.time, entry.log_time_ms)
        try:
            if isinstance(entry, e.Grant):
                self._grant_in_world(zxid, entry, outcome)
            elif not isinstance(entry, e.Epoch) and not isinstance(outcome.error, LimitReached):
                limit_before = self._key_limit(entry)
                expected = judge(self.world, zxid, entry)
                self._note_lowered(entry, limit_before)
                assert plain(outcome) == expected, f"answered {outcome}, the naive world says {expected}"
                self._note_settled(entry, outcome)
                self._note_published(zxid, entry, outcome)
            self.once.follow(zxid, entry, outcome, self.machine)
            grave = self.world.queue_named(GRAVE)
            some_died = grave is not None and any("died" in m for m in grave["messages"])
            if some_died or not zxid % COMPARE_EVERY or isinstance(entry, AS_A_WHOLE):
                self._compare()  # which also takes over in which order they died
        except (AssertionError, KeyError) as error:
            raise Violation(f"{invariant_of(entry)}: {show_zxid(zxid)} {type(entry).__name__}: {error}") from error

    def _compare(self) -> None:
        compare(self.machine, self.world, lambda queue: queue.peek(0, 10**9))

    def _key_limit(self, entry: e.Entry) -> int:
        """Return how many messages of a key may be out of the queue that is declared."""
        queue = self.world.queue_named(entry.name) if isinstance(entry, e.Declare) else None
        return 0 if queue is None else int(queue["settings"]["key_in_flight_max"])

    def _note_lowered(self, entry: e.Entry, before: int) -> None:
        if isinstance(entry, e.Declare) and self._key_limit(entry) < before:
            queue = self.world.queue_named(entry.name)
            assert queue is not None, "it is there before and after"
            self._lowered[queue["id"]] = before, entry.log_time_ms + GRANT_UNDER_WAY_MS

    def _note_published(self, zxid: int, entry: e.Entry, outcome: Outcome) -> None:
        if isinstance(entry, e.Publish | x.Transaction | x.Prepare) and outcome.error is None:
            assert outcome.value is not None, "what is not refused is answered"
            if not outcome.value.duplicate and entry.count:
                payload = bytes(entry.payload)
                if payload in self.published:
                    raise Violation(f"duplicate: batch {payload[:20]!r} is stored at {show_zxid(zxid)} once more")
                self.published[payload] = zxid

    def _grant_in_world(self, zxid: int, entry: e.Grant, outcome: Outcome) -> None:
        assert isinstance(outcome.value, Granted)
        grant(self.world, entry, False, tags_in(outcome.value.void), given_back(outcome))
        queue = self.world.queues.get(entry.queue)
        if queue is None:
            return
        who = entry.session, entry.consumer
        leased = within(queue, "leased")
        new = [m for m in leased if m["holder"] == who and m["tag"] >= entry.first_tag]
        for message in sorted(new, key=lambda m: m["tag"]):
            lease = (*who, message["tag"])
            self.granted[lease] = address(message)
            self.once.leases(zxid, lease, message, queue, self.world.time)
            if not message["back"] and (message["key"] or not is_keyed(queue)):
                line = (queue["id"], message["priority"], message["key"])
                # Of one key those that became ready with one entry may go in any order.
                turn = message["ready"] + 1 if is_keyed(queue) else message["turn"]
                assert self._fronts.get(line, 0) <= turn, f"{address(message)} is handed out of order"
                self._fronts[line] = turn
        if queue["settings"]["mode"] == "failover":
            assert {m["holder"] for m in leased} <= {who}, "several consumers have messages"
        if is_keyed(queue):
            limit, (before, until_ms) = queue["settings"]["key_in_flight_max"], self._lowered.get(queue["id"], (0, 0))
            if entry.log_time_ms <= until_ms:
                limit = max(limit, before)
            for key in {m["key"] for m in new if m["key"]}:
                out = [m["holder"] for m in leased if m["key"] == key]
                assert len(out) <= limit, f"too many of key {key} are out"
                assert set(out) == {who}, f"key {key} is with several consumers"

    def _note_settled(self, entry: e.Entry, outcome: Outcome) -> None:
        if isinstance(entry, x.Transaction) and outcome.error is None:
            for settlement in entry.verdicts():
                tags = tags_in(settlement.tags)
                self._acknowledged.update((entry.session, settlement.consumer, tag) for tag in tags)
        if isinstance(entry, e.Settle) and isinstance(outcome.value, Settled):
            self.delayed += bool(entry.due_time_ms)
            if entry.verdict == VERDICT_ACK:
                lost = tags_in(outcome.value.lost)
                tags = [tag for tag in tags_in(entry.tags) if tag not in lost]
                self._acknowledged.update((entry.session, entry.consumer, tag) for tag in tags)

    def compare(self, seen: Seen) -> None:
        """Raise Violation unless everything that clients saw is true."""
        super().compare(seen)
        self.once.compare(seen, self.published)

    def _is_known(self, address: Address) -> bool:
        return self.once.is_stored(address)

    def _is_acknowledged(self, lease: Lease) -> bool:
        return lease in self._acknowledged
