"""Runs the shop both ways under the same load, kills a worker and the broker in the middle, and audits the books.

python -m sluicemq.examples.async_order [--orders N] [--rate R] [--database URL] [--folder DIR]
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import trio

from sluicemq.client import Client, connect
from sluicemq.examples.async_order.audit import Books, read_books
from sluicemq.examples.async_order.books import FRONT, Order, make_tables, open_books
from sluicemq.examples.async_order.services import ADDRESSES_MENDED, DEADLINE, SERVICES, is_paid_in_time
from sluicemq.examples.common.processes import PATIENCE_SECONDS, DemoFailed, Processes, free_port, make_empty

AT_ONCE, ANSWERED = "at-once", "answered"
ATTEMPTS_MAX = 4
RETRY = [0.2, 0.5, 1.0]
DOWN_SECONDS = 1.0
"""How long the broker stays away when it was killed."""
MARKER = ".sluicemq-shop"
MODULE = "sluicemq.examples.async_order"


@dataclass(slots=True)
class Run:
    """What one variant of the shop did.

    Attributes:
        started: When its first order came, seconds since 1970.
        answers: For each order: when it was asked for, after how many seconds it was answered, and whether well.
        books: Its books in the end.
        answered: Set at the next answer.

    """

    started: float = 0.0
    answers: list[tuple[float, float, bool]] = field(default_factory=list)
    books: Books | None = None
    answered: trio.Event = field(default_factory=trio.Event)


@dataclass(slots=True)
class Outcome:
    """What happened.

    Attributes:
        runs: By variant.
        events: What was done to whom in the second one, and when, seconds since 1970.
        redelivered: How often messages came again, by service.
        redriven: Dead letters that the operator let be tried again.
        complaints: What in the books of the second one does not balance.

    """

    runs: dict[str, Run]
    events: list[tuple[float, str]] = field(default_factory=list)
    redelivered: dict[str, int] = field(default_factory=dict)
    redriven: int = 0
    complaints: list[str] = field(default_factory=list)


class Shop:
    """The whole demonstration in one folder."""

    def __init__(
        self,
        folder: Path,
        orders: int = 240,
        rate: float = 40.0,
        database: str = "sqlite",
        deadline_seconds: float = 8.0,
        say: Callable[[str], None] = print,
    ) -> None:
        self.folder = folder
        self.orders = orders
        self.rate = rate
        self.database = database
        self.deadline_seconds = deadline_seconds
        self.say = say
        self.outcome = Outcome({AT_ONCE: Run(), ANSWERED: Run()})
        self._port = free_port()
        self._url = f"sluicemq://127.0.0.1:{free_port()}"

    async def run(self) -> Outcome:
        """Tell the story from start to end.

        Raises:
            DemoFailed: It could not be carried out.

        """
        make_empty(self.folder, MARKER)
        for name in {FRONT, *(each.name for each in SERVICES)}:
            make_tables(open_books(self.database, self.folder, name), (AT_ONCE, ANSWERED))
        with Processes(self.folder) as processes:
            await self._start(processes)
            async with connect(self._url, name="operator", connect_timeout=PATIENCE_SECONDS) as client:
                self.say(f"{self.orders} orders, {self.rate:g} a second, everything done in the request")
                await self._visit(AT_ONCE, "/at-once")
                self.say("the same orders, answered when they are safe; mail and the broker are killed on the way")
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._visit, ANSWERED, "/orders")
                    nursery.start_soon(self._kill_some, processes)
                await self._work_off(client, processes)
                for service in SERVICES:
                    info = await client.queue_info(service.name)
                    self.outcome.redelivered[service.name] = info["redelivered_total"]
            for name in (FRONT, DEADLINE, *(each.name for each in SERVICES), "broker"):
                await processes.stop(name)
        self.outcome.runs[AT_ONCE].books = read_books(self.database, self.folder, AT_ONCE)
        books = self.outcome.runs[ANSWERED].books = read_books(self.database, self.folder, ANSWERED)
        self.outcome.complaints = books.complaints()
        refused = sum(not well for _at, _seconds, well in self.outcome.runs[ANSWERED].answers)
        if refused:
            self.outcome.complaints.append(f"{refused} customers were turned away")
        return self.outcome

    async def _start(self, processes: Processes) -> None:
        await processes.start_broker(self._url)
        async with connect(self._url, connect_timeout=PATIENCE_SECONDS) as client:
            await client.declare_topic("shop", dedup_window=86_400.0)
            for service in SERVICES:
                await client.subscribe(
                    service.pattern, service.name, ordering="key", retry=RETRY, max_deliveries=ATTEMPTS_MAX
                )
            await client.declare_queue(DEADLINE)
        common = [self._url, self.database, str(self.folder)]
        processes.start(FRONT, f"{MODULE}.front", [*common, str(self._port), str(self.deadline_seconds)])
        for name in (DEADLINE, *(each.name for each in SERVICES)):
            processes.start(name, f"{MODULE}.workers", [*common, name])
        await processes.listening(FRONT, self._port)

    # --- customers ---

    async def _visit(self, variant: str, path: str) -> None:
        """Customers come at their rate, whether the shop keeps up or not."""
        run = self.outcome.runs[variant]
        limits = httpx2.Limits(max_connections=None)
        base = f"http://127.0.0.1:{self._port}"
        async with httpx2.AsyncClient(base_url=base, timeout=PATIENCE_SECONDS, limits=limits, trust_env=False) as web:
            await web.get("/health")
            started = trio.current_time()
            run.started = time.time()
            async with trio.open_nursery() as nursery:
                for number in range(self.orders):
                    await trio.sleep_until(started + number / self.rate)
                    order = Order(f"{variant}/{number:05}", f"{variant}/customer-{number % 30}", 20 + number * 7 % 180)
                    nursery.start_soon(self._order, web, run, path, order, number)

    async def _order(self, web: httpx2.AsyncClient, run: Run, path: str, order: Order, number: int) -> None:
        at, before = time.time(), trio.current_time()
        answer = await web.post(path, content=order.pack())
        run.answers.append((at, trio.current_time() - before, answer.is_success))
        run.answered.set()
        if path == "/orders" and is_paid_in_time(number):
            await trio.sleep(0.2)
            paid = await web.post("/payments", content=order.pack())
            if paid.status_code not in {200, 409}:
                raise DemoFailed(f"the payment of {order.number} was answered with {paid.status_code}")

    # --- bad luck ---

    async def _kill_some(self, processes: Processes) -> None:
        await self._until_answered(self.orders // 4)
        self._note("mail killed")
        processes.kill("mail")
        processes.start_again("mail")
        await self._until_answered(self.orders * 3 // 4)
        self._note("broker killed")
        processes.kill("broker")
        await trio.sleep(DOWN_SECONDS)
        processes.start_again("broker")
        self._note("broker back")

    async def _until_answered(self, count: int) -> None:
        run = self.outcome.runs[ANSWERED]
        while len(run.answers) < count:
            run.answered = trio.Event()
            await run.answered.wait()

    def _note(self, text: str) -> None:
        self.outcome.events.append((time.time(), text))
        self.say(f"  {text}")

    # --- the end ---

    async def _work_off(self, client: Client, processes: Processes) -> None:
        """Wait until all is done but what nobody can do; mend that as an operator would; wait for the rest."""
        deadline = trio.current_time() + PATIENCE_SECONDS
        while True:
            processes.check()
            books = await trio.to_thread.run_sync(read_books, self.database, self.folder, ANSWERED)
            dead = len(await client.dead_letters("mail", count=1000))
            if not books.missing() and not dead:
                return
            if dead and books.missing() == dead:
                self.say(f"  {dead} mails have no address: an operator corrects the address book and redrives them")
                (self.folder / ADDRESSES_MENDED).touch()
                self.outcome.redriven += await client.redrive("mail")
                self._note("redriven")
            if trio.current_time() > deadline:
                raise DemoFailed(f"{books.missing()} effects are missing, {dead} dead letters: {books.complaints()}")
            await trio.sleep(0.1)
