"""Faults: which there are, how a seed chooses among them, and what each does.

A run's faults are a list made before it begins, from a source of chance of its own. So one can be left out, and the
others stay: that is how a failing seed is made small. This module must not judge anything.
"""

from __future__ import annotations

import dataclasses
import errno
import random
from typing import TYPE_CHECKING

from sluicemq.broker.replication import events as ev
from sluicemq.broker.replication import messages as m
from tests.sim import damage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.sim.clients import Wire
    from tests.sim.network import Network
    from tests.sim.node import Node
    from tests.sim.truth import Truth
    from tests.sim.world import World


@dataclasses.dataclass(frozen=True)
class Fault:
    """Something bad at a time.

    Attributes:
        at: When, in seconds.
        kind: One of `KINDS`.
        node: Whom it strikes; 0 means whoever leads then, or anybody.
        seconds: How long it lasts, where it does.
        chance: A number from 0 to 1 for whatever else is to be chosen.

    """

    at: float
    kind: str
    node: int
    seconds: float
    chance: float

    def __str__(self) -> str:
        whom = f"node {self.node}" if self.node else "the leader"
        return f"{self.at:7.3f} s  {self.kind:<18} {whom}, {self.seconds:.2f} s, {self.chance:.3f}"


FAMILIES: dict[str, dict[str, float]] = {
    "crash": {"kill": 3, "power": 2, "power_in_write": 3, "power_in_start": 2, "power_in_install": 1, "all_down": 0.3},
    "partition": {"isolate": 2, "one_way": 2, "halves": 2, "bridge": 1, "ring": 0.5, "flap": 1, "swizzle": 1},
    "leader": {"lone_leader": 2, "without_leader": 1, "with_leader": 1},
    "network": {"reset": 3, "slow_link": 2, "deaf_to_clients": 1},
    "disk": {"slow_disk": 2, "sync_fails": 1, "write_fails": 1, "full_disk": 1},
    "damage": {"damage": 2, "lose_write": 1, "misdirect_write": 0.5},
    "clock": {"wall_jump": 2, "drift": 1},
    "pause": {"pause": 2},
    "membership": {"remove_voter": 1, "add_voter": 3, "wipe": 0.7, "lose_disk": 0.7},
    "transfer": {"transfer": 2},
    "rolling": {"rolling_restart": 1},
    "trap": {"trap": 4, "old_leader": 1, "amnesia": 1},
}
"""Kinds of faults by family, with weights."""

PROFILES: dict[str, dict[str, float] | tuple[str, ...]] = {
    "calm": (),
    "crash": ("crash",),
    "partition": ("partition", "network"),
    "network": ("network", "crash", "partition"),
    "disk": ("disk", "crash"),
    "damage": ("damage", "crash"),
    "time": ("clock", "pause"),
    "membership": ("membership", "crash"),
    "transfer": ("transfer", "crash", "partition"),
    "trap": ("trap", "partition"),
    "everything": tuple(FAMILIES),
    # One kind at a time, with a crash now and then, for the table of faults.
    "old_leader": {"old_leader": 3, "kill": 1},
    "rivals": {"rivals": 4, "isolate": 1},
    "majority": {"without_leader": 4, "kill": 1},
    "minority": {"with_leader": 4, "kill": 1},
    "bridge": {"bridge": 4, "kill": 1},
    "ring": {"ring": 4, "kill": 1},
    "one_way_in": {"one_way_in": 4, "kill": 1},
    "one_way_out": {"one_way_out": 4, "kill": 1},
    "leader_only": {"lone_leader": 4, "power": 1},
    "flapping": {"flap": 3, "power": 1},
    "swizzle": {"swizzle": 3, "power": 1},
    "pauses": {"pause": 4, "kill": 1},
    "drift": {"drift": 3, "wall_jump": 2, "kill": 1},
    "churn": {"remove_voter": 2, "add_voter": 5, "wipe": 1, "isolate": 1, "kill": 1},
    "handover": {"transfer": 4, "isolate": 1, "kill": 1},
    "rolling": {"rolling_restart": 2, "isolate": 1},
    "rollover": {"power": 2, "isolate": 1, "transfer": 1, "power_in_write": 1},
    "torn": {"power": 1, "power_in_write": 3, "power_in_start": 2, "all_down": 1},
    "io_errors": {"sync_fails": 2, "write_fails": 2, "power": 1},
    "full_disk": {"full_disk": 3, "power": 1},
    "rot": {"damage": 3, "power": 1, "kill": 1},
    "amnesia": {"amnesia": 3, "kill": 1},
    "lost_writes": {"lose_write": 3, "misdirect_write": 1, "power": 3, "kill": 1},
    "wiped": {"lose_disk": 3, "wipe": 1, "add_voter": 3, "kill": 1},
    "installing": {"power_in_install": 5, "lose_disk": 2, "wipe": 2, "add_voter": 3, "remove_voter": 1, "kill": 1},
}
"""Named mixes, of families or of kinds with weights; `swarm` chooses any subset of families.

In `rollover` epochs also have room for a few entries only; in `installing` logs begin as late as they may.
"""
KIND_PROFILES = tuple(name for name, mix in PROFILES.items() if isinstance(mix, dict))


