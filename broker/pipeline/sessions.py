"""Sessions on this leader: who is connected to which, and how long one is kept whose connection was lost.

A client that says goodbye is done with, and what it held goes back at once. Of one whose connection merely ended nobody
knows what it does: it may work on, and come back to this broker, or to the next leader. So its session is kept for a
grace time, with the leases of what it was delivered; nothing is delivered to it meanwhile, but it keeps its place among
the consumers of a queue. It comes back by the session's number and the token that proves whose it is, and names the
messages that it still works on. A new leader finds the sessions in the machine, and waits for their clients likewise.
Where the other end closed the connection, the client has died, mostly; one that lives notices at once and is back
within moments, so its messages need not wait for longer (`CLOSED_GRACE_SECONDS_MAX`): not after this leader's end
either, because the log says which these are (`closed_sessions`).

Only this leader knows who is away and since when; an end is an entry. Must not know sockets.
"""

from __future__ import annotations

import hashlib
import hmac
from enum import Enum
from typing import TYPE_CHECKING, Protocol

import trio
from sortedcontainers import SortedList

from sluicemq.broker.pipeline.closed_sessions import ClosedSessions
from sluicemq.broker.pipeline.settle import LeaseOwner
from sluicemq.broker.queues.dispatching.consumers import SPAN_MESSAGES_MAX
from sluicemq.broker.queues.entries import SessionClose
from sluicemq.broker.queues.entries_of_sessions import Resume
from sluicemq.broker.queues.tags import Span
from sluicemq.wire.errors import InvalidRequest, SessionNotFound

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sluicemq.broker.pipeline.dispatch import ConsumerOptions, Recipient
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.runs import Run

ENDS_AT_ONCE_MAX = 100
"""Most sessions that end before others have their turn."""
RESTORED_PIECES_MAX = 2_000
"""Leases taken over from the machine before others have their turn: about a millisecond."""
CLOSED_GRACE_SECONDS_MAX = 2.0
"""Longest time that a session is kept whose client's end closed the connection without a goodbye."""
LEFT = "connection lost"
"""What a message is told whose consumer came back and did not go on with it, or did not come back in time."""


class Ending(Enum):
    """How the connection of a client ended."""

    GOODBYE = "goodbye"
    """It said so, or was in the wrong: it does not come back."""
    CLOSED = "closed"
    """Its end closed or reset it: the process has died, or comes back at once."""
    LOST = "lost"
    """Nothing was heard of it, or this broker closed it: nobody knows."""


class Holder(LeaseOwner, Protocol):
    """What holds a session while its client is connected."""

    def taken_over(self) -> None:
        """The client came back by another connection: this one is over, and must not end the session."""


def digest_of(token: bytes) -> bytes:
    """Return what the log keeps of a resume token: who reads the log cannot come back as somebody else."""
    return hashlib.sha256(token).digest()


