"""A freeze: the machine as it is at one entry, packed in slices while it goes on applying others.

Freezing takes lists of what there is and copies nothing. Whatever an entry is about to change is copied first, once,
unless it is packed already: `TOUCHES` says what each kind of entry changes. So a freeze of a hundred thousand queues
takes milliseconds, an entry pays microseconds while one is under way, and the copies are never more than what changed
meanwhile. What has a number beyond the freeze's zxid came later and is none of its business.

Chunks of an index go by reference where they lie on a page. This module must not know clocks, files, nor how the bytes
are read back (`image`); the format stands in `sections`.
"""

from __future__ import annotations

import dataclasses
import sys
from array import array
from itertools import islice, starmap
from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_cluster as c
from sluicemq.broker.queues import entries_of_moving as v
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import entries_of_sessions as r
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.broker.queues import sections as s
from sluicemq.broker.queues.applying.dead_letters import redrive_targets
from sluicemq.broker.queues.applying.dying import dead_letter_queue
from sluicemq.broker.queues.applying.halves import target_of
from sluicemq.broker.queues.applying.operating import next_to_follow
from sluicemq.broker.queues.applying.transactions import as_publish, as_settle
from sluicemq.broker.queues.checksums import before_image
from sluicemq.broker.queues.chunks import ROW, RUN_BYTES, Summary
from sluicemq.broker.queues.holes import NONE, packed_bits
from sluicemq.broker.queues.policies import POLICIES_ID
from sluicemq.broker.queues.routing import images, touching
from sluicemq.broker.queues.runs import messages_in
from sluicemq.broker.queues.window_images import leased_ids_of, pack_windows

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sluicemq.broker.queues.chunks import FifoImage
    from sluicemq.broker.queues.frozen_queue import FrozenQueue
    from sluicemq.broker.queues.leases import FrozenLeases, LeaseTable
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import FrozenTopic, Topic
    from sluicemq.broker.queues.sequences import FrozenProducer, Producer
    from sluicemq.broker.queues.sessions import FrozenSession, Session
    from sluicemq.broker.queues.window import WindowImage

SECTION_BYTES = 64 * 1024
"""A section is closed once it has about this many bytes; it may have a chunk of an index more."""
_RETURNED_RUNS = 1_024
_ROW_BYTES = 64  # about what the columns of one row take
_TAG_BYTES = 5  # and a tag among many

assert sys.byteorder == "little", "an image is written in the byte order of the index, which is little-endian here"