def draw(seed: int, profile: str, nodes: int, seconds: float) -> list[Fault]:
    """Return the faults of a run, in order."""
    chance = random.Random(f"faults/{seed}/{profile}")
    mix = PROFILES.get(profile, ())
    if profile == "swarm":
        mix = tuple(family for family in FAMILIES if chance.random() < 0.5)
    weights = (
        mix if isinstance(mix, dict) else {kind: weight for family in mix for kind, weight in FAMILIES[family].items()}
    )
    # Swarm within a family too: some kinds are left out, so that others come in rows.
    if profile == "swarm" and len(weights) > 2:
        weights = {kind: weight for kind, weight in weights.items() if chance.random() < 0.7}
    if not weights:
        return []
    mean_seconds = chance.choice((0.3, 1.0, 1.0, 3.0))
    faults = []
    now = 0.5 + chance.random()
    while now < seconds:
        kind = chance.choices(list(weights), list(weights.values()))[0]
        node = 0 if chance.random() < 0.4 else chance.randint(1, nodes)
        lasting = chance.choice((0.05, 0.3, 1.0, 2.5, 6.0)) * (0.5 + chance.random())
        faults.append(Fault(now, kind, node, lasting, chance.random()))
        now += chance.expovariate(1 / mean_seconds)
    return faults


