"""Clients: producers that resend until they know, consumers that settle, forget and come back, readers.

They talk to any node, wait for an answer only so long, and take silence for what it is: an unknown outcome.
Everything they saw goes into `Seen`, for the checker at the end. This module must not look into nodes.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues.outcomes import Declared, ProducerOpened, Published, Settled
from sluicemq.wire.errors import ProducerFenced, SequenceGap, SluiceError
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK, VERDICT_REJECT, VERDICT_RELEASE
from tests.sim.features import TOPIC, Features, groups_for
from tests.sim.once import with_ids

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sim.answers import Answers
    from tests.sim.node import Node
    from tests.sim.once import Once
    from tests.sim.world import World

TIMEOUT_SECONDS = 1.0
TIMEOUT_SECONDS_MAX = 8.0
"""It doubles as long as nobody answers, and stays twice as long as answers take: who asks an overloaded cluster again
before it can have answered keeps it so."""
PAUSE_SECONDS = 0.05
ALIVE_SECONDS = 0.5
NEW_ID_SHARE = 0.6
"""So many messages have a new id, the others one of the last"""
IDS_BACK_MAX = 30
RESTART_PROBABILITY = 0.05
"""That a producer with a name begins anew instead of publishing its next batch."""
BY_POLICY = -1.0
"""Delay of a nack that leaves it to the queue's policy."""


@dataclasses.dataclass
class Seen:
    """What clients did and saw."""

    attempted: dict[bytes, int] = dataclasses.field(default_factory=dict)
    """Payload of every batch that was ever sent, with how many messages."""
    confirmed: dict[bytes, int] = dataclasses.field(default_factory=dict)
    """Of these the confirmed ones, with their position; 0 for one so old that it is only known as a duplicate."""
    given_up: set[bytes] = dataclasses.field(default_factory=set)
    """Batches whose outcome nobody will know, because their producer was forgotten."""
    delivered: dict[tuple[int, int, int], tuple[int, int]] = dataclasses.field(default_factory=dict)
    """What came under each (session, consumer, tag): (zxid, index)."""
    deliveries: int = 0
    settled: list[tuple[int, int, int, tuple[int, ...]]] = dataclasses.field(default_factory=list)
    """Confirmed settlements: session, consumer, verdict, tags that were not lost."""
    twice: list[tuple[int, int, int]] = dataclasses.field(default_factory=list)
    """Tags under which two different messages came."""
    told: list[tuple[bytes, list[int]]] = dataclasses.field(default_factory=list)
    """Batches of which messages were confirmed as duplicates, and where the originals are said to lie."""
    refused: set[bytes] = dataclasses.field(default_factory=set)
    """Transactions of which nothing was done, as was said."""
    transactions_begun: int = 0
    deals: dict[bytes, str] = dataclasses.field(default_factory=dict)
    """Half messages by their batch: what the database of their sellers calls them."""
    deals_open: set[str] = dataclasses.field(default_factory=set)
    """Of these the ones whose sellers live and have not decided."""
    database: dict[str, bool] = dataclasses.field(default_factory=dict)
    """What the sellers' database says of those that are decided: whether they hold."""
    resolved: list[tuple[int, bool, bool]] = dataclasses.field(default_factory=list)
    """Answers to decisions: number of the half message, what was asked for, and what holds."""
    broken_deals: list[tuple[int, bool, str]] = dataclasses.field(default_factory=list)
    """Decisions that were refused: number, what was asked for, and why."""
    checked_back: int = 0
    fenced: int = 0
    """Batches that were refused because their producer's name was taken over."""
    ids: int = 0
    """Ids that were ever given."""


