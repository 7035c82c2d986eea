"""Dead letters: what a client's calls about them ask the broker, and what comes back.

`DeadLetterCalls` is the part of `Client` that is about them. Filters, and the rate of a redrive, are kept here: the
broker shows pages, and moves what it is told to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

import anyio

from sluicemq.client.asking import Asking
from sluicemq.client.errors import Conflict, InvalidRequest
from sluicemq.client.handling import DeathNote, death_note
from sluicemq.client.options import count_of
from sluicemq.client.peeked import PeekedMessage, runs_of
from sluicemq.wire import messages as m
from sluicemq.wire.fields import Message as WireMessage
from sluicemq.wire.settings import check_name

PAGE_MESSAGES = 1000
"""Dead letters that are asked for at once."""
COUNT_MAX = 1_000_000
"""Most dead letters that one call returns: they are in memory with their bodies."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
RATE_STEP_SECONDS = 0.1
"""A redrive with a rate moves as many messages at once as belong into so long."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A dead letter as `Client.dead_letters` shows it.

    Attributes:
        message: What died; its attempts are those that were made before it did.
        death: Whence and why.
        place: By what the broker knows it; opaque.

    """

    message: PeekedMessage
    death: DeathNote
    place: tuple[int, int, int, int]


Wanted = Callable[[DeadLetter], bool]


def everything(_letter: DeadLetter) -> bool:
    """Want every one."""
    return True


