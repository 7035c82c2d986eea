"""The account at the end: the one committed history, replayed, against everything that clients saw.

A naive ledger of single messages follows the history entry by entry beside the queue machine. It knows nothing of runs,
tags or cursors beyond what entries say, so that it and the machine can only agree by both being right. Then each
client's experience is looked up in it:

- what was confirmed is in the history, once, where the confirmation said; nothing else is, that nobody sent;
- what was delivered is a message of the history, under the lease that a GRANT of the history gave it, if it was
  settled;
- a message that was acknowledged is never granted again, and no message has two leases at a time;
- in a queue, messages are handed out for the first time in the order of the log;
- a message that was put back for later is not granted before that time has come in the log (I19).

This module must not know nodes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.outcomes import Granted, Published, Settled
from sluicemq.broker.replication.history import EpochRecord, MembershipRecord, show_zxid
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER
from tests.sim.entries import MACHINE_LIMITS, Body
from tests.sim.world import Violation

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.replication.history import Entry
    from tests.sim.clients import Seen

Address = tuple[int, int]
Lease = tuple[int, int, int]
"""Session, consumer, tag."""


@dataclasses.dataclass
class _Message:
    queue: int
    lease: Lease | None = None
    acknowledged: bool = False
    granted: bool = False
    due_ms: int = 0


class Account:
    """The committed history, message by message.

    Args:
        committed: All committed entries, in order.

    """

    def __init__(self, committed: Sequence[Entry]) -> None:
        self.machine = Machine(MACHINE_LIMITS)
        self.delayed = 0
        self.messages: dict[Address, _Message] = {}
        self.published: dict[bytes, int] = {}
        self.granted: dict[Lease, Address] = {}
        self._front: dict[int, Address] = {}
        self._sessions: dict[tuple[int, int], set[int]] = {}
        for entry in committed:
            body = entry.body
            if isinstance(body, EpochRecord):
                self.machine.apply(entry.zxid, e.Epoch(0, body.leader))
            elif not isinstance(body, MembershipRecord):
                assert isinstance(body, Body)
                # From the bytes, as a node that starts does.
                decoded = e.decode_entry(body.kind, body.version, body.header, body.payload)
                self._follow(entry.zxid, decoded, self.machine.apply(entry.zxid, decoded))
        self.machine.check()

    @property
    def unsettled(self) -> int:
        """Messages that nobody has acknowledged."""
        return sum(not message.acknowledged for message in self.messages.values())

    def _follow(self, zxid: int, entry: e.Entry, outcome: Outcome) -> None:
        if isinstance(entry, e.Publish):
            if isinstance(outcome.value, Published) and not outcome.value.duplicate:
                self._publish(zxid, entry)
        elif isinstance(entry, e.Grant):
            self._grant(zxid, entry, outcome)
        elif isinstance(entry, e.Settle):
            self._settle(zxid, entry, outcome)
        elif isinstance(entry, e.SessionClose) and outcome.error is None:
            for session, consumer in [key for key in self._sessions if key[0] == entry.session]:
                for tag in self._sessions.pop((session, consumer)):
                    self.messages[self.granted[session, consumer, tag]].lease = None

    def _publish(self, zxid: int, entry: e.Publish) -> None:
        payload = bytes(entry.payload)
        if payload in self.published:
            raise Violation(
                f"duplicate: batch {payload[:20]!r} is stored at {show_zxid(self.published[payload])} "
                f"and {show_zxid(zxid)}"
            )
        self.published[payload] = zxid
        for index in range(entry.count):
            self.messages[zxid, index] = _Message(entry.queue)

    def _grant(self, zxid: int, entry: e.Grant, outcome: Outcome) -> None:
        assert isinstance(outcome.value, Granted)
        void = set(_tags(outcome.value.void))
        tag = entry.first_tag
        for run in range(0, len(entry.runs), 3):
            published, first, count = entry.runs[run : run + 3]
            for index in range(first, first + count):
                address, lease = (published, index), (entry.session, entry.consumer, tag)
                tag += 1
                if lease[2] in void and entry.session in self.machine.sessions:
                    continue
                message = self.messages[address]
                if message.acknowledged or message.lease is not None:
                    raise Violation(
                        f"one lease: {show_zxid(zxid)} grants message {address}, "
                        f"{'acknowledged' if message.acknowledged else f'leased to {message.lease}'}"
                    )
                if message.due_ms > self.machine.log_time_ms:
                    raise Violation(
                        f"I19 timers: {show_zxid(zxid)} grants message {address}, due at {message.due_ms}, at log time "
                        f"{self.machine.log_time_ms}"
                    )
                if not message.granted:
                    message.granted = True
                    if address < self._front.get(message.queue, (0, 0)):
                        raise Violation(f"order: message {address} is handed out behind {self._front[message.queue]}")
                    self._front[message.queue] = address
                if entry.session in self.machine.sessions:
                    message.lease = lease
                    self.granted[lease] = address
                    self._sessions.setdefault(lease[:2], set()).add(lease[2])

    def _settle(self, zxid: int, entry: e.Settle, outcome: Outcome) -> None:
        if not isinstance(outcome.value, Settled) or entry.verdict == VERDICT_HANDED_OVER:
            return
        lost = set(_tags(outcome.value.lost))
        for tag in _tags(entry.tags):
            if tag in lost:
                continue
            lease = (entry.session, entry.consumer, tag)
            address = self.granted.get(lease)
            if address is None or self.messages[address].lease != lease:
                raise Violation(f"one lease: {show_zxid(zxid)} settles {lease}, which holds no message")
            message = self.messages[address]
            message.lease = None
            message.acknowledged = entry.verdict == VERDICT_ACK
            message.due_ms = entry.due_time_ms
            self.delayed += entry.due_time_ms > 0
            self._sessions[lease[:2]].discard(tag)

    # --- against what clients saw -------------------------------------------------------------------------------------

    def compare(self, seen: Seen) -> None:
        """Raise Violation unless everything that clients saw is true."""
        for payload, zxid in seen.confirmed.items():
            stored = self.published.get(payload)
            if stored is None:
                raise Violation(f"lost: batch {payload[:20]!r}, confirmed at {show_zxid(zxid)}, is not in the history")
            if zxid not in (0, stored):
                raise Violation(
                    f"lost: batch {payload[:20]!r} was confirmed at {show_zxid(zxid)}, it is at {show_zxid(stored)}"
                )
        for payload in self.published:
            if payload not in seen.attempted:
                raise Violation(f"invention: nobody published {payload[:20]!r}")
        for lease, address in seen.delivered.items():
            if not self._is_known(address):
                raise Violation(f"invention: {lease} was sent message {address}, which is not in the history")
        if seen.twice:
            raise Violation(f"one lease: two messages came under tag {seen.twice[0]}")
        for session, consumer, verdict, tags in seen.settled:
            for tag in tags:
                lease = (session, consumer, tag)
                if self.granted.get(lease) != seen.delivered[lease]:
                    raise Violation(
                        f"one lease: {lease} was confirmed with verdict {verdict} for {seen.delivered[lease]}, "
                        f"the history grants it {self.granted.get(lease)}"
                    )
                if verdict == VERDICT_ACK and not self._is_acknowledged(lease):
                    raise Violation(f"lost: the acknowledgement of {lease} was confirmed and is not in the history")

    def _is_known(self, address: Address) -> bool:
        return address in self.messages

    def _is_acknowledged(self, lease: Lease) -> bool:
        return self.messages[self.granted[lease]].acknowledged


def _tags(ranges: Sequence[int]) -> Iterator[int]:
    for position in range(0, len(ranges), 2):
        yield from range(ranges[position], ranges[position + 1] + 1)
