"""One run: a cluster, its clients, its faults, from one seed; then the healing, and the account.

1. The seed chooses sizes, speeds, habits and faults; `Choice` fixes what is not left to it.
2. Clients work while faults strike, for `busy_seconds` of virtual time.
3. Everything heals. The cluster must elect, confirm what is open, and bring all nodes to one log, in bounded time (E5).
4. All power goes off. From the bytes that are left, a majority of the voters (of both groups while they change) must
   have everything (I5, E1), and a snapshot with the log behind it must be the state that was there before (E2).
5. The account (`history`).
"""

from __future__ import annotations

import dataclasses
import gc
import random
import traceback
from typing import TYPE_CHECKING
from unittest import mock

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import halves
from sluicemq.broker.replication.history import EpochRecord
from sluicemq.broker.replication.membership import Member
from sluicemq.broker.replication.messages import Phase
from sluicemq.broker.replication.options import Options
from sluicemq.storage import LogOptions, SegmentLog, SnapshotStore, StorageError
from tests.broker.queues.naive import transactions as naive_transactions
from tests.sim import bounds, snapshots
from tests.sim.answers import Answers
from tests.sim.clients import Consumer, Habits, Operator, Producer, Reader, Seen, Wire
from tests.sim.entries import READ_BYTES, Body, body_in
from tests.sim.faults import Nemesis, draw
from tests.sim.features import TOPIC, Features, with_once
from tests.sim.features import draw as draw_features
from tests.sim.full_account import FullAccount
from tests.sim.history import Account
from tests.sim.log_thread import DiskSpeed
from tests.sim.network import Network, Weather
from tests.sim.node import Clock, Node, Settings
from tests.sim.once import CHECK_INTERVAL_MS_MAX, CHECKS_MAX
from tests.sim.once_clients import AnsweringConsumer, Clerk, Seller
from tests.sim.truth import Truth, groups_of
from tests.sim.world import Violation, World

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractContextManager
    from types import ModuleType

    from sluicemq.broker.queues.machine import Machine
    from tests.sim.faults import Fault

LEADER_SECONDS_MAX = 10.0
HEAL_SECONDS_MAX = 30.0
"""Longest that a cluster may take after all faults to have a leader, and to be one again with everything done.

The notes ask for a leader within 5 seconds. That cannot hold for every seed, for the clock starts when the last fault
ends, not when its effects do: an operation of a disk may still hang for 5 s (`HANGS_SECONDS_MAX`), a node may need 2 s
to start again, and a connection whose other end lost its power is found dead only by what is sent over it: somebody may
have elected that node meanwhile and wait for it for `discovery_seconds`. A campaign counts how many took over 5 s.
"""
FEATURES_SHARE = 0.5
"""In so many seeds clients use everything that queues can do,"""
ONCE_SHARE = 0.7
"""and in so many of these, things have to happen once."""
SELLERS, CLERKS = 2, 2
DEALS = 8
"""Half messages of each seller."""
KIB = 1024


def asking_less(module: ModuleType) -> AbstractContextManager[object]:
    """Let half messages be given up within a run, not after hours."""
    return mock.patch.multiple(module, CHECKS_MAX=CHECKS_MAX, CHECK_INTERVAL_MS_MAX=CHECK_INTERVAL_MS_MAX)


@dataclasses.dataclass(frozen=True)
class Conditions:
    """How machines and network are, where the seed shall not choose.

    Attributes:
        sync_seconds: What a sync takes at least; it may take twice as long.
        latency_seconds: What a message takes at least; it may take twice as long.
        late_probability: That a copy of a message comes out of its connection after the end.
        reset_probability: That a message breaks its connection.
        join_drops: Whether a join drops what has not begun.

    """

    sync_seconds: float | None = None
    latency_seconds: float | None = None
    late_probability: float | None = None
    reset_probability: float | None = None
    join_drops: bool | None = None


