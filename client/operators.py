"""What operators do with messages: search, move, copy, purge; what a client's calls about them ask the broker.

The broker looks through a queue page by page, each page bounded; here the pages are put together. What is moved or
dropped is named by its place, a page an entry of the log: all of it or nothing, once, also where the connection breaks.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple, TypedDict, Unpack

from sluicemq.client.errors import InvalidRequest, OutcomeUnknown
from sluicemq.client.explaining import ExplainCalls
from sluicemq.client.options import count_of
from sluicemq.client.peeked import PeekedMessage, runs_of
from sluicemq.client.transaction_calls import TransactionParts
from sluicemq.wire import messages as m
from sluicemq.wire.fields import Message as WireMessage
from sluicemq.wire.settings import check_name

PAGE_MESSAGES = 10_000
"""Places that are asked for at once."""
PAGE_BODIES = 1_000
"""Messages with their bodies that are asked for at once."""
MOVED_RUNS = 256
"""Runs that one request moves or drops."""
COUNT_MAX = 1_000_000
"""Most messages that one search returns: they are in memory with their bodies."""
STATES = (m.FOUND_READY, m.FOUND_LEASED, m.FOUND_DELAYED, m.FOUND_DEAD)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Wanted(TypedDict, total=False):
    """Which messages are meant; what is not given lets all through.

    Attributes:
        message_id: The one with this id, of a sender or the broker.
        key: Those with this key.
        subject: Those with this subject.
        headers: Those that have all these headers, with these values.
        after: Those published then or later: an aware datetime.
        before: Those published before: an aware datetime.

    """

    message_id: str | None
    key: str | None
    subject: str | None
    headers: Mapping[str, Any] | None
    after: datetime | None
    before: datetime | None


@dataclass(frozen=True, slots=True)
class FoundMessage:
    """A message that a search found.

    Attributes:
        message: What it is.
        state: Where it is: "ready", "leased", "delayed" or "dead".
        due_at: When it is due, of a delayed one.
        holder: Session, consumer and tag, of a leased one.

    """

    message: PeekedMessage
    state: str
    due_at: datetime | None
    holder: tuple[int, int, int] | None


class _Search(NamedTuple):
    """What a search asks, over all of its pages."""

    name: str
    state: str
    message_id: str | None
    key: str | None
    subject: str | None
    headers: dict[str, Any]
    from_ms: int
    to_ms: int | None

    @property
    def may_cut(self) -> bool:
        """Whether parts of batches may be chosen."""
        return not (self.message_id is None and self.key is None and self.subject is None and not self.headers)

    def page(self, cursor: list[int], count: int, until: int, *, bodies: bool) -> m.Search:
        return m.Search(*self, until_zxid=until, cursor=cursor, count_max=count, bodies=bodies)


class OperatorCalls(ExplainCalls):
    """The calls of a client by which operators look after messages; `Client` has them."""

    @abstractmethod
    def _transaction_parts(self) -> TransactionParts:
        """Return what numbers requests. Raises ClientClosed as `_link`."""

    async def search(
        self, queue: str, *, state: str = m.FOUND_READY, count: int = 100, **wanted: Unpack[Wanted]
    ) -> list[FoundMessage]:
        """Look for messages of a queue without changing anything, in the order in which they lie there.

        Args:
            queue: The queue.
            state: Among those that are "ready", "leased", "delayed" or "dead" (and lie aside).
            count: Most messages to return.
            wanted: Which ones; see `Wanted`. All but the times reads what stands beside bodies.

        Raises:
            QueueNotFound: No queue of that name.

        """
        search = _search(queue, state, wanted)
        count_of(count, "count", maximum=COUNT_MAX)
        found: list[FoundMessage] = []
        cursor: list[int] = []
        while True:
            request = search.page(cursor, min(count - len(found), PAGE_BODIES), 0, bodies=True)
            link = self._link()
            answer = await link.request(request, timeout=self._request_seconds)
            reply = answer.message
            assert isinstance(reply, m.Found)
            welcome = None if link.session is None else link.session.welcome
            group = 0 if welcome is None else welcome.group_id
            for number, run in enumerate(runs_of(reply.runs, answer.tail)):
                place = reply.places[number * m.FOUND_NUMBERS : (number + 1) * m.FOUND_NUMBERS]
                messages = [PeekedMessage.of(run, offset, group, queue) for offset in range(run.count)]
                found += [_found(message, state, place, offset) for offset, message in enumerate(messages)]
            cursor = reply.cursor
            if not cursor or len(found) >= count:
                return found

    async def move(
        self, queue: str, to: str, *, state: str = m.FOUND_READY, count: int | None = None, **wanted: Unpack[Wanted]
    ) -> int:
        """Move messages to another queue, behind all others there, as if nobody had tried them; their bodies stay put.

        What is in the queue when this begins is moved, not what comes later. A message keeps its position, its id and
        its key, and its lifetime if it is ready. Of a batch that loses some messages from its middle, the rest goes to
        the front of its queue.

        Args:
            queue: Where they are.
            to: Where they shall go.
            state: "ready", or "dead" for those that lie aside.
            count: Most to move; default: all.
            wanted: Which ones; see `Wanted`.

        Returns:
            How many went, exactly, also where the connection broke meanwhile.

        Raises:
            QueueNotFound: No queue of one of these names.
            QueueFull: The rest does not fit the queue that they are to go to.
            Conflict: The other queue keeps an order by key, and this one does not.
            OutcomeUnknown: No answer in time; its field `messages` says how many had gone before that page.

        """
        return await self._move_chosen(queue, check_name(to), state, count, wanted)

    async def copy(
        self, queue: str, to: str, *, state: str = m.FOUND_READY, count: int | None = None, **wanted: Unpack[Wanted]
    ) -> int:
        """Copy messages to another queue; arguments and errors as for `move`. Both share one stored body."""
        return await self._move_chosen(queue, check_name(to), state, count, wanted, keep=True)

    async def purge(
        self,
        queue: str,
        *,
        state: str = m.FOUND_READY,
        count: int | None = None,
        dry_run: bool = False,
        **wanted: Unpack[Wanted],
    ) -> int:
        """Drop messages for good; arguments and errors as for `move`, and state "delayed" is allowed too.

        To empty a queue without a look, `purge_queue` is faster.

        Args:
            queue: Where they are.
            state: "ready", "delayed" or "dead".
            count: Most to drop.
            dry_run: Drop nothing; return how many would go.
            wanted: Which ones; see `Wanted`.

        """
        if not dry_run:
            return await self._move_chosen(queue, "", state, count, wanted)
        counted = 0
        pages = _Places(self._ask, _search(queue, state, wanted), _limit(count), 0)
        while (places := await pages.next()) is not None:
            counted += sum(places[3 :: m.MOVED_NUMBERS])
        return counted

    async def _move_chosen(
        self, queue: str, to: str, state: str, count: int | None, wanted: Wanted, *, keep: bool = False
    ) -> int:
        search = _search(queue, state, wanted)
        if state == m.FOUND_LEASED or (state == m.FOUND_DELAYED and to):
            raise InvalidRequest(f"messages that are {state} cannot be moved, dropped or copied by this")
        left = _limit(count)
        if to:
            await self._ask(m.QueueInfo(name=to))  # where nothing is found to be moved, a wrong name shows too
        moved = until = 0
        while left > moved:
            found = gone = 0
            pages = _Places(self._ask, search, left - moved, until)
            while (places := await pages.next()) is not None:
                until = pages.until
                step = m.MOVED_NUMBERS * MOVED_RUNS
                for start in range(0, len(places), step):
                    part = places[start : start + step]
                    found += sum(part[3 :: m.MOVED_NUMBERS])
                    gone += await self._move_part(search, part, to, moved + gone, keep=keep)
            moved += gone
            # What is left of a batch that was cut lies elsewhere now, and may hold more of them.
            if keep or not gone or (gone == found and not search.may_cut):
                break
        return moved

    async def _move_part(self, search: _Search, places: list[int], to: str, before: int, *, keep: bool) -> int:
        try:
            if search.state == m.FOUND_DELAYED:
                reply = await self._ask(m.CancelDelayed(name=search.name, runs=places), repeatable=False)
                assert isinstance(reply, m.Cancelled)
                return reply.messages

            def make(producer: int, sequence: int) -> m.Move:
                return m.Move(search.name, search.state, places, producer, sequence, to, keep)

            answer, _ = await self._transaction_parts().requests.ask(make, None, self._request_seconds)
        except OutcomeUnknown as error:
            raise OutcomeUnknown(
                f"{before} messages had gone when the outcome of the next page became unknown: {error.text}",
                **{**error.fields, "messages": before},
            ) from error
        assert isinstance(answer.message, m.Moved)
        return answer.message.messages


class _Places:
    """The places of what is found, page by page.

    Attributes:
        until: The last entry that counts, once the first page has said it; 0 before.

    """

    def __init__(
        self, ask: Callable[[m.Search], Awaitable[WireMessage]], search: _Search, count: int, until: int
    ) -> None:
        self.until = until
        self._ask = ask
        self._search = search
        self._left = count
        self._cursor: list[int] = []
        self._is_over = False

    async def next(self) -> list[int] | None:
        """Return places as MOVE takes them, perhaps none; None: there are no more."""
        if self._is_over or self._left <= 0:
            return None
        request = self._search.page(self._cursor, min(self._left, PAGE_MESSAGES), self.until, bodies=False)
        reply = await self._ask(request)
        assert isinstance(reply, m.Found)
        self.until = self.until or reply.last_zxid
        places: list[int] = []
        for start in range(0, len(reply.places), m.FOUND_NUMBERS):
            places += reply.places[start : start + m.MOVED_NUMBERS]
        self._left -= sum(places[3 :: m.MOVED_NUMBERS])
        self._cursor = reply.cursor
        self._is_over = not reply.cursor
        return places


def _limit(count: int | None) -> int:
    return 2**62 if count is None else count_of(count, "count", maximum=2**48)


def _search(queue: str, state: str, wanted: Wanted) -> _Search:
    if state not in STATES:
        raise InvalidRequest(f"state is {state!r:.40}; it must be one of {', '.join(STATES)}")
    unknown = wanted.keys() - Wanted.__annotations__.keys()
    if unknown:
        raise TypeError(
            f"unknown: {', '.join(sorted(unknown))}; messages are chosen by {', '.join(Wanted.__annotations__)}"
        )
    for name in ("message_id", "key", "subject"):
        value = wanted.get(name)
        if not isinstance(value, str | None):
            raise InvalidRequest(f"{name} is {value!r:.80}; it must be a text")
    headers = wanted.get("headers")
    if headers is not None and not (isinstance(headers, Mapping) and all(isinstance(each, str) for each in headers)):
        raise InvalidRequest(f"headers is {headers!r:.80}; it must map names to values")
    after, before = wanted.get("after"), wanted.get("before")
    return _Search(
        check_name(queue),
        state,
        wanted.get("message_id"),
        wanted.get("key"),
        wanted.get("subject"),
        dict(headers or {}),
        0 if after is None else _ms(after, "after"),
        None if before is None else _ms(before, "before"),
    )


def _ms(moment: datetime, name: str) -> int:
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InvalidRequest(f"{name} is {moment!r:.80}; it must be a datetime with a time zone")
    return max((moment - _EPOCH) // timedelta(milliseconds=1), 0)


def _found(message: PeekedMessage, state: str, place: list[int], offset: int) -> FoundMessage:
    due_at = _EPOCH + timedelta(milliseconds=place[0]) if state == m.FOUND_DELAYED else None
    holder = (place[4], place[5], place[6] + offset) if state == m.FOUND_LEASED else None
    return FoundMessage(message, state, due_at, holder)