class Freeze:
    """The machine as it was when this was made, by `Machine.freeze`.

    Attributes:
        number: Which freeze of this machine it is, from 1.
        zxid: The last entry that it contains.
        done: Whether everything is packed.

    """

    def __init__(self, machine: Machine, number: int) -> None:
        self.number = number
        self.zxid = machine.applied_zxid
        self.done = False
        self._queues = machine.queues()
        self._topics = list(machine.sources)
        self._sessions = list(machine.sessions.values())
        self._producers = machine.producers.unordered()
        self._head = (
            s.FORMAT,
            self.zxid,
            machine.log_time_ms,
            machine.id_moment,
            dataclasses.asdict(machine.limits),
            len(self._queues),
            len(self._sessions),
            len(self._producers),
            len(self._topics),
        )
        self._policies = machine.policies.frozen()
        self._schedules = machine.schedules.frozen()
        self._halves = machine.halves.frozen()
        self._cluster = machine.cluster.frozen()
        # What was copied and is not packed yet, by the identity of the original: that lives as long as these lists.
        self._copies: dict[int, Any] = {}
        self._steps = self._pack()

    # --- copy before change ----------------------------------------------------------------------------------------

    def before(self, machine: Machine, entry: e.Entry) -> None:
        """Copy what *entry* is about to change; its log time is applied already."""
        TOUCHES[type(entry)](self, machine, entry)

    def keep(self, thing: Queue | Topic | Session | LeaseTable | Producer | None) -> None:
        """Copy *thing*, if it exists and neither was copied nor packed for this freeze."""
        if thing is not None and thing.frozen_for != self.number:
            thing.frozen_for = self.number
            self._copies[id(thing)] = thing.frozen()

    def _frozen(self, thing: Queue | Topic | Session | LeaseTable | Producer) -> Any:
        """Return the copy of *thing*, made before or now; it is not kept again."""
        thing.frozen_for = self.number
        copy = self._copies.pop(id(thing), None)
        return thing.frozen() if copy is None else copy

    # --- packing ---------------------------------------------------------------------------------------------------

    def pack(self, has_time: Callable[[], bool]) -> list[s.Section]:
        """Pack on until *has_time* says no; return the sections that are finished. `done` says when that was all.

        Args:
            has_time: Asked after every step; a step takes 5 to 500 µs.

        """
        finished: list[s.Section] = []
        for section in self._steps:
            if section is not None:
                finished.append(section)
            if not has_time():
                return finished
        self.done = True
        return finished

    def let_go(self) -> None:
        """Give up what is not packed."""
        self._copies.clear()
        self._queues, self._topics, self._sessions, self._producers = [], [], [], []
        self._halves = [], []
        self.done = True

    def _pack(self) -> Iterator[s.Section | None]:
        """Yield each section when it is finished, and None after every other step."""
        packer = _Packer()
        packer.add(s.MACHINE, self._head)
        yield from packer.flush()
        indexes: list[tuple[int, int, FifoImage]] = []
        topic_windows: list[tuple[int, list[tuple[int, WindowImage]]]] = []
        for topic in self._topics:
            frozen_topic: FrozenTopic = self._frozen(topic)
            indexes += images.indexes_of(frozen_topic)
            topic_windows.append((frozen_topic.id, frozen_topic.windows))
            for kind, row, bytes_ in images.rows_of(frozen_topic):
                packer.add(kind, row, bytes_=bytes_)
                yield from packer.flush_full()
        yield from packer.flush()
        for queue in self._queues:
            yield from _pack_queue(packer, self._frozen(queue))
        yield from packer.flush()
        for number, place, index in indexes:
            yield from _pack_index(packer, number, place, index)
        for number, windows in topic_windows:
            yield from pack_windows(packer, number, windows)
        yield from packer.flush()
        for session in self._sessions:
            held: FrozenSession = self._frozen(session)
            packer.add(s.SESSIONS, held.row)
            yield from packer.flush_full()
            for consumer, tags in held.settled:
                packer.add(s.SETTLED, (session.number, consumer, tags), bytes_=_TAG_BYTES * len(tags))
                yield from packer.flush_full()
            for table in held.tables:
                yield from _pack_leases(packer, self._frozen(table))
        yield from packer.flush()
        for producer in self._producers:
            frozen: FrozenProducer = self._frozen(producer)
            packer.add(s.PRODUCERS, frozen, bytes_=len(frozen.receipts))
            yield from packer.flush_full()
        yield from packer.flush()
        yield from self._pack_operating(packer)
        packer.add(s.END, (packer.sections + 1, packer.messages, packer.leased))
        yield from packer.flush()

    def _pack_operating(self, packer: _Packer) -> Iterator[s.Section | None]:
        """Pack policies, schedules, half messages, and what is known of the brokers."""
        rows, following = self._policies
        for row in rows:
            packer.add(s.POLICIES, row)
            yield from packer.flush_full()
        for schedule in self._schedules:
            packer.add(s.SCHEDULES, schedule, bytes_=len(schedule.payload))
            yield from packer.flush_full()
        for mark in following:
            packer.add(s.FOLLOWING, mark)
        if self._cluster.configuration or self._cluster.addresses:
            packer.add(s.CLUSTER, self._cluster)
        yield from packer.flush()
        halves, decisions = self._halves
        for half in halves:
            packer.add(s.HALVES, half, bytes_=8 * len(half.groups) + len(half.ids))
            yield from packer.flush_full()
        for decision in decisions:
            packer.add(s.DECISIONS, decision)
            yield from packer.flush_full()
        yield from packer.flush()


