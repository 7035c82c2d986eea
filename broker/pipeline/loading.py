"""What one pick becomes on its way out: the cargo to be sent, what need not be sent, and the GRANT that says all of it.

Must not know consumers, sessions or where bodies come from.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.queues.dispatching.dispatcher import grant_of
from sluicemq.broker.queues.entries import Grant, GrantIdentified
from sluicemq.broker.queues.tags import without

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sluicemq.broker.pipeline.bodies import Stored
    from sluicemq.broker.pipeline.cargo import Cargo
    from sluicemq.broker.pipeline.settled_before import Screened
    from sluicemq.broker.queues.dispatching.dispatcher import Pick
    from sluicemq.broker.queues.runs import Run


class LoadPart(NamedTuple):
    """Cargo whose messages have the tags from *first_tag* on."""

    first_tag: int
    cargo: Cargo


class Load:
    """The messages of one pick.

    Args:
        new_cargo: Makes an empty cargo for the pick's consumer.
        first_tag: Tag of the pick's first message.
        forget_decoded: Hears of batches that are through.

    Attributes:
        parts: What is to be sent, in order; a new part begins behind each gap of messages that are not.
        known: Ranges of tags of messages that need not be sent.

    """

    __slots__ = ("_first_tag", "_forget_decoded", "_ids", "_new_cargo", "_next_tag", "known", "parts")

    def __init__(self, new_cargo: Callable[[], Cargo], first_tag: int, forget_decoded: Callable[[int], None]) -> None:
        self._new_cargo = new_cargo
        self._first_tag = self._next_tag = first_tag
        self._forget_decoded = forget_decoded
        self._ids = b""
        self.parts: list[LoadPart] = []
        self.known: list[int] = []

    def add(self, runs: Sequence[Run], stored: Mapping[int, Stored]) -> None:
        """Add messages that follow the last ones, all of which are to be sent."""
        if not self.parts:
            self.parts.append(LoadPart(self._first_tag, self._new_cargo()))
        self.parts[-1].cargo.load(runs, stored, self._forget_decoded)

    def add_screened(self, screened: Screened, stored: Mapping[int, Stored]) -> None:
        """Add messages that follow the last ones, some of which need not be sent."""
        self._ids += screened.ids
        self.known += screened.known
        for first_tag, runs in screened.stretches:
            if self.parts and self.parts[-1].cargo.too_large_bytes:
                return  # nothing is sent behind what fits no frame
            if not self.parts or first_tag != self._next_tag:
                self.parts.append(LoadPart(first_tag, self._new_cargo()))
            self.parts[-1].cargo.load(runs, stored, self._forget_decoded)
            self._next_tag = first_tag + sum(run.size for run in runs)

    def grant(self, pick: Pick, log_time_ms: int) -> Grant:
        """Return the entry that makes *pick*, all of which was added, true."""
        if self._ids.strip(b"\0"):
            places = [number for run in pick.runs for number in (run.ready, run.zxid, run.first, run.size)]
            fields = (log_time_ms, pick.queue_id, pick.session, pick.consumer, pick.first_tag, places)
            return GrantIdentified(*fields, self._ids)
        if pick.placed:
            return grant_of(pick, log_time_ms)
        granted = self.parts[0].cargo.granted
        return Grant(log_time_ms, pick.queue_id, pick.session, pick.consumer, pick.first_tag, granted)

    def unsent(self, last_tag: int) -> list[int]:
        """Return the ranges of tags, up to the pick's last one, of what is not sent because a message fits no frame."""
        if not self.parts or not self.parts[-1].cargo.too_large_bytes:
            return []
        first_tag, cargo = self.parts[-1]
        return without([first_tag + cargo.messages, last_tag], self.known)
