"""The machine: applies the entries of the log, one after the other, and judges each.

Apply is the judge. It is deterministic: the same entries make the same state and the same outcomes on every broker.
It is total: whatever a client caused gets a typed error in the outcome; an exception means that an invariant is
broken, and names it. Its costs follow runs, never messages. This module keeps the state and answers questions; what
each kind of entry does stands in `applying`. It must not know the log, the leader's plans (`dispatch`, `outstanding`)
or the wire's frames.
"""

from __future__ import annotations

import dataclasses
from itertools import islice, takewhile
from typing import TYPE_CHECKING

from sortedcontainers import SortedDict

from sluicemq.broker.queues import audit
from sluicemq.broker.queues.applying import APPLY
from sluicemq.broker.queues.cluster import Cluster
from sluicemq.broker.queues.delayed_looking import next_due_after
from sluicemq.broker.queues.freeze import Freeze
from sluicemq.broker.queues.halves import Halves
from sluicemq.broker.queues.policies import Policies
from sluicemq.broker.queues.prefetch import missing_chunks
from sluicemq.broker.queues.routing.sources import Sources
from sluicemq.broker.queues.schedules import Schedules
from sluicemq.broker.queues.sequences import Producers
from sluicemq.wire.message_ids import moment_of

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.chunks import Chunk, ChunkPool
    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.queues.runs import Run
    from sluicemq.broker.queues.sessions import Session


LOOKED_AHEAD_QUEUES = 16
"""In so many queues that are due it is looked what is due next, while a CLOCK entry is under way."""


@dataclasses.dataclass(frozen=True, slots=True)
class MachineLimits:
    """Bounds of the machine's memory; the same on every broker of a cluster, because apply judges by them.

    The defaults are frozen by the log's format: a broker judges its log again when it starts, and with another limit it
    would refuse what was accepted, or the other way round. To change one needs a new version of the entry judged by it.

    Attributes:
        producers_max: Producers; beyond it the one that was silent longest is forgotten, if that was for long.
        identity_producers_max: Producers of one identity, likewise.
        producer_silence_ms: A producer that was heard of within so many milliseconds of log time is not forgotten for
            another's sake: opening one more is refused.
        receipts_max: Receipts remembered for each producer.
        fenced_max: Fenced producer numbers remembered for each name.
        queues_max: Queues; beyond it a declaration is refused.
        sessions_max: Sessions; beyond it opening one is refused.
        topics_max: Topics; beyond it a declaration is refused.

    """

    producers_max: int = 100_000
    identity_producers_max: int = 50_000
    producer_silence_ms: int = 3_600_000
    receipts_max: int = 256
    fenced_max: int = 256
    queues_max: int = 100_000
    sessions_max: int = 100_000
    topics_max: int = 100_000


