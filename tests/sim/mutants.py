"""Mistakes on purpose: each is one wrong line of the core, the driver, the machine or the disk, and must be found.

Those in what has to happen once stand in `mutants_of_once`, which has the whole table.

What a simulator is worth shows in what it finds. A mutant replaces one function for as long as a run lasts, so the
product knows nothing of it. Each names the profile of faults that suits it; it is caught when any invariant breaks,
and the table says after how many seeds, and by what. A mutant that survives is a hole in the simulator, or no mistake
at all.
"""

from __future__ import annotations

import contextlib
import dataclasses
from typing import TYPE_CHECKING, Any
from unittest import mock

from sluicemq.broker.queues.entries import Settle
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.sequences import Producer, Producers
from sluicemq.broker.replication import discovery, following, membership, synchronization
from sluicemq.broker.replication.broadcast import Broadcast
from sluicemq.broker.replication.discovery import Discovery, Promising
from sluicemq.broker.replication.effects import InstallSnapshot, Token
from sluicemq.broker.replication.election import Electorate
from sluicemq.broker.replication.following import Following
from sluicemq.broker.replication.leading import Leading
from sluicemq.broker.replication.local import Local
from sluicemq.broker.replication.membership import Configuration
from sluicemq.broker.replication.messages import Ack, FollowerInfo, Method, NewEpoch, Phase, Vote
from sluicemq.broker.replication.progress import Progress, ProgressState
from sluicemq.broker.replication.reads import Reads
from sluicemq.broker.replication.replica import Replica
from sluicemq.broker.replication.synchronization import Plan
from sluicemq.storage import SegmentLog, SnapshotMissing, StorageError, recovery
from sluicemq.wire.errors import SluiceError
from tests.disk import SimulatedDisk, SimulatedFile
from tests.sim import snapshots
from tests.sim.entries import MACHINE_LIMITS, LogMemory
from tests.sim.log_thread import LogThread
from tests.sim.service import Lead, Service
from tests.sim.simulation import AS_DRAWN, Conditions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LATE = Conditions(sync_seconds=0.03, latency_seconds=0.02, late_probability=0.5, reset_probability=0.01)
"""Connections break often, and half of what was under way comes out of them all the same."""
SLOW_DISKS = Conditions(sync_seconds=0.3, join_drops=False)
"""A join takes long, because everything before it is still carried out."""
MOODS = {"late messages": LATE, "slow disks": SLOW_DISKS}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """A mistake.

    Attributes:
        says: What it does wrong.
        patch: Makes the mistake while the context lasts.
        profile: Faults under which it shows.
        nodes: How many; None: as the seed says.
        conditions: What machines and network must be like for it to show.
        once: Whether clients must want things to happen once.

    """

    says: str
    patch: Callable[[], contextlib.AbstractContextManager[Any]]
    profile: str = "crash"
    nodes: int | None = None
    conditions: Conditions = AS_DRAWN
    once: bool = False

    @property
    def mood(self) -> str | None:
        """What the conditions are called."""
        return next((name for name, known in MOODS.items() if known == self.conditions), None)


MUTANTS: dict[str, Mutant] = {}


def _add(
    name: str,
    says: str,
    *replaced: tuple[Any, str, Any],
    profile: str = "crash",
    nodes: int | None = None,
    conditions: Conditions = AS_DRAWN,
) -> None:
    @contextlib.contextmanager
    def patch() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for owner, attribute, replacement in replaced:
                stack.enter_context(mock.patch.object(owner, attribute, replacement))
            yield

    MUTANTS[name] = Mutant(says, patch, profile, nodes, conditions)


# --- the driver and its disk ------------------------------------------------------------------------------------------

