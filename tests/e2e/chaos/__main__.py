"""`python -m tests.e2e.chaos --seconds 60 --seed 7 --nodes 3`: break a cluster, and judge what its clients saw.

Ends with 0 where nothing is wrong, else with 1 and what is. The history stays where it says. A first SIGINT or SIGTERM
ends the faults early, and what was done is judged; a second one ends the run. Either way no broker is left behind.
"""

from __future__ import annotations

import argparse
import json
import logging
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import trio

from tests.e2e.chaos.checkers import judge, recovered
from tests.e2e.chaos.cluster import Cluster
from tests.e2e.chaos.faults import MENDED, carry_out, plan
from tests.e2e.chaos.history import CONFIRMED, FAULT, GIVEN_BACK, HANDED, LOST, SETTLED, History
from tests.e2e.chaos.workload import TARGETS, Workload

COUNTED = (CONFIRMED, HANDED, SETTLED, GIVEN_BACK, LOST)
NOT_JUDGED = "ended by a second signal: nothing was judged"


async def _hear_signals(
    faults: trio.CancelScope,
    everything: trio.CancelScope,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        await anext(signals)
        print("no more faults; once more ends at once", file=sys.stderr, flush=True)
        faults.cancel()
        await anext(signals)
        everything.cancel()


async def run(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Run once; return what is wrong."""
    chance = random.Random(arguments.seed)
    steps = plan(chance, arguments.seconds, arguments.nodes, tuple(arguments.only))
    history = History(folder / "history.jsonl")
    cluster = Cluster(folder, arguments.nodes, chance, tuple(arguments.option), spare=arguments.nodes > 1)
    problems: list[str] = []
    drained = False
    try:
        faults = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            await nursery.start(_hear_signals, faults, nursery.cancel_scope)
            await cluster.start(nursery)
            workload = Workload(cluster.url, history, arguments.seed, arguments.rate)
            await workload.run(nursery)
            with faults:
                await carry_out(steps, cluster, history)
            if faults.cancelled_caught:
                await cluster.calm_down()
                history.add(FAULT, text="ended early, mended")
            problems += [f"not drained: {queue}" for queue in await workload.drain()]
            drained = True
            nursery.cancel_scope.cancel()
        if not drained:
            return [NOT_JUDGED]
        problems += cluster.check_calm()
    finally:
        cluster.stop()
        history.close()
    problems += judge(history.events, TARGETS)
    counts = {kind: sum(event.kind == kind for event in history.events) for kind in COUNTED}
    counts["recovered"] = recovered(history.events)
    told = {
        "seed": arguments.seed,
        "steps": sum(event.kind == FAULT and event.text == MENDED for event in history.events),
        **counts,
        "late_seconds_max": round(cluster.late_seconds_max, 2),
    }
    print(json.dumps({**told, "nodes": cluster.figures(), "problems": problems}))
    return problems


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="how long faults come")
    parser.add_argument("--seed", type=int, default=None, help="makes the plan; default: the time")
    parser.add_argument("--nodes", type=int, default=3, choices=(1, 3, 5))
    parser.add_argument("--rate", type=float, default=25.0, help="messages a second, of each of the producers")
    parser.add_argument("--only", action="append", default=[], metavar="FAULT", help="only this fault; may be repeated")
    parser.add_argument("--option", action="append", default=[], help="one more option of sluicemq serve; repeated")
    parser.add_argument("--keep", type=Path, default=None, help="folder for data and history; default: a new one")
    arguments = parser.parse_args()
    if arguments.seed is None:
        arguments.seed = int(time.time())
    logging.basicConfig(level=logging.ERROR)
    folder = arguments.keep or Path(tempfile.mkdtemp(prefix="chaos-"))
    folder.mkdir(parents=True, exist_ok=True)
    problems = trio.run(run, arguments, folder)
    for problem in problems:
        print(problem, file=sys.stderr)
    print(f"the history is {folder / 'history.jsonl'}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
