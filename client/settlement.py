"""Verdicts that wait to be sent, melted into as few ranges and frames as possible. Pure.

One buffer belongs to one consumer on one session. Acks of a thousand messages in order are one range of one frame. It
must not know how frames travel.
"""

from __future__ import annotations

from typing import NamedTuple

from sluicemq.client.errors import SluiceError
from sluicemq.client.tag_ranges import FlatRanges, TagRanges
from sluicemq.wire.messages import RANGES_MAX

SETTLE_RANGES_MAX = RANGES_MAX
"""Most ranges in one SETTLE or EXTEND frame: the broker refuses more."""


def in_frames(tags: FlatRanges) -> list[FlatRanges]:
    """Return *tags* in pieces of which each fits into one frame."""
    step = 2 * SETTLE_RANGES_MAX
    return [tags[start : start + step] for start in range(0, len(tags), step)]


class Verdict(NamedTuple):
    """What is to become of messages.

    Attributes:
        code: VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE or VERDICT_REJECT of `sluicemq.wire.messages`.
        delay_seconds: For a nack: seconds until redelivery; None = the queue's own retry delay.
        reason: Why, for a nack or a rejection.

    """

    code: int
    delay_seconds: float | None = None
    reason: str = ""


class SettlementBuffer:
    """Verdicts of one consumer that were given and not sent yet."""

    __slots__ = ("_by_verdict", "_last", "_last_verdict")

    def __init__(self) -> None:
        self._by_verdict: dict[Verdict, TagRanges] = {}
        # The verdict given last and its ranges: one identity check instead of a hash in the common case.
        self._last_verdict: Verdict | None = None
        self._last: TagRanges = TagRanges()

    def __bool__(self) -> bool:
        return bool(self._by_verdict)

    @property
    def ranges(self) -> int:
        """How many ranges wait: the memory that they take."""
        return sum(ranges.ranges for ranges in self._by_verdict.values())

    def add(self, verdict: Verdict, first: int, last: int) -> None:
        """Enter *verdict* for the tags *first* to *last*, which have none yet."""
        if verdict is not self._last_verdict:
            found = self._by_verdict.get(verdict)
            if found is None:
                found = self._by_verdict[verdict] = TagRanges()
            self._last, self._last_verdict = found, verdict
        self._last.add(first, last)

    def take(self) -> list[tuple[Verdict, FlatRanges]]:
        """Return everything that waits, one item a frame, and forget it."""
        taken: list[tuple[Verdict, FlatRanges]] = []
        for verdict, ranges in self._by_verdict.items():
            taken.extend((verdict, tags) for tags in in_frames(ranges.flat()))
        self._by_verdict = {}
        self._last_verdict = None
        return taken


class SettleFrame:
    """One SETTLE frame that is under way."""

    __slots__ = ("lost", "tags", "verdict")

    def __init__(self, verdict: Verdict, tags: FlatRanges) -> None:
        self.verdict = verdict
        self.tags = tags
        self.lost: FlatRanges = []


class Confirmation:
    """A task that waits until SETTLE frames are answered."""

    __slots__ = ("error", "frames", "handle", "lost")

    def __init__(self, frames: set[SettleFrame]) -> None:
        self.handle: object = None
        self.frames = frames
        self.lost = TagRanges()
        self.error: SluiceError | None = None
