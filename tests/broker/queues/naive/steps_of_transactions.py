"""Steps of transactions and half messages, whose groups ask for answers in time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicemq.broker.pipeline.identities import hashes_of
from sluicemq.broker.queues import entries_of_transactions as x
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK, VERDICT_REJECT
from sluicemq.wire.settings import DEDUP_SCOPES
from tests.broker.queues.naive.choices import One, Some, Tuple, step
from tests.broker.queues.naive.steps import BUSY, DELAY, GROUPS, LIFETIME, RANK, ROUTE, WHICH, Steps
from tests.broker.queues.naive.windows import holder_of
from tests.broker.queues.naive.world import BYTES_A_MESSAGE, chunks_of, is_keyed, within

if TYPE_CHECKING:
    from collections.abc import Sequence

IDS = Some(One(None, None, "a", "b", "c", "d"), 5)
NEVER_ASKED_MS = 4_000_000_000
Group = tuple[int, int, int, int, str]


def cycled(ids: Sequence[str | None], count: int) -> list[str | None]:
    """So many of *ids*, one after the other."""
    return [ids[index % len(ids)] for index in range(count)]


def cycled_parts(ids: Sequence[str | None], counts: list[int]) -> list[str | None]:
    return [id_ for count in counts for id_ in cycled(ids, count)]


class StepsOfTransactions(Steps):
    """Beside the others, what holds as a whole, and what waits for a decision."""

    def groups_for(self, number: int, groups: list[Group], routes: list[str]) -> list[int]:
        """Return the groups as an entry has them; *routes* gets what they name."""
        queue = self.world.queues.get(number)
        flat: list[int] = []
        for size, delay, ttl, rank, route in groups:
            if queue is None and route and route not in routes:
                routes.append(route)
            keyed = queue is None or is_keyed(queue)
            flat += (
                size,
                self.now + delay if delay else 0,
                ttl if self.mortal or (queue is not None and queue["topic"] is None) else 0,
                0 if queue is not None and keyed else rank,
                rank if keyed else 0,
                routes.index(route) + 1 if queue is None and route else 0,
            )
        return flat

    def a_target(self, which: int, to_topic: bool) -> int:
        topics = list(self.world.topics)
        return topics[which % len(topics)] if to_topic and topics else self.a_queue(which)["id"]

    @step(
        5,
        parts=Some(Tuple(BUSY, One(False, False, True), One(1, 2, 4), DELAY, LIFETIME, RANK, ROUTE), 2),
        which=WHICH,
        verdict=One(VERDICT_ACK, VERDICT_ACK, VERDICT_NACK, VERDICT_REJECT),
        count=WHICH,
        again=WHICH,
        ids=IDS,
    )
    def transact(
        self, parts: list[tuple[Any, ...]], which: int, verdict: int, count: int, again: int, ids: list[str | None]
    ) -> None:
        """Messages for one or two queues or topics, and a verdict; now and then of a lease that is over, or twice."""
        routes: list[str] = []
        flat_parts: list[int] = []
        groups: list[int] = []
        keys: list[str | None] = []
        hashes = b""
        for queue, to_topic, *group in parts:
            number = self.a_target(queue, to_topic)
            groups += self.groups_for(number, [tuple(group)], routes)
            found = holder_of(self.world, number)
            window = None if found is None else found["window"]
            scope = 0 if window is None else window.scope
            keys += [str(group[3])] * group[0]
            hashes += hashes_of(cycled(ids, group[0]), keys[-group[0] :], scope)
            flat_parts += (number, group[0], 0, scope + 1 if window is not None else 0)
        session, settlements = 0, []
        holders = sorted({m["holder"] for each in self.world.queues.values() for m in within(each, "leased")})
        if holders and count:
            session, consumer = holders[which % len(holders)]
            tags = sorted(self.world.leases(session, consumer))
            last = tags[min(count, len(tags)) - 1] + (count == 9)
            settlements = [consumer, verdict, 0, 1, tags[0], last]
        messages = sum(part[1] for part in chunks_of(flat_parts, x.PART_NUMBERS))
        entry = x.Transaction(
            self.now,
            self.producer,
            len(self.world.producers[self.producer]) + 1,
            messages,
            messages,
            flat_parts,
            groups,
            routes,
            session,
            settlements,
            ["because"] if settlements else [],
            hashes if any(hashes) else b"",
            payload=b"x" * messages * BYTES_A_MESSAGE,
        )
        zxid, answer = self.run(entry)
        if isinstance(answer, tuple):
            self.note_names(zxid, cycled_parts(ids, [part[2] for part in parts]), keys)
        if again == 9:
            self.run(entry)

    @step(
        2,
        which=WHICH,
        to_topic=One(False, True),
        groups=GROUPS,
        check_after=One(NEVER_ASKED_MS, 0, 500),
        ids=IDS,
    )
    def prepare(
        self,
        which: int,
        to_topic: bool,
        groups: list[Group],
        check_after: int = NEVER_ASKED_MS,
        ids: Sequence[str | None] = (None,),
    ) -> None:
        """Its ids are hashed though there may be no window yet."""
        number = self.a_target(which, to_topic)
        routes: list[str] = []
        flat = self.groups_for(number, groups, routes)
        messages = sum(flat[::6])
        sequence = len(self.world.producers[self.producer]) + 1
        fields = self.now, number, self.producer, sequence, messages, messages, "destination", "group", check_after
        holder = holder_of(self.world, number)
        scope = 0 if holder is None else DEDUP_SCOPES.index(holder["settings"]["dedup_scope"])
        keys: list[str | None] = [str(group[3]) for group in groups for _ in range(group[0])]
        hashes = hashes_of(cycled(ids, messages), keys, scope)
        payload = b"x" * messages * BYTES_A_MESSAGE
        if not any(hashes):
            hashes = b""
        zxid, answer = self.run(x.Prepare(*fields, 0, flat, routes, payload, scope=scope + 1, ids=hashes))
        if isinstance(answer, tuple):
            self.note_names(zxid, cycled(ids, messages), keys)

    @step(3, which=WHICH, commit=One(True, True, False))
    def resolve(self, which: int, commit: bool) -> None:
        """Somebody decides; now and then what was decided before, or what nobody prepared."""
        numbers = [*self.world.halves, *(list(self.world.decided)[-1:]), *([12_345] if which == 9 else [])]
        if numbers:
            self.run(x.Resolve(self.now, numbers[which % len(numbers)], commit))

    @step(2, which=WHICH, times=One(1, 1, 1, 20))
    def ask(self, which: int, times: int) -> None:
        """A member of the group is asked about what is due, and perhaps about what is not; or again and again."""
        for _ in range(times):
            numbers = [number for number, half in self.world.halves.items() if half["next"]]
            self.run(x.Checked(self.now, [*numbers[which % 3 :], *([12_345] if which == 9 else [])]))
            if times > 1:
                self.now += 60_000
