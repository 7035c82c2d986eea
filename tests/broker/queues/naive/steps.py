"""What can happen: the steps of a life, each told in few words which of those that are there it concerns.

More kinds of steps, each with its choices, are added by modules like this one: a subclass of `Steps` whose methods are
marked with `step`, and its name in `machine`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.broker.queues import entries_of_sessions as s
from sluicemq.broker.queues import entries_of_topics as t
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_REJECT, VERDICT_RELEASE
from tests.broker.queues.naive.choices import One, Some, Tuple, step
from tests.broker.queues.naive.life import Road
from tests.broker.queues.naive.patterns import wants
from tests.broker.queues.naive.topics import to_fill
from tests.broker.queues.naive.world import BYTES_A_MESSAGE, Queue, address, is_keyed, milliseconds, waiting, within

if TYPE_CHECKING:
    from sluicemq.broker.queues.runs import Run
    from tests.broker.queues.naive.dealing import Who

QUEUES = ("orders", "mail", "grave")
TOPICS = ("news", "sport")
SUBSCRIPTIONS = ("all", "some")
DAY_MS = 86_400_000

WHICH = One(*range(10))
BUSY = One(0, 0, 0, 0, 1, 1, 2, 3, 3, 4)  # of the queues that are there, rather the first
QUEUE = One(*QUEUES)
TOPIC = One(*TOPICS)
SUBSCRIPTION = One(*SUBSCRIPTIONS)
ROUTE = One("", "a", "b", "a.b")
PATTERN = One("#", "a", "*", "a.#", "#.b", "")
DELAY = One(0, 0, 0, 700, 2_500)
LIFETIME = One(0, 0, 0, 900)
RANK = One(0, 0, 1, 2, 9)  # priority, or a key
GROUPS = Some(Tuple(One(1, 2, 4), DELAY, LIFETIME, RANK, ROUTE), 3)
LIMITS: tuple[dict[str, Any], ...] = (
    {"max_length": 5, "overflow": "reject"},
    {"max_length": 4, "overflow": "drop_head"},
    {"max_length": 3, "overflow": "dead_letter"},
    {"max_bytes": 45, "overflow": "drop_head"},
    {"max_bytes": 60, "overflow": "reject"},
    {"max_length": 6, "max_bytes": 40, "overflow": "dead_letter"},
    {"max_length": None, "max_bytes": None},
)
LIFETIMES: tuple[dict[str, Any], ...] = ({"ttl": 2.0}, {"ttl": 0.5}, {"ttl": None})
ORDERS: tuple[dict[str, Any], ...] = (
    {"ordering": "key"},
    {"ordering": "fifo"},
    {"ordering": "key", "poison_key": "park", "max_deliveries": 2},
    {"ordering": "key", "poison_key": "skip", "max_deliveries": 1},
    {"ordering": "key", "key_in_flight_max": 3},
    {"key_in_flight_max": 1},
    {"poison_key": "dead_letter"},
)
FAILURES: tuple[dict[str, Any], ...] = (
    {"retry": [0.0, 1.0, 2.5]},
    {"retry": {"initial": 0.5, "factor": 3.0, "max": 4.0, "jitter": 0.0}},
    {"retry": None, "retry_delay": 0.0},
    {"retry_delay": 1.5},
    {"max_deliveries": 1},
    {"max_deliveries": 2},
    {"max_deliveries": None},
    {"dead_letter": "grave"},
    {"dead_letter": "mail"},
    {"dead_letter": "nowhere"},
    {"dead_letter": None},
)
MODES: tuple[dict[str, Any], ...] = (
    {"mode": "exclusive"},
    {"mode": "failover"},
    {"mode": "shared"},
    {"dispatch": "weighted"},
    {"dispatch": "least_in_flight"},
    {"dispatch": "random"},
    {"dispatch": "two_choices"},
    {"dispatch": "round_robin"},
)
SETTINGS = One({}, *FAILURES, *ORDERS, *LIMITS, *LIFETIMES, *MODES, {"expires": 3.0}, {"expires": None})
BEGINNINGS = One(
    {},
    {"dead_letter": "grave", "max_deliveries": 2},
    {"ordering": "key", "retry_delay": 0.5},
    {"ordering": "key", "poison_key": "park", "max_deliveries": 1},
    {"ordering": "key", "poison_key": "skip", "max_deliveries": 2, "key_in_flight_max": 2},
    {"ordering": "key", "mode": "failover", "dead_letter": "grave", "max_deliveries": 2},
    {"max_length": 8, "overflow": "drop_head", "retry": [0.0, 1.0]},
    {"max_deliveries": 1, "retry_delay": 0.0},
    {"dedup_window": 2.0, "settled_window": 2.0},
    {"dedup_window": 30.0, "dedup_count": 4, "dedup_scope": "key", "settled_window": 0.7, "ordering": "key"},
)
"""How the queue `orders` and the subscription `all` are declared at first."""
POLICIES = One({}, *FAILURES, *ORDERS, *MODES, {"expires": 3.0}, {"dead_letter": "grave", "max_deliveries": 1})
VERDICTS = One(
    VERDICT_ACK,
    VERDICT_NACK,
    VERDICT_NACK,
    VERDICT_REJECT,
    VERDICT_RELEASE,
    VERDICT_HANDED_OVER,
    e.EXPIRED,
    e.ABANDONED,
)
REASONS = One("", "timeout", "out of stock")


def flat_of(runs: list[Run], part: int) -> list[int]:
    """Name parts of *runs* by their places."""
    flat: list[int] = []
    for run in runs:
        skip = part % run.size
        flat += (run.ready, run.zxid, run.first + skip, max((run.size - skip) // (1 + part % 2), 1))
    return flat


class Steps(Road):
    """The steps. In a life of mortal messages subscriptions have no limits that others make room for.

    Which of both comes first, when a topic's delayed messages are due in an entry in which others expire, is nobody's
    promise.
    """

    mortal = True

    def begin(self, mortal: bool, orders: dict[str, Any], news: dict[str, Any]) -> None:
        self.mortal = mortal
        self.producer, _ = self.run(e.ProducerOpen(self.now, "/", "", "ann"))
        self.sessions = [self.run(e.SessionOpen(self.now, "/", "ann", "", b""))[0] for _ in range(2)]
        for name in QUEUES:
            self.run(e.Declare(self.now, "/", "queue", name, orders if name == "orders" else {}))
        for name in TOPICS:
            self.run(e.Declare(self.now, "/", "topic", name, {"retention": {"bytes": 10**6}} if name == "news" else {}))
        self.run(t.Subscribe(self.now, "/", "news", "#", "all", news if self.fits("all", news) else {}))
        self.come_again()

    def come_again(self) -> None:
        """Consumers of the first queues and of the first subscription are there."""
        for number, queue in enumerate(self.world.queues.values()):
            if queue["name"] != "grave" and number < 4 and len(self.consumers) < 5:
                self.attach(self.a_session(number), queue["id"], 100, 1)

    # --- who is there --------------------------------------------------------------------------------------------

    def a_queue(self, which: int) -> Queue:
        """One of the queues; there is always one, for nobody deletes the first."""
        return self.one_of(list(self.world.queues.values()), which)

    def a_queue_with(self, which: int, *states: str) -> Queue:
        """One of those that hold such messages, if there are any."""
        return self.one_of([queue for queue in self.world.queues.values() if within(queue, *states)], which)

    def one_of(self, queues: list[Queue], which: int) -> Queue:
        queues = queues or list(self.world.queues.values())
        return queues[which % len(queues)]

    def a_session(self, which: int) -> int:
        return self.sessions[which % len(self.sessions)]

    def fits(self, name: str, settings: dict[str, Any]) -> bool:
        """Whether a declaration is one that a leader lets through, and that this life allows."""
        is_own = settings.get("dead_letter") == name
        if name in QUEUES or self.world.topic_named(name) is not None:
            return not is_own
        return not is_own and not (settings.keys() & ({"max_length", "max_bytes"} if self.mortal else {"ttl"}))

    # --- declarations --------------------------------------------------------------------------------------------

    @step(5, name=One(*QUEUES, *SUBSCRIPTIONS, "orders"), settings=SETTINGS)
    def declare(self, name: str, settings: dict[str, Any]) -> None:
        if self.fits(name, settings) and (name in QUEUES or self.world.queue_named(name) is not None):
            self.run(e.Declare(self.now, "/", "queue", name, settings))

    @step(
        1,
        name=One("news", "sport", "news.late", "orders"),
        settings=One({}, {"ttl": 1.5}, {"ttl": None}),
        retains=WHICH,
    )
    def declare_topic(self, name: str, settings: dict[str, Any], retains: int) -> None:
        if not self.mortal and settings:
            return
        if retains < 2:
            settings = {**settings, "retention": {"bytes": 10**6} if retains else None}
        self.run(e.Declare(self.now, "/", "topic", name, settings))

    @step(1, kind=One("queue", "queue", "topic"), which=WHICH, if_empty=One(True, False), chance=WHICH)
    def delete(self, kind: str, which: int, if_empty: bool, chance: int) -> None:
        if chance < 3:
            names = TOPICS if kind == "topic" else (*SUBSCRIPTIONS, "mail", "grave", "nobody")
            self.run(e.Delete(self.now, "/", kind, names[which % len(names)], if_empty))

    @step(1, name=One("first", "second"), pattern=One("*", "orders", "#", "mail"), order=One(0, 1), settings=POLICIES)
    def set_policy(self, name: str, pattern: str, order: int, settings: dict[str, Any]) -> None:
        self.now += 7  # at a time of its own: whether a message expires before or after it, is then no question
        self.run(e.Clock(self.now, 10_000))
        self.run(q.Policy(self.now, "/", name, pattern, order, settings))
        self.run(e.Clock(self.now, 10_000))

    @step(2, which=BUSY, what=One("pause_publish", "pause_deliver", "pause_deliver"), on=One(False, False, True))
    def pause(self, which: int, what: str, on: bool) -> None:
        self.run(q.Alter(self.now, "/", "queue", self.a_queue(which)["name"], {what: on}))

    @step(1, name=TOPIC, what=One("pause_publish", "pause_deliver"), on=One(False, False, True))
    def pause_topic(self, name: str, what: str, on: bool) -> None:
        self.run(q.Alter(self.now, "/", "topic", name, {what: on}))

    @step(1, which=WHICH, keys=One([1], [1, 2, 9]))
    def unpark(self, which: int, keys: list[int]) -> None:
        self.run(q.Alter(self.now, "/", "queue", self.a_queue(which)["name"], {"unpark": keys}))

    @step(1, which=WHICH, other=WHICH)
    def mark_used(self, which: int, other: int) -> None:
        self.run(q.MarkUsed(self.now, [self.a_queue(which)["id"], 10**9 + other]))

    @step(1, which=WHICH, idle=One(0, 1_000, 5_000))
    def drop_unused(self, which: int, idle: int) -> None:
        queue = self.a_queue(which)
        if queue["name"] != "orders":
            self.run(q.ExpireQueue(self.now, queue["id"], self.now - idle))

    @step(1, which=WHICH, chance=WHICH)
    def purge(self, which: int, chance: int) -> None:
        if chance < 4:
            self.run(e.Purge(self.now, self.a_queue(which)["id"]))

    # --- publishing ----------------------------------------------------------------------------------------------

    @step(9, which=BUSY, groups=GROUPS)
    def publish(self, which: int, groups: list[tuple[int, int, int, int, str]]) -> None:
        self.send(self.a_queue(which)["id"], self.producer, len(self.world.producers[self.producer]) + 1, groups)

    @step(1, which=BUSY, delays=Some(One(0, 0, 700, 300, 2_500, 100), 40))
    def publish_many(self, which: int, delays: list[int]) -> None:
        """So many groups that the machine makes rows of them in bulk."""
        groups = [(1 + number % 2, delay, 0, 0, "") for number, delay in enumerate(delays)]
        self.send(self.a_queue(which)["id"], self.producer, len(self.world.producers[self.producer]) + 1, groups)

    @step(5, which=WHICH, groups=GROUPS)
    def publish_to_topic(self, which: int, groups: list[tuple[int, int, int, int, str]]) -> None:
        topics = list(self.world.topics)
        if topics:
            number = topics[which % len(topics)]
            self.send(number, self.producer, len(self.world.producers[self.producer]) + 1, groups)

    @step(1, which=WHICH, back=One(-1, 1, 1, 2), groups=GROUPS)
    def publish_again(self, which: int, back: int, groups: list[tuple[int, int, int, int, str]]) -> None:
        """A batch is sent twice, or too early."""
        known = len(self.world.producers[self.producer])
        self.send(self.a_queue(which)["id"], self.producer, max(known + 1 - back, 0), groups)

    def note_names(self, zxid: int, ids: list[str | None], keys: list[str | None]) -> None:
        """Remember which id and key each message of an entry has, as its batch would say."""
        names = zip(ids, keys, strict=True)
        self.names.update({(zxid, index): name for index, name in enumerate(names) if name[0] is not None})

    def send(self, number: int, producer: int, sequence: int, groups: list[tuple[int, int, int, int, str]]) -> int:
        """Publish as a leader writes it: keys where there is an order by key, priorities where there is none."""
        count = sum(group[0] for group in groups)
        payload = b"x" * count * BYTES_A_MESSAGE
        fields = self.now, number, producer, sequence, count, count, None, payload
        queue = self.world.queues.get(number)
        routes: list[str] = []
        flat: list[int] = []
        for size, delay, ttl, rank, route in groups:
            if route and route not in routes and queue is None:
                routes.append(route)
            keyed = queue is None or is_keyed(queue)
            flat += (
                size,
                self.now + delay if delay else 0,
                ttl if self.mortal or (queue is not None and queue["topic"] is None) else 0,
                0 if queue is not None and is_keyed(queue) else rank,
                rank if keyed else 0,
                routes.index(route) + 1 if queue is None and route else 0,
            )
        if len(groups) == 1 and not any(flat[1:]):
            zxid, _ = self.run(e.Publish(*fields))
        else:
            zxid, _ = self.run(e.PublishGrouped(*fields, flat, routes))
        return zxid

    @step(1, name=One("hourly", "daily"), gone=WHICH)
    def set_schedule(self, name: str, gone: int) -> None:
        cron = "" if not gone else "0 * * * *"
        self.run(t.Schedule(self.now, "/", name, cron, "UTC", "orders", 1, 10, self.now + 1_000, "one", b"x" * 10))

    @step(2, name=One("hourly", "daily"), late=WHICH)
    def fire(self, name: str, late: int) -> None:
        """A schedule's time has come: its batch is published, and it moves on; now and then twice."""
        row = self.world.schedules.get(name)
        if row is not None:
            due = row["next"]
            target = self.world.queue_named("orders")
            assert target is not None
            self.send(target["id"], row["number"], len(self.world.producers[row["number"]]) + 1, [(1, 0, 0, 0, "")])
            for _ in range(1 + (late == 9)):
                self.run(t.Fire(self.now, row["number"], due, due + 1_000, 1))

    # --- topics --------------------------------------------------------------------------------------------------

    @step(3, topic=TOPIC, pattern=PATTERN, name=SUBSCRIPTION, settings=SETTINGS, start=One(0, 0, 1, 1, 2), at=WHICH)
    def subscribe(self, topic: str, pattern: str, name: str, settings: dict[str, Any], start: int, at: int) -> None:
        if self.fits(name, settings):
            place = (0, 0)
            if start == t.START_POSITION:
                history = [m["place"] for each in self.world.topics.values() for m in each["history"] or []]
                place = history[at % len(history)] if history else (0, 0)
            self.run(t.Subscribe(self.now, "/", topic, pattern, name, settings, 0, start, *place))

    @step(2, topic=TOPIC, pattern=PATTERN, which=WHICH, start=One(0, 1))
    def subscribe_for_now(self, topic: str, pattern: str, which: int, start: int) -> None:
        bound = [queue for queue in self.world.queues.values() if queue["topic"] is not None]
        if len(bound) < 4:
            self.run(t.Subscribe(self.now, "/", topic, pattern, "", {}, self.a_session(which), start))

    @step(1, which=WHICH, chance=WHICH)
    def unsubscribe(self, which: int, chance: int) -> None:
        if chance < 3:
            self.run(t.Unsubscribe(self.now, "/", self.a_queue(which)["name"]))

    @step(4, which=WHICH, most=One(1, 2, 5, 100), chance=WHICH)
    def fill(self, which: int, most: int, chance: int) -> None:
        """The leader reads a piece of what a topic retains; now and then it proposes it twice."""
        behind = [queue for queue in self.world.queues.values() if queue["filling"] is not None]
        if behind:
            entry = self.piece(behind[which % len(behind)], most)
            self.run(entry)
            if chance == 9:
                self.run(entry)

    def piece(self, subscription: Queue, most: int) -> t.Fill:
        filling = subscription["filling"]
        topic = self.world.topics[subscription["topic"]]
        ttl_of_topic = milliseconds(topic["settings"]["ttl"])
        lacking = to_fill(self.world, subscription)
        rows: list[int] = []
        for message in lacking[:most]:
            lifetimes = [each for each in (message["ttl"], ttl_of_topic) if each]
            expires = message["visible"] + min(lifetimes) if lifetimes else 0
            if message["due"] > message["published"] and message["expires"]:
                expires = message["expires"]  # it was delayed, and lives from when it was due
            if wants(subscription, message["route"]) and not 0 < expires <= self.now:
                batch = message["count"], message["count"] * BYTES_A_MESSAGE, message["visible"]
                rows += (*address(message), 1, *batch, expires, message["priority"], message["key"])
        done = len(lacking) <= most
        (from_zxid, from_index), behind = filling["next"], (filling["end"], 0) if done else lacking[most]["place"]
        return t.Fill(self.now, subscription["id"], from_zxid, from_index, rows, behind[0], behind[1], done)

    # --- consuming -----------------------------------------------------------------------------------------------

    @step(4, which=BUSY, session=WHICH, credit=One(100, 1, 2, 6), weight=One(1, 3))
    def consume(self, which: int, session: int, credit: int, weight: int) -> None:
        if len(self.consumers) < 9:
            self.attach(self.a_session(session), self.a_queue(which)["id"], credit, weight)

    def a_consumer(self, which: int) -> Who | None:
        alive = list(self.consumers)
        return alive[which % len(alive)] if alive else None

    @step(1, which=WHICH)
    def cancel_consumer(self, which: int) -> None:
        who = self.a_consumer(which)
        if who is not None:
            self.detach(who)

    @step(2, which=WHICH, credit=One(100, 0, 1, 3))
    def give_credit(self, which: int, credit: int) -> None:
        who = self.a_consumer(which)
        if who is not None:
            self.set_credit(who, credit)

    @step(20, most=One(1, 2, 5, 100))
    def deliver(self, most: int) -> None:
        self.deal(most)

    @step(2, most=One(1, 3))
    def plan_ahead(self, most: int) -> None:
        """What happens next is on its way when the leader plans so many grants more."""
        self.ahead = most

    @step(22, which=WHICH, verdict=VERDICTS, start=WHICH, count=WHICH, due=WHICH, reason=REASONS)
    def settle(self, which: int, verdict: int, start: int, count: int, due: int, reason: str) -> None:
        holders = sorted({m["holder"] for each in self.world.queues.values() for m in within(each, "leased")})
        if not holders:
            return
        who = holders[which % len(holders)]
        tags = sorted(self.world.leases(*who))
        first = tags[start % len(tags)]
        last = first + count % 4 if count < 8 else tags[-1] + (count == 9)
        due_ms = (0, self.now + 700, self.now + 100, e.BY_RETRY_POLICY)[due % 4]
        if verdict not in (VERDICT_NACK, e.EXPIRED):
            due_ms = 0
        tags_named = [first, max(first, last)]
        self.run(e.SettleJudged(self.now, who[0], who[1], verdict, tags_named, due_ms, reason))

    @step(2, which=WHICH)
    def acknowledge_all(self, which: int) -> None:
        self.settle(which, VERDICT_ACK, 0, 8, 0, "")

    @step(2, which=WHICH, keeps=WHICH, more=WHICH, reason=REASONS)
    def come_back(self, which: int, keeps: int, more: int, reason: str) -> None:
        """A client goes on with a consumer, and with some of what it had; perhaps it names what it settled before."""
        holders = sorted({m["holder"] for each in self.world.queues.values() for m in within(each, "leased")})
        holders = holders or list(self.world.answered)
        if holders:
            session, consumer = holders[which % len(holders)]
            tags = sorted(self.world.leases(session, consumer)) or [1]
            first = 1 if more > 7 else tags[0]
            last = tags[(len(tags) - 1) * (keeps % 4) // 3] + (more == 9)
            named = [first, max(first, last)] if keeps else []
            self.run(s.Resume(self.now, session, consumer, named, reason))

    @step(1, closed=WHICH, back=WHICH)
    def mark_closed(self, closed: int, back: int) -> None:
        """The leader says whose end closed its connection, and who is back; perhaps of somebody who is gone."""
        numbers = [self.sessions[which % len(self.sessions)] for which in (closed, back)]
        self.run(s.MarkClosed(self.now, [numbers[0], 10**9], [numbers[1]] if back % 3 else []))

    @step(1, which=WHICH, reason=REASONS, chance=WHICH)
    def disconnect(self, which: int, reason: str, chance: int) -> None:
        if chance < 5:
            number = which % len(self.sessions)
            self.run(e.SessionClose(self.now, self.sessions[number], reason))
            self.sessions[number], _ = self.run(e.SessionOpen(self.now, "/", "ann", "", b""))
            if chance < 4:
                self.come_again()

    @step(1, chance=WHICH)
    def lose_the_leader(self, chance: int) -> None:
        if chance < 4:
            self.take_the_lead()
            self.sessions = [self.run(e.SessionOpen(self.now, "/", "ann", "", b""))[0] for _ in range(2)]
            self.come_again()

    # --- time ----------------------------------------------------------------------------------------------------

    @step(4, ms=One(100, 500, 1_000, 5_000, DAY_MS))
    def time_passes(self, ms: int) -> None:
        self.now += ms
        self.run(e.Clock(self.now, 10_000))

    @step(2, ms=One(100, 500, 1_000))
    def time_passes_unnoticed(self, ms: int) -> None:
        """The next entry comes before a CLOCK entry does."""
        self.now += ms

    @step(2, ms=One(100, 1_000, 5_000), items_max=One(1, 2, 7))
    def time_passes_in_pieces(self, ms: int, items_max: int) -> None:
        self.now += ms
        self.ahead = 0
        self.clock_in_pieces(items_max)

    @step(3, which=WHICH, start=WHICH, count=One(1, 2, 5))
    def cancel(self, which: int, start: int, count: int) -> None:
        queue = self.one_with_delayed(which)
        self.run(q.Cancel(self.now, queue["id"], self.some_delayed(queue, start, count)))

    @step(3, which=WHICH, start=WHICH, count=One(1, 2, 5), delay=One(-100, 0, 300, 3_000))
    def reschedule(self, which: int, start: int, count: int, delay: int) -> None:
        queue = self.one_with_delayed(which)
        self.run(q.Reschedule(self.now, queue["id"], self.some_delayed(queue, start, count), self.now + delay))

    def one_with_delayed(self, which: int) -> Queue:
        """A queue or a topic."""
        holders = (*self.world.queues.values(), *self.world.topics.values())
        return self.one_of([holder for holder in holders if within(holder, "delayed")], which)

    def some_delayed(self, queue: Queue, start: int, count: int) -> list[int]:
        """A few that wait, some of which may be named with another time than theirs."""
        delayed = waiting(queue)[start % 3 :][:count]
        return [number for m in delayed for number in (m["due"] + (start == 9), *address(m), 1)]

    # --- dead letters --------------------------------------------------------------------------------------------

    def a_queue_with_letters(self, which: int) -> Queue:
        return self.one_of(
            [
                queue
                for queue in self.world.queues.values()
                if any(m["state"] == "dead" or (m["note"] is not None and m["note"][1]) for m in queue["messages"])
            ],
            which,
        )

    def some_dead(self, queue: Queue, start: int, count: int, part: int) -> list[int]:
        """A few dead letters as an operator sees them: parts of those kept aside, all of those from elsewhere."""
        found = self.machine.existing_queue(queue["id"])
        aside = found.dead.runs()[start % 3 :][:count]
        strangers = [
            run
            for run in self.peek(found)
            if (note := found.notes.get(run.note)) is not None and note.origin and not found.returned.holds(run)
        ]
        return flat_of(aside, part) + flat_of(strangers[start % 3 :][:count], 0)

    @step(3, which=WHICH, start=WHICH, count=One(1, 2, 3), part=WHICH, to=One("", "", "orders", "mail", "some"))
    def redrive(self, which: int, start: int, count: int, part: int, to: str) -> None:
        queue = self.a_queue_with_letters(which)
        target = self.world.queue_named(to)
        number = target["id"] if target is not None else 0
        self.run(q.Redrive(self.now, queue["id"], self.some_dead(queue, start, count, part), number))

    @step(1, which=WHICH, start=WHICH, count=One(1, 2, 3), part=WHICH)
    def discard(self, which: int, start: int, count: int, part: int) -> None:
        queue = self.a_queue_with_letters(which)
        self.run(q.Discard(self.now, queue["id"], self.some_dead(queue, start, count, part)))
