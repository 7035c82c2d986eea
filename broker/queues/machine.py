"""The machine: applies the entries of the log, one after the other, and judges each.

Apply is the judge. It is deterministic: the same entries make the same state and the same outcomes on every broker.
It is total: whatever a client caused gets a typed error in the outcome; an exception means that an invariant is
broken, and names it. Its costs follow runs, never messages. This module must not know the log, the leader's plans
(`dispatch`, `outstanding`) or the wire's frames.
"""

from __future__ import annotations

import dataclasses
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Any

from sortedcontainers import SortedDict

from sluicemq.broker.queues import audit
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.forgetting import forget
from sluicemq.broker.queues.freeze import Freeze
from sluicemq.broker.queues.leases import LeaseTable
from sluicemq.broker.queues.outcomes import (
    Clocked,
    Declared,
    Deleted,
    Effect,
    Granted,
    LeasesGone,
    Outcome,
    ProducerClosed,
    ProducerOpened,
    Published,
    Purged,
    QueueGone,
    QueuePurged,
    Ready,
    Retained,
    Returned,
    SessionClosed,
    SessionGone,
    SessionOpened,
    Settled,
)
from sluicemq.broker.queues.prefetch import missing_chunks
from sluicemq.broker.queues.queue import Queue, compare_settings
from sluicemq.broker.queues.runs import Run
from sluicemq.broker.queues.sequences import Producer, Producers
from sluicemq.broker.queues.sessions import Session
from sluicemq.broker.queues.tags import add_range, count_tags, ranges_problem
from sluicemq.broker.queues.unsettling import unsettle
from sluicemq.wire.errors import (
    Conflict,
    InvalidRequest,
    LimitReached,
    QueueNotFound,
    SessionNotFound,
    SluiceError,
    UnknownOption,
)
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_RELEASE
from sluicemq.wire.settings import check_name, check_queue_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.queues.chunks import Chunk, ChunkPool