@dataclasses.dataclass
class Habits:
    """How clients behave."""

    loss_probability: float = 0.0
    latency_seconds: float = 0.002
    batches: int = 150
    batch_messages_max: int = 4
    body_bytes_max: int = 200
    producers: int = 3
    consumers: int = 2
    queues: int = 2
    window: int = 3
    think_seconds: float = 0.05
    credit: int = 10
    work_seconds: float = 0.05
    crash_probability: float = 0.0
    """Of a consumer, with each delivery."""
    nack_probability: float = 0.1
    features: Features | None = None
    """What queues are asked to do beside the plain; None: nothing."""

    @property
    def once(self) -> Once | None:
        """What has to happen once; None: nothing beside what every producer wants."""
        return None if self.features is None else self.features.once

    @property
    def named(self) -> bool:
        """Whether producers have names."""
        return self.once is not None and self.once.names


class Wire:
    """The way between clients and nodes: late, and sometimes gone."""

    def __init__(self, world: World, nodes: dict[int, Node], habits: Habits, answers: Answers) -> None:
        self.world = world
        self.nodes = nodes
        self.habits = habits
        self._answers = answers
        self.cut_off: set[int] = set()
        """Nodes that no client reaches."""

    def ask(self, node: int, request: tuple[Any, ...], reply: Callable[[Any], None]) -> None:
        """Send a request; the reply may never come."""
        if not self._lost(node):
            self.world.after(self._delay(), self._arrive, node, request, reply)

    def back(self, node: int, receiver: Callable[[Any], None], answer: Any) -> None:
        """Send something to a client."""
        if not self._lost(node):
            self.world.after(self._delay(), receiver, answer)

    def _arrive(self, number: int, request: tuple[Any, ...], reply: Callable[[Any], None]) -> None:
        node = self.nodes[number]
        process = node.process
        if process is None:
            if node.host_up:
                self.back(number, reply, ("down",))
            return

        def answer(result: Any) -> None:
            self.back(number, reply, result)

        def take() -> None:
            process.service.request(request, self._answers.asked(process, request[0], answer))

        process.event(take)

    def _lost(self, node: int) -> bool:
        if node in self.cut_off:
            return True
        return bool(self.habits.loss_probability) and self.world.random.random() < self.habits.loss_probability

    def _delay(self) -> float:
        return self.habits.latency_seconds * (0.5 + self.world.random.random())


class Client:
    """Asks the leader, whoever that is, again and again."""

    def __init__(self, name: str, wire: Wire, seen: Seen) -> None:
        self.name = name
        self.wire = wire
        self.world = wire.world
        self.habits = wire.habits
        self.seen = seen
        self.node = self.world.random.choice(sorted(wire.nodes))
        self._timeout_seconds = TIMEOUT_SECONDS

    def call(self, request: tuple[Any, ...], on_value: Callable[[Any], None], on_unknown: Callable[[], None]) -> None:
        """Ask once: *on_value* with what the broker answered (an error too), *on_unknown* when that was nothing."""
        open_ = [True]
        node = self.node
        begun = self.world.now

        def answered(result: Any) -> None:
            if not open_[0]:
                return
            open_[0] = False
            timer.cancel()
            if result[0] == "confirmed":
                took = self.world.now - begun
                self._timeout_seconds = min(max(TIMEOUT_SECONDS, 2 * took), TIMEOUT_SECONDS_MAX)
                on_value(result[1])
                return
            hint = result[1] if result[0] == "not_leader" else None
            self._elsewhere(node, hint)
            on_unknown()

        def silent() -> None:
            if open_[0]:
                open_[0] = False
                self._timeout_seconds = min(2 * self._timeout_seconds, TIMEOUT_SECONDS_MAX)
                self._elsewhere(node, None)
                on_unknown()

        timer = self.world.after(self._timeout_seconds, silent)
        self.wire.ask(node, request, answered)

    def _elsewhere(self, node: int, hint: int | None) -> None:
        if self.node == node:
            numbers = sorted(self.wire.nodes)
            self.node = hint if hint in self.wire.nodes else self.world.random.choice(numbers)

    def new_payload(self, name: bytes, count: int, filling: bytes = b"") -> bytes:
        """Return a batch of so many messages like no other; some of them have ids, some of which came before."""
        once, random = self.habits.once, self.world.random
        payload = b"%s/%s" % (name, filling)
        if once is not None and once.ids:
            ids: list[str | None] = []
            for _ in range(count):
                if random.random() < NEW_ID_SHARE:
                    self.seen.ids += 1
                    ids.append(f"id{self.seen.ids}")
                else:
                    known = self.seen.ids - random.randrange(IDS_BACK_MAX)
                    ids.append(f"id{known}" if known > 0 else None)
            payload = with_ids(name, ids, filling)
        self.seen.attempted[payload] = count
        return payload

    def later(self, action: Callable[..., None], *arguments: Any, seconds: float = PAUSE_SECONDS) -> None:
        """Do something after a pause."""
        self.world.after(seconds * (0.5 + self.world.random.random()), action, *arguments)


