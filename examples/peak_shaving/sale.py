"""Runs the sale twice, with the same customers, and watches: once without a queue, once with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import trio

from sluicemq.client import Client, connect
from sluicemq.examples.common.processes import DemoFailed, Processes, free_port, make_empty
from sluicemq.examples.peak_shaving.plan import DIRECT, EXTRAS, PAYMENTS, QUEUED, Plan, open_stock, settings_of_payments

MARKER = ".sluicemq-sale"
MODULE = "sluicemq.examples.peak_shaving"
SAMPLE_SECONDS = 0.5
DRAIN_SECONDS_MAX = 120.0
TRIES_MAX = 3
"""So often a customer tries whom the shop asked to come again, or who got an error."""


@dataclass(slots=True)
class Sample:
    """What one half second was like.

    Attributes:
        at: Seconds since the run began.
        arrivals: Customers a second.
        served: Payments a second.
        backlog: Payments that wait, in the queue and in the service.
        answer_seconds: Longest answer of those that were answered then; None where none was.
        pace: What the queue delivers a second now; None without it.
        extras: Unimportant messages that wait.

    """

    at: float
    arrivals: float
    served: float
    backlog: int
    answer_seconds: float | None
    pace: float | None = None
    extras: int = 0


@dataclass(slots=True)
class Run:
    """One of the two sales.

    Attributes:
        shop: direct or queued.
        samples: How it went, over time.
        answers: What customers were told, by status code.
        seconds: How long each answer took.
        charged: Orders that were charged.
        charged_twice: Those of them that were charged more than once.
        told_wrong: Customers who were charged and told that it failed.
        sold: Pieces that were promised.
        oversold: Those beyond what there was.

    """

    shop: str
    samples: list[Sample] = field(default_factory=list)
    answers: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    charged: int = 0
    charged_twice: int = 0
    told_wrong: int = 0
    sold: int = 0
    oversold: int = 0

    def complaints(self) -> list[str]:
        """Return what went wrong; nothing is what one wants."""
        found = {
            f"{self.oversold} pieces were sold that are not there": self.oversold,
            f"{self.charged_twice} customers were charged twice": self.charged_twice,
            f"{self.told_wrong} customers were charged and told that it failed": self.told_wrong,
            f"{self.sold} pieces were promised and {self.charged} paid": self.sold != self.charged,
            f"{self.answers[502] + self.answers[504]} customers got an error": self.answers[502] + self.answers[504],
        }
        return [text for text, true in found.items() if true]


class Sale:
    """Both sales in one folder; `watch` is called with each sample."""

    def __init__(self, folder: Path, plan: Plan, say: Callable[[str], None], watch: Callable[[Run], None]) -> None:
        self.folder = folder
        self.plan = plan
        self.say = say
        self.watch = watch
        self.runs = {DIRECT: Run(DIRECT), QUEUED: Run(QUEUED)}
        self._front, self._payment = free_port(), free_port()
        self._url = f"sluicemq://127.0.0.1:{free_port()}"
        self._arrived = 0
        self._answered: list[float] = []
        self._failed: set[str] = set()

    async def run(self) -> dict[str, Run]:
        """Run both.

        Raises:
            DemoFailed: It could not be done.

        """
        make_empty(self.folder, MARKER)
        database = open_stock(self.folder)
        for shop in self.runs:
            database.execute("INSERT INTO stock VALUES (?, ?)", (shop, self.plan.pieces))
        with Processes(self.folder) as processes:
            await self._start(processes)
            for shop, path in ((DIRECT, "/buy-directly"), (QUEUED, "/buy")):
                self.say(f"{shop}: {self.plan.normal:g} customers a second, then {self.plan.factor:g} times as many")
                processes.start("payment", f"{MODULE}.payment", [str(self._payment)])
                await processes.listening("payment", self._payment)
                await self._sell(self.runs[shop], path, processes)
                await self._audit(self.runs[shop])
                await processes.stop("payment")
            for name in ("front", PAYMENTS, EXTRAS, "broker"):
                await processes.stop(name)
        database.close()
        return self.runs

    async def _start(self, processes: Processes) -> None:
        await processes.start_broker(self._url)
        async with connect(self._url) as client:
            await client.declare_queue(PAYMENTS, **settings_of_payments(self.plan))
            await client.declare_queue(EXTRAS)
        payment = str(self._payment)
        processes.start("front", f"{MODULE}.front", [self._url, str(self.folder), str(self._front), payment])
        for queue in (PAYMENTS, EXTRAS):
            processes.start(queue, f"{MODULE}.workers", [self._url, payment, queue])
        await processes.listening("front", self._front)

    # --- one sale ---

    async def _sell(self, run: Run, path: str, processes: Processes) -> None:
        limits = httpx2.Limits(max_connections=None)
        base = f"http://127.0.0.1:{self._front}"
        done = trio.Event()
        async with (
            connect(self._url, name="operator") as client,
            httpx2.AsyncClient(base_url=base, timeout=30, limits=limits, trust_env=False) as web,
            trio.open_nursery() as watching,
        ):
            await web.get("/health")
            watching.start_soon(self._watch, run, client, done)
            started = trio.current_time()
            async with trio.open_nursery() as customers:
                for number, at in enumerate(self.plan.arrivals()):
                    await trio.sleep_until(started + at)
                    customers.start_soon(self._customer, web, run, path, f"{run.shop}-{number}")
            processes.check()
            with trio.move_on_after(DRAIN_SECONDS_MAX):
                await done.wait()
            watching.cancel_scope.cancel()
        if not done.is_set():
            raise DemoFailed(f"payments still wait after {DRAIN_SECONDS_MAX:g} s")

    async def _customer(self, web: httpx2.AsyncClient, run: Run, path: str, order: str) -> None:
        for tried in range(1, TRIES_MAX + 1):
            before = trio.current_time()
            self._arrived += 1
            answer = await web.post(path, params={"order": order})
            seconds = trio.current_time() - before
            run.seconds.append(seconds)
            self._answered.append(seconds)
            if answer.status_code == 429 and tried < TRIES_MAX:
                await trio.sleep(float(answer.headers["Retry-After"]))
                continue
            if answer.status_code in {502, 504}:
                self._failed.add(order)
                if tried < TRIES_MAX:  # as people do: they press the button again
                    continue
            else:
                self._failed.discard(order)
            run.answers[answer.status_code] += 1
            return

    async def _watch(self, run: Run, client: Client, done: trio.Event) -> None:
        """Look twice a second; it is over when all have come and nothing waits any more."""
        base = f"http://127.0.0.1:{self._payment}"
        started = trio.current_time()
        last_served = arrived_before = 0
        async with httpx2.AsyncClient(base_url=base, timeout=30, trust_env=False) as web:
            for turn in range(1, 10**6):
                await trio.sleep_until(started + turn * SAMPLE_SECONDS)
                report = (await web.get("/report")).json()
                line, extras = await client.queue_info(PAYMENTS), await client.queue_info(EXTRAS)
                waiting = line["ready"] + line["leased"] + line["delayed"] if run.shop == QUEUED else report["waiting"]
                answered, self._answered = self._answered, []
                pace = line["delivery_rate_now"] if run.shop == QUEUED else None
                run.samples.append(
                    Sample(
                        at=trio.current_time() - started,
                        arrivals=(self._arrived - arrived_before) / SAMPLE_SECONDS,
                        served=(report["done"] - last_served) / SAMPLE_SECONDS,
                        backlog=waiting,
                        answer_seconds=max(answered, default=None),
                        pace=pace,
                        extras=extras["ready"] if run.shop == QUEUED else 0,
                    )
                )
                last_served, arrived_before = report["done"], self._arrived
                self.watch(run)
                over = trio.current_time() - started > self.plan.before_seconds + self.plan.sale_seconds
                if over and not waiting and not report["waiting"] and (run.shop == DIRECT or not extras["ready"]):
                    done.set()
                    return

    # --- the end ---

    async def _audit(self, run: Run) -> None:
        base = f"http://127.0.0.1:{self._payment}"
        async with httpx2.AsyncClient(base_url=base, timeout=30, trust_env=False) as web:
            charges: dict[str, int] = (await web.get("/report")).json()["charges"]
        database = open_stock(self.folder)
        (run.sold,) = database.execute("SELECT COUNT(*) FROM sales WHERE shop = ?", (run.shop,)).fetchone()
        database.close()
        run.charged = len(charges)
        run.charged_twice = sum(count > 1 for count in charges.values())
        run.told_wrong = len(self._failed & set(charges))
        run.oversold = max(0, run.sold - self.plan.pieces)
        self._arrived, self._answered, self._failed = 0, [], set()