class _Packer:
    """Gathers rows, and closes sections; counts what it packed.

    Attributes:
        sections: Sections closed.
        messages: Messages packed, wherever they are.
        leased: Those of them that are leased.

    """

    def __init__(self) -> None:
        self.sections = 0
        self.messages = 0
        self.leased = 0
        self._rows: dict[int, list[tuple[Any, ...]]] = {}
        self._blobs: dict[int, tuple[bytearray, ...]] = {}
        self._bytes = 0

    def add(self, kind: int, row: tuple[Any, ...], *blobs: bytes | bytearray | memoryview, bytes_: int = 0) -> None:
        """Add a row to the section of this kind that is open, with its parts of the byte strings.

        Args:
            kind: One of the kinds of `sections`.
            row: A value for each column.
            blobs: A part for each byte string.
            bytes_: How large the row is beyond the usual.

        """
        rows = self._rows.get(kind)
        if rows is None:
            rows = self._rows[kind] = []
            self._blobs[kind] = tuple(bytearray() for _ in s.LAYOUTS[kind].blobs)
        rows.append(row)
        for blob, part in zip(self._blobs[kind], blobs, strict=True):
            blob += part
            bytes_ += len(part)
        self._bytes += _ROW_BYTES + bytes_

    def flush_full(self) -> Iterator[s.Section | None]:
        """Close the open sections if they are large enough; else yield None, once."""
        if self._bytes < SECTION_BYTES:
            return iter(_STEP)
        return self.flush()

    def flush(self) -> Iterator[s.Section | None]:
        """Close the open sections. Lower kinds come first: what others refer to stands before them."""
        for kind in sorted(self._rows):
            self.sections += 1
            yield s.encode(kind, self._rows.pop(kind), *self._blobs.pop(kind))
        self._bytes = 0


_STEP: tuple[None] = (None,)


def _pack_queue(packer: _Packer, queue: FrozenQueue) -> Iterator[s.Section | None]:
    packer.add(s.QUEUES, queue[: len(s.LAYOUTS[s.QUEUES].columns)])
    if queue.paused or queue.declared:
        packer.add(s.MARKS, (queue.id, queue.paused, sorted(queue.declared)))
    yield from packer.flush_full()
    for priority, lane in queue.lanes:
        yield from _pack_index(packer, queue.id, s.LANES + priority if priority else s.READY, lane)
    if queue.delayed is not None:
        yield from _pack_index(packer, queue.id, s.DELAYED, queue.delayed)
    if queue.history is not None and queue.history.messages:
        yield from _pack_index(packer, queue.id, s.RETAINED, queue.history)
    if queue.dead.messages:
        yield from _pack_index(packer, queue.id, s.DEAD, queue.dead)
    if queue.expiring is not None:
        yield from _pack_index(packer, queue.id, s.EXPIRING, queue.expiring)
    yield from pack_windows(packer, queue.id, queue.windows)
    for number, note in queue.notes:
        packer.add(s.NOTES, (queue.id, number, *note), bytes_=len(note.text))
        yield from packer.flush_full()
    returned = iter(queue.returned)
    while runs := list(islice(returned, _RETURNED_RUNS)):
        packer.messages += messages_in(runs)
        for run in runs:
            packer.add(s.RETURNED, (queue.id,), ROW.pack(*run))
        yield from packer.flush_full()


