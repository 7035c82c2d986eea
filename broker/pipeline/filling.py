"""Subscriptions that begin in the past catch up: what their topics retain is read, matched and proposed, in pieces.

Only the log has the routes of what is retained, so this reads batches through `Bodies`, away from the event loop, finds
out with the very function that made the entries which messages match, and proposes a FILL. The machine keeps how far
each subscription is: after a restart this goes on there. One piece at a time, the subscriptions in turn. What
`queues.routing.filling` promises is proved there; this module must not know sockets.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import trio

from sluicemq.broker.pipeline.bodies import given_up
from sluicemq.broker.pipeline.grouping import groups_of, routes_of
from sluicemq.broker.queues.entries_of_topics import FILL_NUMBERS, Fill
from sluicemq.broker.queues.entry import GROUP_NUMBERS
from sluicemq.broker.queues.history import GivenUp, Page, Place
from sluicemq.broker.queues.routing.trie import PatternTrie
from sluicemq.wire.batch import Batch
from sluicemq.wire.errors import MessageNotFound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.pipeline.bodies import Stored
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.routing.filling import Filling
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.queues.runs import Run

logger = logging.getLogger("sluicemq.filling")

PIECE_MESSAGES_MAX = 10_000
"""Most messages that one piece looks at."""
PIECE_BYTES_MAX = 4 * 1024 * 1024
"""Most bytes likewise, about; one batch at least."""
PIECE_ROWS_MAX = 2_000
"""Most rows of one FILL: applying one costs some microseconds."""


class Wanted(NamedTuple):
    """What matches.

    Attributes:
        pattern: By the routes of messages.
        keyed: Whether rows have keys.
        ttl_ms: For how long messages live, by their topic; 0: for ever.
        now_ms: What has expired by then is not wanted any more.

    """

    pattern: str
    keyed: bool
    ttl_ms: int
    now_ms: int


class FillingStage:
    """Reads and proposes what subscriptions lack."""

    def __init__(self, road: Road) -> None:
        self._road = road
        self._wanting: dict[int, None] = {}
        self._wake = trio.Event()

    def want(self, queue_id: int) -> None:
        """The subscription lacks something; may be said more than once."""
        self._wanting[queue_id] = None
        self._wake.set()

    async def run(self) -> None:
        """Work until cancelled. Begins with what the machine says was not finished before."""
        for topic in self._road.machine.sources:
            for queue_id in topic.fillings:
                self.want(queue_id)
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            while self._wanting:
                queue_id = next(iter(self._wanting))
                del self._wanting[queue_id]
                try:
                    await self._fill(queue_id)
                except Exception as error:  # noqa: BLE001 - a log that cannot be read ends the broker, with its reason
                    self._road.fail(error)
                    return

    async def _fill(self, queue_id: int) -> None:
        """Propose the next piece, and wait until it is judged; the verdict says whether to go on."""
        sources = self._road.machine.sources
        topic, filling = sources.topic_of(queue_id), sources.filling_of(queue_id)
        if topic is None or filling is None:
            return
        place = filling.next
        rows: list[int] = []
        following, done = place, True
        if not filling.done and topic.history is not None:
            with self._road.bodies.reading():
                rows, following, done = await self._read(queue_id, topic, filling)
        road = self._road
        applied = trio.Event()
        entry = Fill(road.clock.now_ms(), queue_id, *place, rows, *following, done)
        road.propose(entry, on_applied=lambda _outcome: applied.set())
        await applied.wait()

    async def _read(self, queue_id: int, topic: Topic, filling: Filling) -> tuple[list[int], Place, bool]:
        """Return the rows of the next piece, where it ends, and whether that is the end of all."""
        road = self._road
        history = topic.history
        queue = road.machine.existing_queue(queue_id)
        assert history is not None, "the topic retains"
        end = Place(filling.end_zxid, 0)
        try:
            page: Page = await road.look(
                lambda: history.read(filling.next, messages_max=PIECE_MESSAGES_MAX, bytes_max=PIECE_BYTES_MAX, end=end)
            )
        except GivenUp as error:
            self._tell(given_up(*error.hole))
            return [], min(error.hole.end, end), False
        found = await self._load(page.runs)
        wanted = Wanted(
            topic.bindings[queue_id].pattern,
            queue.settings["ordering"] == "key",
            round(float(topic.settings["ttl"] or 0) * 1000),
            road.clock.now_ms(),
        )
        pairs = [(run, found[run.zxid].undecoded()) for run in page.runs if run.zxid in found]
        rows, cut = await trio.to_thread.run_sync(matching_rows, pairs, wanted)
        return (rows, cut, False) if cut is not None else (rows, page.next, not page.more)

    async def _load(self, runs: list[Run]) -> dict[int, Stored]:
        """Return the batches of *runs*; what a repair gave up is passed over, and said."""
        try:
            return await self._road.bodies.load(run.zxid for run in runs)
        except MessageNotFound:
            found: dict[int, Stored] = {}
            for run in runs:
                try:
                    found |= await self._road.bodies.load([run.zxid])
                except MessageNotFound as error:
                    self._tell(error)
            return found

    @staticmethod
    def _tell(error: MessageNotFound) -> None:
        logger.warning("a subscription cannot catch up with all that its topic retained: %s", error)


def matching_rows(pairs: list[tuple[Run, Stored]], wanted: Wanted) -> tuple[list[int], Place | None]:
    """Return the rows of a FILL for what matches of *pairs*, and where to go on if there would be too many. Pure."""
    trie = PatternTrie([(wanted.pattern, 1)])
    rows: list[int] = []
    for run, stored in pairs:
        facts = (run.batch_count, run.batch_bytes, run.published_ms)
        for first, count, shared in _matching(run, stored, wanted, trie):
            if rows and rows[-FILL_NUMBERS] == run.zxid and rows[-8] + rows[-7] == first and tuple(rows[-3:]) == shared:
                rows[-7] += count
            elif len(rows) >= PIECE_ROWS_MAX * FILL_NUMBERS:
                return rows, Place(run.ready, run.note + first - run.first)
            else:
                rows += (run.zxid, first, count, *facts, *shared)
    return rows, None


def _matching(
    run: Run, stored: Stored, wanted: Wanted, trie: PatternTrie
) -> Iterator[tuple[int, int, tuple[int, int, int]]]:
    """Yield (first index, count, (expires_ms, priority, key)) of what matches within *run*, in order."""
    batch, begin = stored.batch, 0
    route = stored.route
    if isinstance(route, tuple):
        # A topic retains its parts of a transaction, each with a route of its own; the rest of it may be gone.
        batch, begin = Batch(b"".join(stored.part_pieces(run.first, run.size))), run.first
        route = stored.routed(run.first, run.size)[0][2]
    numbers, texts = ([1], [route]) if route else routes_of(batch, "") if route is None else (None, [])
    # What the topic retains was visible: however long a message was delayed, that is over.
    groups = groups_of(batch, stored.published_ms, with_keys=wanted.keyed, routes=numbers)
    groups = groups or [batch.count, 0, 0, 0, 0, 0]
    start, end = run.first, run.first + run.size
    first = begin
    for size, _due_ms, own_ttl_ms, priority, key, route in zip(*(iter(groups),) * GROUP_NUMBERS, strict=True):
        low, high = max(first, start), min(first + size, end)
        first += size
        if low >= high or not trie.match(texts[route - 1] if route else ""):
            continue
        ttl_ms = min(own_ttl_ms or wanted.ttl_ms, wanted.ttl_ms or own_ttl_ms)
        # What was delayed lives from when it was due: it knows until when.
        expires_ms = run.expires_ms or (run.published_ms + ttl_ms if ttl_ms else 0)
        if not 0 < expires_ms <= wanted.now_ms:
            yield low, high - low, (expires_ms, priority, key)