_add("ack_before_sync", "an append is reported before its sync", (LogThread, "SYNC_BEFORE_ANSWER", False))
_add("forget_promise", "a promise is reported and never written", (LogThread, "SAVE_PROMISE", False))
_add(
    "join_at_once",
    "the disk is said to rest while it does not",
    (LogThread, "JOIN_WAITS", False),
    profile="everything",
    conditions=SLOW_DISKS,
)
_add("no_file_syncs", "syncs of files do nothing", (SimulatedFile, "sync", lambda self: None))
_add("no_directory_syncs", "syncs of the directory do nothing", (SimulatedDisk, "sync", lambda self: None))
_add(
    "trust_page_cache",
    "a start believes what the kernel remembers after a failed sync",
    (recovery, "sync_end", lambda segment, *_: segment.file.sync()),
    profile="disk",
)
_add(
    "resurrect",
    "a truncation is not carried out on the disk",
    (SegmentLog, "truncate_after", lambda self, zxid: None),
    profile="everything",
)
_add(
    "stale_view",
    "after a join, the log view shows what was dropped",
    (LogMemory, "reload", lambda self, real=LogMemory.reload: None if self.last.zxid else real(self)),
    profile="transfer",
)

# --- the pipeline -----------------------------------------------------------------------------------------------------

_committed = Service.committed
_proposed = Lead.proposed


def _confirm_at_once(self: Lead, reference: Any, zxid: int) -> None:
    _proposed(self, reference, zxid)
    if getattr(reference, "on_applied", None) is not None:
        self._process.truth.confirms(self._process.node, self._process, zxid, self)


def _never_ends(self: Service, effect: Any, real: Any = Service.role_changed) -> None:
    if self.lead is None:
        real(self, effect)


_add(
    "apply_uncommitted",
    "a node applies all that is in its log",
    (Service, "committed", lambda self, zxid: _committed(self, self.process.memory.last.zxid)),
)
_add("confirm_at_once", "a confirmation does not wait for the commit", (Lead, "proposed", _confirm_at_once))
_add(
    "serve_for_ever", "a leader that lost its lead goes on", (Service, "role_changed", _never_ends), profile="partition"
)
_add("keep_sessions", "a new leader leaves old sessions open", (Machine, "sessions_to_close", lambda self: []))


def _accept_all(self: Producers, number: int, sequence: int, now_ms: int, real: Any = Producers.judge) -> Any:
    verdict = real(self, number, sequence, now_ms)
    producer = self.get(number)
    return producer if isinstance(verdict, int) and not isinstance(verdict, Producer | SluiceError) else verdict


_add("no_dedup", "a resent batch is stored again", (Producers, "judge", _accept_all), profile="partition")

# --- election and discovery -------------------------------------------------------------------------------------------


def _always_promise(promised_epoch: int, promised_to: int | None, leader: int, epoch: int) -> Promising:
    answer = discovery.answer_to_new_epoch(promised_epoch, promised_to, leader, epoch)
    return Promising.CONFIRM if answer is Promising.JOIN else answer


def _follow_anybody(promised_epoch: int, promised_to: int | None, leader: int, epoch: int) -> Promising:
    answer = discovery.answer_to_new_epoch(promised_epoch, promised_to, leader, epoch)
    return Promising.JOIN if answer is Promising.REFUSE else answer


def _any_log(self: Discovery, member: Any, last_zxid: int) -> bool:
    self._promised.add(member)
    return True


def _speak_first(self: Following, message: NewEpoch, real: Any = Following._new_epoch) -> None:
    before = self._local.promised_epoch
    real(self, message)
    if self._local.promised_epoch > before:
        self._acknowledge_epoch(promised=True)


_add(
    "double_promise",
    "an epoch is promised to two leaders",
    (following, "answer_to_new_epoch", _always_promise),
    profile="rivals",
    nodes=5,
)
_add(
    "break_promise",
    "a leader of an older epoch is followed",
    (following, "answer_to_new_epoch", _follow_anybody),
    profile="old_leader",
)
_add("word_before_promise", "AckEpoch does not wait for the disk", (Following, "_new_epoch", _speak_first))
_add(
    "no_recency_check",
    "a leader accepts promises of longer logs; and it is elected by its number alone",
    (Discovery, "promised", _any_log),
    (Vote, "__gt__", lambda self, other: self.leader > other.leader),
)
_add(
    "one_promise_is_enough",
    "an epoch begins without a quorum",
    (Discovery, "complete", property(lambda self: bool(self._promised))),
    profile="rivals",
    nodes=5,
)
_add(
    "election_of_one",
    "a minority elects, promises and commits",
    (Configuration, "is_quorum", lambda self, supporters: bool(supporters)),
    profile="partition",
)
_add(
    "same_epoch_again",
    "a leader takes the highest promised epoch, not the next",
    (Discovery, "new_epoch", lambda self, real=Discovery.new_epoch: (lambda e: e and max(1, e - 1))(real(self))),
)
_add(
    "vote_for_the_shorter",
    "the shorter history wins an election",
    (Vote, "__gt__", lambda self, other: (-self.zxid, self.leader) > (-other.zxid, other.leader)),
)

