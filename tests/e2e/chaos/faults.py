"""What is broken, when, and for how long: a plan that a seed makes, and how each of its steps is done.

Between two faults there is a calm in which everything works again, long enough to see that it does; and at no time more
brokers are gone than the cluster is made to bear, but for those steps that take all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from tests.e2e.chaos import history as h
from tests.e2e.chaos.network import CLIENTS, Direction

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from tests.e2e.chaos.cluster import Cluster
    from tests.e2e.chaos.history import History

LEADER = 0
"""Stands for whoever leads when the step begins."""
CALM_SECONDS = (1.5, 4.0)
SLOW_SECONDS = (0.005, 0.05)
RESET_CHANCES = (0.001, 0.01)
CLOCK_SECONDS_MAX = 3_600.0
MENDED = "mended"
"""What the history says when everything works again."""

ALONE = ("kill all", "freeze", "reset clients", "hold clients", "slow", "lossy", "disk full", "clock")
"""What one broker on its own is put through."""
TOGETHER = (
    *("kill leader", "kill one", "kill all", "freeze leader", "freeze one"),
    *("part leader", "part one", "bridge", "one way in", "one way out"),
    *("reset clients", "hold clients", "slow", "lossy", "wipe one"),
    *("disk full leader", "disk full one", "disk full all", "clock leader", "clock one", "clocks"),
    *("churn", "churn and kill leader", "move lead"),
)
"""What several are put through."""


@dataclass(frozen=True, slots=True)
class Step:
    """One fault.

    Attributes:
        calm_seconds: How long everything works before.
        seconds: How long it lasts.
        kind: What it is.
        victim: Number of a broker; `LEADER` for the one that leads then.
        amount: How much: seconds of delay or of a clock's jump, or a chance.

    """

    calm_seconds: float
    seconds: float
    kind: str
    victim: int
    amount: float

    def __str__(self) -> str:
        return f"{self.kind} (broker {self.victim or 'that leads'}, {self.seconds:.1f} s, {self.amount:.3f})"


def plan(chance: random.Random, seconds: float, nodes: int, kinds: tuple[str, ...] = ()) -> list[Step]:
    """Return steps that fill so many seconds."""
    kinds = kinds or (ALONE if nodes == 1 else TOGETHER)
    steps: list[Step] = []
    left = seconds
    while True:
        calm = chance.uniform(*CALM_SECONDS)
        lasts = chance.uniform(0.3, 5.0)
        left -= calm + lasts
        if left < 0:
            return steps
        kind = chance.choice(kinds)
        victim = LEADER if kind.endswith("leader") else chance.randint(1, nodes)
        amount = chance.uniform(*_amounts_of(kind))
        steps.append(Step(calm, lasts, kind, victim, amount))


def _amounts_of(kind: str) -> tuple[float, float]:
    if kind.startswith("clock"):
        return (-CLOCK_SECONDS_MAX, CLOCK_SECONDS_MAX)
    return SLOW_SECONDS if kind == "slow" else RESET_CHANCES


async def carry_out(steps: list[Step], cluster: Cluster, history: History) -> None:
    """Do one step after the other."""
    for step in steps:
        await trio.sleep(step.calm_seconds)
        victim = step.victim or await cluster.leader() or 1
        history.add(h.FAULT, text=f"{step}, broker {victim}")
        await _BEGIN[step.kind.removesuffix(" leader").removesuffix(" one")](cluster, victim, step.amount)
        if step.kind.startswith("churn"):
            history.add(h.FAULT, text="the spare broker votes")
            if step.victim == LEADER:
                cluster.kill(await cluster.leader() or 1)
        await trio.sleep(step.seconds)
        await cluster.mend()
        if step.kind.startswith("churn"):
            await cluster.remove()
        history.add(h.FAULT, text=MENDED)


async def _kill(cluster: Cluster, victim: int, _amount: float) -> None:
    cluster.kill(victim)


async def _kill_all(cluster: Cluster, _victim: int, _amount: float) -> None:
    for node in cluster.numbers:
        cluster.kill(node)


async def _freeze(cluster: Cluster, victim: int, _amount: float) -> None:
    cluster.freeze(victim)


async def _wipe(cluster: Cluster, victim: int, _amount: float) -> None:
    cluster.wipe(victim)


async def _part(cluster: Cluster, victim: int, _amount: float) -> None:
    """Nobody reaches the victim but the clients that are with it."""
    others = set(cluster.numbers) - {victim}
    cluster.network.part([{victim, CLIENTS}, {*others, CLIENTS}])


async def _bridge(cluster: Cluster, victim: int, _amount: float) -> None:
    """The victim reaches everybody; the others fall into two halves that reach it only."""
    others = [node for node in cluster.numbers if node != victim]
    half = len(others) // 2
    cluster.network.part([{victim, CLIENTS, *others[:half]}, {victim, CLIENTS, *others[half:]}])
    # Clients are no bridge: each group has them, because a client reaches every broker.


async def _one_way_in(cluster: Cluster, victim: int, _amount: float) -> None:
    """Brokers do not hear the victim, and it hears them."""
    for node in cluster.numbers:
        if node != victim:
            cluster.network.direction(victim, node).hold()


async def _one_way_out(cluster: Cluster, victim: int, _amount: float) -> None:
    """The victim does not hear the other brokers, and they hear it."""
    for node in cluster.numbers:
        if node != victim:
            cluster.network.direction(node, victim).hold()


async def _reset_clients(cluster: Cluster, _victim: int, _amount: float) -> None:
    for gate in cluster.network.gates.values():
        gate.reset()


async def _hold_clients(cluster: Cluster, victim: int, _amount: float) -> None:
    cluster.network.both(CLIENTS, victim, Direction.hold)


async def _slow(cluster: Cluster, _victim: int, amount: float) -> None:
    def slow(direction: Direction) -> None:
        direction.delay_seconds = amount

    cluster.network.everywhere(slow)


async def _lossy(cluster: Cluster, _victim: int, amount: float) -> None:
    def lose(direction: Direction) -> None:
        direction.reset_chance = amount

    cluster.network.everywhere(lose)


async def _fill_disk(cluster: Cluster, victim: int, _amount: float) -> None:
    cluster.fill_disk(victim)


async def _fill_all_disks(cluster: Cluster, _victim: int, _amount: float) -> None:
    for node in cluster.numbers:
        cluster.fill_disk(node)


async def _turn_clock(cluster: Cluster, victim: int, amount: float) -> None:
    cluster.turn_clock(victim, amount)


async def _turn_clocks(cluster: Cluster, _victim: int, amount: float) -> None:
    """Every broker's clock jumps elsewhere, and the leader is killed: another clock counts from then on."""
    for node in cluster.numbers:
        cluster.turn_clock(node, amount * node / len(cluster.numbers) * (-1) ** node)
    cluster.kill(await cluster.leader() or 1)


async def _churn(cluster: Cluster, _victim: int, _amount: float) -> None:
    await cluster.add()
    await cluster.promote()


async def _move_lead(cluster: Cluster, _victim: int, _amount: float) -> None:
    await cluster.transfer(await cluster.leader() or 1)


_BEGIN: dict[str, Callable[[Cluster, int, float], Awaitable[None]]] = {
    "kill": _kill,
    "kill all": _kill_all,
    "freeze": _freeze,
    "wipe": _wipe,
    "part": _part,
    "bridge": _bridge,
    "one way in": _one_way_in,
    "one way out": _one_way_out,
    "reset clients": _reset_clients,
    "hold clients": _hold_clients,
    "slow": _slow,
    "lossy": _lossy,
    "disk full": _fill_disk,
    "disk full all": _fill_all_disks,
    "clock": _turn_clock,
    "clocks": _turn_clocks,
    "churn": _churn,
    "churn and kill": _churn,
    "move lead": _move_lead,
}