def _pack_index(packer: _Packer, queue_id: int, place: int, index: FifoImage) -> Iterator[s.Section | None]:
    if place not in s.COPIES:
        packer.messages += index.messages
    # A slice, not a view: the array grows meanwhile, and cannot while somebody looks at it.
    rows = index.open_rows[: index.open_bytes]
    head = index.head
    holes = dict(index.holes)
    buffers = {number: (buffer, bytes_) for number, buffer, bytes_ in index.buffers}
    open_bits = holes.get(len(index.chunks), NONE).bits
    if not index.chunks:
        del rows[: head * RUN_BYTES]
        open_bits >>= head
        head = 0
    first, size = index.front or (0, 0)
    count = len(rows) // RUN_BYTES
    times = index.front_ms or 0, index.last_ms, index.front_expires_ms
    fields = (head, index.messages, first, size, *times, packed_bits(open_bits), len(index.chunks), count)
    packer.add(s.INDEXES, (queue_id, place, *fields, before_image(index)), rows)
    yield from packer.flush_full()
    for number, chunk in enumerate(index.chunks):
        page, data = chunk.page, chunk.data
        # A place among ready runs follows from those before, that of a delayed one must be known without its rows.
        left = holes.get(number)
        known = (
            queue_id,
            place,
            chunk.rows,
            chunk.base if place in s.BY_TIME else 0,
            None if left is None else (packed_bits(left.bits), *left[1:]),
        )
        buffer, bytes_ = buffers.get(number, (b"", 0))
        beside = bytes_ // RUN_BYTES
        if page is not None:
            packer.add(s.CHUNKS, (*known, beside, *page, *chunk.summary), buffer[:bytes_])
        else:
            assert data is not None, "the rows of a chunk are in memory or on a page"
            packer.add(s.CHUNKS, (*known, beside, s.NO_PAGE, 0, *_NO_SUMMARY), data + buffer[:bytes_])
        yield from packer.flush_full()


_NO_SUMMARY = (0,) * len(Summary._fields)


def _pack_leases(packer: _Packer, table: FrozenLeases) -> Iterator[s.Section | None]:
    """Pack the table block by block; a table has at least one."""
    for block in table.blocks:
        messages = messages_in(block.runs)
        packer.messages += messages
        packer.leased += messages
        packer.add(
            s.LEASES,
            (table.session, table.consumer, table.queue_id, table.last_tag, len(block.runs)),
            array("Q", block.firsts).tobytes(),
            block.handed,
            b"".join(starmap(ROW.pack, block.runs)),
        )
        yield from packer.flush_full()
    if table.ids:
        packer.add(s.LEASED_IDS, *leased_ids_of(table))
        yield from packer.flush_full()


# --- what the entries change ------------------------------------------------------------------------------------------
#
# Each function keeps everything that existed before and that the machine's method of the same entry may change; more
# is allowed, less makes a snapshot that never was. Not kept: what is only forgotten (a session or a producer that goes
# does not change), and what is not written down because it follows from the rest.


def _nothing(freeze: Freeze, machine: Machine, entry: e.Entry) -> None:
    del freeze, machine, entry


def _keep_queue(freeze: Freeze, machine: Machine, number: int) -> None:
    if number <= freeze.zxid:
        freeze.keep(machine.queue(number))


def _keep_dying(freeze: Freeze, machine: Machine, number: int) -> None:
    """Keep a queue whose messages may die, and the one that they go to then."""
    queue = machine.queue(number)
    _keep_queue(freeze, machine, number)
    target = None if queue is None else dead_letter_queue(machine, queue)
    if target is not None:
        _keep_queue(freeze, machine, target.id)


def _session_close(freeze: Freeze, machine: Machine, entry: e.SessionClose) -> None:
    """Its leases return to their queues."""
    session = machine.sessions.get(entry.session)
    if session is not None:
        for table in session.leases.values():
            _keep_dying(freeze, machine, table.queue_id)
        for number in machine.sources.temporary_of(entry.session):
            touching.dropped(freeze, machine, number)


def _publish(freeze: Freeze, machine: Machine, entry: e.Publish) -> None:
    """The queue grows; the producer has its turn, whatever the verdict."""
    topic = machine.sources.get(entry.queue)
    if topic is None:
        _keep_dying(freeze, machine, entry.queue)
    else:
        touching.published(freeze, machine, topic, entry)
    if entry.producer <= freeze.zxid:
        freeze.keep(machine.producers.get(entry.producer))