# --- synchronization --------------------------------------------------------------------------------------------------


def _never_truncate(history: Any, chain_at: Any, ends: Any, real: Any = synchronization.plan) -> Plan:
    found = real(history, chain_at, ends)
    return Plan(Method.DIFF, ends[-1]) if found.method is Method.TRUNC else found


def _truncate_all(history: Any, chain_at: Any, ends: Any, real: Any = synchronization.plan) -> Plan:
    found = real(history, chain_at, ends)
    return Plan(Method.TRUNC, history.start) if found.method is Method.TRUNC else found


def _never_snapshot(history: Any, chain_at: Any, ends: Any, real: Any = synchronization.plan) -> Plan:
    found = real(history, chain_at, ends)
    return Plan(Method.DIFF, history.start) if found.method is Method.SNAP else found


_add("never_truncate", "a diverged tail stays", (synchronization, "plan", _never_truncate), profile="everything")
_add(
    "truncate_all",
    "a diverged log is cut at its beginning",
    (synchronization, "plan", _truncate_all),
    profile="everything",
)
_add(
    "never_snapshot",
    "a learner that lags too far is sent proposals",
    (synchronization, "plan", _never_snapshot),
    profile="everything",
)

# --- broadcast --------------------------------------------------------------------------------------------------------


def _minority(voters: Any, reached: Any) -> int:
    return max((reached.get(member, 0) for member in voters), default=0)


def _observers_too(self: Broadcast, configuration: Configuration) -> int:
    ranked = sorted(self._reached.values(), reverse=True)
    needed = len(configuration.voters) // 2
    zxid = ranked[needed] if len(ranked) > needed else 0
    return zxid if zxid >= self.established_zxid else 0


def _old_entries(self: Leading, member: Any, zxid: int, real: Any = Leading._durable) -> None:
    local, broadcast = self._local, self.broadcast
    if broadcast is not None:
        broadcast.durable(member, zxid)
        copied = min(membership.reached_by_quorum(self.configuration, broadcast._reached), local.durable_zxid)
        if copied < broadcast.established_zxid and local.commit(copied):
            broadcast.committed(copied)
    real(self, member, zxid)


def _own_at_once(self: Leading, body: object, real: Any = Leading.append) -> Any:
    entry = real(self, body)
    self.broadcast.durable(self._local.member, entry.zxid)
    self._local.durable_zxid = entry.zxid
    return entry


def _ack_all(self: Following) -> None:
    local = self._local
    self._reply(Ack(self.epoch, self._connection, self._session, local.history.last.zxid))


def _commit_all(self: Following, real: Any = Following._commit) -> None:
    local = self._local
    if self._in_line:
        local.commit(min(self._heard_commit_zxid, local.history.last.zxid))
    real(self)


def _any_session(self: Leading, peer: int, message: Any, real: Any = Leading.receive) -> None:
    known = self.learners.get(peer)
    if known is not None and not isinstance(message, FollowerInfo):
        message = dataclasses.replace(message, session=known.session, epoch=known.epoch)
    real(self, peer, message)


def _any_leader(self: Following, message: Any, real: Any = Following.receive) -> None:
    if not isinstance(message, NewEpoch) and self.epoch:
        message = dataclasses.replace(message, session=self._session, epoch=self.epoch)
    real(self, message)


def _any_connection(self: Replica, event: Any, real: Any = Replica._received) -> None:
    known = self._local.links.get(event.peer)
    if known is not None:
        event = dataclasses.replace(event, message=dataclasses.replace(event.message, connection=known))
    real(self, event)


