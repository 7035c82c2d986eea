"""Stage 7, settle: verdicts of consumers, lease renewals and expiries, and what is due.

A verdict is a new entry at the start of the road. Deadlines live here, on the leader, and never in the log; an expiry
is an entry of its own. Must not know sockets: replies leave through callbacks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Protocol

import trio

from sluicemq.broker.queues.applying.sessions import RESUMED
from sluicemq.broker.queues.entries import (
    ABANDONED,
    BY_RETRY_POLICY,
    EXPIRED,
    SETTLED_BEFORE,
    Clock,
    Settle,
    SettleJudged,
)
from sluicemq.broker.queues.notes import TEXT_CHARACTERS_MAX
from sluicemq.broker.queues.outcomes import Outcome, Settled
from sluicemq.broker.queues.outstanding import Outstanding
from sluicemq.broker.queues.tags import ranges_problem, without
from sluicemq.wire.errors import InvalidRequest
from sluicemq.wire.messages import (
    RANGES_MAX,
    VERDICT_ACK,
    VERDICT_HANDED_OVER,
    VERDICT_NACK,
    VERDICT_REJECT,
    VERDICT_RELEASE,
)

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.tags import Span
    from sluicemq.wire.errors import SluiceError

CLOCK_ITEMS_MAX = 2_000
"""Most runs that one CLOCK entry makes ready; more wait for the next, so that a million due at once stall nobody."""
CLOCKS_UNDER_WAY_MAX = 8
"""Most CLOCK entries that are not applied yet: the next one need not wait until the disk has confirmed the last."""
CLOCK_SPACING_MS = 2
"""Milliseconds of log time between one that is under way and the next: so much later does come what is due at most."""
TAGS_SPAN_MAX = 10_000_000
"""Most tags between the first and the last of one SETTLE or EXTEND."""
VERDICTS = frozenset({VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE, VERDICT_HANDED_OVER, VERDICT_REJECT})
SAYS_OF_SERVICE = {VERDICT_ACK: False, VERDICT_NACK: True, VERDICT_REJECT: False}
"""Whether a verdict says that the service had too much to do. A message that is rejected is wrong itself."""
ENTRY_TAGS_MAX = 4_096
"""Most messages that one SETTLE entry settles: each may be a run of its own, at some microseconds a run."""
ENTRY_RANGES_MAX = 1_024
"""Most ranges in one SETTLE entry."""


class LeaseOwner(Protocol):
    """What settle needs of a session, to tell it what it lost."""

    def leases_lost(self, consumer: int, tags: list[int], reason: str) -> None:
        """Tell the client."""


class SettleStage:
    """Leases of this leader's consumers.

    Attributes:
        leases_begin: Returns from when on leases count that are given or prolonged now, on the trio clock; another
            moment than now only where a test moves the time.

    """

    def __init__(self, road: Road) -> None:
        self._road = road
        self._outstanding = Outstanding()
        self._owners: dict[int, LeaseOwner] = {}
        self.leases_begin: Callable[[], float] = trio.current_time
        self._lease_timer = road.timer(self._outstanding.next_deadline, self._expire)
        self._clock_timer = road.timer(self._next_clock, self._move_clock)
        self._clocks_under_way = 0
        self._clock_ms = 0  # log time of the last of them
        self._planned_due_ms: int | None = None
        self.acknowledged_messages_total = 0

    def start(self, nursery: trio.Nursery) -> None:
        """Run the timers in *nursery*."""
        nursery.start_soon(self._lease_timer.run)
        nursery.start_soon(self._clock_timer.run)
        nursery.start_soon(self._road.dispatch.send_cold_picks)

    def add_owner(self, session: int, owner: LeaseOwner) -> None:
        """Tell *owner* when leases of *session* end unasked."""
        self._owners[session] = owner

    def remove_owner(self, session: int) -> None:
        """Nobody is there to be told; the leases stay, and end in their time."""
        self._owners.pop(session, None)

    # --- leases -----------------------------------------------------------------------------------------------

    def granted(
        self, session: int, consumer: int, first_tag: int, last_tag: int, bytes_: int, lease_seconds: float
    ) -> None:
        """Messages were sent under a lease that begins now."""
        deadline = self.leases_begin() + lease_seconds
        self._outstanding.granted(session, consumer, first_tag, last_tag, bytes_, deadline)
        self._lease_timer.changed(deadline)

    def restore(self, session: int, consumer: int, span: Span, deadline: float) -> None:
        """Take over leases that the machine has and that another leader gave."""
        self._outstanding.granted(session, consumer, span.first, span.last, span.bytes, deadline)
        self._lease_timer.changed(deadline)

    def keep(self, session: int, consumer: int, tags: list[int], lease_seconds: float, reason: str) -> None:
        """Let the leases of *tags* end *lease_seconds* from now; all others of the consumer are over because of
        *reason*, and go back in small entries."""
        held = self._outstanding.tags_of(session, consumer)
        over = without(held, tags)
        if over:
            self._outstanding.take(session, consumer, over)
            self._road.shaping.settled(session, consumer, over, None)
            self._road.dispatch.settled(session, consumer, over)
            self._propose(session, consumer, ABANDONED, over, reason=reason)
        kept = without(held, over)
        if kept:
            deadline = self.leases_begin() + lease_seconds
            self._outstanding.extend(session, consumer, kept, deadline)
            self._lease_timer.changed(deadline)
        self._leases_over(session, consumer)

    def consumers_of(self, session: int) -> list[int]:
        """Return the consumers of a session that hold leases."""
        return self._outstanding.consumers_of(session)

    def renew_all(self, session: int, seconds: float) -> None:
        """Let all leases of a session end *seconds* from now."""
        for consumer in self._outstanding.consumers_of(session):
            self.extend(session, consumer, self._outstanding.tags_of(session, consumer), seconds)

    def extend(self, session: int, consumer: int, tags: list[int], seconds: float) -> list[int]:
        """Let the leases of *tags* end *seconds* from now; return the ranges whose leases were over."""
        check_ranges(tags)
        deadline = self.leases_begin() + seconds
        lost: list[int] = self._outstanding.extend(session, consumer, tags, deadline)
        self._lease_timer.changed(deadline)
        return lost

    def settle(
        self,
        session: int,
        consumer: int,
        verdict: int,
        tags: list[int],
        delay_seconds: float | None,
        reason: str,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        """Put a verdict on the road.

        Raises:
            InvalidRequest: An unknown verdict or ranges out of order.

        """
        if verdict not in VERDICTS:
            raise InvalidRequest(f"verdict {verdict} is unknown; known are {sorted(VERDICTS)}", verdict=verdict)
        check_ranges(tags)
        reason = reason[:TEXT_CHARACTERS_MAX]
        road = self._road
        lost = without(tags, self._outstanding.tags_of(session, consumer))
        if lost:
            # Only what is held is worth entries (a frame of 40 bytes can name ten million tags), and only that gives
            # credit back: other tags may be granted already and not yet sent.
            tags = without(tags, lost)
            on_outcome = _Gathering(1, on_outcome, lost)
        due_ms = 0
        if verdict == VERDICT_NACK:
            due_ms = self.due_ms(session, consumer, delay_seconds)
        if verdict != VERDICT_HANDED_OVER:
            # Credit returns at once, so that the next messages need not wait for the disk.
            messages, _bytes = self._outstanding.take(session, consumer, tags)
            if verdict == VERDICT_ACK:
                self.acknowledged_messages_total += messages
            road.shaping.settled(session, consumer, tags, SAYS_OF_SERVICE.get(verdict))
            road.dispatch.settled(session, consumer, tags)
        self._propose(session, consumer, verdict, tags, due_ms, reason, on_outcome)
        # Behind the verdict on the road: whoever must hear that a consumer is over hears of its settlements first.
        self._leases_over(session, consumer)

    def due_ms(self, session: int, consumer: int, delay_seconds: float | None) -> int:
        """Return when nacked messages come again, as SETTLE says it."""
        road = self._road
        if delay_seconds is None:
            if road.dispatch.has_retry_policy(session, consumer):
                return BY_RETRY_POLICY
            delay_seconds = road.dispatch.retry_delay(session, consumer)
        return road.clock.now_ms() + round(delay_seconds * 1000) if delay_seconds > 0 else 0

    def _propose(
        self,
        session: int,
        consumer: int,
        verdict: int,
        tags: list[int],
        due_ms: int = 0,
        reason: str = "",
        on_outcome: Callable[[Outcome], None] | None = None,
    ) -> None:
        """Put one verdict on the road, in entries small enough that applying one never stalls the event loop."""
        road = self._road
        pieces = list(in_pieces(tags, ENTRY_TAGS_MAX, ENTRY_RANGES_MAX))
        if on_outcome is not None and not pieces:
            on_outcome(Outcome(Settled([], 0)))
        elif on_outcome is not None and len(pieces) > 1:
            on_outcome = _Gathering(len(pieces), on_outcome)
        now_ms = road.clock.now_ms()
        is_judged = verdict in (VERDICT_REJECT, SETTLED_BEFORE) or due_ms == BY_RETRY_POLICY
        kind = SettleJudged if is_judged else Settle
        for piece in pieces:
            road.propose(kind(now_ms, session, consumer, verdict, piece, due_ms, reason), on_applied=on_outcome)

    def settled_elsewhere(self, session: int, consumer: int, tags: list[int], verdict: int) -> None:
        """A transaction gave these their verdict: they are outstanding no more, and credit returns."""
        messages, _bytes = self._outstanding.take(session, consumer, tags)
        if verdict == VERDICT_ACK:
            self.acknowledged_messages_total += messages
        self._road.shaping.settled(session, consumer, tags, SAYS_OF_SERVICE.get(verdict))
        self._road.dispatch.settled(session, consumer, tags)
        self._leases_over(session, consumer)

    def holds(self, session: int, consumer: int) -> bool:
        """Return whether the consumer holds leases."""
        return self._outstanding.holds(session, consumer)

    def _leases_over(self, session: int, consumer: int) -> None:
        if not self._outstanding.holds(session, consumer):
            self._road.dispatch.leases_over(session, consumer)

    def give_back(self, session: int, consumer: int, tags: list[int]) -> None:
        """Put messages that were granted but never sent back to their places."""
        self._propose(session, consumer, VERDICT_RELEASE, tags)

    def settle_known(self, session: int, consumer: int, tags: list[int]) -> None:
        """Settle messages that were granted and need not be sent: others with their ids were acknowledged before."""
        self._road.dispatch.settled(session, consumer, tags)
        self._propose(session, consumer, SETTLED_BEFORE, tags)

    def release_session(self, session: int) -> None:
        """Give back what the session still holds, in small entries, ahead of the entry that closes it."""
        self._owners.pop(session, None)
        for consumer in self._outstanding.consumers_of(session):
            tags = self._outstanding.tags_of(session, consumer)
            if tags:
                self._propose(session, consumer, ABANDONED, tags, reason="connection ended")
        self._outstanding.forget_session(session)
        self._road.shaping.session_gone(session)

    def leases_gone(self, session: int, consumer: int, tags: list[int], reason: str) -> None:
        """The machine ended leases unasked (expired, queue deleted): the client must hear of it."""
        self._outstanding.take(session, consumer, tags)
        self._road.shaping.settled(session, consumer, tags, None)
        self._leases_over(session, consumer)
        owner = self._owners.get(session)
        if owner is not None and reason != RESUMED:  # it asked for that, and has its answer
            owner.leases_lost(consumer, tags, reason)

    def _expire(self) -> None:
        for session, consumer, tags in self._outstanding.expired(trio.current_time()):
            self._propose(session, consumer, EXPIRED, tags)
            self._road.shaping.settled(session, consumer, tags, True)
            self._leases_over(session, consumer)

    # --- what is due ------------------------------------------------------------------------------------------

    def clock_entry(self) -> Clock:
        """Return a CLOCK entry for now."""
        return Clock(self._road.clock.now_ms(), CLOCK_ITEMS_MAX)

    def clock_changed(self) -> None:
        """Something may have become due earlier than planned."""
        if self._clocks_under_way:
            return  # it is looked again when the first of them is applied
        due_ms = self._road.machine.next_due_ms()
        # Compared in log time: on the timer's clock the same due time moves a little at every look.
        if due_ms is not None and (self._planned_due_ms is None or due_ms < self._planned_due_ms):
            self._clock_timer.changed(self._next_clock())

    def _next_due_ms(self) -> int | None:
        """Return when a CLOCK entry is due next, as far as those under way do not do its work; None: never."""
        machine = self._road.machine
        if not self._clocks_under_way:
            return machine.next_due_ms()
        if self._clocks_under_way >= CLOCKS_UNDER_WAY_MAX:
            return None
        due_ms = machine.next_due_after(self._clock_ms)
        return None if due_ms is None else max(due_ms, self._clock_ms + CLOCK_SPACING_MS)

    def _next_clock(self) -> float | None:
        due_ms = self._planned_due_ms = self._next_due_ms()
        if due_ms is None:
            return None
        return trio.current_time() + max(0.0, (due_ms - self._road.clock.now_ms()) / 1000)

    def _move_clock(self) -> None:
        due_ms = self._next_due_ms()
        if due_ms is None or due_ms > self._road.clock.now_ms():
            # Log time runs slower than the timer's clock while it slews: the timer looks again.
            return
        entry = self.clock_entry()
        self._clocks_under_way += 1
        self._clock_ms = entry.log_time_ms
        self._road.propose(entry, on_applied=self._clock_moved)

    def _clock_moved(self, _outcome: object) -> None:
        self._clocks_under_way -= 1
        self._planned_due_ms = None
        self._clock_timer.changed(self._next_clock())


class _Gathering:
    """Makes one outcome of those of several entries that carry one verdict, and of tags known to be *lost* before."""

    def __init__(self, expected: int, on_outcome: Callable[[Outcome], None], lost: Sequence[int] = ()) -> None:
        self._expected = expected
        self._on_outcome = on_outcome
        self._lost = list(lost)
        self._settled = 0
        self._error: SluiceError | None = None

    def __call__(self, outcome: Outcome) -> None:
        if outcome.error is not None:
            self._error = outcome.error
        if isinstance(outcome.value, Settled):
            self._lost += outcome.value.lost
            self._settled += outcome.value.settled
        self._expected -= 1
        if not self._expected:
            ranges = sorted(zip(self._lost[::2], self._lost[1::2], strict=True))
            self._on_outcome(Outcome(Settled([*chain.from_iterable(ranges)], self._settled), self._error))


def in_pieces(tags: list[int], tags_max: int, ranges_max: int) -> Iterator[list[int]]:
    """Cut `[first, last, ...]` into lists of at most *tags_max* tags and *ranges_max* ranges, in order."""
    piece: list[int] = []
    room = tags_max
    for first, last in zip(tags[::2], tags[1::2], strict=True):
        start = first
        while start <= last:
            end = min(last, start + room - 1)
            piece += (start, end)
            room -= end - start + 1
            start = end + 1
            if not room or len(piece) >= 2 * ranges_max:
                yield piece
                piece, room = [], tags_max
    if piece:
        yield piece


def check_ranges(tags: list[int]) -> None:
    """Raise `InvalidRequest` unless *tags* is `[first, last, ...]`, ascending, without overlap, from 1 on."""
    if len(tags) > 2 * RANGES_MAX:
        raise InvalidRequest(
            f"{len(tags) // 2} tag ranges in one frame; allowed are {RANGES_MAX}: send several frames",
            ranges=len(tags) // 2,
            ranges_max=RANGES_MAX,
        )
    problem = ranges_problem(tags)
    if problem is not None:
        raise InvalidRequest(problem)
    if tags and tags[-1] - tags[0] >= TAGS_SPAN_MAX:
        raise InvalidRequest(f"tags {tags[0]} to {tags[-1]} in one frame; allowed is a span of {TAGS_SPAN_MAX}")
