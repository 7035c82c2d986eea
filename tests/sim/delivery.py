"""ZAB's own properties (I13), from what nodes broadcast and deliver, by a ledger that knows nothing of commitment.

`truth` follows commits; this module follows deliveries, that is entries given to the queue machine, and it has its own
history, so that the two can only agree by both being right. In the words of the paper:

- Integrity: what is delivered was broadcast by the primary of its epoch, and no life of a node delivers it twice.
- Total order and agreement: all nodes deliver the same entries in the same order, without leaving one out.
- Local primary order: entries of one primary are delivered in the order in which it broadcast them.
- Global primary order: entries of an earlier primary are delivered before those of a later one.
- Primary integrity: before a primary broadcasts anything of its own, it has delivered all that is ever delivered of
  earlier ones. The epoch record is not its own: it ends the synchronization.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.replication.history import EpochRecord, counter_of, epoch_of, show_zxid
from tests.sim.world import Violation

if TYPE_CHECKING:
    from collections import Counter

    from sluicemq.broker.replication.history import Entry


class Deliveries:
    """Who broadcast what, and who has delivered what.

    Args:
        weighed: Counts under "I13" how often two nodes or lives could be compared.

    """

    def __init__(self, weighed: Counter[str]) -> None:
        self._weighed = weighed
        self._order: list[tuple[int, bytes]] = []
        self._places: dict[int, int] = {}
        self._primaries: dict[int, int] = {}
        self._broadcast: dict[int, bytes] = {}
        self._counters: dict[int, int] = {}
        self._begun_epoch = 0

    def broadcasts(self, node: int, entry: Entry, delivered_zxid: int) -> None:
        """*node* has put *entry* into its log, as the first or the last of many; it has delivered up to a zxid."""
        zxid = entry.zxid
        if zxid in self._broadcast and self._broadcast[zxid] == entry.chain:
            return
        epoch, counter = epoch_of(zxid), counter_of(zxid)
        if isinstance(entry.body, EpochRecord):
            self._primaries[epoch] = entry.body.leader
        if self._primaries.get(epoch) != node:
            raise Violation(f"I13 integrity: node {node} has {entry}, which no primary of epoch {epoch} broadcast")
        if counter != self._counters.get(epoch, -1) + 1:
            raise Violation(f"I13 local primary order: node {node} broadcasts {entry}, not the next of its epoch")
        self._broadcast[zxid] = entry.chain
        self._counters[epoch] = counter
        if counter and epoch > self._begun_epoch:
            self._begun_epoch = epoch
            earlier = self._order[-1][0] if self._order else 0
            if epoch_of(earlier) < epoch and delivered_zxid < earlier:
                raise Violation(
                    f"I13 primary integrity: node {node} broadcasts {entry} and has delivered "
                    f"{show_zxid(delivered_zxid)} only, others {show_zxid(earlier)}"
                )

    def delivers(self, node: int, before_zxid: int, entry: Entry) -> None:
        """A life of *node* that has delivered up to *before_zxid* delivers *entry*."""
        zxid = entry.zxid
        place = self._places.get(zxid)
        if place is None:
            self._extend(node, entry)
            place = self._places[zxid]
        else:
            self._weighed["I13"] += 1
            if self._order[place][1] != entry.chain:
                raise Violation(f"I13 agreement: node {node} delivers another {entry} than a node before it")
        before = self._order[place - 1][0] if place else 0
        if before != before_zxid:
            raise Violation(
                f"I13 total order: node {node} delivers {entry} after {show_zxid(before_zxid)}, others after "
                f"{show_zxid(before)}"
            )

    def _extend(self, node: int, entry: Entry) -> None:
        zxid = entry.zxid
        if self._broadcast.get(zxid) != entry.chain:
            raise Violation(f"I13 integrity: node {node} delivers {entry}, which nobody broadcast")
        last = self._order[-1][0] if self._order else 0
        epoch = epoch_of(zxid)
        if epoch < epoch_of(last):
            raise Violation(f"I13 global primary order: node {node} delivers {entry} after {show_zxid(last)}")
        if epoch < self._begun_epoch:
            raise Violation(
                f"I13 primary integrity: node {node} delivers {entry}, the primary of {self._begun_epoch} has begun"
            )
        expected = last + 1 if epoch == epoch_of(last) else epoch << 32
        if zxid != expected:
            raise Violation(f"I13 local primary order: node {node} delivers {entry} after {show_zxid(last)}")
        self._places[zxid] = len(self._order)
        self._order.append((zxid, entry.chain))
