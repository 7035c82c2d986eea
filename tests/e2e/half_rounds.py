"""Prepared messages while everybody is killed: `python -m tests.e2e.half_rounds [--count 10000] [--seed 1]`.

Producers prepare an order, pay it in a local SQLite database, and commit; they are killed -9 at every stage, by
themselves and by chance, and so is the broker. Others answer the check-backs. In the end each order ends as the
database says: delivered if it is paid, else never; nobody sees one before the database has it as paid, and none is
stored twice. Exits with 1 when a promise was broken.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import trio

from sluicemq.client import Client, connect
from sluicemq.client.errors import SluiceError
from tests.e2e.broker_process import BrokerProcess, unused_port
from tests.e2e.half_producer import GROUP, QUEUE, check_with, open_database

CHECKOUT = Path(__file__).resolve().parents[2]
PRODUCERS = 2
PRODUCER_SECONDS = (0.8, 2.5)
"""How long a producer sells that does not kill itself."""
BROKER_SECONDS = (1.5, 4.0)
END_SECONDS_MAX = 120.0


@dataclass
class Result:
    """What was found.

    Attributes:
        violations: Promises that were broken.
        prepared: Orders that a producer began with.
        paid: Orders that the database has as paid.
        delivered: Position of each order that was delivered.
        producer_deaths: Producers that ended before their work did.
        broker_deaths: Times that the broker was killed.

    """

    violations: list[str] = field(default_factory=list)
    prepared: int = 0
    paid: int = 0
    delivered: dict[int, str] = field(default_factory=dict)
    producer_deaths: int = 0
    broker_deaths: int = 0


class Rounds:
    """One run in *directory*."""

    def __init__(self, directory: Path, count: int, seed: int) -> None:
        self._count = count
        self._rng = random.Random(seed)
        self._database_path = str(directory / "orders.db")
        self._journals = [directory / f"begun-{number}" for number in range(PRODUCERS)]
        self._broker = BrokerProcess(directory / "data", port=unused_port(), options=("--log-level", "warning"))
        self._database = open_database(self._database_path)
        self.result = Result()

    async def run(self) -> Result:
        """Run until every order has ended."""
        self._broker.start()
        try:
            async with connect(self._broker.url, connect_timeout=60.0) as client:
                await client.declare_queue(QUEUE)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._consume, client)
                    async with trio.open_nursery() as sellers:
                        killing = await nursery.start(self._kill_broker)
                        for number in range(PRODUCERS):
                            sellers.start_soon(self._sell, number)
                    killing.cancel()
                    await self._end(client)
                    nursery.cancel_scope.cancel()
                await self._judge(client)
            self._broker.stop()
        finally:
            self._broker.kill()
        return self.result

    # --- what happens ----------------------------------------------------------------------------------------------

    def _begun(self, number: int) -> list[int]:
        journal = self._journals[number]
        # A line that a kill cut in two is that of an order which nobody prepared yet.
        return [int(line) for line in journal.read_text().split("\n")[:-1]] if journal.exists() else []

    async def _sell(self, number: int) -> None:
        """Let one producer after the other sell this one's share of the orders."""
        share = self._count // PRODUCERS
        first, behind = number * share, (number + 1) * share
        while first < behind:
            # At each of five stages: a few dozen die by themselves, however many orders there are.
            chance = str(0.0008 + 1.2 / self._count)
            arguments = [self._broker.url, self._database_path, str(self._journals[number]), chance]
            arguments += [str(first), str(behind)]
            seed = str(self._rng.randrange(1 << 30))
            process = subprocess.Popen(  # noqa: ASYNC220 - it returns at once
                [sys.executable, "-m", "tests.e2e.half_producer", *arguments, seed],
                cwd=CHECKOUT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stdout is not None
            await trio.to_thread.run_sync(process.stdout.readline)  # "selling"
            with trio.move_on_after(self._rng.uniform(*PRODUCER_SECONDS)):
                await trio.to_thread.run_sync(process.wait, abandon_on_cancel=True)
            process.kill()
            _, errors = await trio.to_thread.run_sync(process.communicate)
            if process.returncode not in (0, -9):
                self.result.violations.append(f"a producer ended with {process.returncode}: {errors[-500:]!r}")
                return
            self.result.producer_deaths += process.returncode != 0
            first = max(self._begun(number), default=first - 1) + 1

    async def _kill_broker(self, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            task_status.started(scope)
            while True:
                await trio.sleep(self._rng.uniform(*BROKER_SECONDS))
                self._broker.kill()
                self.result.broker_deaths += 1
                await trio.to_thread.run_sync(self._broker.start)

    async def _consume(self, client: Client) -> None:
        """Take what comes; nothing may come before the database has it as paid, nor from two places."""
        async with client.consumer(QUEUE, credit=200) as consumer:
            async for message in consumer:
                order = int(message.body)
                row = self._database.execute("SELECT paid FROM outcomes WHERE id = ?", (order,)).fetchone()
                if row != (1,):
                    self.result.violations.append(f"order {order} was seen while the database had {row}")
                before = self.result.delivered.setdefault(order, message.position)
                if before != message.position:
                    self.result.violations.append(f"order {order} is stored twice: {before} and {message.position}")
                try:
                    await message.ack()
                except SluiceError:
                    continue  # its lease went with the broker; it comes again

    async def _end(self, client: Client) -> None:
        """Answer what is still asked, and wait until everything is decided and consumed."""
        client.transaction_checker(GROUP, lambda message: check_with(open_database(self._database_path), message))
        with trio.move_on_after(END_SECONDS_MAX) as patience:
            while True:
                undecided = [row async for row in client.transactions()]
                state = await client.queue_info(QUEUE)
                if not undecided and not state["ready"] and not state["leased"]:
                    break
                await trio.sleep(0.1)
        if patience.cancelled_caught:
            self.result.violations.append("not everything was decided and consumed in time")

    async def _judge(self, client: Client) -> None:
        result = self.result
        result.prepared = sum(len(set(self._begun(number))) for number in range(PRODUCERS))
        paid = {order for (order,) in self._database.execute("SELECT id FROM outcomes WHERE paid")}
        result.paid = len(paid)
        lost, made_up = paid - set(result.delivered), set(result.delivered) - paid
        if lost:
            result.violations.append(f"{len(lost)} orders are paid and were never delivered: {sorted(lost)[:10]}")
        if made_up:
            result.violations.append(f"{len(made_up)} orders were delivered and not paid: {sorted(made_up)[:10]}")
        state = await client.queue_info(QUEUE)
        if state["published_total"] != len(paid):
            result.violations.append(f"the queue counts {state['published_total']} messages, {len(paid)} are paid")


def run_rounds(directory: Path, count: int, seed: int = 1) -> Result:
    """Prepare so many messages while everybody is killed."""
    return trio.run(Rounds(directory, count, seed).run)


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="sluicemq-half-") as directory:
        started = time.monotonic()
        result = run_rounds(Path(directory), chosen.count, chosen.seed)
    print(
        f"{result.prepared} prepared in {time.monotonic() - started:.0f} s, {result.paid} paid, "
        f"{len(result.delivered)} delivered; {result.producer_deaths} producers and {result.broker_deaths} brokers died"
    )
    for violation in result.violations:
        print(f"VIOLATION: {violation}")
    return 1 if result.violations else 0


if __name__ == "__main__":
    sys.exit(main())