def _any_completion(self: Local, token: Token, real: Any = Local.persisted) -> Any:
    return real(self, Token(self._generation, 1 << 60))


def _serve_early(self: Leading, real: Any = Leading._establish) -> None:
    real(self)
    if self.broadcast is not None and self.phase is Phase.SYNCHRONIZATION:
        self.phase = Phase.BROADCAST


def _ask_nobody(self: Reads, configuration: Configuration) -> Any:
    done, self._asked = self._asked, []
    return self._zxid, done


_add("minority_commit", "one copy commits", (membership, "reached_by_majority", _minority))
_add("observers_commit", "copies of observers count", (Broadcast, "commit_point", _observers_too), profile="membership")
_add(
    "commit_old_entries",
    "entries of older epochs are committed by counting copies",
    (Leading, "_durable", _old_entries),
    profile="trap",
)
_add("count_own_unsynced", "a leader counts its own entries before its sync", (Leading, "append", _own_at_once))
_add("ack_what_came", "a learner acknowledges what it has not synced", (Following, "_acknowledge", _ack_all))
_add("commit_what_came", "a learner commits what it has not synced", (Following, "_commit", _commit_all))
# Connection, session and epoch are checked one after the other: each alone can be left out, so these leave out all.
_add(
    "mix_acks",
    "a leader counts acknowledgements of ended connections, other sessions and other epochs",
    (Leading, "receive", _any_session),
    (Replica, "_received", _any_connection),
    profile="wiped",
    nodes=3,
    conditions=LATE,
)
_add(
    "obey_old_leader",
    "a learner obeys messages of ended connections, other sessions and other epochs",
    (Following, "receive", _any_leader),
    (Replica, "_received", _any_connection),
    profile="network",
    nodes=3,
    conditions=LATE,
)
_add(
    "stale_completion",
    "an answer of the disk counts for everything that is under way",
    (Local, "persisted", _any_completion),
    profile="transfer",
)
_add("serve_early", "a leader serves before its epoch is committed", (Leading, "_establish", _serve_early))
_add("read_alone", "a read asks no quorum", (Reads, "ready", _ask_nobody), profile="time")
_add(
    "no_patience_end",
    "a leader that nobody hears goes on",
    (Leading, "heard_by_quorum", lambda self, configuration: True),
    profile="partition",
)
_add(
    "one_group",
    "while the voters change, a majority of the new ones is enough",
    (Configuration, "electorates", property(lambda self: (self.next_voters or self.voters,))),
    profile="membership",
)


# --- what the disk lost, bounds, timers, deliveries -------------------------------------------------------------------


def _electorate(self: Local) -> Electorate:
    return Electorate(self.member, self.configuration, self.configuration_zxid, self.listed)


def _promise_all_the_same(self: Following, promised: bool, real: Any = Following._acknowledge_epoch) -> None:
    local = self._local
    damaged_from, local.damaged_from = local.damaged_from, None
    real(self, promised)
    local.damaged_from = damaged_from


def _always_torn(*arguments: Any, real: Any = recovery.judge_end, **named: Any) -> Any:
    end = real(*arguments, **named)
    return end._replace(verdict=recovery.Verdict.TORN) if end.verdict is recovery.Verdict.DAMAGED else end


def _empty_without_snapshot(log: SegmentLog, store: Any, real: Any = snapshots.restart) -> Any:
    try:
        return real(log, store)
    except SnapshotMissing:
        return Machine(MACHINE_LIMITS), None


def _swallow(self: LogThread, work: Any, real: Any = LogThread._guard) -> bool:
    def tried() -> None:
        with contextlib.suppress(OSError, StorageError):
            work()

    return bool(real(self, tried))


def _installed_at_once(self: LogThread, effect: Any, real: Any = LogThread.submit) -> None:
    real(self, effect)
    if isinstance(effect, InstallSnapshot):
        self._persisted(effect.token)


def _with_hole(self: LogMemory, zxid: int, bytes_max: int, real: Any = LogMemory.read_after) -> Any:
    entries = real(self, zxid, bytes_max)
    return entries[1:] if len(entries) > 3 else entries


