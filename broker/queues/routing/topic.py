"""A topic: who is bound to it, what waits for its time, and what it retains.

A topic holds no messages for anybody: its subscriptions, which are queues, do. But messages that were published with a
delay are its own until they are ready, because they go to the subscriptions of that moment; so it remembers their
routes, each text once. And it may retain everything for replay and for subscriptions that begin in the past, from when
it is ready: what was delayed has its place there among what became ready then, and what was cancelled has none.

This module must not know entries, queues' insides or the log.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sluicemq.broker.queues.delayed import DelayedRuns
from sluicemq.broker.queues.history import START, History, Place
from sluicemq.broker.queues.routing.trie import PatternTrie
from sluicemq.broker.queues.windows import PUBLISHED, followed
from sluicemq.wire.errors import LimitReached
from sluicemq.wire.settings import TOPIC_SETTINGS_DEFAULT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from sluicemq.broker.queues.chunks import ChunkPool, FifoImage
    from sluicemq.broker.queues.routing.filling import Filling, FrozenFilling
    from sluicemq.broker.queues.window import IdWindow, WindowImage

ROUTES_MAX = 100_000
"""Most different routes of the messages of one topic that wait for their time. Frozen by the log's format."""
_NUMBERS = 1 << 32


class Binding(NamedTuple):
    """A queue that gets what is published to a topic, as far as it matches.

    Attributes:
        topic: Number of the topic.
        queue: Number of the queue.
        pattern: Which messages, by their routes; see `wire.routes`.
        session: The session with which the queue goes; 0: it stays.

    """

    topic: int
    queue: int
    pattern: str
    session: int


class RouteTable:
    """Routes of the messages that wait for their time: a row has room for a number, not for a text.

    Attributes:
        next_number: Number of the next new route, if that is free.

    """

    __slots__ = ("_messages", "_numbers", "_texts", "next_number")

    def __init__(self) -> None:
        self.next_number = 1
        self._numbers: dict[str, int] = {}
        self._texts: dict[int, str] = {}
        self._messages: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._texts)

    def items(self) -> Iterator[tuple[int, str, int]]:
        """Yield (number, text, messages) in the order of the numbers."""
        return ((number, text, self._messages[number]) for number, text in sorted(self._texts.items()))

    def text(self, number: int) -> str:
        """Return the route of this number; 0 is the empty one."""
        return self._texts[number] if number else ""

    def room_for(self, routes: Iterable[str]) -> LimitReached | None:
        """Return why not all of *routes* have room, if they have not."""
        new = sum(1 for route in set(routes) if route and route not in self._numbers)
        if len(self._texts) + new <= ROUTES_MAX:
            return None
        return LimitReached(
            f"delayed messages of the topic have {len(self._texts)} different routes; allowed are {ROUTES_MAX}: wait "
            "until some are due, or give the messages fewer different subjects",
            limit="topic_delayed_routes_max",
            value=ROUTES_MAX,
        )

    def hold(self, route: str, messages: int) -> int:
        """Return the number of *route*, which so many messages more have; `room_for` was asked before."""
        if not route:
            return 0
        number = self._numbers.get(route)
        if number is None:
            number = self.next_number
            while not number or number in self._texts:
                number = (number + 1) % _NUMBERS
            self.next_number = (number + 1) % _NUMBERS
            self.put(number, route, 0)
        self._messages[number] += messages
        return number

    def put(self, number: int, route: str, messages: int) -> None:
        """Let *number* be that of *route*."""
        self._numbers[route] = number
        self._texts[number] = route
        self._messages[number] = messages

    def release(self, number: int, messages: int) -> None:
        """Note that so many messages fewer have the route; it goes with the last one."""
        if not number:
            return
        left = self._messages[number] - messages
        assert left >= 0, "no more messages lose a route than had it"
        if left:
            self._messages[number] = left
        else:
            del self._messages[number]
            del self._numbers[self._texts.pop(number)]


class FrozenTopic(NamedTuple):
    """A topic as it was at one moment; the first fields are the columns of `sections.TOPICS`."""

    id: int
    kind: str
    vhost: str
    name: str
    settings: dict[str, Any]
    created_ms: int
    published_total: int
    unrouted_total: int
    expired_total: int
    cancelled_total: int
    paused: int
    retained: tuple[int, ...] | None
    next_route: int
    bindings: list[Binding]
    fillings: list[FrozenFilling]
    routes: list[tuple[int, str, int]]
    delayed: FifoImage | None
    history: FifoImage | None
    windows: list[tuple[int, WindowImage]]


