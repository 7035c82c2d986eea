"""The state: queues, topics, sessions and policies as dicts, and in each queue its messages, one dict each.

A message is `ready`, `leased`, `delayed` or `dead`; one that is gone is only counted in `totals` of its queue. Of those
that are ready, what was given back (`back`) comes first in its priority, by place, then the others by their `turn`.
"""

from __future__ import annotations

from collections import Counter
from itertools import count
from typing import Any

Message = dict[str, Any]
Queue = dict[str, Any]
Topic = dict[str, Any]
Address = tuple[int, int]

DEFAULTS: dict[str, Any] = {
    "retry_delay": 1.0,
    "retry": None,
    "max_deliveries": None,
    "dead_letter": None,
    "ttl": None,
    "expires": None,
    "max_length": None,
    "max_bytes": None,
    "overflow": "reject",
    "mode": "shared",
    "ordering": "fifo",
    "key_in_flight_max": 1,
    "poison_key": "dead_letter",
    "dispatch": "round_robin",
    "message_bytes_max": None,
    "retention": None,
    "settled_window": 0.0,
    **(IDENTITY := {"dedup_window": 0.0, "dedup_count": 1_000_000, "dedup_scope": "queue"}),
    "delivery_rate": None,
    "delivery_burst": None,
    "delivery_bytes_rate": None,
    "max_concurrency": None,
    "delivery_adaptive": None,
    **(ADMISSION := {"publish_limit": None}),
}
TOPIC_DEFAULTS: dict[str, Any] = {"ttl": None, "message_bytes_max": None, "retention": None, **IDENTITY, **ADMISSION}
BYTES_A_MESSAGE = 10
ALIVE = ("ready", "leased", "delayed")
GONE = ("settled", "purged", "expired", "dropped", "moved")


class World:
    """Everything there is.

    Args:
        receipts_max: So many receipts of a producer are remembered,
        fenced_max: and so many numbers that lost a name.

    Attributes:
        time: Log time in milliseconds.
        queues: By number; subscriptions are queues with a topic.
        topics: By number.
        sessions: Their numbers.
        closed: Those of them whose client's end closed the connection, and did not come back.
        answered: The tags that clients have settled, by session and consumer.
        last_tags: The last tag that was leased to each consumer.
        producers: The zxids of what each published, in order, by number.
        names: The number of the producer that has a name.
        fenced: Numbers of the producers that lost a name to another, with the name.
        policies: By name.
        schedules: By name.
        halves: Half messages that nobody has decided, by number.
        decided: What was decided about the others, when, and which of their messages were there before.
        following: Whether queues have to follow a change of the policies, and since when.
        deleted: Messages that went with their queue, or with the topic that delayed them.
        born: Messages ever published, each once for each queue that got it when it was ready.

    """

    def __init__(self, receipts_max: int = 256, fenced_max: int = 256) -> None:
        self.receipts_max = receipts_max
        self.fenced_max = fenced_max
        self.time = 0
        self.order = count()
        self.queues: dict[int, Queue] = {}
        self.topics: dict[int, Topic] = {}
        self.sessions: set[int] = set()
        self.closed: set[int] = set()
        self.answered: dict[tuple[int, int], set[int]] = {}
        self.last_tags: dict[tuple[int, int], int] = {}
        self.producers: dict[int, list[int]] = {}
        self.names: dict[str, int] = {}
        self.fenced: dict[int, str] = {}
        self.policies: dict[str, dict[str, Any]] = {}
        self.schedules: dict[str, dict[str, Any]] = {}
        self.halves: dict[int, dict[str, Any]] = {}
        self.moved: dict[int, int] = {}
        self.decided: dict[int, tuple[bool, int, dict[int, Address]]] = {}
        self.following: int | None = None
        self.deleted = 0
        self.born = 0

    # --- finding -------------------------------------------------------------------------------------------------

    def queue_named(self, name: str | None) -> Queue | None:
        return next((queue for queue in self.queues.values() if queue["name"] == name), None)

    def topic_named(self, name: str) -> Topic | None:
        return next((topic for topic in self.topics.values() if topic["name"] == name), None)

    def leases(self, session: int, consumer: int) -> dict[int, Message]:
        """What a consumer holds, by tag."""
        return {
            m["tag"]: m
            for queue in self.queues.values()
            for m in queue["messages"]
            if m["state"] == "leased" and m["holder"] == (session, consumer)
        }

    # --- changing ------------------------------------------------------------------------------------------------

    def add(self, queue: Queue, message: Message) -> Message:
        """A message comes into a queue, as nobody has had it."""
        fresh = {**message, "queue": queue["id"], "deliveries": 0, "attempts": 0, "handed": False, "back": False}
        queue["messages"].append(fresh)
        queue["totals"]["published"] += 1
        return fresh

    def line_up(self, queue: Queue, message: Message, zxid: int) -> None:
        """It goes behind the tail of its priority."""
        message.update(state="ready", back=False, ready=zxid, turn=next(self.order))

    def give_back(self, message: Message) -> None:
        """It goes back to its place."""
        message.update(state="ready", back=True)

    def come_back(self, queue: Queue, message: Message, zxid: int) -> None:
        """It becomes ready again: one that had its turn among its key's keeps it, others go behind the tail."""
        if is_keyed(queue) and message["key"] and message["deliveries"]:
            self.give_back(message)
        else:
            self.line_up(queue, message, zxid)

    def wait(self, message: Message, due: int) -> None:
        message.update(state="delayed", due=due, came=next(self.order))

    def gone(self, queue: Queue, message: Message, why: str) -> None:
        queue["messages"] = [m for m in queue["messages"] if m is not message]
        queue["totals"][why] += 1


def new_queue(number: int, name: str, time: int) -> Queue:
    return {
        "id": number,
        "name": name,
        "declared": {},
        "settings": dict(DEFAULTS),
        "messages": [],
        "totals": Counter(),
        "paused": set(),
        "parked": set(),
        "used": time,
        "topic": None,
        "filling": None,
        "window": None,
        "settled_ids": None,
    }


def is_keyed(queue: Queue) -> bool:
    return bool(queue["settings"]["ordering"] == "key")


def within(queue: Queue, *states: str) -> list[Message]:
    return [m for m in queue["messages"] if m["state"] in states]


def place(message: Message) -> tuple[int, int, int, int]:
    return -message["priority"], message["ready"], message["zxid"], message["index"]


def address(message: Message) -> Address:
    return message["zxid"], message["index"]


def line(queue: Queue) -> list[Message]:
    """All that is ready, in the order of delivery."""
    back = sorted((m for m in within(queue, "ready") if m["back"]), key=place)
    others = sorted((m for m in within(queue, "ready") if not m["back"]), key=lambda m: m["turn"])
    return sorted(back + others, key=lambda m: -m["priority"])


def waiting(holder: Queue | Topic) -> list[Message]:
    """All that is delayed, in the order in which it comes due."""
    return sorted(within(holder, "delayed"), key=lambda m: (m["due"], m["came"]))


def is_old(message: Message, time: int) -> bool:
    return 0 < message["expires"] <= time


def milliseconds(seconds: float | None) -> int:
    return round((seconds or 0) * 1000)


def tags_in(ranges: list[int]) -> list[int]:
    return [tag for first, last in zip(ranges[::2], ranges[1::2], strict=True) for tag in range(first, last + 1)]


def chunks_of(flat: list[int], size: int) -> list[list[int]]:
    return [flat[start : start + size] for start in range(0, len(flat), size)]
