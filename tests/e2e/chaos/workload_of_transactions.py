"""Clients whose work holds as a whole or not at all: transactions, and prepared messages that a database decides.

A mover takes a message of `inputs`, and in one transaction sends one message to `left`, one to `right`, and
acknowledges the input; now and then it changes its mind. A seller prepares a message, lets its database decide (a map
in this process, which survives whatever brokers meet), and commits, or says nothing more and waits to be asked.
"""

from __future__ import annotations

import itertools
import json
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, TypeVar

import trio

from sluicemq.client import Decision
from sluicemq.client.errors import (
    AlreadySettled,
    LeaseLost,
    OutcomeUnknown,
    ResourceLow,
    SluiceError,
    TransactionDecided,
)
from tests.e2e.chaos import history as h

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable

    from sluicemq.client import Client, Transaction, Undecided
    from sluicemq.client.message import Message
    from tests.e2e.chaos.history import History

INPUTS, LEFT, RIGHT, HALVES = "inputs", "left", "right", "halves"
GROUP = "sellers"
CHECK_AFTER_SECONDS = 0.3
REGRET_SHARE = 0.1
UNDECIDED_SHARE = 0.2
CALL_SECONDS = 120.0
FIRST_MOVER = 1_000
"""Movers are producers too; their numbers begin here."""
FULL_SECONDS = 0.2
"""How long whoever is refused because a disk is full waits until it tries again."""

Answer = TypeVar("Answer")


async def insisting(send: Callable[[], Awaitable[Answer]]) -> Answer:
    """Send, again and again as long as it is refused because a disk is full."""
    while True:
        with suppress(ResourceLow):
            return await send()
        await trio.sleep(FULL_SECONDS)


class Mover:
    """Moves inputs to both outputs; each transaction sends messages of its own, so that it is told which one held.

    Args:
        client: Its connection.
        history: Where everything is written down.
        number: Its number as a producer.
        chance: For its regrets.

    """

    def __init__(self, client: Client, history: History, number: int, chance: random.Random) -> None:
        self._client = client
        self._history = history
        self._number = number
        self._chance = chance
        self._counter = itertools.count(1)

    async def run(self) -> None:
        """Move until cancelled."""
        async with self._client.consumer(INPUTS, credit=20, lease=10.0) as consumer:
            consumer.on_lease_lost = lambda _error: None
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(self._move_all, consumer)

    async def _move_all(self, consumer) -> None:
        async for message in consumer:
            await self._move(message)

    async def _move(self, message: Message) -> None:
        count = next(self._counter)
        name = f"{self._number}-{count}"
        producer, number = json.loads(message.body)
        taken = {"producer": producer, "number": number, "queue": INPUTS, "worker": f"mover-{self._number}"}
        taken |= {"delivery": message._run.deliveries, "transaction": name}
        made = {"producer": self._number, "number": count, "transaction": name}
        add = self._history.add
        add(h.HANDED, **taken, position=message.position, text=message.redelivery_reason or "")
        for queue in (LEFT, RIGHT):
            add(h.SENT, **made, queue=queue)
        transaction = self._client.transaction(timeout=CALL_SECONDS)
        body = json.dumps([self._number, count]).encode()
        try:
            for queue in (LEFT, RIGHT):
                await transaction.send(queue, body)
            await transaction.ack(message)
            if self._chance.random() < REGRET_SHARE:
                await transaction.rollback()
                self._refused(made)
                add(h.GIVEN_BACK, **taken)
                await message.nack()
                return
            add(h.SETTLES, **taken)
            await self._commit(transaction, name)
        except (LeaseLost, AlreadySettled) as error:
            self._refused(made)
            add(h.LOST, **taken, text=str(error))
        except ResourceLow as error:
            self._refused(made)
            add(h.GIVEN_BACK, **taken, text=str(error))
            await trio.sleep(FULL_SECONDS)
            with suppress(LeaseLost):
                await message.nack()
        else:
            for queue, receipt in zip((LEFT, RIGHT), transaction.receipts, strict=True):
                add(h.CONFIRMED, **made, queue=queue, position=receipt.position)
            add(h.SETTLED, **taken)

    def _refused(self, made: dict[str, object]) -> None:
        for queue in (LEFT, RIGHT):
            self._history.add(h.REFUSED, **made, queue=queue)

    async def _commit(self, transaction: Transaction, name: str) -> None:
        try:
            await transaction.commit()
        except OutcomeUnknown as error:
            self._history.add(h.ERROR, text=f"transaction {name}: {error!r:.300}")
            await transaction.commit()


class Seller:
    """Prepares messages, and answers for those of every seller of its group.

    Args:
        client: Its connection.
        history: Where everything is written down.
        number: Its number as a producer.
        chance: For what its database says.
        database: Whether a message is to come, by its body: one map for the group.

    """

    def __init__(
        self, client: Client, history: History, number: int, chance: random.Random, database: dict[bytes, bool]
    ) -> None:
        self._client = client
        self._history = history
        self._number = number
        self._chance = chance
        self._database = database
        client.transaction_checker(GROUP, self._check)

    async def _check(self, message: Undecided) -> Decision:
        # What the database does not know yet can never be decided after this.
        return Decision.COMMIT if self._database.setdefault(bytes(message.body), False) else Decision.ROLLBACK

    async def sell(self, number: int) -> None:
        """Prepare one message, decide, and let the broker know or not."""
        facts = {"producer": self._number, "number": number, "queue": HALVES}
        body = json.dumps([self._number, number]).encode()
        add = self._history.add
        add(h.SENT, **facts)
        half = self._client.prepare(HALVES, body, check=GROUP, check_after=CHECK_AFTER_SECONDS, timeout=CALL_SECONDS)
        try:
            async with AsyncExitStack() as stack:
                await insisting(lambda: stack.enter_async_context(half))
                await trio.sleep(self._chance.expovariate(20.0))
                comes = self._chance.random() >= REGRET_SHARE
                if self._database.setdefault(body, comes) is not comes:
                    comes = False  # somebody was asked before, and said that it never comes
                if comes:
                    add(h.DECIDED, **facts)
                    add(h.CONFIRMED, **facts, position=half.receipt.position)
                else:
                    add(h.REFUSED, **facts)
                if self._chance.random() < UNDECIDED_SHARE:
                    half.leave_undecided()
                elif not comes:
                    await half.rollback()
        except TransactionDecided as error:
            add(h.ERROR, text=f"{facts} was decided otherwise: {error!r:.300}")
        except SluiceError as error:
            if not self._database.setdefault(body, False):
                add(h.REFUSED, **facts, text=repr(error)[:300])
            add(h.ERROR, text=f"prepare {facts}: {error!r:.300}")
