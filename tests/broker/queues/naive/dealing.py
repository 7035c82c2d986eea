"""Who may be given what: what the leader's dispatcher picks is judged by these rules, and that it picks at all."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.broker.queues.naive.settling import key_is_open
from tests.broker.queues.naive.world import Message, Queue, World, address, is_keyed, line, within

if TYPE_CHECKING:
    from sluicemq.broker.queues.dispatching.dispatcher import Pick

Who = tuple[int, int]
Consumers = dict[Who, dict[str, Any]]


def active_of(queue: Queue, consumers: Consumers) -> list[Who]:
    """Those who take part: all, the first, or the heaviest."""
    here = [who for who, consumer in consumers.items() if consumer["queue"] == queue["id"]]
    mode = queue["settings"]["mode"]
    if mode == "shared" or not here:
        return here
    if mode == "exclusive":
        return here[:1]
    heaviest = max(consumers[who]["weight"] for who in here)
    return [who for who in here if consumers[who]["weight"] == heaviest][:1]


class Deal:
    """The leases of one queue, with those that are planned."""

    def __init__(self, world: World, queue: Queue, consumers: Consumers, planned: list[Pick]) -> None:
        self.queue = queue
        topic = world.topics.get(queue["topic"])
        self.is_paused = "deliver" in queue["paused"] | (set() if topic is None else topic["paused"])
        self.consumers = consumers
        self.out = [(m["holder"], m) for m in within(queue, "leased")]
        self.ready = line(queue)
        self.is_stale = False
        for pick in planned:
            if pick.queue_id == queue["id"]:
                self.take(pick)

    def take(self, pick: Pick) -> list[Message]:
        """Move what is picked from those that are ready to those that are out.

        Where there are keys, a round deals messages to several consumers, and hands out what went meanwhile: in vain.
        """
        taken: list[Message] = []
        for run in pick.runs:
            for index in range(run.first, run.first + run.size):
                place = run.zxid, index, run.ready
                found = next((m for m in self.ready if (*address(m), m["ready"]) == place), None)
                self.is_stale = self.is_stale or found is None
                if found is not None:
                    self.ready = [m for m in self.ready if m is not found]
                    taken.append(found)
        self.out += [((pick.session, pick.consumer), m) for m in taken]
        return taken

    def held(self, who: Who) -> int:
        return sum(holder == who for holder, _ in self.out)

    def able(self, credit: str = "credit") -> list[Who]:
        """Those who could be given one message more."""
        active = active_of(self.queue, self.consumers)
        if self.is_paused:
            return []
        if self.queue["settings"]["mode"] != "shared" and any(holder not in active for holder, _ in self.out):
            return []
        return [who for who in active if self.held(who) < self.consumers[who][credit]]

    def judge(self, pick: Pick) -> bool:
        """Assert that the pick is right; return whether all of it can be had."""
        who = pick.session, pick.consumer
        before = self.ready
        # What is dealt by key is handed out, though the consumer wants less meanwhile.
        credit = "allowed" if is_keyed(self.queue) else "credit"
        assert who in self.able(credit), f"{who} is given something out of turn"
        holders = {m["key"]: holder for holder, m in self.out}
        taken = self.take(pick)
        assert not self.is_stale or is_keyed(self.queue), "what is picked is there"
        assert self.held(who) <= self.consumers[who][credit], f"{who} is given more than it wants"
        if not is_keyed(self.queue):
            assert taken == before[: len(taken)], "the front of the queue goes"
            return True
        for key in {m["key"] for m in taken if m["key"]}:
            own = [m for m in taken if m["key"] == key]
            of_key = [m for m in before if m["key"] == key]
            # Of those that became ready together, any may be first.
            assert [m["ready"] for m in own] == [m["ready"] for m in of_key[: len(own)]], f"{key} goes in order"
            assert key_is_open(self.queue, key), f"{key} has to wait"
            assert holders.get(key, who) == who, f"{key} is with another consumer"
            count = sum(m["key"] == key for _, m in self.out)
            assert count <= self.queue["settings"]["key_in_flight_max"], f"too many of {key} are out"
        return not self.is_stale

    def nobody_waits_in_vain(self) -> None:
        """Assert that nothing is left that somebody could be given."""
        able = self.able()
        for message in self.ready if able else ():
            key = message["key"]
            if not is_keyed(self.queue) or not key:
                raise AssertionError(f"{address(message)} waits, and {able} have room")
            of_key = [holder for holder, m in self.out if m["key"] == key]
            room = len(of_key) < self.queue["settings"]["key_in_flight_max"]
            stalls = key_is_open(self.queue, key) and room and set(of_key) <= set(able)
            assert not stalls, f"{address(message)} of {key} waits, and {able} have room"