class Producer(Client):
    """Publishes batches in order, several at a time, and resends each until it knows."""

    def __init__(self, name: str, wire: Wire, seen: Seen, queue: str, batches: int) -> None:
        super().__init__(name, wire, seen)
        self.queue = queue
        self.left = batches
        self._number: int | None = None
        self._sequence = 0
        self._batch = 0
        self._window: dict[int, bytes] = {}
        self._asked: set[int] = set()
        self._early: set[int] = set()
        """Batches that came ahead of others, and wait for those."""
        self._publishes = False
        self._groups: dict[bytes, list[tuple[int, ...]]] = {}
        self._declare()

    @property
    def done(self) -> bool:
        """Whether everything is confirmed or given up."""
        return self.left <= 0 and not self._window

    def _declare(self) -> None:
        features = self.habits.features
        kind = "topic" if self.queue == TOPIC else "queue"
        settings = {} if features is None else features.topic if kind == "topic" else features.settings[self.queue]
        self.call(("declare", kind, self.queue, settings), self._declared, lambda: self.later(self._declare))

    def _declared(self, value: Any) -> None:
        if isinstance(value, Declared):
            self._open()
        else:
            self.later(self._declare)

    def _open(self) -> None:
        name = self.name if self.habits.named else ""
        self.call(("producer", self.name, name), self._opened, lambda: self.later(self._open))

    def _begin_anew(self) -> None:
        """A successor of the same name comes; what is under way is still sent now and then, as if nobody had ended."""
        for sequence, payload in self._window.items():
            self.later(self._send_for_the_dead, self._number, sequence, payload, seconds=random_pause(self.world))
        self._forget()
        self._open()

    def _send_for_the_dead(self, number: int, sequence: int, payload: bytes) -> None:
        self.call(
            self._request(number, sequence, payload),
            lambda value: self._answered_the_dead(payload, value),
            lambda: None,
        )

    def _answered_the_dead(self, payload: bytes, value: Any) -> None:
        if isinstance(value, Published):
            self.seen.confirmed[payload] = value.zxid
        elif isinstance(value, ProducerFenced):
            self.seen.fenced += 1

    def _forget(self) -> None:
        """What is open stays unknown."""
        self.seen.given_up.update(self._window.values())
        self._window.clear()
        self._asked.clear()
        self._early.clear()
        self._number = None

    def _opened(self, value: Any) -> None:
        if isinstance(value, ProducerOpened):
            self._number, self._sequence = value.producer, 0
            if not self._publishes:
                self._publishes = True
                self._publish_next()
        else:
            self.later(self._open)

    def _publish_next(self) -> None:
        random, habits = self.world.random, self.habits
        if self._number is None:
            pass  # it is being opened again
        elif habits.named and self.left > 0 and random.random() < RESTART_PROBABILITY:
            self._begin_anew()
        elif self.left > 0 and len(self._window) < habits.window:
            self.left -= 1
            self._batch += 1
            self._sequence += 1
            count = random.randint(1, habits.batch_messages_max)
            filling = b"." * int(habits.body_bytes_max * random.random() ** 2)
            payload = self.new_payload(b"%s/%d" % (self.name.encode(), self._batch), count, filling)
            if habits.features is not None:
                self._groups[payload] = groups_for(random, habits.features, self.queue, count)
            self._window[self._sequence] = payload
            self._send(self._sequence)
        if not self.done:
            self.later(self._publish_next, seconds=habits.think_seconds)

    def _send(self, sequence: int) -> None:
        payload = self._window.get(sequence)
        if payload is None or sequence in self._asked:
            return
        self._asked.add(sequence)
        number = self._number
        assert number is not None, "what is open was sent under a number"
        self.call(
            self._request(number, sequence, payload),
            lambda value: self._answered(number, sequence, value),
            lambda: self._unknown(number, sequence),
        )

    def _request(self, number: int, sequence: int, payload: bytes) -> tuple[Any, ...]:
        groups = self._groups.get(payload, [])
        return ("publish", self.queue, number, sequence, self.seen.attempted[payload], payload, groups)

    def _unknown(self, number: int | None, sequence: int) -> None:
        if number == self._number:
            self._asked.discard(sequence)
            self.later(self._send, sequence)

    def _answered(self, number: int | None, sequence: int, value: Any) -> None:
        if number != self._number:
            return
        self._asked.discard(sequence)
        if isinstance(value, Published):
            payload = self._window.pop(sequence, None)
            if payload is not None:
                self.seen.confirmed[payload] = value.zxid
                if value.known:
                    self.seen.told.append((payload, value.known))
            if sequence + 1 in self._early:
                self._early.remove(sequence + 1)
                self._send(sequence + 1)
        elif isinstance(value, SequenceGap) and sequence - 1 in self._window:
            # What goes before is still under way, or lost; that is sent again when its own call ends, and this behind
            # it. To ask before that would be one more entry in vain, for every batch of the window, again and again.
            self._early.add(sequence)
        elif isinstance(value, SequenceGap) or (isinstance(value, SluiceError) and value.retryable):
            self.later(self._send, sequence)  # what goes before is there by now; or the queue is full, or paused
        elif isinstance(value, SluiceError):
            # The producer is not known any more.
            self._forget()
            self.later(self._open)
        else:
            self.later(self._send, sequence)