class DeadLetterCalls(Asking):
    """The part of `Client` that is about dead letters."""

    async def dead_letters(
        self, queue: str, count: int = 100, skip: int = 0, *, wanted: Wanted = everything
    ) -> list[DeadLetter]:
        """Look at dead letters, in the order of dying, without changing anything.

        They lie aside in the queue in which they died, or in the queue that its setting `dead_letter` names: ask for
        that one then. There they are ready messages too, and can be consumed; `message.dead_letter` says whence.

        Args:
            queue: The queue.
            count: Most dead letters to return.
            skip: How many messages to pass over.
            wanted: Says of each whether it is to be returned.

        Raises:
            QueueNotFound: No queue of that name.

        """
        name = check_name(queue)
        count_of(count, "count", maximum=COUNT_MAX)
        found: list[DeadLetter] = []
        place: int | None = count_of(skip, "skip", minimum=0, maximum=2**64 - 1)
        while place is not None and len(found) < count:
            page = await self._page(
                name, place, PAGE_MESSAGES if wanted is not everything else min(count, PAGE_MESSAGES)
            )
            place = page.next_skip
            found += filter(wanted, page.letters)
        return found[:count]

    async def redrive(
        self,
        queue: str,
        to: str | None = None,
        *,
        count: int | None = None,
        rate: float | None = None,
        wanted: Wanted = everything,
    ) -> int:
        """Let dead letters be tried again, as new messages behind all others.

        Those that die again meanwhile are not taken a second time. A call that fails half-way has moved what it had
        moved: none is lost, and none is there twice.

        Args:
            queue: Where they are, see `dead_letters`.
            to: The queue that they shall go to; default: each where it died.
            count: Most to move; default: all that are there now.
            rate: Most messages a second; default: as fast as it goes.
            wanted: Says of each whether it is to go.

        Returns:
            How many went.

        Raises:
            QueueNotFound: No queue of that name.
            Conflict: Some came from queues that are gone: say where they shall go.
            QueueFull: They do not fit the queue that they are to go to.
            OutcomeUnknown: The connection broke before the answer; look whether they are still there.

        """
        target = "" if to is None else check_name(to)
        if rate is not None and not (isinstance(rate, (int, float)) and 0 < rate < math.inf):
            raise InvalidRequest(f"rate is {rate!r:.40}; it must be a number of messages a second above 0")

        def request(name: str, runs: list[int]) -> WireMessage:
            return m.Redrive(name=name, runs=runs, to=target)

        return await self._move(queue, request, count, rate, wanted)

    async def discard(self, queue: str, *, count: int | None = None, wanted: Wanted = everything) -> int:
        """Drop dead letters for good; arguments and errors as for `redrive`. Returns how many went."""

        def request(name: str, runs: list[int]) -> WireMessage:
            return m.Discard(name=name, runs=runs)

        return await self._move(queue, request, count, None, wanted)

    async def _move(
        self,
        queue: str,
        request: Callable[[str, list[int]], WireMessage],
        count: int | None,
        rate: float | None,
        wanted: Wanted,
    ) -> int:
        name = check_name(queue)
        left = 2**63 if count is None else count_of(count, "count", maximum=2**48)
        step = PAGE_MESSAGES if rate is None else max(1, min(PAGE_MESSAGES, int(rate * RATE_STEP_SECONDS)))
        moved = refused = 0
        place: int | None = 0
        began_ms: int | None = None
        pace = _Pace(rate)
        while place is not None and left > 0:
            page = await self._page(name, place, PAGE_MESSAGES)
            began_ms = page.now_ms if began_ms is None else began_ms
            # What died after this began is not taken: it may have been moved by this very call.
            chosen = [letter for letter in page.letters if letter.death.died_at <= _time(began_ms) and wanted(letter)]
            gone, is_cut = 0, False
            for begin in range(0, min(len(chosen), left), step):
                part = chosen[begin : begin + min(step, left - begin)]
                reply = await self._ask(request(name, _runs_of(part)), repeatable=False)
                assert isinstance(reply, m.Redriven)
                gone += reply.messages
                await pace.wait(moved + gone)
                is_cut = reply.messages < len(part)
                if is_cut:
                    break  # what is left of a run that lost a part lies elsewhere now
            moved += gone
            left -= gone
            if not gone:
                refused += len(chosen)
                place = page.next_skip
            elif not is_cut:
                place = None if page.next_skip is None else page.next_skip - gone
            # Else the same place again: others lie there now.
        if refused and not moved:
            raise Conflict(f"{refused} dead letters of {queue!r:.300} could not be moved", queue=queue)
        return moved

    async def _page(self, name: str, skip: int, count: int) -> _Page:
        link = self._link()
        answer = await link.request(m.ListDead(name=name, skip=skip, count_max=count), timeout=self._request_seconds)
        reply = answer.message
        assert isinstance(reply, m.Dead)
        welcome = None if link.session is None else link.session.welcome
        group = 0 if welcome is None else welcome.group_id
        found: list[DeadLetter] = []
        for number, run in enumerate(runs_of(reply.runs, answer.tail)):
            ready, note_number = reply.places[2 * number : 2 * number + 2]
            note: dict[str, Any] = reply.notes[note_number - 1] if note_number else {}
            for offset in range(run.count):
                message = PeekedMessage.of(run, offset, group)
                place = (ready, run.zxid, run.first_index + offset, 1)
                found.append(DeadLetter(message, death_note(note, name, message.attempts), place))
        return _Page(found, reply.next_skip if reply.more else None, reply.now_ms)


class _Page(NamedTuple):
    """A page of dead letters; where the next one begins, None: nowhere; and the broker's time."""

    letters: list[DeadLetter]
    next_skip: int | None
    now_ms: int


class _Pace:
    """Waits so that no more than *rate* messages a second go; None: never."""

    def __init__(self, rate: float | None) -> None:
        self._rate = rate
        self._began = anyio.current_time()

    async def wait(self, moved: int) -> None:
        """Wait until *moved* messages may have gone since the beginning."""
        if self._rate is not None:
            await anyio.sleep(max(moved / self._rate - (anyio.current_time() - self._began), 0))


def _time(time_ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=time_ms)


def _runs_of(letters: Iterable[DeadLetter]) -> list[int]:
    """Return the places of *letters* as they travel, neighbours as one run."""
    runs: list[int] = []
    for letter in letters:
        ready, zxid, first, size = letter.place
        if runs and runs[-4:-2] == [ready, zxid] and runs[-2] + runs[-1] == first:
            runs[-1] += size
        else:
            runs += (ready, zxid, first, size)
    return runs