# Frozen by the log's format, see `MachineLimits`; a new verdict needs a number of its own.
VERDICTS = frozenset((VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE, VERDICT_HANDED_OVER, e.EXPIRED, e.ABANDONED))


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

    """

    producers_max: int = 100_000
    identity_producers_max: int = 50_000
    producer_silence_ms: int = 3_600_000
    receipts_max: int = 256
    fenced_max: int = 256
    queues_max: int = 100_000
    sessions_max: int = 100_000


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
        epoch: The epoch of the last entry applied.
        sessions: All sessions by number.
        producers: All producers.

    """

    def __init__(self, limits: MachineLimits | None = None, pool: ChunkPool | None = None) -> None:
        self.limits = limits = limits or MachineLimits()
        self.pool = pool
        self.applied_zxid = 0
        self.log_time_ms = 0
        self.sessions: dict[int, Session] = {}
        self.producers = Producers(
            limits.producers_max,
            limits.receipts_max,
            limits.fenced_max,
            identity_producers_max=limits.identity_producers_max,
            silence_ms=limits.producer_silence_ms,
        )
        self._queues: dict[int, Queue] = {}
        self._names: dict[str, SortedDict[str, Queue]] = {}
        # (when CLOCK has something to do there, queue) of every queue that waits for it, in both directions.
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

    def queues(self) -> list[Queue]:
        """Return all queues of all vhosts, oldest first."""
        return list(self._queues.values())

    def next_due_ms(self) -> int | None:
        """Return the log time at which a CLOCK entry is due: for a delayed message or a retained one; None: never."""
        return self._due.peekitem(0)[0][0] if self._due else None

    def due_times(self) -> dict[int, int]:
        """Return when a CLOCK entry is due for each queue that waits for one, by queue."""
        return {queue_id: due_ms for due_ms, queue_id in self._due}

    def due_queues(self, count_max: int, log_time_ms: int | None = None) -> list[int]:
        """Return the queues that wait for a CLOCK entry of then (None: now), that which is due first first."""
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
        """Return the numbers of all sessions: a new leader closes them, their connections are gone."""
        return sorted(self.sessions)

    def state_hash(self) -> bytes:
        """Return a digest of the whole state; costs as much as the state is large."""
        return audit.state_hash(self)

    def check(self) -> None:
        """Assert every invariant; costs as much as the state is large.

        Raises:
            AssertionError: One is broken; the text names it.

        """
        audit.check(self)

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
        outcome = _APPLY[type(entry)](self, zxid, entry)
        if self.pool is not None and self.pool.kept:
            self.pool.let_kept_go()
        return outcome

    def _epoch(self, zxid: int, entry: e.Epoch) -> Outcome:
        del zxid, entry
        return Outcome()

    def _session_open(self, zxid: int, entry: e.SessionOpen) -> Outcome:
        if len(self.sessions) >= self.limits.sessions_max:
            return _limit_reached("sessions", self.limits.sessions_max)
        self.sessions[zxid] = Session(
            zxid, entry.vhost, entry.identity, entry.client_name, entry.resume_token, self.log_time_ms
        )
        return Outcome(SessionOpened(zxid))

    def _session_close(self, zxid: int, entry: e.SessionClose) -> Outcome:
        del zxid
        session = self.sessions.pop(entry.session, None)
        if session is None:
            return Outcome(None, _session_not_found(entry.session))
        given_back: dict[int, list[Run]] = {}
        messages = 0
        for consumer, table in session.leases.items():
            queue = self._queues[table.queue_id]
            del queue.leases[entry.session, consumer]
            queue.leased -= table.messages
            messages += table.messages
            runs = given_back.setdefault(queue.id, [])
            runs += [run.settled_back(run.ready, handed) for _, run, handed in table.pieces()]
        effects: list[Effect] = [
            Returned(queue_id, self._queues[queue_id].give_back(runs)) for queue_id, runs in given_back.items()
        ]
        effects.append(SessionGone(entry.session))
        return Outcome(SessionClosed(messages), None, tuple(effects))

    def _producer_open(self, zxid: int, entry: e.ProducerOpen) -> Outcome:
        refusal = self.producers.make_room(entry.vhost, entry.name, entry.identity, self.log_time_ms)
        if refusal is not None:
            return Outcome(None, refusal)
        return self._producer_open_unlimited(zxid, entry)

    def _producer_open_unlimited(self, zxid: int, entry: e.ProducerOpen) -> Outcome:
        self.producers.open(zxid, entry.vhost, entry.name, entry.identity, self.log_time_ms)
        return Outcome(ProducerOpened(zxid))

    def _producer_close(self, zxid: int, entry: e.ProducerClose) -> Outcome:
        del zxid
        return Outcome(ProducerClosed(self.producers.close(entry.producer)))

    def _publish(self, zxid: int, entry: e.Publish) -> Outcome:
        verdict = self.producers.judge(entry.producer, entry.sequence, self.log_time_ms)
        if not isinstance(verdict, Producer):
            if isinstance(verdict, SluiceError):
                return Outcome(None, verdict)
            return Outcome(Published(verdict, entry.count, True))
        queue = self._queues.get(entry.queue)
        if queue is None:
            return Outcome(None, _queue_not_found(entry.queue))
        if entry.count < 1:
            return Outcome(None, InvalidRequest("a batch needs at least one message"))
        self.producers.record(verdict, zxid)
        queue.publish(zxid, entry.count, len(entry.payload), self.log_time_ms)
        if queue.history is None:
            return Outcome(Published(zxid, entry.count, False), None, (Ready(entry.queue),))
        queue.history.append(Run(zxid, zxid, 0, entry.count, entry.count, len(entry.payload), self.log_time_ms))
        self._due_changed(queue)
        return Outcome(Published(zxid, entry.count, False), None, (Ready(entry.queue), Retained(entry.queue)))

    def _grant(self, zxid: int, entry: e.Grant) -> Outcome:
        del zxid
        queue = self._queues.get(entry.queue)
        session = self.sessions.get(entry.session)
        if queue is None:
            void: list[int] = []
            _add_tags(void, entry.first_tag, sum(entry.runs[2::3]))
            gone = LeasesGone(entry.session, entry.consumer, void, "queue_deleted")
            return Outcome(Granted(void), None, (gone,) if void and session else ())
        taken = queue.take(entry.runs)
        if session is None:
            return self._grant_to_nobody(queue, entry, taken)
        table = session.leases.get(entry.consumer)
        if table is None:
            table = LeaseTable(entry.session, entry.consumer, entry.queue)
        assert table.queue_id == entry.queue, "a consumer reads one queue"
        void = _lease(table, entry.first_tag, taken)
        if table.messages and entry.consumer not in session.leases:
            session.leases[entry.consumer] = queue.leases[entry.session, entry.consumer] = table
        queue.leased += sum(entry.runs[2::3]) - count_tags(void)
        if void:
            return Outcome(Granted(void), None, (LeasesGone(entry.session, entry.consumer, void, "purged"),))
        return Outcome(Granted(void))

    def _grant_to_nobody(self, queue: Queue, entry: e.Grant, taken: list[Run | int]) -> Outcome:
        """Judge a grant to a session that has ended meanwhile: it counts as given and at once returned.

        The messages may have left through the connection before it broke, so the delivery counts; and the grants that
        follow in the log find the front of the queue as the leader saw it when it planned them.
        """
        runs = [run.settled_back(run.ready, 0) for run in taken if isinstance(run, Run)]
        void: list[int] = []
        _add_tags(void, entry.first_tag, sum(entry.runs[2::3]))
        effects = (Returned(queue.id, queue.give_back(runs)),) if runs else ()
        return Outcome(Granted(void), None, effects)

    def _settle(self, zxid: int, entry: e.Settle) -> Outcome:
        problem = ranges_problem(entry.tags)
        if problem is None and entry.verdict not in VERDICTS:
            problem = f"verdict {entry.verdict} is unknown"
        if problem is not None:
            return Outcome(None, InvalidRequest(problem))
        session = self.sessions.get(entry.session)
        if session is None:
            return Outcome(Settled(list(entry.tags), 0), _session_not_found(entry.session))
        table = session.leases.get(entry.consumer)
        if table is None:
            return Outcome(Settled(list(entry.tags), 0))
        verdict = entry.verdict
        if verdict == VERDICT_HANDED_OVER:
            return Outcome(Settled(table.mark(entry.tags), 0))
        taken = table.take(entry.tags)
        queue = self._queues[table.queue_id]
        queue.leased -= taken.messages
        if not table.messages:
            del session.leases[entry.consumer]
            del queue.leases[entry.session, entry.consumer]
        value = Settled(taken.lost, taken.messages)
        if verdict == VERDICT_ACK:
            queue.settled_total += taken.messages
            return Outcome(value)
        effects = unsettle(zxid, entry, queue, taken, self.log_time_ms)
        self._due_changed(queue)
        return Outcome(value, None, effects)

    def _clock(self, zxid: int, entry: e.Clock) -> Outcome:
        left = entry.items_max
        messages = 0
        ready: dict[int, None] = {}
        while left > 0 and self._due:
            (due_ms, queue_id), _ = self._due.peekitem(0)
            if due_ms > self.log_time_ms:
                break
            queue = self._queues[queue_id]
            if queue.history is not None:
                left -= queue.history.expire(self.log_time_ms, left)
            before = queue.delayed.messages
            runs = queue.delayed.take_due(self._turn_until_ms(queue_id), left)
            if runs:
                left -= len(runs)
                messages += before - queue.delayed.messages
                queue.make_ready(runs, zxid)
                ready[queue_id] = None
            self._due_changed(queue)
        return Outcome(Clocked(messages), None, tuple(map(Ready, ready)))

    def _turn_until_ms(self, queue_id: int) -> int:
        """Return until when the queue that is due first is the first: by now, or when the next one is due."""
        if len(self._due) == 1:
            return self.log_time_ms
        next_ms, next_id = self._due.peekitem(1)[0]
        first_until_ms: int = next_ms if queue_id < next_id else next_ms - 1
        return min(self.log_time_ms, first_until_ms)

    def _declare(self, zxid: int, entry: e.Declare) -> Outcome:
        try:
            _check_object_kind(entry.object_kind)
            check_name(entry.name)
            settings = check_queue_settings(entry.settings)
        except UnknownOption:
            # No leader proposes what it does not know: a newer version wrote this, and judged it otherwise.
            raise
        except InvalidRequest as error:
            return Outcome(None, error.with_traceback(None))
        queue = self.find_queue(entry.vhost, entry.name)
        outcome, changes = compare_settings(None if queue is None else queue.settings, settings)
        if queue is None:
            if len(self._queues) >= self.limits.queues_max:
                return _limit_reached("queues", self.limits.queues_max)
            queue = Queue(zxid, entry.vhost, entry.name, {}, self.log_time_ms, self.pool)
            self._queues[zxid] = queue
            self._names.setdefault(entry.vhost, SortedDict())[entry.name] = queue
        if settings:
            queue.change_settings(settings, zxid, self.log_time_ms)
            self._due_changed(queue)
        return Outcome(Declared(queue.id, outcome, changes))

    def _delete(self, zxid: int, entry: e.Delete) -> Outcome:
        del zxid
        try:
            _check_object_kind(entry.object_kind)
        except InvalidRequest as error:
            return Outcome(None, error.with_traceback(None))
        queue = self.find_queue(entry.vhost, entry.name)
        if queue is None:
            return Outcome(
                None, QueueNotFound(f"no queue is named {entry.name!r:.300}", queue=entry.name, vhost=entry.vhost)
            )
        count = queue.messages
        if entry.if_empty and count:
            return Outcome(
                None,
                Conflict(
                    f"queue {queue.name!r} holds {count} messages (ready, leased and delayed); "
                    "purge it first, or delete it without if_empty",
                    queue=queue.name,
                    messages=count,
                ),
            )
        effects: list[Effect] = []
        for (session, consumer), table in sorted(queue.leases.items()):  # whatever order they came in
            tags: list[int] = []
            for first_tag, run, _ in table.pieces():
                _add_tags(tags, first_tag, run.size)
            effects.append(LeasesGone(session, consumer, tags, "queue_deleted"))
            del self.sessions[session].leases[consumer]
        effects.append(QueueGone(queue.id, queue.name))
        queue.main.clear()
        queue.delayed.empty()
        queue.forget_history()
        self._due_changed(queue)
        del self._queues[queue.id]
        names = self._names[queue.vhost]
        del names[queue.name]
        if not names:
            del self._names[queue.vhost]
        return Outcome(Deleted(count), None, tuple(effects))

    def _purge(self, zxid: int, entry: e.Purge) -> Outcome:
        del zxid
        queue = self._queues.get(entry.queue)
        if queue is None:
            return Outcome(None, _queue_not_found(entry.queue))
        count = queue.purge()
        self._due_changed(queue)
        return Outcome(Purged(count), None, (QueuePurged(queue.id),))

    def _forget(self, zxid: int, entry: e.Forget) -> Outcome:
        del zxid
        queue = self._queues.get(entry.queue)
        if queue is None:
            return Outcome(None, _queue_not_found(entry.queue))
        outcome = forget(queue, self.sessions, entry)
        self._due_changed(queue)
        return outcome

    def _due_changed(self, queue: Queue) -> None:
        """Bring the index of due times up to date with the queue."""
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


