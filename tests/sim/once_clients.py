"""Clients that want things to happen once: consumers that answer in transactions, sellers of half messages.

A seller prepares a message, lets a database of its own decide, and says so, unless it dies before; then a clerk who can
read that database is asked. Like all clients they know nothing of nodes, and take silence for an unknown outcome.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues.outcomes import ProducerOpened
from sluicemq.broker.queues.outcomes_of_transactions import Prepared, Resolved, Transacted
from sluicemq.wire.errors import LeaseLost, SluiceError, TransactionDecided
from sluicemq.wire.messages import VERDICT_ACK
from tests.sim.clients import Client, Consumer
from tests.sim.features import TOPIC
from tests.sim.once import DONE, GROUP, PAID

if TYPE_CHECKING:
    from tests.sim.clients import Seen, Wire

REGISTER_SECONDS = 0.5
TRANSACTION_SHARE = 0.6
WRITTEN_SHARE = 0.85
"""So often a seller lives until its database has decided,"""
TOLD_SHARE = 0.6
"""and so often until it has said so."""


class Producing(Client):
    """Has a producer, whose number lasts until it is given up: then the next one is opened before anything is sent."""

    def __init__(self, name: str, wire: Wire, seen: Seen) -> None:
        super().__init__(name, wire, seen)
        self._number: int | None = None
        self._sequence = 0
        self._busy = False

    @abstractmethod
    def _next(self) -> None:
        """Go on with what is to be sent next."""

    def _open(self) -> None:
        name = self.name if self.habits.named else ""
        self.call(("producer", self.name, name), self._opened, lambda: self.later(self._open))

    def _opened(self, value: Any) -> None:
        if isinstance(value, ProducerOpened):
            self._number, self._sequence = value.producer, 0
            self._next()
        else:
            self.later(self._open)


class Sender(Producing):
    """One life of a consumer's producer: transactions one after the other, each sent again until it is answered.

    Should the consumer die, what is under way goes on here, as if a network had held it back.
    """

    def __init__(self, owner: AnsweringConsumer) -> None:
        super().__init__(owner.name, owner.wire, owner.seen)
        self._owner = owner
        self._waiting: list[tuple[int, int, list[int]]] = []

    def settle(self, session: int, consumer: int, tags: list[int]) -> None:
        """Acknowledge these and publish an answer, in one."""
        self._waiting.append((session, consumer, tags))
        if not self._busy:
            self._next()

    def give_up(self) -> None:
        """Begin nothing more."""
        self._waiting.clear()

    def _next(self) -> None:
        self._busy = bool(self._waiting)
        if not self._busy:
            return
        if self._number is None:
            self._open()
            return
        session, consumer, tags = self._waiting.pop(0)
        random = self.world.random
        count = random.randint(1, 3)
        parts = [(DONE, count), (PAID, random.randint(1, 2))][: 1 + (random.random() < 0.7)]
        features = self.habits.features
        if features is not None and features.has_topic and random.random() < 0.3:
            parts.append((TOPIC, random.randint(1, 2)))
        random.shuffle(parts)
        messages = sum(size for _, size in parts)
        payload = self.new_payload(b"%s/t%d" % (self.name.encode(), self.seen.transactions_begun), messages)
        self.seen.transactions_begun += 1
        self._send(payload, ("transact", self._number, self._sequence + 1, session, consumer, VERDICT_ACK, tags, parts))

    def _send(self, payload: bytes, request: tuple[Any, ...]) -> None:
        self.call(
            (*request, payload),
            lambda value: self._answered(payload, request, value),
            lambda: self.later(self._send, payload, request),
        )

    def _answered(self, payload: bytes, request: tuple[Any, ...], value: Any) -> None:
        _, _, sequence, session, consumer, _, tags, _ = request
        if isinstance(value, Transacted):
            self.seen.confirmed[payload] = value.zxid
            if value.known:
                self.seen.told.append((payload, value.known))
            self.seen.settled.append((session, consumer, VERDICT_ACK, tuple(range(tags[0], tags[1] + 1))))
            self._sequence = sequence
        elif isinstance(value, LeaseLost):
            self.seen.refused.add(payload)
        elif isinstance(value, SluiceError) and value.retryable:
            self.later(self._send, payload, request)
            return
        else:
            self.seen.given_up.add(payload)
            self._number = None
        self._next()


class AnsweringConsumer(Consumer):
    """Acknowledges many of its messages in transactions that publish an answer."""

    def __init__(self, name: str, wire: Wire, seen: Seen, queue: str) -> None:
        self._sender: Sender | None = None
        super().__init__(name, wire, seen, queue)

    def _open(self) -> None:
        if self._sender is not None:
            self._sender.give_up()
            self._sender = None
        super()._open()

    def _settle(self, life: int, session: int, consumer: int, verdict: int, tags: list[int], delay: float) -> None:
        answers = self.world.random.random() < TRANSACTION_SHARE
        if life != self._life or verdict != VERDICT_ACK or not answers:
            super()._settle(life, session, consumer, verdict, tags, delay)
            return
        if self._sender is None:
            self._sender = Sender(self)
        self._sender.settle(session, consumer, tags)


class Seller(Producing):
    """Sells: prepares a message, decides in its own database, says so; or dies before."""

    def __init__(self, name: str, wire: Wire, seen: Seen, queue: str, deals: int) -> None:
        super().__init__(name, wire, seen)
        self.queue = queue
        self.left = deals
        self.healthy = False
        self.later(self._next, seconds=1.0)

    @property
    def done(self) -> bool:
        """Whether nothing more is to be sold."""
        return self.left <= 0 and not self._busy

    def _next(self) -> None:
        self._busy = False
        if self.left <= 0:
            return
        self._busy = True
        if self._number is None:
            self._open()
            return
        self.left -= 1
        random = self.world.random
        deal = f"{self.name}-{self.left}"
        payload = self.new_payload(f"{self.name}/{self.left}".encode(), random.randint(1, 3))
        self.seen.deals_open.add(deal)
        self.seen.deals[payload] = deal
        count = self.seen.attempted[payload]
        self._prepare(deal, ("prepare", self.queue, self._number, self._sequence + 1, count, payload, deal))

    def _prepare(self, deal: str, request: tuple[Any, ...]) -> None:
        self.call(
            request,
            lambda value: self._prepared(deal, request, value),
            lambda: self._unknown(deal, request),
        )

    def _unknown(self, deal: str, request: tuple[Any, ...]) -> None:
        if not self.healthy and self.world.random.random() < 0.1:
            self._die(deal)
        else:
            self.later(self._prepare, deal, request)

    def _die(self, deal: str) -> None:
        """Nobody will hear of this deal any more but through the database; a successor begins anew."""
        self.seen.deals_open.discard(deal)
        self._number = None
        self.later(self._next, seconds=0.3)

    def _prepared(self, deal: str, request: tuple[Any, ...], value: Any) -> None:
        if isinstance(value, Prepared):
            self._sequence += 1
            self.seen.confirmed[request[5]] = value.zxid
            self.later(self._decide, deal, value.zxid)
        elif isinstance(value, SluiceError) and value.retryable:
            self.later(self._prepare, deal, request)
        else:
            self.seen.given_up.add(request[5])
            self._die(deal)

    def _decide(self, deal: str, number: int) -> None:
        random = self.world.random
        if random.random() > WRITTEN_SHARE:
            self._die(deal)
            return
        commit = self.seen.database.setdefault(deal, random.random() < 0.7)
        self.seen.deals_open.discard(deal)
        if number == 0 or random.random() > TOLD_SHARE:
            self._die(deal)  # nobody says so, or the receipt is too old to name it
            return
        self._say(number, commit)

    def _say(self, number: int, commit: bool) -> None:
        self.call(
            ("resolve", number, commit),
            lambda value: self._said(number, commit, value),
            lambda: self.later(self._say, number, commit),
        )

    def _said(self, number: int, commit: bool, value: Any) -> None:
        if not isinstance(value, Resolved):
            if isinstance(value, SluiceError) and not value.retryable:
                self.seen.broken_deals.append((number, commit, f"{value}"))
                self._next()
            else:
                self.later(self._say, number, commit)
            return
        self.seen.resolved.append((number, commit, value.committed))
        if self.world.random.random() < 0.3:  # again, or the opposite: what holds, holds
            commit = commit if self.world.random.random() < 0.5 else not commit
            self.call(("resolve", number, commit), lambda value: self._said_again(number, commit, value), self._next)
        else:
            self._next()

    def _said_again(self, number: int, commit: bool, value: Any) -> None:
        if isinstance(value, Resolved):
            self.seen.resolved.append((number, commit, value.committed))
        elif not isinstance(value, TransactionDecided):
            self.seen.broken_deals.append((number, commit, f"{value}"))
        self._next()


class Clerk(Client):
    """Reads the database of the sellers when it is asked; at last it also looks for what nobody is asked about."""

    def __init__(self, name: str, wire: Wire, seen: Seen) -> None:
        super().__init__(name, wire, seen)
        self.healthy = False
        self._register()

    def recover(self) -> None:
        """Answer always from now on, and decide what was given up."""
        self.healthy = True
        self._look_for_parked()

    def _register(self) -> None:
        node = self.node

        def ask(message: Any) -> None:
            self.wire.back(node, self._asked, message)

        again = lambda _value=None: self.later(self._register, seconds=REGISTER_SECONDS)  # noqa: E731
        self.call(("register", GROUP, self.name, ask), again, again)

    def _asked(self, message: tuple[str, int, str]) -> None:
        _, number, deal = message
        if self.healthy or self.world.random.random() < 0.7:
            self._answer(number, deal)

    def _answer(self, number: int, deal: str) -> None:
        if deal in self.seen.deals_open:
            return  # the seller lives, and its database has not decided
        commit = self.seen.database.setdefault(deal, False)  # whoever has not written by now, never will
        self.call(
            ("resolve", number, commit),
            lambda value: self._said(number, commit, value),
            lambda: None,  # somebody will be asked again
        )

    def _said(self, number: int, commit: bool, value: Any) -> None:
        if isinstance(value, Resolved):
            self.seen.resolved.append((number, commit, value.committed))
            self.seen.checked_back += 1
        elif isinstance(value, SluiceError) and not value.retryable:
            self.seen.broken_deals.append((number, commit, f"{value}"))

    def _look_for_parked(self) -> None:
        again = lambda: self.later(self._look_for_parked, seconds=0.5)  # noqa: E731
        self.call(("parked",), self._found_parked, again)

    def _found_parked(self, parked: list[tuple[int, str]]) -> None:
        for number, deal in parked or ():
            self._answer(number, deal)
        self.later(self._look_for_parked, seconds=0.5)
