"""What has to happen once: a ledger of ids, transactions, half messages and names, against what clients saw.

- I20: within a window, messages of one id are stored once; a duplicate is told where the original lies, whoever leads.
  A window knows what came since its queue or topic has it, nothing of before.
- I21: a transaction holds as a whole or not at all: nothing of one that was refused is in the history, all of one that
  was confirmed is.
- I22: a half message is seen by nobody before it is committed, and ends as the database of its sellers says, once.
- I23: a producer whose name was taken over publishes nothing any more; a batch that comes again gets its old receipt.
- I24: a message whose id was acknowledged, as the leader knew when it sent, is not sent again within the window.

At stake is what goes across leaders, what is refused, and what would have been sent: `weighed` counts those only. The
ledger reads ids in the batches, never hashes, and knows no runs. This module must not know nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues.outcomes import Published, Settled
from sluicemq.broker.queues.outcomes_of_transactions import Prepared, Resolved, Transacted
from sluicemq.broker.replication.history import epoch_of, show_zxid
from sluicemq.wire.errors import LeaseLost, ProducerFenced
from sluicemq.wire.messages import VERDICT_ACK
from tests.broker.queues.naive.windows import spread
from tests.broker.queues.naive.world import Address, Message, Queue, chunks_of, tags_in
from tests.sim.once import ids_of, keys_of
from tests.sim.world import Violation

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Mapping

    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.outcomes import Outcome
    from tests.sim.clients import Seen
    from tests.sim.history import Lease

INVARIANTS: dict[type[e.Entry], str] = {
    e.PublishIdentified: "I20 windows",
    x.Transaction: "I21 transactions",
    x.Prepare: "I22 half messages",
    x.Resolve: "I22 half messages",
    x.Checked: "I22 half messages",
    e.ProducerOpen: "I23 producers",
    e.GrantIdentified: "I24 settled windows",
}


def invariant_of(entry: e.Entry) -> str:
    """Return which invariant is broken where an entry does something else than the naive world says."""
    if isinstance(entry, e.SettleJudged) and entry.verdict == e.SETTLED_BEFORE:
        return "I24 settled windows"
    return INVARIANTS.get(type(entry), "account")


Name = tuple[str, str | None]
"""An id, with the key within which it is unique."""


class Stored(NamedTuple):
    """A message of the history.

    Attributes:
        target: Number of the queue or topic that it was published to.
        id: Its id; None: it has none.
        key: Its key, within which its id may be unique.
        time_ms: Log time of its entry.

    """

    target: int
    id: str | None
    key: str | None
    time_ms: int

    def name(self, settings: Mapping[str, Any]) -> Name | None:
        """What makes it the same as others by these settings of a queue or topic; None: nothing does."""
        return None if self.id is None else (self.id, self.key if settings["dedup_scope"] == "key" else None)


class Sent(NamedTuple):
    """A message of a queue that remembers what was acknowledged, and that was granted.

    Attributes:
        queue: Number of the queue.
        id: As of `Stored`.
        applied_zxid: Up to where the leader had applied when it chose what to send; -1: it never sent.
        known: Whether it had applied an acknowledgement of this id, within the window at the time.

    """

    queue: int
    id: Name
    applied_zxid: int
    known: bool


class OnceAccount:
    """See above.

    Args:
        weighed: Counts how often an invariant was at stake.
        sent: See `truth.Truth`.

    """

    def __init__(self, weighed: Counter[str], sent: Mapping[int, int]) -> None:
        self._weighed = weighed
        self._sent_at = sent
        self._stored: dict[Address, Stored] = {}
        self._ids: dict[tuple[int, Name], list[Address]] = {}
        self._duplicates: set[Address] = set()
        self._halves: dict[int, tuple[str, int, bytes]] = {}
        self._decided: dict[int, bool] = {}
        self._names: dict[str, int] = {}
        self._fenced: set[int] = set()
        self._acknowledged: dict[tuple[int, Name], list[tuple[int, int]]] = {}
        self._granted: dict[Lease, Sent] = {}

    def is_stored(self, address: Address) -> bool:
        """Return whether a message of the history may be delivered."""
        half = address[0] not in self._halves or self._decided.get(address[0], False)
        return address in self._stored and half

    # --- the history --------------------------------------------------------------------------------------------------

    def follow(self, zxid: int, entry: e.Entry, outcome: Outcome, machine: Machine) -> None:
        """Look at an entry and what it did."""
        if isinstance(outcome.error, ProducerFenced):
            self._weighed["I23"] += 1
        if isinstance(entry, e.ProducerOpen) and entry.name and outcome.error is None:
            former = self._names.get(entry.name)
            if former is not None:
                self._fenced.add(former)
            self._names[entry.name] = zxid
        elif isinstance(entry, e.Publish | x.Transaction | x.Prepare):
            if outcome.error is None:
                self._accepted(zxid, entry, outcome.value, machine)
            elif isinstance(outcome.error, LeaseLost):
                self._weighed["I21"] += 1
        elif isinstance(entry, x.Resolve) and isinstance(outcome.value, Resolved):
            self._resolved(zxid, entry, outcome.value, machine)
        elif isinstance(entry, e.Settle) and isinstance(outcome.value, Settled):
            self._settled(zxid, entry, outcome.value, machine)

    def _accepted(self, zxid: int, entry: Any, value: object, machine: Machine) -> None:
        assert isinstance(value, Published | Transacted | Prepared), "a batch that is accepted has a receipt"
        if entry.producer in self._fenced:
            raise Violation(f"I23 producers: {show_zxid(zxid)} accepts a batch of producer {entry.producer}, fenced")
        if value.duplicate:
            self._weighed["I23"] += epoch_of(value.zxid) not in (0, epoch_of(zxid))
            return
        known = {} if isinstance(value, Prepared) else spread(value.known)
        ids, keys = ids_of(entry.payload), keys_of(getattr(entry, "groups", []), entry.count)
        first = 0
        parts = [(entry.target, entry.count)] if isinstance(entry, x.Prepare) else []
        parts = parts or [(entry.queue, entry.count)] if isinstance(entry, e.Publish) else parts
        if isinstance(entry, x.Transaction):
            parts = [(target, count) for target, count, *_ in chunks_of(entry.parts, x.PART_NUMBERS)]
            self._weighed["I21"] += len(parts) > 1
            for settlement in entry.verdicts():
                tags = tags_in(settlement.tags)
                self._acknowledge(zxid, entry.session, settlement.consumer, tags, machine.log_time_ms)
        for target, count in parts:
            found = machine.queue(target) or machine.sources.get(target)
            settings = None if found is None else found.settings
            for index in range(first, first + count):
                id_ = ids[index] if ids else None
                stored = self._stored[zxid, index] = Stored(target, id_, keys[index], machine.log_time_ms)
                name = None if settings is None else stored.name(settings)
                if index in known:
                    assert settings is not None, "who judges ids is there"
                    self._duplicate(zxid, index, stored, known[index], settings)
                elif name is not None and settings is not None and not isinstance(entry, x.Prepare):
                    self._new(zxid, index, name, stored, settings)
            first += count
        if isinstance(entry, x.Prepare):
            self._halves[zxid] = entry.destination, entry.count, bytes(entry.payload)

    def _duplicate(self, zxid: int, index: int, stored: Stored, place: Address, settings: Mapping[str, Any]) -> None:
        del self._stored[zxid, index]
        self._duplicates.add((zxid, index))
        original, name = self._stored.get(place), stored.name(settings)
        if original is None or original.target != stored.target or original.name(settings) != name or name is None:
            raise Violation(
                f"I20 windows: {show_zxid(zxid)} takes its message {index}, {stored}, for a duplicate of {place}, "
                f"which is {original}"
            )
        self._weighed["I20"] += epoch_of(place[0]) != epoch_of(zxid)

    def _new(self, zxid: int, index: int, name: Name, stored: Stored, settings: Mapping[str, Any]) -> None:
        if not settings["dedup_window"]:
            return  # a window that is declared later on begins empty
        before = self._ids.setdefault((stored.target, name), [])
        age_ms, most = round(settings["dedup_window"] * 1000), settings["dedup_count"]
        young = [place for place in before if self._stored[place].time_ms + age_ms > stored.time_ms]
        if young and (not most or most >= len(self._stored)):
            raise Violation(f"I20 windows: {show_zxid(zxid)} stores {name} at {index}, which {young[-1]} is already")
        before.append((zxid, index))

    def _resolved(self, zxid: int, entry: x.Resolve, value: Resolved, machine: Machine) -> None:
        if entry.half not in self._halves:
            raise Violation(f"I22 half messages: {show_zxid(zxid)} decides {show_zxid(entry.half)}, never prepared")
        self._weighed["I22"] += value.again or epoch_of(entry.half) != epoch_of(zxid)
        if self._decided.setdefault(entry.half, value.committed) != value.committed:
            raise Violation(
                f"I22 half messages: {show_zxid(entry.half)} is decided twice, at last by {show_zxid(zxid)}"
            )
        known = spread(value.known)
        _, count, _ = self._halves[entry.half]
        if value.messages != (0 if value.again or not value.committed else count - len(known)):
            raise Violation(f"I22 half messages: of {show_zxid(entry.half)} come {value.messages} messages")
        if value.committed and not value.again:
            self._committed(entry.half, count, known, machine)

    def _committed(self, half: int, count: int, known: Mapping[int, Address], machine: Machine) -> None:
        """Ids of half messages count from the commit on."""
        for index in range(count):
            stored = self._stored[half, index]._replace(time_ms=machine.log_time_ms)
            found = machine.queue(stored.target) or machine.sources.get(stored.target)
            assert found is not None, "nobody deletes queues here"
            self._stored[half, index] = stored
            name = stored.name(found.settings)
            if index in known:
                self._duplicate(half, index, stored, known[index], found.settings)
            elif name is not None:
                self._new(half, index, name, stored, found.settings)

    def leases(self, zxid: int, lease: Lease, message: Message, queue: Queue, now_ms: int) -> None:
        """A GRANT leases a message."""
        place = message["zxid"], message["index"]
        if place[0] in self._halves and not self._decided.get(place[0], False):
            raise Violation(f"I22 half messages: {show_zxid(zxid)} grants {place}, which nobody has committed")
        if place in self._duplicates:
            raise Violation(f"I20 windows: {show_zxid(zxid)} grants {place}, which was confirmed as a duplicate")
        stored = self._stored[place]
        name = stored.name(queue["settings"])
        if not message["id"] or name is None:
            return
        applied_zxid = self._sent_at.get(zxid, -1)
        age_ms = round(queue["settings"]["settled_window"] * 1000)
        acknowledged = self._acknowledged.get((queue["id"], name), ())
        known = any(at_zxid <= applied_zxid and now_ms < at_ms + age_ms for at_zxid, at_ms in acknowledged)
        self._granted[lease] = Sent(queue["id"], name, applied_zxid, known)

    def _settled(self, zxid: int, entry: e.Settle, value: Settled, machine: Machine) -> None:
        if entry.verdict == e.SETTLED_BEFORE:
            self._weighed["I24"] += value.settled > 0
        if entry.verdict == VERDICT_ACK:
            lost = tags_in(value.lost)
            tags = [tag for tag in tags_in(entry.tags) if tag not in lost]
            self._acknowledge(zxid, entry.session, entry.consumer, tags, machine.log_time_ms)

    def _acknowledge(self, zxid: int, session: int, consumer: int, tags: list[int], now_ms: int) -> None:
        for tag in tags:
            sent = self._granted.get((session, consumer, tag))
            if sent is not None:
                self._acknowledged.setdefault((sent.queue, sent.id), []).append((zxid, now_ms))

    # --- against what clients saw -------------------------------------------------------------------------------------

    def compare(self, seen: Seen, published: Mapping[bytes, int]) -> None:
        """Raise Violation unless everything that clients saw is true."""
        self._compare_windows(seen, published)
        for payload in seen.refused:
            if payload in published:
                raise Violation(f"I21 transactions: {payload[:20]!r} was refused, and is at {published[payload]}")
        self._compare_halves(seen)
        for lease in seen.delivered:
            sent = self._granted.get(lease)
            if sent is not None and sent.known:
                raise Violation(f"I24 settled windows: {lease} was sent {sent.id}, acknowledged before")

    def _compare_windows(self, seen: Seen, published: Mapping[bytes, int]) -> None:
        batches = {zxid: payload for payload, zxid in published.items()}
        for payload, known in seen.told:
            ids = ids_of(payload)
            for index, (zxid, original) in spread(known).items():
                there = ids_of(batches.get(zxid, b""))
                if original >= len(there) or there[original] != ids[index]:
                    raise Violation(
                        f"I20 windows: message {index} of {payload[:20]!r} was confirmed as a duplicate of "
                        f"{show_zxid(zxid)}, {original}, which has another id"
                    )

    def _compare_halves(self, seen: Seen) -> None:
        for number, (deal, _count, payload) in self._halves.items():
            if seen.deals.get(payload) != deal:
                raise Violation(f"I22 half messages: nobody prepared {deal!r} at {show_zxid(number)}")
            if self._decided.get(number) != seen.database.get(deal, False):
                raise Violation(
                    f"I22 half messages: {show_zxid(number)} ends as {self._decided.get(number)}, the database of its "
                    f"sellers says {seen.database.get(deal)} of {deal!r}"
                )
        for number, wanted, committed in seen.resolved:
            if wanted != committed or self._decided.get(number) != committed:
                raise Violation(
                    f"I22 half messages: the decision {wanted} on {show_zxid(number)} was confirmed in vain"
                )
        if seen.broken_deals:
            raise Violation(f"I22 half messages: a decision was refused: {seen.broken_deals[0]}")