def _by_last_zxid(history: Any, chain_at: Any, ends: Any, real: Any = synchronization.plan) -> Plan:
    last = ends[-1]
    if history.start.zxid <= last.zxid <= history.last.zxid:
        return Plan(Method.DIFF, last)
    return real(history, chain_at, ends)


def _skip(self: Service, entry: Any, real: Any = Service._apply) -> None:
    if entry.zxid & 63 != 9 or self.process.node.number != 1:
        real(self, entry)


def _forget_who_settles(self: Lead, zxid: int, entry: Any, outcome: Any, real: Any = Lead.applied) -> None:
    proposal = self._waiting.get(zxid)
    if isinstance(entry, Settle) and zxid & 3 == 1 and proposal is not None:
        proposal.on_applied = None
    real(self, zxid, entry, outcome)


def _apply_again(self: Service, zxid: int, real: Any = Service.committed) -> None:
    if zxid & 31 == 7 and self.process.memory.chain_at(self.applied_zxid - 1) is not None:
        self.applied_zxid -= 1
    real(self, zxid)


def _due_at_once(self: Machine, queue_id: int) -> int:
    return self.log_time_ms + 3_600_000


def _all_the_room(self: Progress) -> int:
    return 0 if self.state is ProgressState.SNAPSHOT or self.reading else 1 << 40


def _remember_all(self: Producer, zxid: int, receipts_max: int, id_base: int = 0, real: Any = Producer.record) -> None:
    real(self, zxid, 1 << 30, id_base)


_add(
    "forget_damage",
    "a node whose log has lost something votes and promises like any other",
    (Local, "electorate", property(_electorate)),
    (Local, "votes", property(lambda self: self.electorate.counts(self.member))),
    (Following, "_acknowledge_epoch", _promise_all_the_same),
    profile="amnesia",
    nodes=3,
)
_add(
    "same_incarnation",
    "a wiped disk comes back under its old name",
    (SimulatedDisk, "unique_id", lambda self: bytes(16)),
    profile="wiped",
)
_add(
    "cut_at_damage",
    "a start takes damage for a torn end",
    (recovery, "judge_end", _always_torn),
    profile="rot",
)
_add(
    "missing_snapshot_is_empty",
    "a start without its snapshot begins with an empty state",
    (snapshots, "restart", _empty_without_snapshot),
    profile="rot",
)
_add(
    "go_on_after_errors",
    "an error of the disk is answered like a success",
    (LogThread, "_guard", _swallow),
    profile="io_errors",
)
_add(
    "snapshot_at_once",
    "a snapshot is reported as installed before it is",
    (LogThread, "submit", _installed_at_once),
    profile="wiped",
)
_add(
    "hole_in_reads",
    "what is read for a learner sometimes lacks an entry",
    (LogMemory, "read_after", _with_hole),
)
_add(
    "positions_by_zxid",
    "a common position is found by the learner's last zxid, not by its epochs",
    (synchronization, "plan", _by_last_zxid),
    profile="everything",
)
_add(
    "skip_an_entry",
    "a node applies all but a few entries",
    (Service, "_apply", _skip),
)
_add(
    "apply_again",
    "a node that was sent a snapshot, or starts, applies its last entry twice",
    (Service, "committed", _apply_again),
)
_add("settlements_unanswered", "who settles is sometimes told nothing", (Lead, "applied", _forget_who_settles))
_add(
    "reads_unanswered",
    "a leader that steps down forgets who reads",
    (Reads, "abandon", lambda self: []),
    profile="time",
)
_add("timers_too_early", "delays end as soon as anybody asks", (Machine, "turn_until_ms", _due_at_once))
_add("timers_never", "nobody lets delays end", (Machine, "next_due_ms", lambda self: None))
_add("endless_window", "what is sent to a learner is not bounded", (Progress, "room_bytes", property(_all_the_room)))
_add("endless_receipts", "a producer's receipts are never forgotten", (Producer, "record", _remember_all))
_add("keep_old_files", "what is compacted stays on the disk", (SegmentLog, "reclaim", lambda self, *_: 0))
_add("leave_files_open", "a log that is closed leaves its files open", (SegmentLog, "close", lambda self: None))