class SessionStage:
    """Who is here, who is away, and until when.

    Args:
        road: The road.

    Attributes:
        grace_seconds: How long a session is kept whose connection was lost; 0: not at all.

    """

    def __init__(self, road: Road) -> None:
        self._road = road
        self._holders: dict[int, Holder] = {}
        self._away: dict[int, float] = {}  # until when
        self._ends: SortedList[tuple[float, int]] = SortedList()
        self._timer = road.timer(self._next_end, self._end_late)
        self._closed = ClosedSessions(road)
        self.grace_seconds = road.ground.session_grace_seconds

    # --- a leader begins --------------------------------------------------------------------------------------

    async def restore(self) -> None:
        """Take over the sessions that the machine has; those to which nobody can come back are ended."""
        road = self._road
        for number in road.machine.sessions_to_close():
            self._close(number, "connection ended with its leader")
        pieces = 0
        # Longer than the session: it is the session's end that gives back what nobody came back for.
        deadline = trio.current_time() + self.grace_seconds + 1.0
        for session in [session for session in road.machine.sessions.values() if session.resume_token]:
            for table in list(session.leases.values()):
                spans: list[Span] = []
                for first, run, _ in table.pieces():
                    _add_span(spans, first, run)
                    pieces += 1
                    if pieces > RESTORED_PIECES_MAX:
                        pieces = 0
                        await trio.lowlevel.checkpoint()
                for span in spans:
                    road.settle.restore(session.number, table.consumer, span, deadline)
                road.dispatch.restore(session.number, table.consumer, table.queue_id, spans)
            if session.closed:
                self._closed.restore(session.number)
            self._wait_for(session.number, closed=session.closed)

    def start(self, nursery: trio.Nursery) -> None:
        """Run the timers in *nursery*."""
        nursery.start_soon(self._timer.run)
        self._closed.start(nursery)

    # --- clients come and go ----------------------------------------------------------------------------------

    def attach(self, number: int, holder: Holder) -> None:
        """A client has opened session *number*, or come back to it."""
        until = self._away.pop(number, None)
        if until is not None:
            self._ends.remove((until, number))
        self._holders[number] = holder
        self._road.settle.add_owner(number, holder)

    def come_back(self, vhost: str, identity: str, number: int, token: bytes, holder: Holder) -> bool:
        """Attach *holder* to a session that exists; False if there is none that it may have: it opens a new one."""
        session = self._road.machine.sessions.get(number)
        if session is None or not session.resume_token or (session.vhost, session.identity) != (vhost, identity):
            return False
        if number not in self._away and number not in self._holders:
            return False  # its end is on the road
        if not hmac.compare_digest(session.resume_token, digest_of(token)):
            return False
        before = self._holders.pop(number, None)
        if before is not None:
            # The client knows that its connection is dead before we do.
            before.taken_over()
            self._road.dispatch.detach(number)
        self._closed.back(number)
        self.attach(number, holder)
        return True

    def leave(self, number: int, holder: Holder, reason: str, ending: Ending) -> None:
        """The connection of *holder* has ended."""
        if self._road.over or self._holders.get(number) is not holder:
            return  # where another broker leads, it is the one that waits
        del self._holders[number]
        session = self._road.machine.sessions.get(number)
        comes_back = ending is not Ending.GOODBYE
        if comes_back and self.grace_seconds and session is not None and session.resume_token:
            self._road.settle.remove_owner(number)
            self._road.dispatch.detach(number)
            closed = ending is Ending.CLOSED
            if closed and (session.leases or self._road.settle.consumers_of(number)):
                self._closed.closed(number)  # without leases nothing waits for the session's end after a restart
            self._wait_for(number, closed=closed)
        else:
            self._end(number, reason)

    def is_away(self, number: int) -> bool:
        """Whether a session is kept for a client that may come back."""
        return number in self._away

    @property
    def away_count(self) -> int:
        """How many sessions are kept for clients that may come back."""
        return len(self._away)

    def highest_consumer(self, number: int) -> int:
        """Return the highest number of a consumer of this session that anybody here has heard of; 0: of none."""
        session = self._road.machine.sessions.get(number)
        known = () if session is None else (*session.leases, *session.settled)
        return max((*known, *self._road.dispatch.numbers_of(number)), default=0)

    # --- consumers go on --------------------------------------------------------------------------------------

    def resume_consumer(
        self,
        session: int,
        consumer: int,
        queue: Queue,
        tags: list[int],
        lease_seconds: float,
        on_outcome: Callable[[Outcome], None],
    ) -> None:
        """Let a consumer keep the leases of *tags*, counted from now; all its others are over.

        Args:
            session: Number of the session.
            consumer: Number of the consumer within it.
            queue: What it consumes.
            tags: Ranges of tags, checked.
            lease_seconds: How long the leases of *tags* last.
            on_outcome: Hears what of *tags* was settled or lost before; then `reattach` may follow.

        Raises:
            SessionNotFound: The session has ended.
            InvalidRequest: The consumer reads another queue.

        """
        road = self._road
        known_session = road.machine.sessions.get(session)
        if known_session is None:
            raise SessionNotFound(f"session {session} has ended", session=session)
        held = known_session.leases.get(consumer)
        known = held.queue_id if held is not None else road.dispatch.queue_of(session, consumer)
        if known is not None and known != queue.id:
            raise InvalidRequest(f"consumer {consumer} of this session reads another queue than {queue.name!r:.300}")
        road.settle.keep(session, consumer, tags, lease_seconds, LEFT)
        entry = Resume(road.clock.now_ms(), session, consumer, tags, LEFT)
        road.propose(entry, on_applied=on_outcome)

    def reattach(
        self, recipient: Recipient, session: int, consumer: int, queue: Queue, options: ConsumerOptions, last_tag: int
    ) -> int:
        """Deliver to a consumer that has come back; return the tag with which what it gets begins.

        Raises:
            ConsumerConflict: The queue is exclusive, and somebody else has it meanwhile.

        """
        return self._road.dispatch.reattach(recipient, session, consumer, queue, options, last_tag)

    def let_go(self, session: int, kept: Iterable[int]) -> None:
        """End all consumers of a session but those in *kept*: their client came back and did not go on with them."""
        road = self._road
        found = road.machine.sessions.get(session)
        numbers = {*road.dispatch.numbers_of(session), *road.settle.consumers_of(session)}
        if found is not None:
            numbers.update(found.leases)
        for consumer in sorted(numbers.difference(kept)):
            self.give_up(session, consumer)

    def give_up(self, session: int, consumer: int) -> None:
        """End a consumer: what it holds goes back."""
        road = self._road
        road.dispatch.remove_consumer(session, consumer)
        road.settle.keep(session, consumer, [], 0.0, LEFT)
        road.propose(Resume(road.clock.now_ms(), session, consumer, [], LEFT))

    # --- ends -------------------------------------------------------------------------------------------------

    def _wait_for(self, number: int, *, closed: bool) -> None:
        seconds = min(self.grace_seconds, CLOSED_GRACE_SECONDS_MAX) if closed else self.grace_seconds
        self._away[number] = due = trio.current_time() + seconds
        self._ends.add((due, number))
        self._timer.changed(due)

    def _next_end(self) -> float | None:
        return self._ends[0][0] if self._ends else None

    def _end_late(self) -> None:
        if self._road.over:
            return
        now = trio.current_time()
        for _, number in list(self._ends.irange(maximum=(now, 1 << 64)))[:ENDS_AT_ONCE_MAX]:
            self._ends.pop(0)
            del self._away[number]
            self._end(number, LEFT)

    def _end(self, number: int, reason: str) -> None:
        """End a session: nothing more is delivered, and what it holds goes back in small entries ahead of its end."""
        self._closed.gone(number)
        self._road.dispatch.session_gone(number)
        self._road.settle.release_session(number)
        self._close(number, reason)

    def _close(self, number: int, reason: str) -> None:
        self._road.propose(SessionClose(self._road.clock.now_ms(), number, reason))


def _add_span(spans: list[Span], first: int, run: Run) -> None:
    """Add the tags of *run*, which are above all others; those that follow one another share a span."""
    bytes_ = run.bytes_of(run.size)
    last = first + run.size - 1
    if spans and spans[-1].last + 1 == first and len(spans[-1]) < SPAN_MESSAGES_MAX:
        spans[-1].last = last
        spans[-1].bytes += bytes_
    else:
        spans.append(Span(first, last, bytes_))