def _leases(freeze: Freeze, machine: Machine, session_number: int, consumer: int) -> None:
    session = machine.sessions.get(session_number)
    if session is None:
        return
    table = session.leases.get(consumer)
    if session_number <= freeze.zxid:  # a table may come or go
        freeze.keep(session)
        freeze.keep(table)
    if table is not None:
        _keep_dying(freeze, machine, table.queue_id)


def _grant(freeze: Freeze, machine: Machine, entry: e.Grant) -> None:
    """Messages go from the queue to the consumer's table."""
    _keep_queue(freeze, machine, entry.queue)
    _leases(freeze, machine, entry.session, entry.consumer)


def _settle(freeze: Freeze, machine: Machine, entry: e.Settle | r.Resume) -> None:
    """Messages leave the consumer's table, some for its queue."""
    _leases(freeze, machine, entry.session, entry.consumer)


def _mark_closed(freeze: Freeze, machine: Machine, entry: r.MarkClosed) -> None:
    for number in (*entry.closed, *entry.back):
        if number <= freeze.zxid:
            freeze.keep(machine.sessions.get(number))


def _clock(freeze: Freeze, machine: Machine, entry: e.Clock) -> None:
    """Delayed messages become ready, retained ones go: each item takes at least one run from the queue that is due
    first."""
    for queue_id in machine.due_queues(entry.items_max):
        topic = machine.sources.get(queue_id)
        if queue_id == POLICIES_ID:
            _follow(freeze, machine, entry.items_max)
        elif topic is None:
            _keep_dying(freeze, machine, queue_id)
        else:
            touching.released(freeze, machine, topic, entry.items_max)


def _follow(freeze: Freeze, machine: Machine, count_max: int) -> None:
    """Queues follow policies."""
    for queue in next_to_follow(machine, count_max):
        _keep_queue(freeze, machine, queue.id)


def _declare(freeze: Freeze, machine: Machine, entry: e.Declare) -> None:
    """Settings of an existing queue or topic change."""
    touching.declared(freeze, machine, entry.vhost, entry.name)
    queue = machine.find_queue(entry.vhost, entry.name)
    if queue is not None:
        _keep_queue(freeze, machine, queue.id)


def _delete(freeze: Freeze, machine: Machine, entry: e.Delete) -> None:
    """The queue or topic is emptied, and sessions lose their tables of it."""
    topic = machine.sources.find(entry.vhost, entry.name)
    if topic is not None:
        touching.deleted(freeze, machine, topic)
    queue = machine.find_queue(entry.vhost, entry.name)
    if queue is not None:
        touching.dropped(freeze, machine, queue.id)


def _alter(freeze: Freeze, machine: Machine, entry: q.Alter) -> None:
    touching.keep_topic(freeze, machine.sources.find(entry.vhost, entry.name))
    queue = machine.find_queue(entry.vhost, entry.name)
    if queue is not None:
        _keep_queue(freeze, machine, queue.id)


def _of_queue(freeze: Freeze, machine: Machine, entry: q.Cancel | q.Reschedule) -> None:
    """Delayed messages go, or wait for another time."""
    _keep_queue(freeze, machine, entry.queue)
    touching.keep_topic(freeze, machine.sources.get(entry.queue))


def _purge(freeze: Freeze, machine: Machine, entry: e.Purge) -> None:
    _keep_queue(freeze, machine, entry.queue)
    touching.keep_topic(freeze, machine.sources.topic_of(entry.queue))


def _forget(freeze: Freeze, machine: Machine, entry: e.Forget) -> None:
    """Messages go from the queue and from whoever holds some of it, or from the topic."""
    touching.keep_topic(freeze, machine.sources.get(entry.queue))
    queue = machine.queue(entry.queue)
    if queue is not None:
        touching.dropped(freeze, machine, queue.id)
        for (session, _), table in queue.leases.items():
            if session <= freeze.zxid:
                freeze.keep(table)


def _redrive(freeze: Freeze, machine: Machine, entry: q.Redrive) -> None:
    """Dead letters leave the queue, and go to others, where some make room for them."""
    _keep_queue(freeze, machine, entry.queue)
    for number in redrive_targets(machine, entry):
        _keep_dying(freeze, machine, number)