class Machine:
    """All queues, sessions and producers.

    Args:
        limits: Bounds of its memory.
        pool: Keeps accounts of the chunks of all queues, for a pager; None: all of them stay in memory.

    Attributes:
        limits: Bounds of its memory.
        pool: As above. With a pool, whoever applies an entry fills what `prefetch` names before.
        applied_zxid: The last entry applied; 0 at first.
        log_time_ms: The machine's time: the largest log time of any entry applied.
        id_moment: The first moment (`wire.message_ids`) behind those of all ids that were given to messages.
        epoch: The epoch of the last entry applied.
        sessions: All sessions by number.
        producers: All producers.
        sources: All topics, and which queues are bound to them.
        policies: Settings for queues by patterns.
        schedules: What is published again and again.
        halves: What is stored and waits for a decision.
        cluster: Who votes, and where brokers are reached.

    """

    def __init__(self, limits: MachineLimits | None = None, pool: ChunkPool | None = None) -> None:
        self.limits = limits = limits or MachineLimits()
        self.pool = pool
        self.applied_zxid = 0
        self.log_time_ms = 0
        self.id_moment = 0
        self.sessions: dict[int, Session] = {}
        self.sources = Sources()
        self.policies = Policies()
        self.schedules = Schedules()
        self.halves = Halves()
        self.cluster = Cluster()
        self.producers = Producers(
            limits.producers_max,
            limits.receipts_max,
            limits.fenced_max,
            identity_producers_max=limits.identity_producers_max,
            silence_ms=limits.producer_silence_ms,
        )
        self._queues: dict[int, Queue] = {}
        self._names: dict[str, SortedDict[str, Queue]] = {}
        # (when CLOCK has something to do there, queue or topic) of all that wait for it, in both directions.
        self._due: SortedDict[tuple[int, int], None] = SortedDict()
        self._due_of: dict[int, int] = {}
        self._freeze: Freeze | None = None
        self._freezes = 0

    # --- questions -----------------------------------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the last entry applied."""
        return self.applied_zxid >> 32

    def queue(self, queue_id: int) -> Queue | None:
        """Return the queue of this number, if it exists."""
        return self._queues.get(queue_id)

    def find_queue(self, vhost: str, name: str) -> Queue | None:
        """Return the queue of this name, if it exists."""
        names = self._names.get(vhost)
        return None if names is None else names.get(name)

    def queues_of(self, vhost: str, after: str = "", count_max: int | None = None) -> list[Queue]:
        """Return the queues of a vhost sorted by name, those behind the name *after*, at most *count_max*."""
        names = self._names.get(vhost)
        if names is None:
            return []
        start = names.bisect_right(after)
        stop = None if count_max is None else start + count_max
        return list(names.values()[start:stop])

    def first_queue_from(self, vhost: str, name: str) -> str | None:
        """Return the name of the queue *name*, or else of the first one below it, if there is any."""
        names = self._names.get(vhost)
        if names is None:
            return None
        found = name if name in names else next(names.irange(name + "."), None)
        return found if found is None or found == name or found.startswith(name + ".") else None

    def queues(self) -> list[Queue]:
        """Return all queues of all vhosts, oldest first."""
        return list(self._queues.values())

    def next_due_ms(self) -> int | None:
        """Return the log time at which a CLOCK entry is due: for a delayed message or a retained one; None: never."""
        return self._due.peekitem(0)[0][0] if self._due else None

    def next_due_after(self, log_time_ms: int) -> int | None:
        """Return when another CLOCK entry is due once one of *log_time_ms*, which is under way, is applied.

        None: never, or that is not known before. Only delayed messages are looked at, of the first few queues.
        """
        found: int | None = None
        for due_ms, queue_id in islice(self._due, LOOKED_AHEAD_QUEUES):
            queue = self._queues.get(queue_id)
            later_ms: int | None = due_ms
            if due_ms <= log_time_ms:
                later_ms = None if queue is None else next_due_after(queue.delayed, log_time_ms)
            if later_ms is not None and (found is None or later_ms < found):
                found = later_ms
            if due_ms > log_time_ms:
                break
        return found

    def due_times(self) -> dict[int, int]:
        """Return when a CLOCK entry is due for each queue or topic that waits for one, by number."""
        return {queue_id: due_ms for due_ms, queue_id in self._due}

    def due_queues(self, count_max: int, log_time_ms: int | None = None) -> list[int]:
        """Return the queues and topics that wait for a CLOCK entry of then (None: now), the first one first."""
        until_ms = self.log_time_ms if log_time_ms is None else log_time_ms
        due = islice(self._due, count_max)
        return [queue_id for _, queue_id in takewhile(lambda item: item[0] <= until_ms, due)]

    def peek(self, queue_id: int, skip: int, count_max: int) -> list[Run]:
        """Return ready runs of the queue in order: at most *count_max* messages after the first *skip*.

        Raises:
            ChunksMissing: Some of them lie in a chunk that is not in memory.

        """
        queue = self._queues.get(queue_id)
        return [] if queue is None else queue.peek(skip, count_max)

    def sessions_to_close(self) -> list[int]:
        """Return the numbers of the sessions to which nobody can come back: a new leader closes them."""
        return sorted(number for number, session in self.sessions.items() if not session.resume_token)

    def state_hash(self) -> bytes:
        """Return a digest of the whole state; costs as much as the state is large."""
        return audit.state_hash(self)

    def check(self) -> None:
        """Assert every invariant; costs as much as the state is large.

        Raises:
            AssertionError: One is broken; the text names it.

        """
        audit.check(self)

    def existing_queue(self, queue_id: int) -> Queue:
        """Return the queue of this number, which exists: something refers to it."""
        return self._queues[queue_id]

    @property
    def queues_count(self) -> int:
        """How many queues there are."""
        return len(self._queues)

    def first_due(self) -> tuple[int, int] | None:
        """Return when CLOCK has something to do first, in log time, and in which queue; None: nowhere."""
        if not self._due:
            return None
        first: tuple[int, int] = self._due.peekitem(0)[0]
        return first

    def turn_until_ms(self, queue_id: int) -> int:
        """Return until when the queue that is due first is the first: by now, or when the next one is due."""
        if len(self._due) == 1:
            return self.log_time_ms
        next_ms, next_id = self._due.peekitem(1)[0]
        first_until_ms: int = next_ms if queue_id < next_id else next_ms - 1
        return min(self.log_time_ms, first_until_ms)

    # --- changes, for those who apply ------------------------------------------------------------------------------

    def add_queue(self, queue: Queue) -> None:
        """Take up a new queue."""
        self._queues[queue.id] = queue
        self._names.setdefault(queue.vhost, SortedDict())[queue.name] = queue
        given = self.policies.settings_for(queue)
        if given:
            queue.change_settings(given, queue.id, self.log_time_ms)

    def note_ids(self, id_base: int, count: int) -> None:
        """Note that *count* messages were given ids from *id_base* on, whatever becomes of them."""
        if id_base:
            behind = moment_of(id_base) + count
            if behind > self.id_moment:
                self.id_moment = behind

    def remove_queue(self, queue: Queue) -> None:
        """Forget a queue, which holds nothing that is due any more."""
        del self._queues[queue.id]
        names = self._names[queue.vhost]
        del names[queue.name]
        if not names:
            del self._names[queue.vhost]

    def due_changed(self, queue: Queue | Topic | Policies) -> None:
        """Bring the index of due times up to date with the queue or topic."""
        due_ms = queue.next_due_ms
        known = self._due_of.get(queue.id)
        if due_ms == known:
            return
        if known is not None:
            del self._due[known, queue.id]
        if due_ms is None:
            del self._due_of[queue.id]
        else:
            self._due_of[queue.id] = due_ms
            self._due[due_ms, queue.id] = None

    # --- images ----------------------------------------------------------------------------------------------------

    def freeze(self) -> Freeze:
        """Return the machine as it is now, to be packed bit by bit while this one goes on; one at a time.

        Takes milliseconds where there are a hundred thousand queues, sessions and producers.
        """
        assert self._freeze is None or self._freeze.done, "one freeze is packed or given up before the next"
        self._freezes += 1
        self._freeze = Freeze(self, self._freezes)
        return self._freeze

    def restore(
        self, applied_zxid: int, log_time_ms: int, queues: dict[int, Queue], sessions: dict[int, Session]
    ) -> None:
        """Take over what an image held, except for producers; the machine must be new, and the leases in place."""
        assert not self.applied_zxid, "a machine is restored before it applies anything"
        self.applied_zxid, self.log_time_ms = applied_zxid, log_time_ms
        self._queues, self.sessions = queues, sessions
        names: dict[str, dict[str, Queue]] = {}
        for queue in queues.values():
            names.setdefault(queue.vhost, {})[queue.name] = queue
            due_ms = queue.next_due_ms
            if due_ms is not None:
                self._due_of[queue.id] = due_ms
        self._names = {vhost: SortedDict(named) for vhost, named in names.items()}
        self._due.update(((due_ms, queue_id), None) for queue_id, due_ms in self._due_of.items())

    # --- apply ---------------------------------------------------------------------------------------------------

    def prefetch(self, entry: e.Entry) -> list[Chunk]:
        """Return the chunks that *entry* needs and that are not in memory: fill them before it is applied."""
        missing = missing_chunks(self, entry)
        if missing and self.pool is not None:
            self.pool.keep(missing)
        return missing

    def apply(self, zxid: int, entry: e.Entry) -> Outcome:
        """Apply one entry.

        Args:
            zxid: Its number in the log, larger than all before.
            entry: The entry.

        Returns:
            The verdict for whoever asked for it, and what the leader has to do.

        Raises:
            AssertionError: An invariant is broken: a bug of ours, or a damaged log.

        """
        assert zxid > self.applied_zxid, "entries are applied in the order of the log"
        self.applied_zxid = zxid
        if entry.log_time_ms > self.log_time_ms:
            self.log_time_ms = entry.log_time_ms
        if self._freeze is not None:
            if self._freeze.done:
                self._freeze = None
            else:
                self._freeze.before(self, entry)
        outcome = APPLY[type(entry)](self, zxid, entry)
        if self.pool is not None and self.pool.kept:
            self.pool.let_kept_go()
        return outcome