def random_pause(world: World) -> float:
    """Return seconds after which somebody sends on who was thought to be dead."""
    return world.random.uniform(0.05, 2.0)


class Consumer(Client):
    """Takes messages, works on each for a while, settles; sometimes it dies and comes back."""

    def __init__(self, name: str, wire: Wire, seen: Seen, queue: str) -> None:
        super().__init__(name, wire, seen)
        self.queue = queue
        self.healthy = False
        """No more nacks and crashes."""
        self._session = 0
        self._life = 0
        self._ready = False
        self._early: list[Any] = []
        self._open()

    def recover(self) -> None:
        """Begin anew, nack nothing and do not die any more."""
        self.healthy = True
        self._open()

    def _open(self) -> None:
        self._life += 1
        life = self._life
        self._ready = False
        self._early.clear()
        former, self._session = self._session, 0
        node = self.node

        def deliver(message: Any) -> None:
            self.wire.back(node, lambda answer: self._delivered(life, answer), message)

        request = ("consume", self.queue, self.name, self.habits.credit, former, deliver)
        self.call(request, lambda value: self._opened(life, value), lambda: self._not_opened(life))

    def _not_opened(self, life: int) -> None:
        if life == self._life:
            self.later(self._open)

    def _opened(self, life: int, value: Any) -> None:
        if life != self._life:
            return
        if not isinstance(value, int):
            self.later(self._open)
            return
        self._session, self._ready = value, True
        early, self._early = self._early, []
        for message in early:
            self._delivered(life, message)
        self._say_alive(life)

    def _say_alive(self, life: int) -> None:
        if life == self._life:
            self.call(
                ("alive", self._session),
                lambda known: self._is_alive(life, known),
                lambda: self._not_opened(life),
            )

    def _is_alive(self, life: int, known: bool) -> None:
        if life != self._life:
            return
        if known:
            self.later(self._say_alive, life, seconds=ALIVE_SECONDS)
        else:
            self._open()

    def _delivered(self, life: int, message: Any) -> None:
        if life != self._life:
            return
        if not self._ready:
            self._early.append(message)
            return
        _, session, consumer, tag, runs = message
        first = tag
        for zxid, index, size in runs:
            for offset in range(size):
                self.seen.deliveries += 1
                known = self.seen.delivered.setdefault((session, consumer, tag), (zxid, index + offset))
                if known != (zxid, index + offset):
                    self.seen.twice.append((session, consumer, tag))
                tag += 1
        random, habits = self.world.random, self.habits
        if not self.healthy and random.random() < habits.crash_probability:
            self._life += 1
            self.world.after(random.uniform(0.1, 2.0), self._open)
            return
        verdict, delay = VERDICT_ACK, 0.0
        chance = 1.0 if self.healthy else random.random()
        if chance < habits.nack_probability:
            verdict, delay = VERDICT_NACK, random.choice((0.0, 0.3, 2.0))
            if habits.features is not None and random.random() < 0.5:
                delay = BY_POLICY
        elif chance < 1.5 * habits.nack_probability:
            verdict = VERDICT_RELEASE
        elif habits.features is not None and chance < 1.7 * habits.nack_probability:
            verdict = VERDICT_REJECT
        self.later(self._settle, life, session, consumer, verdict, [first, tag - 1], delay, seconds=habits.work_seconds)

    def _settle(self, life: int, session: int, consumer: int, verdict: int, tags: list[int], delay: float) -> None:
        if life != self._life:
            return
        self.call(
            ("settle", session, consumer, verdict, tags, delay),
            lambda value: self._settled(life, session, consumer, verdict, tags, value),
            lambda: self.later(self._settle, life, session, consumer, verdict, tags, delay),
        )

    def _settled(self, life: int, session: int, consumer: int, verdict: int, tags: list[int], value: Any) -> None:
        if isinstance(value, Settled):
            lost: set[int] = set()
            for first, last in zip(value.lost[::2], value.lost[1::2], strict=True):
                lost.update(range(first, last + 1))
            kept = tuple(tag for tag in range(tags[0], tags[1] + 1) if tag not in lost)
            self.seen.settled.append((session, consumer, verdict, kept))
        elif life == self._life:
            self._open()


class Operator(Client):
    """Sets the topic and its subscriptions up, then does now and then what operators do, and at last what must be."""

    def __init__(self, name: str, wire: Wire, seen: Seen, features: Features) -> None:
        super().__init__(name, wire, seen)
        self._features = features
        self._healthy = False
        self._left = features.set_up()
        self._go_on()

    def recover(self) -> None:
        """From now on only let everything go on that somebody stopped."""
        self._healthy = True

    def _go_on(self) -> None:
        if not self._left:
            self._left = self._features.let_go_on() if self._healthy else [self._features.whim(self.world.random)]
            self.later(self._go_on, seconds=0.5)
            return
        self.call(self._left[0], self._done, lambda: self.later(self._go_on))

    def _done(self, _value: Any) -> None:
        del self._left[0]
        self._go_on()


class Reader(Client):
    """Asks now and then up to where one must have applied to see everything confirmed."""

    def __init__(self, name: str, wire: Wire, seen: Seen) -> None:
        super().__init__(name, wire, seen)
        self._read()

    def _read(self) -> None:
        self.call(("read",), self._again, self._again)

    def _again(self, _value: Any = None) -> None:
        self.later(self._read, seconds=0.4)