class Topic:
    """One topic.

    Args:
        pool: Keeps accounts of the chunks of all indexes, for a pager; None: all of them stay in memory.

    Attributes:
        id: Its number: the zxid of the entry that created it.
        vhost: Its vhost.
        name: Its name.
        settings: All its settings, defaults filled in; replaced, never changed in place.
        created_ms: Log time of its creation.
        published_total: Messages ever published to it.
        unrouted_total: Those of them that matched no subscription when they were ready.
        expired_total: Those of them that were too old when their time came, as after a long standstill.
        cancelled_total: Those of them that somebody cancelled before their time.
        paused: What of it is paused, as bits, see `pauses`: what is published, what its subscriptions deliver.
        delayed: What waits for its time; the note of such a row is the number of its route.
        routes: Their routes.
        history: What is retained; None where nothing is.
        window: The ids of what was published, where duplicates are looked out for; else None.
        bindings: Who is bound, by number of the queue.
        keyed: Those of them that are ordered by key.
        fillings: Those of them that catch up with what is retained, by number of the queue.
        frozen_for: Number of the last freeze that has what it needs of this topic.

    """

    KIND = "topic"
    """Kind of source; others will route otherwise."""

    __slots__ = (
        "_pool",
        "_trie",
        "bindings",
        "cancelled_total",
        "created_ms",
        "delayed",
        "expired_total",
        "fillings",
        "frozen_for",
        "history",
        "id",
        "keyed",
        "name",
        "paused",
        "published_total",
        "routes",
        "settings",
        "unrouted_total",
        "vhost",
        "window",
    )

    def __init__(
        self,
        id_: int,
        vhost: str,
        name: str,
        settings: Mapping[str, Any],
        created_ms: int,
        pool: ChunkPool | None = None,
    ) -> None:
        self.id = id_
        self.vhost = vhost
        self.name = name
        self.settings: dict[str, Any] = {**TOPIC_SETTINGS_DEFAULT, **settings}
        self.created_ms = created_ms
        self.published_total = 0
        self.unrouted_total = 0
        self.expired_total = 0
        self.cancelled_total = 0
        self.paused = 0
        self.delayed = DelayedRuns(pool)
        self.routes = RouteTable()
        self.history: History | None = None
        self.window: IdWindow | None = None
        self.bindings: dict[int, Binding] = {}
        self.keyed: set[int] = set()
        self.fillings: dict[int, Filling] = {}
        self.frozen_for = 0
        self._trie = PatternTrie()
        self._pool = pool

    # --- questions -------------------------------------------------------------------------------------------------

    def match(self, route: str) -> tuple[int, ...]:
        """Return the numbers of the queues that get a message of this route, ascending."""
        return self._trie.match(route)

    @property
    def next_due_ms(self) -> int | None:
        """When CLOCK has something to do here, in log time: the first delayed run, the oldest retained batch, or ids
        that are too old."""
        due_ms = self.delayed.next_due_ms
        if self.history is None and self.window is None:
            return due_ms
        times = (
            due_ms,
            None if self.history is None else self.history.next_due_ms,
            None if self.window is None else self.window.look_ms or None,
        )
        return min((time for time in times if time is not None), default=None)

    # --- changes ---------------------------------------------------------------------------------------------------

    def change_settings(self, settings: Mapping[str, Any], zxid: int, log_time_ms: int) -> None:
        """Take *settings* (checked) over, because of the entry *zxid*, as a queue does."""
        self.settings = {**self.settings, **settings}
        if self.settings["dedup_window"] or self.window is not None:
            self.window = followed(self.window, self.settings, PUBLISHED, log_time_ms, self._pool)
        retention = self.settings["retention"]
        if retention is None:
            # Those who still read it have nothing left to read; what was held back for them follows.
            for filling in self.fillings.values():
                filling.done = True
            self.forget_history()
        elif self.history is not None:
            self.history.limit(retention)
        elif self.published_total:
            self.history = History(retention, Place(zxid, 0), log_time_ms, self._pool)
        else:
            self.history = History(retention, START, 0, self._pool)

    def forget_history(self) -> None:
        """Let go of everything that is retained, at the same cost however much it is."""
        if self.history is not None:
            self.history.runs.clear()
            self.history = None

    def bind(self, binding: Binding, keyed: bool) -> None:
        """Let a queue get what matches from now on; one that is bound gets another pattern."""
        before = self.bindings.get(binding.queue)
        if before is not None:
            self._trie.remove(before.pattern, binding.queue)
        self.bindings[binding.queue] = binding
        self._trie.add(binding.pattern, binding.queue)
        self.set_keyed(binding.queue, keyed)

    def unbind(self, queue: int) -> None:
        """Let a queue get nothing more."""
        binding = self.bindings.pop(queue)
        self._trie.remove(binding.pattern, queue)
        self.keyed.discard(queue)
        self.end_filling(queue)

    def set_keyed(self, queue: int, keyed: bool) -> None:
        """Note whether the queue is ordered by key."""
        if keyed:
            self.keyed.add(queue)
        else:
            self.keyed.discard(queue)

    def begin_filling(self, filling: Filling) -> None:
        """Let a subscription catch up with what is retained."""
        self.fillings[filling.queue] = filling
        self.hold_history()

    def hold_history(self) -> None:
        """Let nothing retained go while somebody has to catch up with it."""
        if self.history is not None:
            self.history.held = any(not filling.done for filling in self.fillings.values())

    def end_filling(self, queue: int) -> int:
        """Let a subscription catch up with nothing more; return how many messages were held back for it."""
        filling = self.fillings.pop(queue, None)
        if filling is None:
            return 0
        messages = filling.held.messages
        filling.held.clear()
        self.hold_history()
        return messages

    def drop_all(self) -> None:
        """Let go of everything that lies in chunks, because the topic is deleted."""
        self.delayed.empty()
        self.delayed = DelayedRuns(self._pool)
        self.forget_history()
        if self.window is not None:
            self.window.clear()
        for queue in list(self.fillings):
            self.end_filling(queue)

    # --- images ----------------------------------------------------------------------------------------------------

    def frozen(self) -> FrozenTopic:
        """Return a copy that nothing changes any more; chunks are not copied."""
        history = self.history
        return FrozenTopic(
            self.id,
            self.KIND,
            self.vhost,
            self.name,
            self.settings,
            self.created_ms,
            self.published_total,
            self.unrouted_total,
            self.expired_total,
            self.cancelled_total,
            self.paused,
            None if history is None else history.places(),
            self.routes.next_number,
            list(self.bindings.values()),
            [filling.frozen() for filling in self.fillings.values()],
            list(self.routes.items()),
            self.delayed.image(),
            None if history is None else history.runs.image(),
            [] if self.window is None else [(PUBLISHED, self.window.image())],
        )