AS_DRAWN = Conditions()
"""The seed chooses all of it."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What the caller fixes; everything else is the seed's.

    Attributes:
        nodes: How many; None lets the seed choose from 1 to 7.
        profile: One of `faults.PROFILES`, or `swarm`.
        batches: How many batches are published in all.
        busy_seconds: How long faults strike; None: as long as clients need at their pace.
        without: Numbers of faults that are left out.
        conditions: What the seed shall not choose of machines and network.
        features: Whether clients use everything that queues can do; None lets the seed choose.
        once: Whether they want things to happen once, if they use everything; None lets the seed choose.

    """

    nodes: int | None = None
    profile: str = "swarm"
    batches: int = 60
    busy_seconds: float = 8.0
    without: Collection[int] = ()
    conditions: Conditions = AS_DRAWN
    features: bool | None = None
    once: bool | None = None


@dataclasses.dataclass
class Result:
    """What came of a run."""

    seed: int
    choice: Choice
    violation: Violation | None
    faults: list[Fault]
    digest: int
    seconds: float
    events: int
    committed: int
    epochs: int
    confirmed: int
    deliveries: int
    settled: int
    reads: int
    deaths: dict[str, int]
    lines: list[tuple[float, int, str]] | None
    snapshots_installed: int = 0
    damages: int = 0
    refusals: int = 0
    salvaged: int = 0
    repaired: int = 0
    unseen_damages: int = 0
    delayed: int = 0
    methods: dict[str, int] = dataclasses.field(default_factory=dict)
    nodes: int = 0
    heal_seconds: float = 0.0
    leader_seconds: float = 0.0
    weighed: dict[str, int] = dataclasses.field(default_factory=dict)