def _discard(freeze: Freeze, machine: Machine, entry: q.Discard) -> None:
    _keep_queue(freeze, machine, entry.queue)


def _mark_used(freeze: Freeze, machine: Machine, entry: q.MarkUsed) -> None:
    for number in entry.queues:
        _keep_queue(freeze, machine, number)


def _move(freeze: Freeze, machine: Machine, entry: v.Move) -> None:
    if entry.producer <= freeze.zxid:
        freeze.keep(machine.producers.get(entry.producer))
    _keep_queue(freeze, machine, entry.queue)
    _keep_dying(freeze, machine, entry.to)


def _expire_queue(freeze: Freeze, machine: Machine, entry: q.ExpireQueue) -> None:
    touching.dropped(freeze, machine, entry.queue)


def _transaction(freeze: Freeze, machine: Machine, entry: x.Transaction) -> None:
    """Each part comes into its queue or topic, each verdict takes something out of its consumer's table."""
    if entry.producer <= freeze.zxid:
        freeze.keep(machine.producers.get(entry.producer))
    try:
        parts, settlements = entry.split(), entry.verdicts()
    except ValueError:
        return
    for part in parts:
        _publish(freeze, machine, as_publish(entry, part, part.size))
    for settlement in settlements:
        _settle(freeze, machine, as_settle(entry, settlement))


def _prepare(freeze: Freeze, machine: Machine, entry: x.Prepare) -> None:
    """The producer has its turn; all half messages are copied in the beginning."""
    if entry.producer <= freeze.zxid:
        freeze.keep(machine.producers.get(entry.producer))


def _resolve(freeze: Freeze, machine: Machine, entry: x.Resolve) -> None:
    """What is committed comes into its queue or topic."""
    half = machine.halves.get(entry.half)
    if half is None or not entry.commit:
        return
    queue, topic = target_of(machine, half)
    if queue is not None:
        _keep_dying(freeze, machine, queue.id)
    elif topic is not None:
        touching.arrived(freeze, machine, topic, half.routes)


TOUCHES: dict[type[e.Entry], Callable[[Freeze, Machine, Any], None]] = {
    e.Epoch: _nothing,  # all that is known of the brokers is copied in the beginning
    c.Membership: _nothing,
    c.NodeAddress: _nothing,
    e.SessionOpen: _nothing,
    e.SessionClose: _session_close,
    e.ProducerOpen: _nothing,  # those that it fences or pushes out are only forgotten
    e.ProducerOpenUnlimited: _nothing,
    e.ProducerClose: _nothing,
    e.Publish: _publish,
    e.PublishGrouped: _publish,
    e.PublishIdentified: _publish,
    e.Grant: _grant,
    e.GrantPlaced: _grant,
    e.GrantIdentified: _grant,
    e.Settle: _settle,
    e.SettleJudged: _settle,
    e.Clock: _clock,
    e.Declare: _declare,
    e.Delete: _delete,
    e.Purge: _purge,
    e.Forget: _forget,
    q.Alter: _alter,
    t.Schedule: _nothing,  # likewise, and producers are only forgotten
    t.Fire: _nothing,
    q.Policy: _nothing,  # all policies are copied in the beginning
    q.Cancel: _of_queue,
    q.Reschedule: _of_queue,
    q.Redrive: _redrive,
    q.Discard: _discard,
    v.Move: _move,
    q.ExpireQueue: _expire_queue,
    q.MarkUsed: _mark_used,
    t.Subscribe: touching.subscribe,
    t.Unsubscribe: touching.unsubscribe,
    t.Fill: touching.fill,
    x.Transaction: _transaction,
    x.Prepare: _prepare,
    x.Resolve: _resolve,
    x.Checked: _nothing,
    r.Resume: _settle,
    r.MarkClosed: _mark_closed,
}
"""What each kind of entry changes. A kind that is missing here cannot be applied while a freeze is under way, and a
test compares the kinds with those that the machine applies."""