class Nemesis:
    """Carries out faults on a cluster."""

    def __init__(self, world: World, nodes: dict[int, Node], network: Network, wire: Wire, truth: Truth) -> None:
        self._world = world
        self._nodes = nodes
        self._network = network
        self._wire = wire
        self._truth = truth
        self._over = False
        self.struck = 0

    def plan(self, faults: Sequence[Fault]) -> None:
        """Let these happen in their time."""
        for fault in faults:
            self._world.after(fault.at - self._world.now, self._strike, fault)

    def end(self) -> None:
        """Heal everything, start everybody, and do nothing more."""
        self._over = True
        self._network.heal()
        self._network.weather.reset_probability = self._network.weather.late_probability = 0.0
        self._wire.cut_off.clear()
        self._wire.habits.loss_probability = 0.0
        for node in self._nodes.values():
            node.disk.faults.clear()
            node.disk.cut_at = None
            node.cut_install_after = 0
            node.disk.capacity_bytes = None
            node.speed.factor = 1.0
            node.speed.stall_probability = 0.0
            node.clock.run_at(None)
            node.resume()
            node.start()
        self._replace_disks()

    def _replace_disks(self) -> None:
        """Whoever refuses its disk when everything heals gets an empty one."""
        for node in self._nodes.values():
            if node.refuses_to_start is not None:
                node.wipe()
                node.start()
        self._world.after(0.5, self._replace_disks)

    def leader(self) -> Node | None:
        """Whoever serves, of the highest epoch."""
        serving = [node for node in self._nodes.values() if node.process is not None and node.process.service.lead]
        return max(serving, key=lambda node: node.process.service.lead.epoch, default=None)

    def _strike(self, fault: Fault) -> None:
        if self._over:
            return
        node = self._nodes.get(fault.node) or self.leader() or self._nodes[1 + int(fault.chance * len(self._nodes))]
        self.struck += 1
        if self._world.tracing:
            self._world.say(node.number, f"FAULT {fault}")
        KINDS[fault.kind](self, node, fault)

    def _later(self, seconds: float, action: Callable[..., None], *arguments: object) -> None:
        self._world.after(seconds, self._unless_over, action, arguments)

    def _unless_over(self, action: Callable[..., None], arguments: tuple[object, ...]) -> None:
        if not self._over:
            action(*arguments)

    # --- crashes ------------------------------------------------------------------------------------------------------

    def kill(self, node: Node, fault: Fault) -> None:
        """The process is killed."""
        node.crash(power=False)
        self._stay_down(node, fault)

    def power(self, node: Node, fault: Fault) -> None:
        """The power goes off, between two operations of the disk."""
        node.crash(power=True)
        self._stay_down(node, fault)

    def power_in_write(self, node: Node, fault: Fault) -> None:
        """The power goes off during one of the next operations of the disk."""
        if node.process is not None:
            node.disk.cut_power_after(1 + int(fault.chance * 12))

    def power_in_start(self, node: Node, fault: Fault) -> None:
        """The power goes off, and again while the node starts."""
        node.crash(power=True)
        if node.process is None:
            node.disk.cut_power_after(1 + int(fault.chance * 15))

    def power_in_install(self, node: Node, fault: Fault) -> None:
        """The power goes off while the node puts the next snapshot in the place of its log."""
        node.cut_install_after = 1 + int(fault.chance * 40)

    def rolling_restart(self, node: Node, fault: Fault) -> None:
        """An operator restarts one node after the other, in good order."""
        numbers = sorted(self._nodes)
        for turn, number in enumerate(numbers[node.number - 1 :] + numbers[: node.number - 1]):
            self._later(turn * (0.2 + fault.seconds / 2), self._nodes[number].shut_down)

    def all_down(self, node: Node, fault: Fault) -> None:
        """The power of the whole room goes off."""
        del node
        for each in self._nodes.values():
            each.crash(power=fault.chance < 0.7)

    def _stay_down(self, node: Node, fault: Fault) -> None:
        node.stopped = True
        self._later(fault.seconds, node.start)

    # --- partitions ---------------------------------------------------------------------------------------------------

    def isolate(self, node: Node, fault: Fault) -> None:
        """One node is alone."""
        others = [number for number in self._nodes if number != node.number]
        self._cut([(node.number, other) for other in others] + [(other, node.number) for other in others], fault)
        if fault.chance < 0.5:
            self._cut_off_clients(node.number, fault)

    def one_way(self, node: Node, fault: Fault) -> None:
        """One node is only heard, or only hears."""
        others = [number for number in self._nodes if number != node.number]
        if fault.chance < 0.3:
            others = others[: 1 + int(fault.chance * 3 * len(others))][:1]
        inward = fault.chance < 0.65
        self._cut([(other, node.number) if inward else (node.number, other) for other in others], fault)

    def one_way_in(self, node: Node, fault: Fault) -> None:
        """A node is heard and hears nothing."""
        self._cut([(other, node.number) for other in self._nodes if other != node.number], fault)

    def one_way_out(self, node: Node, fault: Fault) -> None:
        """A node hears everything and is not heard."""
        self._cut([(node.number, other) for other in self._nodes if other != node.number], fault)

    def lone_leader(self, node: Node, fault: Fault) -> None:
        """The leader is cut off from all other nodes, and clients still reach it."""
        one = (self.leader() or node).number
        self._cut([pair for other in self._nodes if other != one for pair in ((one, other), (other, one))], fault)

    def without_leader(self, node: Node, fault: Fault) -> None:
        """A majority is on its own, the leader among the others."""
        self._split_off(self.leader() or node, (len(self._nodes) - 1) // 2, fault)

    def with_leader(self, node: Node, fault: Fault) -> None:
        """A majority is on its own, the leader among them."""
        self._split_off(self.leader() or node, len(self._nodes) // 2 + 1, fault)

    def _split_off(self, node: Node, size: int, fault: Fault) -> None:
        others = [number for number in sorted(self._nodes) if number != node.number]
        shift = int(fault.chance * len(others))
        others = others[shift:] + others[:shift]
        left, right = [node.number, *others[: max(0, size - 1)]], others[max(0, size - 1) :]
        self._cut([pair for one in left for two in right for pair in ((one, two), (two, one))], fault)

    def swizzle(self, node: Node, fault: Fault) -> None:
        """Links of some nodes stop one after the other, and come back in another order."""
        choice = random.Random(fault.chance)
        links = [(one, two) for one in self._nodes for two in self._nodes if one != two and choice.random() < 0.6]
        choice.shuffle(links)
        for turn, link in enumerate(links):
            self._later(turn * fault.seconds / 4 / len(links), self._network.block, *link)
        choice.shuffle(links)
        for turn, link in enumerate(links):
            self._later(fault.seconds * (0.5 + turn / 2 / len(links)), self._network.unblock, *link)

    def halves(self, node: Node, fault: Fault) -> None:
        """Two groups do not hear each other."""
        numbers = sorted(self._nodes)
        shift = node.number % len(numbers)
        numbers = numbers[shift:] + numbers[:shift]
        size = 1 + int(fault.chance * (len(numbers) - 1))
        left, right = numbers[:size], numbers[size:]
        self._cut([pair for one in left for two in right for pair in ((one, two), (two, one))], fault)

    def bridge(self, node: Node, fault: Fault) -> None:
        """Two groups hear each other through one node only."""
        others = [number for number in sorted(self._nodes) if number != node.number]
        half = len(others) // 2
        pairs = [(one, two) for one in others[:half] for two in others[half:]]
        self._cut([link for one, two in pairs for link in ((one, two), (two, one))], fault)

    def ring(self, node: Node, fault: Fault) -> None:
        """Everybody hears its two neighbours only."""
        del node
        numbers = sorted(self._nodes)
        count = len(numbers)
        links = [
            (one, two)
            for place, one in enumerate(numbers)
            for other, two in enumerate(numbers)
            if one != two and (place - other) % count not in (1, count - 1)
        ]
        self._cut(links, fault)

    def flap(self, node: Node, fault: Fault) -> None:
        """A node is cut off again and again."""
        for turn in range(1 + int(fault.chance * 6)):
            once = dataclasses.replace(fault, seconds=0.15 + 0.3 * fault.chance, chance=0.9)
            self._later(turn * 0.6, self.isolate, node, once)

    def _cut(self, links: Sequence[tuple[int, int]], fault: Fault) -> None:
        for link in links:
            self._network.block(*link)
            self._later(fault.seconds, self._network.unblock, *link)

    # --- the network --------------------------------------------------------------------------------------------------

    def reset(self, node: Node, fault: Fault) -> None:
        """Connections break."""
        for number in self._nodes:
            if number != node.number and (fault.chance < 0.5 or self._world.random.random() < 0.5):
                self._network.reset(node.number, number)

    def slow_link(self, node: Node, fault: Fault) -> None:
        """Everything to a node, or from it, takes long."""
        for number in self._nodes:
            if number != node.number:
                link = (number, node.number) if fault.chance < 0.5 else (node.number, number)
                self._network.slow(*link, 0.6 * fault.chance)
                self._later(fault.seconds, self._network.slow, *link, 0.0)

    def deaf_to_clients(self, node: Node, fault: Fault) -> None:
        """Clients do not reach a node."""
        self._cut_off_clients(node.number, fault)

    def _cut_off_clients(self, number: int, fault: Fault) -> None:
        self._wire.cut_off.add(number)
        self._later(fault.seconds, self._wire.cut_off.discard, number)

    # --- disks and clocks ---------------------------------------------------------------------------------------------

    def slow_disk(self, node: Node, fault: Fault) -> None:
        """Syncs take long."""
        node.speed.factor = 20 + 300 * fault.chance
        self._later(fault.seconds, setattr, node.speed, "factor", 1.0)

    def sync_fails(self, node: Node, fault: Fault) -> None:
        """One of the next syncs fails; what it should have written may be lost, and nobody says so again."""
        self._may_die(node)
        node.disk.fail_after(1 + int(fault.chance * 5), errno.EIO, "sync")
        if fault.chance > 0.4:
            # What the kernel has forgotten to write is missed only when it has to be read from the disk.
            self._later(self._world.random.uniform(0.5, 3.0), node.crash_with_power)

    def write_fails(self, node: Node, fault: Fault) -> None:
        """One of the next writes fails."""
        self._may_die(node)
        node.disk.fail_after(1 + int(fault.chance * 5), errno.EIO, "write")

    def full_disk(self, node: Node, fault: Fault) -> None:
        """There is next to no room for a while."""
        self._may_die(node)
        node.disk.capacity_bytes = node.disk.used_bytes() + int(fault.chance * 20_000)
        self._later(fault.seconds, self._room_again, node)

    def _room_again(self, node: Node) -> None:
        node.disk.capacity_bytes = None

    def damage(self, node: Node, fault: Fault) -> None:
        """While its power is off, something happens to the bytes of a node."""
        if not self._may_damage(node):
            return
        choice = random.Random(fault.chance)
        if node.process is None:
            node.lose_power()
        else:
            node.crash(power=True)
        before = damage.copy_of(node.disk)
        before.random = node.disk.random
        before.capacity_bytes = node.disk.capacity_bytes
        kind = choice.choice(sorted(damage.SPOILERS))
        damage.SPOILERS[kind](node.disk, choice)
        if self._world.tracing:
            self._world.say(node.number, f"DAMAGE {kind}")
        if not damage.is_seen(node):
            self._truth.unseen_damages += 1
            node.disk = before
            return
        self._spoiled(node)
        self._stay_down(node, fault)

    def amnesia(self, node: Node, fault: Fault) -> None:
        """One of three nodes loses its log while another one lags and the third, which has everything, goes down."""
        if len(self._nodes) == 3 and self._may_damage(node):
            others = [number for number in sorted(self._nodes) if number != node.number]
            lags, knows = others if fault.chance < 0.5 else reversed(others)
            links = [pair for other in self._nodes if other != lags for pair in ((lags, other), (other, lags))]
            self._cut(links, dataclasses.replace(fault, seconds=1.2))
            self._later(1.0, self._forget, node, self._nodes[knows], fault)

    def _forget(self, node: Node, knows: Node, fault: Fault) -> None:
        if not self._may_damage(node):
            return
        self.kill(knows, dataclasses.replace(fault, seconds=2.0 + fault.seconds))
        if node.process is None:
            node.lose_power()
        else:
            node.crash(power=True)
        node.refuses_to_start = "its log is gone"
        self._spoiled(node)
        if node.salvage():
            node.start()

    def lose_write(self, node: Node, fault: Fault) -> None:
        """One of the next writes to the log is never done, and nobody says so."""
        if node.process is not None and self._may_damage(node):
            node.disk.lose_write_after(1 + int(fault.chance * 8), "segment-")
            self._loses(node)

    def misdirect_write(self, node: Node, fault: Fault) -> None:
        """One of the next writes to the log lands elsewhere in its file."""
        if node.process is not None and self._may_damage(node):
            node.disk.misdirect_write_after(1 + int(fault.chance * 8), "segment-")
            self._loses(node)

    def _loses(self, node: Node) -> None:
        node.loses_writes = True
        self._spoiled(node)

    def _spoiled(self, node: Node) -> None:
        node.ledger.damaged = True
        self._truth.damages += 1
        self._may_die(node)
        self._repair_later(node)

    def _may_damage(self, node: Node) -> bool:
        """Whether a majority of the voters still has good disks then, and no change of voters is under way."""
        committed = self._truth.configuration
        if committed is None or committed.next_voters is not None or self._change_under_way():
            return False
        voting = {member.node for member in committed.voters}
        lost = {*self._truth.lost_members(), node.number} & voting
        return node.number not in lost or 2 * (len(voting) - len(lost)) > len(voting)

    def _repair_later(self, node: Node) -> None:
        self._later(1.0 + self._world.random.random(), self._repair, node)

    def _repair(self, node: Node) -> None:
        """An operator: what is left of the log, or an empty disk, for a node that refuses its own; then a vote."""
        if node.refuses_to_start is not None and self._world.random.random() < 0.5 and node.salvage():
            node.start()
        elif node.refuses_to_start is not None:
            node.wipe()
            node.start()
            self._readmit(node)
        elif node.ledger.damaged:
            self._repair_later(node)

    def _readmit(self, node: Node) -> None:
        committed, process, leader = self._truth.configuration, node.process, self.leader()
        member = None if process is None else process.replica.member
        if committed is not None and member in committed.voters:
            self._truth.repaired += 1
            return
        if member is not None and leader is not None and leader.process is not None:
            leader.process.event(ev.AddVoter("add", node.number))
        self._later(0.5, self._readmit, node)

    def _may_die(self, node: Node) -> None:
        self._truth.expected_deaths.add(node.number)

    def wall_jump(self, node: Node, fault: Fault) -> None:
        """Somebody sets the clock."""
        node.clock.wall_offset += (fault.chance - 0.5) * (7200 if fault.seconds > 1 else 10)

    def drift(self, node: Node, fault: Fault) -> None:
        """A monotonic clock runs far too fast or too slow for a while."""
        node.clock.run_at(0.3 + 0.7 * fault.chance if fault.seconds > 1 else 1 + 2 * fault.chance)
        self._later(fault.seconds, node.clock.run_at, None)

    def pause(self, node: Node, fault: Fault) -> None:
        """The process is stopped for a while."""
        node.pause(fault.seconds)

    # --- at the worst moment ------------------------------------------------------------------------------------------

    def trap(self, node: Node, fault: Fault) -> None:
        """Whoever sends the next message of a type, or gets it, is struck in the middle of that step.

        So a fault also falls between two effects, and into phases that pass too quickly to be met by chance.
        """
        del node
        choice = random.Random(fault.chance)
        kind = choice.choice(TRAPPED)
        strike = choice.choice((self._kill_it, self._kill_it, self._cut_its_power, self._isolate_it, self._pause_it))
        at_sender = choice.random() < 0.6
        also_kind = choice.choice((*TRAPPED, None, None))

        def spring(sender: int, receiver: int) -> None:
            struck = self._nodes[sender if at_sender else receiver]
            if self._world.tracing:
                self._world.say(struck.number, f"TRAP {kind.__name__} from {sender} to {receiver}")
            strike(struck, fault)
            if also_kind is not None and not self._over:
                self._network.traps[also_kind] = lambda sender, _: self._isolate_it(self._nodes[sender], fault)

        self._network.traps[kind] = spring

    def old_leader(self, node: Node, fault: Fault) -> None:
        """A leader with a slow clock is cut off until a later epoch is promised; then that one's leader is killed.

        So who has promised the later epoch looks for a leader while the old one still says that it leads.
        """
        old = self.leader() or node
        old.clock.run_at(0.2)
        self._later(8.0, old.clock.run_at, None)
        links = [
            pair for other in self._nodes if other != old.number for pair in ((old.number, other), (other, old.number))
        ]
        for link in links:
            self._network.block(*link)
        healed: list[bool] = []

        def heal() -> None:
            if not healed:
                healed.append(True)
                for link in links:
                    self._network.unblock(*link)

        def spring(sender: int, receiver: int) -> None:
            del sender
            if not self._over:
                heal()
                self.kill(self._nodes[receiver], fault)

        self._network.traps[m.AckEpoch] = spring
        self._later(4.0, heal)

    def rivals(self, node: Node, fault: Fault) -> None:
        """The leader is killed, and the next is cut off as it names its epoch, from all or all but one learner.

        So the others know nothing of that epoch and take the same one, and a learner may have promised it already.
        """
        self.kill(self.leader() or node, dataclasses.replace(fault, seconds=min(fault.seconds, 0.5)))

        def spring(sender: int, receiver: int) -> None:
            if self._over:
                return
            others = [
                number for number in self._nodes if number != sender and (number != receiver or fault.chance < 0.5)
            ]
            for other in others:
                self._network.reset(sender, other)  # what was said to them is lost
            self._cut([link for other in others for link in ((sender, other), (other, sender))], fault)

        self._network.traps[m.NewEpoch] = spring

    def _kill_it(self, node: Node, fault: Fault) -> None:
        self.kill(node, fault)

    def _cut_its_power(self, node: Node, fault: Fault) -> None:
        self.power(node, fault)

    def _isolate_it(self, node: Node, fault: Fault) -> None:
        self.isolate(node, fault)

    def _pause_it(self, node: Node, fault: Fault) -> None:
        node.pause(fault.seconds)

    # --- what operators do --------------------------------------------------------------------------------------------

    def transfer(self, node: Node, fault: Fault) -> None:
        """The leader is asked to hand over."""
        leader = self.leader()
        if leader is not None and leader.process is not None:
            target = 1 + int(fault.chance * len(self._nodes))
            leader.process.event(ev.TransferLeadership("transfer", target))

    def remove_voter(self, node: Node, fault: Fault) -> None:
        """The leader is asked to let a node vote no more; at least one stays, and no copy is lost already."""
        leader = self.leader()
        if leader is None or leader.process is None or self._truth.lost_members():
            return
        configuration = leader.process.replica.configuration
        if configuration is not None and len(configuration.voters) > 1:
            numbers = sorted(member.node for member in configuration.voters)
            leader.process.event(ev.RemoveVoter("remove", numbers[int(fault.chance * len(numbers))]))

    def add_voter(self, node: Node, fault: Fault) -> None:
        """The leader is asked to let a node vote that does not."""
        leader = self.leader()
        if leader is None or leader.process is None:
            return
        configuration = leader.process.replica.configuration
        if configuration is None:
            return
        voting = {member.node for member in configuration.everybody}
        others = [number for number in sorted(self._nodes) if number not in voting]
        number = others[int(fault.chance * len(others))] if others else node.number
        leader.process.event(ev.AddVoter("add", number))

    def wipe(self, node: Node, fault: Fault) -> None:
        """An operator empties the disk of a node that does not vote, or asks first that it votes no more."""
        leader = self.leader()
        if leader is None or leader.process is None or node is leader:
            return
        configuration = leader.process.replica.configuration
        if configuration is None:
            return
        if node.number in {member.node for member in configuration.everybody}:
            if len(configuration.voters) > 1 and not self._truth.lost_members():
                leader.process.event(ev.RemoveVoter("remove", node.number))
            return
        # By the word of the committed history only: what one node believes may be cut off again.
        committed = self._truth.configuration
        if committed is not None and node.number not in {member.node for member in committed.everybody}:
            node.crash(power=True)
            node.wipe()

    def lose_disk(self, node: Node, fault: Fault) -> None:
        """The disk of a voter is replaced by an empty one, while all others have theirs: one copy is lost for good."""
        committed = self._truth.configuration
        if committed is None or committed.next_voters is not None or len(committed.voters) < 3:
            return
        voting = {member.node for member in committed.voters}
        others_run = all(self._nodes[number].process is not None for number in voting)
        if node.number in voting and others_run and not self._truth.lost_members() and not self._change_under_way():
            node.crash(power=True)
            node.wipe()

    def _change_under_way(self) -> bool:
        """Whether any node knows of a change of voters that is not through, or will when it is started again."""
        committed = self._truth.configuration
        running = [node.process for node in self._nodes.values() if node.process is not None]
        if any(process.replica.configuration not in (None, committed) for process in running):
            return True
        left = [node.voters_left for node in self._nodes.values() if node.process is None and node.voters_left]
        return any(who != committed and not self._truth.is_committed_entry(zxid) for zxid, who in left)


TRAPPED: tuple[type[m.Message], ...] = (
    m.FollowerInfo,
    m.NewEpoch,
    m.NewEpoch,
    m.AckEpoch,
    m.Synchronize,
    m.Propose,
    m.Ack,
    m.Commit,
    m.SnapshotInstalled,
    m.HandOver,
    m.Notification,
)
"""Messages that can spring a trap, some more often."""

KINDS: dict[str, Callable[[Nemesis, Node, Fault], None]] = {
    kind: getattr(Nemesis, kind)
    for mix in [*FAMILIES.values(), *(mix for mix in PROFILES.values() if isinstance(mix, dict))]
    for kind in mix
}