class Simulation:
    """One run.

    Args:
        seed: Decides all that `choice` leaves open.
        choice: What is fixed.
        tracing: Keep a line for every transition.

    """

    def __init__(self, seed: int, choice: Choice | None = None, *, tracing: bool = False) -> None:
        self.seed = seed
        self.choice = choice = choice or Choice()
        self.world = world = World(seed, tracing=tracing)
        chance = random.Random(f"plan/{seed}")
        count = choice.nodes or chance.choice((1, 2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 7))
        self.habits = self._draw_habits(chance)
        self.habits.features = self._draw_features(random.Random(f"features/{seed}"))
        self.settings = self._draw_settings(chance)
        self.network = Network(world, self._draw_weather(chance))
        self.truth = Truth(world)
        self.nodes: dict[int, Node] = self.truth.nodes
        numbers = tuple(range(1, count + 1))
        for number in numbers:
            speed = DiskSpeed(
                chance.choice((0.0005, 0.001, 0.01)), chance.choice((0.0, 0.001, 0.01)), chance.choice((0, 0, 0.01))
            )
            sync_seconds = choice.conditions.sync_seconds
            if sync_seconds is not None:
                speed.sync_seconds = speed.jitter_seconds = sync_seconds
            clock = Clock(world, 1 + chance.uniform(-0.01, 0.01), chance.uniform(-2, 2))
            node = Node(number, numbers, world, self.network, self.truth, self.settings, speed, clock)
            self.nodes[number] = node
        for node in self.nodes.values():
            node.peers = self.nodes
            self.network.add(node.number, node)
        self.answers = Answers(world, self.truth.weighed)
        self.wire = Wire(world, self.nodes, self.habits, self.answers)
        self.seen = Seen()
        faults = draw(seed, choice.profile, count, choice.busy_seconds)
        self.faults = [fault for number, fault in enumerate(faults) if number not in choice.without]
        self.nemesis = Nemesis(world, self.nodes, self.network, self.wire, self.truth)
        self.producers: list[Producer] = []
        self.consumers: list[Consumer] = []
        self.operator: Operator | None = None
        self.sellers: list[Seller] = []
        self.clerks: list[Clerk] = []
        self.delayed = 0
        self.heal_seconds = self.leader_seconds = 0.0

    # --- what the seed chooses ----------------------------------------------------------------------------------------

    def _draw_habits(self, chance: random.Random) -> Habits:
        profile = self.choice.profile
        harsh = profile != "calm"
        producers = chance.randint(1, 4)
        return Habits(
            loss_probability=chance.choice((0.0, 0.0, 0.01, 0.1)) if harsh else 0.0,
            batches=self.choice.batches // producers,
            batch_messages_max=chance.choice((1, 4, 16)),
            body_bytes_max=chance.choice((8000,) if profile == "installing" else (20, 500, 4000, 8000, 8000)),
            producers=producers,
            consumers=chance.randint(1, 4),
            queues=chance.randint(1, 3),
            window=chance.choice((1, 3, 8)),
            think_seconds=self.choice.busy_seconds * 0.9 * producers / self.choice.batches,
            credit=chance.choice((2, 10, 64)),
            work_seconds=chance.choice((0.01, 0.1, 0.5)),
            crash_probability=chance.choice((0.0, 0.01, 0.05)) if harsh else 0.0,
            nack_probability=chance.choice((0.0, 0.1, 0.3)),
        )

    def _draw_features(self, chance: random.Random) -> Features | None:
        wanted = chance.random() < FEATURES_SHARE
        if self.choice.features is not None:
            wanted = self.choice.features
        if not wanted:
            return None
        features = draw_features(chance, self._queues)
        once_chance = random.Random(f"once/{self.seed}")
        once = once_chance.random() < ONCE_SHARE if self.choice.once is None else self.choice.once
        return with_once(once_chance, features) if once else features

    @property
    def _queues(self) -> list[str]:
        return [f"queue-{number}" for number in range(self.habits.queues)]

    def _draw_settings(self, chance: random.Random) -> Settings:
        segment_bytes = chance.choice((20, 20, 32, 64)) * KIB
        message_bytes = chance.choice((400, 4 * KIB, 1024 * KIB))
        return Settings(
            log=LogOptions(
                segment_bytes=segment_bytes,
                initial_bytes=8 * KIB,
                growth_bytes=4 * KIB,
                spares_max=1,
                zero_piece_bytes=16 * KIB,
                index_stride_bytes=KIB,
                generations_reserved=chance.choice((1, 64)),
            ),
            replica=Options(
                message_bytes_max=message_bytes,
                window_bytes_max=message_bytes * chance.choice((1, 4, 16)),
                uncommitted_bytes_max=max(message_bytes * 16, 64 * KIB),
                epoch_rows_max=chance.choice((2, 1000, 1000)),
                counter_max=chance.choice(
                    (8, 20, 60) if self.choice.profile == "rollover" else (60, 0xF000_0000, 0xF000_0000)
                ),
                snapshot_retry_seconds=0.5,
                transfer_seconds=2.0,
            ),
            snapshot_entries=chance.choice((15,) if self.choice.profile == "installing" else (15, 40, 100)),
            join_drops=self._join_drops(chance.random() < 0.5),
            restart_seconds=chance.choice(((0.01, 0.1), (0.1, 2.0))),
        )

    def _join_drops(self, drawn: bool) -> bool:
        fixed = self.choice.conditions.join_drops
        return drawn if fixed is None else fixed

    def _draw_weather(self, chance: random.Random) -> Weather:
        harsh, conditions = self.choice.profile != "calm", self.choice.conditions
        weather = Weather(
            latency_seconds=chance.choice((0.0005, 0.002, 0.02)),
            jitter_seconds=chance.choice((0.0, 0.005, 0.05)),
            reset_probability=chance.choice((0.0, 0.0, 0.001)) if harsh else 0.0,
            late_probability=chance.choice((0.0, 0.02, 0.1)) if harsh else 0.0,
            overtaking=chance.random() < 0.7,
        )
        if conditions.latency_seconds is not None:
            weather.latency_seconds = weather.jitter_seconds = conditions.latency_seconds
        if conditions.late_probability is not None:
            weather.late_probability = conditions.late_probability
        if conditions.reset_probability is not None:
            weather.reset_probability = conditions.reset_probability
        return weather

    # --- the run ------------------------------------------------------------------------------------------------------

    def run(self) -> Result:
        """Go through all phases; a violation ends the run and is in the result."""
        violation = None
        collecting = gc.isenabled()
        gc.disable()  # it would look through the same living objects again and again
        try:
            with asking_less(halves), asking_less(naive_transactions):
                self._live()
        except Violation as found:
            violation = found
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{place.name}, line {place.lineno} of {place.filename.rpartition('/')[2]}"
            violation = Violation(f"error: {type(error).__name__}: {error} ({where})")
        finally:
            if collecting:
                gc.enable()
        truth, seen, world = self.truth, self.seen, self.world
        return Result(
            self.seed,
            self.choice,
            violation,
            self.faults,
            world.digest,
            world.now,
            world.events,
            len(truth.committed),
            len(truth.leaders),
            len(seen.confirmed),
            seen.deliveries,
            len(seen.settled),
            truth.reads,
            truth.deaths,
            world.lines,
            truth.snapshots_installed,
            truth.damages,
            truth.refusals,
            truth.salvaged,
            truth.repaired,
            truth.unseen_damages,
            self.delayed,
            truth.methods,
            len(self.nodes),
            self.heal_seconds,
            self.leader_seconds,
            dict(truth.weighed),
        )

    def _live(self) -> None:
        self._begin()
        self.world.run_until(self.choice.busy_seconds)
        self.nemesis.end()
        self.habits.work_seconds, self.habits.credit = 0.01, 64
        for consumer in self.consumers:
            consumer.recover()
        if self.operator is not None:
            self.operator.recover()
        for seller in self.sellers:
            seller.healthy = True
        for clerk in self.clerks:
            clerk.recover()
        healed_at = self.world.now
        if not self.world.run_until(healed_at + LEADER_SECONDS_MAX, lambda: self.nemesis.leader() is not None):
            raise Violation(f"E5 liveness: nobody leads {LEADER_SECONDS_MAX:.0f} s after all faults")
        self.leader_seconds = self.world.now - healed_at
        if not self.world.run_until(healed_at + HEAL_SECONDS_MAX, self._is_one):
            raise Violation(f"E5 liveness: {self._what_is_missing()}")
        self.heal_seconds = self.world.now - healed_at
        self._compare_states()
        bounds.check_rest(self.world, self.nodes)
        self.answers.check()
        self._cut_all_power()
        account = self._account()
        account.compare(self.seen)
        self.delayed = account.delayed
        self.truth.weighed["I19"] += account.delayed

    def _account(self) -> Account:
        if self.habits.features is None:
            return Account(self.truth.committed)
        return FullAccount(self.truth.committed, self.truth.weighed, self.truth.sent)

    def _begin(self) -> None:
        world, habits = self.world, self.habits
        for node in self.nodes.values():
            world.after(0.3 * world.random.random(), node.start)
        destinations = consumed = self._queues
        features = habits.features
        if features is not None:
            destinations = [*([TOPIC] if features.has_topic else []), *destinations]
            consumed = features.queues
            self.operator = Operator("operator", self.wire, self.seen, features)
        for number in range(habits.producers):
            queue = destinations[number % len(destinations)]
            self.producers.append(Producer(f"p{number}", self.wire, self.seen, queue, habits.batches))
        once = habits.once
        for number in range(max(habits.consumers, len(consumed))):
            queue = consumed[number % len(consumed)]
            answers = once is not None and once.transactions and queue in self._queues
            kind = AnsweringConsumer if answers else Consumer
            self.consumers.append(kind(f"c{number}", self.wire, self.seen, queue))
        if once is not None and once.halves:
            for number in range(SELLERS):
                destination = self.producers[number % len(self.producers)].queue  # somebody declares it
                self.sellers.append(Seller(f"s{number}", self.wire, self.seen, destination, DEALS))
            self.clerks = [Clerk(f"k{number}", self.wire, self.seen) for number in range(CLERKS)]
        for number in range(2):
            Reader(f"r{number}", self.wire, self.seen)
        self.nemesis.plan(self.faults)

    # --- the end ------------------------------------------------------------------------------------------------------

    @property
    def _waiting(self) -> int:
        """How many producers and sellers are not done."""
        return sum(not each.done for each in self.producers) + sum(not each.done for each in self.sellers)

    def _is_one(self) -> bool:
        """Whether everything that was asked is done, and all nodes are in line."""
        if self._waiting:
            return False
        leader = self.nemesis.leader()
        if leader is None or leader.process is None:
            return False
        last = leader.process.memory.last
        for node in self.nodes.values():
            process = node.process
            if process is None or process.replica.phase is not Phase.BROADCAST or node.damaged_from is not None:
                return False
            if process.memory.last != last or process.service.applied_zxid != last.zxid:
                return False
        machine = leader.process.service.machine
        return not len(machine.halves) and all(queue.messages == 0 for queue in machine.queues())

    def _what_is_missing(self) -> str:
        leader = self.nemesis.leader()
        roles = ", ".join(
            f"{node.number}: {'down' if node.process is None else self._described(node)}"
            for node in self.nodes.values()
        )
        waiting = self._waiting
        left = undecided = 0
        if leader is not None and leader.process is not None:
            machine = leader.process.service.machine
            left, undecided = sum(queue.messages for queue in machine.queues()), len(machine.halves)
        return (
            f"after {HEAL_SECONDS_MAX:.0f} s without faults {waiting} producers wait, {left} messages are left, "
            f"{undecided} are undecided; {roles}"
        )

    def _described(self, node: Node) -> str:
        process = node.process
        assert process is not None
        replica = process.replica
        return f"{replica.role.value}/{replica.phase.value} of {replica.leader} epoch {replica.epoch} at {replica.last}"

    def _compare_states(self) -> None:
        for node in self.nodes.values():
            assert node.process is not None
            machine = node.process.service.machine
            machine.check()
            self.truth.compare(node, machine, machine.applied_zxid)

    def _cut_all_power(self) -> None:
        """From what is on the disks alone: everything committed is on a quorum, and each state is found again."""
        truth = self.truth
        last = truth.committed[-1]
        configuration = truth.configuration
        assert configuration is not None
        holders = set()
        for node in self.nodes.values():
            assert node.process is not None
            state = node.process.service.machine.state_hash()
            applied = node.process.service.machine.applied_zxid
            node.process.end()
            disk = node.disk.crash()
            known = node.process.memory.configuration_at(applied)
            try:
                log = SegmentLog.open(disk, options=self.settings.log, cluster_id=self.settings.cluster_id)
                machine, _ = snapshots.restart(log, SnapshotStore(disk, log.cluster_id))
            except (StorageError, OSError):
                if not node.ledger.damaged:
                    raise
                continue  # it would not start, so it does not count
            zxid = machine.applied_zxid
            start = max(zxid, log.start_zxid)
            while records := log.read_after(start, READ_BYTES):
                for record in records:
                    if record.zxid > applied:
                        break
                    self._apply(machine, record.zxid, body_in(record))
                start = records[-1].zxid
            if machine.applied_zxid == applied and machine.state_hash() != state:
                raise Violation(f"E2 replay: node {node.number} is another after a start than it was at {applied}")
            if log.last_zxid >= last.zxid and (log.start_zxid > last.zxid or log.chain_at(last.zxid) == last.chain):
                holders.add(Member(node.number, log.incarnation))
            assert known is not None
            bounds.check_space(node, disk, log, machine, known, self.settings.log)
        for group in groups_of(configuration):
            held = sum(member in holders for member in group)
            if 2 * held <= len(group):
                numbers = [member.node for member in sorted(holders)]
                raise Violation(f"I5 durability: only {numbers} still hold {last} after all power went off")

    def _apply(self, machine: Machine, zxid: int, body: object) -> None:
        if isinstance(body, EpochRecord):
            machine.apply(zxid, e.Epoch(0, body.leader))
        elif isinstance(body, Body):
            machine.apply(zxid, body.entry)


def run(seed: int, choice: Choice | None = None, *, tracing: bool = False) -> Result:
    """Run one seed."""
    return Simulation(seed, choice, tracing=tracing).run()
