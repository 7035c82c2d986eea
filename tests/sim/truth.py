"""What must hold at every step, by somebody who sees all nodes at once.

Named as in the replication notes: I1 one leader an epoch; I2 and I10 promises; I3 log matching; I4 one committed
history; I5 what is committed is durable on a quorum; I6 a new leader has all of it; I7 it is never cut off; I8
commitment never goes back and never beyond the disk; I9 an acknowledgement follows its sync; I11 one promise an
epoch; I12 no gaps; I13 the properties of ZAB (`delivery`); I14 equal states at equal entries; I15 what was confirmed is
committed; I16 reads see what was confirmed before them; I17 nothing is confirmed or delivered after a leadership; I18
bounds of memory (`bounds`). I19 to I24 and the E invariants are looked at when a run is over.

What is durable comes from the moments at which syncs of the disk returned (`Ledger`), and is compared with the bytes
that each start finds. This module only looks; it must not change anything.

A check proves little where nothing could have gone wrong. So `weighed` counts, for each invariant, how often it was
looked at with something at stake; what that is stands at each place.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from sluicemq.broker.replication.history import (
    EpochRecord,
    MembershipRecord,
    counter_of,
    epoch_of,
    follows,
    show_zxid,
    zxid_of,
)
from sluicemq.broker.replication.membership import Configuration, Member
from sluicemq.broker.replication.messages import (
    Ack,
    AckEpoch,
    Message,
    NewEpoch,
    Phase,
    Propose,
    Role,
    SnapshotInstalled,
    Synchronize,
)
from tests.sim import bounds
from tests.sim.delivery import Deliveries
from tests.sim.world import Violation, World

if TYPE_CHECKING:
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.replication.effects import Append, RoleChanged
    from sluicemq.broker.replication.history import Entry, Position
    from sluicemq.storage import StorageError
    from tests.sim.driver import Process
    from tests.sim.log_thread import Ledger
    from tests.sim.node import Node
    from tests.sim.service import Lead, Service
    from tests.sim.snapshots import Image

HASH_EVERY = 32


class Truth:
    """The checker.

    Attributes:
        committed: The one committed history, in order.
        confirmed_zxid: The highest entry that was confirmed to any client.
        deaths: Why processes ended themselves, with how often.
        weighed: How often each invariant was looked at when it could have been broken.
        sent: For each GRANT whose messages were sent, up to where its leader had applied when it chose them.

    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.nodes: dict[int, Node] = {}
        self.committed: list[Entry] = []
        self.confirmed_zxid = 0
        self.deaths: dict[str, int] = {}
        self.leaders: dict[int, int] = {}
        self.expected_deaths: set[int] = set()
        self.reads = 0
        self.snapshots_installed = 0
        self.methods: dict[str, int] = {}
        self.damages = self.refusals = self.salvaged = self.repaired = self.unseen_damages = 0
        self.weighed: Counter[str] = Counter()
        self.sent: dict[int, int] = {}
        self.deliveries = Deliveries(self.weighed)
        self._position: dict[int, int] = {}
        self._chains: dict[int, bytes] = {}
        self._voters: Configuration | None = None
        self._promises: dict[tuple[Member, int], int] = {}
        self._candidates: dict[int, set[int]] = {}
        self._acknowledged_epoch: dict[Member, int] = {}
        self._hashes: dict[int, tuple[bytes, int]] = {}
        self._incarnations: dict[int, bytes] = {}
        self._lost: dict[Member, Ledger] = {}

    @property
    def last_zxid(self) -> int:
        """The last committed entry."""
        return self.committed[-1].zxid if self.committed else 0

    @property
    def configuration(self) -> Configuration | None:
        """Who votes, by the committed history."""
        return self._voters

    def is_committed_entry(self, zxid: int) -> bool:
        """Whether the committed history has the entry."""
        return zxid in self._position

    def broken(self, invariant: str, text: str) -> Violation:
        """Return the exception that ends the run."""
        return Violation(f"{invariant}: {text}")

    def incarnation_of(self, number: int) -> bytes:
        """The incarnation of a node's disk, as it was when it was last opened."""
        return self._incarnations.get(number, b"")

    def _is_committed(self, zxid: int, chain: bytes) -> bool:
        position = self._position.get(zxid)
        return position is not None and self.committed[position].chain == chain

    def _weigh(self, invariant: str, *, at_stake: bool = True) -> None:
        if at_stake:
            self.weighed[invariant] += 1

    def _another_leads(self, node: Node) -> bool:
        """Whether some other node takes itself for the leader at the moment."""
        others = (other.process for other in self.nodes.values() if other is not node)
        return any(one is not None and one.replica.role is Role.LEADING for one in others)

    # --- starts and ends ----------------------------------------------------------------------------------------------

    def opened(self, node: Node, process: Process) -> None:
        """A process has opened its disk: it must find everything that was durable, and its promise."""
        ledger, memory = node.ledger, process.memory
        if ledger.installing is not None and ledger.installing == memory.start == memory.last:
            ledger.restart(memory.start)  # the switch was noted when the process ended, and this start carried it out
        ledger.installing = None
        self._incarnations[node.number] = process.log.incarnation
        self._weigh("I2", at_stake=ledger.promised_epoch > 0)  # it has promised something before
        if not ledger.damaged:
            chain = ledger.chains.get(ledger.last_zxid)
            found = memory.chain_at(ledger.last_zxid) if ledger.last_zxid else b""
            if ledger.last_zxid >= memory.start.zxid and chain is not None and found != chain:
                raise self.broken(
                    "I5 durability",
                    f"node {node.number} starts without {show_zxid(ledger.last_zxid)}, which was synced",
                )
            if process.log.promised_epoch < ledger.promised_epoch:
                raise self.broken(
                    "I2 promise",
                    f"node {node.number} starts with promise {process.log.promised_epoch}, "
                    f"it had {ledger.promised_epoch}",
                )
        elif ledger.last_zxid > memory.last.zxid or ledger.promised_epoch > process.log.promised_epoch:
            raise self.broken("I5 durability", f"node {node.number} has lost what was damaged without a word")
        # What was written and not synced may have survived; recovery makes it durable before the start is over.
        ledger.start_zxid = max(ledger.start_zxid, memory.start.zxid)
        kept = memory.between(memory.start.zxid, memory.last.zxid)
        if kept:
            ledger.add(kept)
        ledger.promised_epoch = max(ledger.promised_epoch, process.log.promised_epoch)
        last_epoch = epoch_of(memory.last.zxid)
        if last_epoch > process.log.promised_epoch:
            raise self.broken(
                "I2 promise",
                f"node {node.number} has entries of {last_epoch} and promised {process.log.promised_epoch} only",
            )
        for entry in kept:
            self._match(node, entry)

    def died(self, node: Node, reason: str) -> None:
        """A process ended itself; only faults that were injected may be a reason."""
        text = reason.split(":")[0]
        self.deaths[text] = self.deaths.get(text, 0) + 1
        if node.number not in self.expected_deaths:
            raise self.broken("fatal without a fault", f"node {node.number} stopped: {reason}")

    def refuses_good_data(self, node: Node, error: StorageError) -> None:
        """A start was refused though nobody damaged anything."""
        raise self.broken("storage", f"node {node.number} refuses to start: {error}") from error

    def wiped(self, node: Node) -> None:
        """The disk of *node* is empty now: what it promised and held is gone."""
        incarnation = self._incarnations.pop(node.number, None)
        if incarnation is not None:
            self._lost[Member(node.number, incarnation)] = node.ledger

    # --- messages -----------------------------------------------------------------------------------------------------

    def sends(self, node: Node, process: Process, message: Message, peer: int) -> None:
        """*node* sends something: what it says must be durable."""
        kind = type(message)
        if kind is Ack:
            assert isinstance(message, Ack)
            self._acks(node, process, message.epoch, message.zxid)
        elif kind is Propose:
            assert isinstance(message, Propose)
            bounds.check_proposal(process, peer, message)
        elif kind is Synchronize:
            assert isinstance(message, Synchronize)
            method = message.method.value
            self.methods[method] = self.methods.get(method, 0) + 1
        elif kind is AckEpoch:
            assert isinstance(message, AckEpoch)
            bounds.check_rows(process, message)
            member = process.replica.member
            self._promised(node, process, message.epoch)
            if message.promised:
                self._names(message.epoch, peer)
            last = message.ends[-1]
            if last.zxid > node.ledger.last_zxid or not node.ledger.holds(*last):
                raise self.broken("I9 acknowledgement", f"node {node.number} speaks of {last}, which is not durable")
            self._acknowledged_epoch[member] = max(self._acknowledged_epoch.get(member, 0), message.epoch)
            if message.promised and self._promises.setdefault((member, message.epoch), peer) != peer:
                raise self.broken(
                    "I11 one promise", f"node {node.number} promises epoch {message.epoch} to {peer} as well"
                )
        elif kind is NewEpoch:
            member = process.replica.member
            self._promised(node, process, message.epoch)
            self._names(message.epoch, node.number)
            if self._promises.setdefault((member, message.epoch), node.number) != node.number:
                raise self.broken(
                    "I11 one promise", f"node {node.number} leads epoch {message.epoch}, promised to another"
                )
        elif kind is SnapshotInstalled:
            assert isinstance(message, SnapshotInstalled)
            self._acks(node, process, message.epoch, message.position.zxid)

    def _names(self, epoch: int, leader: int) -> None:
        candidates = self._candidates.setdefault(epoch, set())
        candidates.add(leader)
        self._weigh("I11", at_stake=len(candidates) > 1)  # two nodes want to lead the same epoch

    def _promised(self, node: Node, process: Process, epoch: int) -> None:
        self._weigh("I10")
        if min(process.log.promised_epoch, node.ledger.promised_epoch) < epoch:
            raise self.broken(
                "I10 promise before word", f"node {node.number} speaks of epoch {epoch} before it is durable"
            )

    def _acks(self, node: Node, process: Process, epoch: int, zxid: int) -> None:
        ledger = node.ledger
        self._weigh("I9", at_stake=process.memory.last.zxid > ledger.last_zxid)  # not all it has is durable
        if (
            zxid > ledger.last_zxid
            or zxid > process.log.synced_zxid
            or (zxid > ledger.start_zxid and zxid not in ledger.chains)
        ):
            raise self.broken(
                "I9 acknowledgement",
                f"node {node.number} acknowledges {show_zxid(zxid)}, durable is {show_zxid(ledger.last_zxid)}",
            )
        if epoch < self._acknowledged_epoch.get(process.replica.member, 0):
            raise self.broken(
                "I10 promise", f"node {node.number} acknowledges epoch {epoch} after it promised a later one"
            )

    # --- the log ------------------------------------------------------------------------------------------------------

    def appends(self, node: Node, process: Process, effect: Append) -> None:
        """*node* puts entries behind its log."""
        previous = process.memory.last.zxid
        entries = effect.entries
        applied_zxid = process.service.applied_zxid
        known = process.memory.configuration_at(previous)
        bounds.check_queue(process, effect)
        self._weigh("I12")
        for entry in entries:
            self.deliveries.broadcasts(node.number, entry, applied_zxid)
            if entry.previous_zxid != previous or not follows(previous, entry.zxid):
                raise self.broken("I12 contiguity", f"node {node.number} appends {entry} behind {show_zxid(previous)}")
            self._match(node, entry)
            previous = entry.zxid
            if isinstance(entry.body, EpochRecord | MembershipRecord):
                self._change_settles(node, known, entry.body.configuration)
                known = entry.zxid, entry.body.configuration
        first = entries[0]
        if isinstance(first.body, EpochRecord) and first.body.leader == node.number:
            self._establishes(node, process, first.zxid)

    def _change_settles(
        self, node: Node, known: tuple[int, Configuration] | None, configuration: Configuration
    ) -> None:
        """New voters alone count once it is committed that both groups do; the old ones may, for both did before."""
        if known is None or known[1].next_voters is None or configuration.next_voters is not None:
            return
        zxid, joint = known
        if configuration.voters == joint.next_voters and zxid not in self._position:
            raise self.broken(
                "I5 membership", f"node {node.number} ends the change at {show_zxid(zxid)} before its commit"
            )
        if configuration.voters not in (joint.voters, joint.next_voters):
            raise self.broken("I5 membership", f"node {node.number} ends change {show_zxid(zxid)} with others")

    def _match(self, node: Node, entry: Entry) -> None:
        known = self._chains.get(entry.zxid)
        if known is None:
            self._chains[entry.zxid] = entry.chain
            return
        self._weigh("I3")  # another node, or another life, had an entry of this name
        if known != entry.chain:
            raise self.broken("I3 log matching", f"node {node.number} has another entry {entry} than a node before it")

    def _establishes(self, node: Node, process: Process, zxid: int) -> None:
        if process.replica.role is not Role.LEADING or process.replica.epoch != epoch_of(zxid):
            return
        last = self.committed[-1] if self.committed else None
        memory = process.memory
        if last is not None:  # somebody lacks what is committed, and might have been elected
            lacking = any(not other.ledger.holds(*last.position) for other in self.nodes.values())
            self._weigh("I6", at_stake=lacking)
        if (
            last is not None
            and last.zxid < zxid
            and memory.start.zxid < last.zxid
            and memory.chain_at(last.zxid) != last.chain
        ):
            raise self.broken(
                "I6 leader completeness",
                f"node {node.number} begins epoch {epoch_of(zxid)} without committed entry {last}",
            )

    def truncates(self, node: Node, position: Position) -> None:
        """*node* is about to cut its log."""
        self._weigh("I7")
        last = self.committed[-1] if self.committed else None
        if last is None or position.zxid >= last.zxid:
            return
        for zxid in [known for known in node.ledger.chains if known > position.zxid]:
            if self._is_committed(zxid, node.ledger.chains[zxid]):
                raise self.broken("I7 truncation", f"node {node.number} cuts off committed entry {show_zxid(zxid)}")

    def installed(self, node: Node, image: Image) -> None:
        """*node* has a snapshot now."""
        self.snapshots_installed += 1
        if not self._is_committed(*image.position):
            raise self.broken(
                "I4 one history", f"node {node.number} installs a snapshot at {image.position}, not committed"
            )

    # --- commitment ---------------------------------------------------------------------------------------------------

    def commits(self, node: Node, process: Process, zxid: int) -> None:
        """*node* says that everything up to *zxid* is committed."""
        memory = process.memory
        chain = memory.chain_at(zxid)
        if chain is None:
            raise self.broken("I8 commitment", f"node {node.number} commits {show_zxid(zxid)}, which it does not have")
        if zxid > process.log.synced_zxid or zxid > node.ledger.last_zxid:
            raise self.broken(
                "I8 commitment", f"node {node.number} commits {show_zxid(zxid)} before it is durable there"
            )
        self._weigh("I8", at_stake=memory.last.zxid > node.ledger.last_zxid)  # not all it has is durable
        replica = process.replica
        if replica.role is Role.LEADING and zxid < zxid_of(replica.epoch, 0):
            # Older entries are committed with the leader's own epoch record: copies alone prove nothing.
            raise self.broken("I5 commit rule", f"node {node.number} leads {replica.epoch} and commits older entries")
        if zxid <= self.last_zxid:
            self._weigh("I4")  # another node has committed as much before
            if not self._is_committed(zxid, chain):
                raise self.broken(
                    "I4 one history", f"node {node.number} commits another {show_zxid(zxid)} than others did"
                )
            return
        entries = memory.between(self.last_zxid, zxid)
        if entries[0].previous_zxid != self.last_zxid or (
            self.committed and memory.chain_at(self.last_zxid) != self.committed[-1].chain
        ):
            raise self.broken("I4 one history", f"node {node.number} commits {show_zxid(zxid)} on another history")
        for entry in entries:
            self._position[entry.zxid] = len(self.committed)
            self.committed.append(entry)
            if isinstance(entry.body, EpochRecord | MembershipRecord):
                self._voters = entry.body.configuration
        self._durable_on_quorum(node, process, entries[-1])

    def _holds(self, member: Member, zxid: int, chain: bytes) -> bool:
        """Whether the disk of *member*, this very incarnation, holds the entry."""
        holder = self.nodes.get(member.node)
        if holder is None:
            return False
        if self._incarnations.get(member.node) == member.incarnation:
            return holder.ledger.holds(zxid, chain)
        # It was there when it was acknowledged; that a copy is lost later on is what quorums are for.
        lost = self._lost.get(member)
        return lost is not None and lost.holds(zxid, chain)

    def lost_members(self) -> list[int]:
        """Voters of the committed configuration whose disk is gone, or damaged."""
        everybody = () if self._voters is None else self._voters.everybody
        return [
            member.node
            for member in everybody
            if self._incarnations.get(member.node) != member.incarnation or self.nodes[member.node].ledger.damaged
        ]

    def _durable_on_quorum(self, node: Node, process: Process, entry: Entry) -> None:
        assert self._voters is not None, "nothing is committed before an epoch begins"
        missing = []
        groups = groups_of(self._voters)
        known = process.memory.configuration_at(process.memory.last.zxid)
        if len(groups) == 2 and known is not None and known[1].next_voters is None and known[1].voters in groups:
            # From the moment at which the end of a change is appended, its voters alone count, also for what stands
            # before it. New ones: every later leader needs their quorum, for the first record was committed. Old ones:
            # the change was taken back, and theirs was needed all the time.
            groups = [known[1].voters]
        for group in groups:
            holders = 0
            for member in group:
                if self._holds(member, entry.zxid, entry.chain):
                    holders += 1
                else:
                    missing.append(member.node)
            self._weigh("I5", at_stake=2 * (holders - 1) <= len(group))  # a bare majority: no copy may be lacking
            if 2 * holders <= len(group):
                raise self.broken(
                    "I5 durability",
                    f"node {node.number} commits {entry}, durable on {holders} of {len(group)} voters, "
                    f"not on {sorted(missing)}",
                )

    def applied(self, node: Node, machine: Machine, zxid: int) -> bytes | None:
        """*node* has applied an entry: now and then, compare its state with the others', and return its hash."""
        if counter_of(zxid) % HASH_EVERY != 5:
            return None
        bounds.check_machine(node, machine)
        return self.compare(node, machine, zxid)

    def compare(self, node: Node, machine: Machine, zxid: int) -> bytes:
        """The state of *node* after *zxid* must be everybody's; return its hash."""
        state = machine.state_hash()
        known, other = self._hashes.setdefault(zxid, (state, node.number))
        self._weigh("I14", at_stake=other != node.number)
        if known != state:
            raise self.broken("I14 equal states", f"nodes {node.number} and {other} differ after {show_zxid(zxid)}")
        return state

    def alarmed(self, node: Node, reason: str) -> None:
        """*node* calls for an operator."""
        raise self.broken("I14 equal states", f"node {node.number} raises an alarm: {reason}")

    # --- leaders ------------------------------------------------------------------------------------------------------

    def role_changed(self, node: Node, process: Process, effect: RoleChanged) -> None:
        """*node* is something else."""
        lead = process.service.lead
        if effect.role is Role.LEADING and effect.phase is Phase.BROADCAST:
            self._weigh("I1", at_stake=self._another_leads(node))
            other = self.leaders.setdefault(effect.epoch, node.number)
            if other != node.number:
                raise self.broken("I1 one leader", f"nodes {other} and {node.number} both lead epoch {effect.epoch}")
            if process.replica.committed_zxid < zxid_of(effect.epoch, 0):
                raise self.broken("I6 leader completeness", f"node {node.number} serves before its epoch is committed")
        elif lead is not None:
            self._weigh("I17", at_stake=bool(lead._waiting))  # clients wait for what it can confirm no more

    def confirms(self, node: Node, process: Process, zxid: int, lead: Lead) -> None:
        """*node* confirms an entry to a client."""
        self._weigh("I15")
        if zxid not in self._position:
            raise self.broken("I15 confirmed means committed", f"node {node.number} confirms {show_zxid(zxid)}")
        if lead.over or process.service.lead is not lead or not process.alive:
            raise self.broken(
                "I17 nothing after the end", f"node {node.number} confirms {show_zxid(zxid)} and leads no more"
            )
        self.confirmed_zxid = max(self.confirmed_zxid, zxid)

    def delivers(self, process: Process, zxid: int, lead: Lead, looked_zxid: int) -> None:
        """A leader sends messages to a consumer, under the GRANT at *zxid*; it looked them through at *looked_zxid*."""
        self.sent[zxid] = looked_zxid
        if lead.over or process.service.lead is not lead or not process.alive or epoch_of(zxid) != lead.epoch:
            raise self.broken(
                "I17 nothing after the end",
                f"node {process.node.number} delivers under {show_zxid(zxid)}, and leads no more",
            )

    def read_answered(self, node: Node, service: Service, zxid: int, floor_zxid: int) -> None:
        """A read is answered from the state after *zxid*."""
        self.reads += 1
        self._weigh("I16", at_stake=self._another_leads(node))
        if zxid < floor_zxid:
            raise self.broken(
                "I16 reads",
                f"node {node.number} answers up to {show_zxid(zxid)}, confirmed was {show_zxid(floor_zxid)}",
            )


def groups_of(configuration: Configuration) -> list[frozenset[Member]]:
    """Each group that must have a majority, counted without the core's help."""
    groups = (configuration.voters, configuration.next_voters)
    return [group for group in groups if group is not None]