def _lease(table: LeaseTable, first_tag: int, taken: list[Run | int]) -> list[int]:
    """Lease the runs in *taken* to the table; return the tags of those that were not to be had."""
    void: list[int] = []
    if int not in set(map(type, taken)):
        if taken:
            table.grant(first_tag, taken)  # type: ignore[arg-type]
        return void
    tag = first_tag
    for run in taken:
        if isinstance(run, Run):
            table.grant(tag, [run])
            tag += run.size
        else:
            _add_tags(void, tag, run)
            tag += run
    return void


def _add_tags(tags: list[int], first: int, count: int) -> None:
    if count:
        add_range(tags, first, first + count - 1)


def _check_object_kind(object_kind: str) -> None:
    if object_kind != "queue":
        raise InvalidRequest(f"{object_kind!r} is no kind of object; known is: queue")


def _queue_not_found(queue_id: int) -> QueueNotFound:
    return QueueNotFound("the queue was deleted meanwhile; declare it again", queue_id=queue_id)


def _session_not_found(session: int) -> SessionNotFound:
    return SessionNotFound(f"session {session} has ended", session=session)


def _limit_reached(what: str, value: int) -> Outcome:
    return Outcome(
        None, LimitReached(f"there are {value} {what} already, and no more are allowed", limit=what, value=value)
    )


_APPLY: dict[type[e.Entry], Callable[[Machine, int, Any], Outcome]] = {
    e.Epoch: Machine._epoch,
    e.SessionOpen: Machine._session_open,
    e.SessionClose: Machine._session_close,
    e.ProducerOpen: Machine._producer_open,
    e.ProducerOpenUnlimited: Machine._producer_open_unlimited,
    e.ProducerClose: Machine._producer_close,
    e.Publish: Machine._publish,
    e.Grant: Machine._grant,
    e.Settle: Machine._settle,
    e.Clock: Machine._clock,
    e.Declare: Machine._declare,
    e.Delete: Machine._delete,
    e.Purge: Machine._purge,
    e.Forget: Machine._forget,
}
