"""The queue machine as anyone would write it first: one dict a message, plain lists, no runs.

It is the other opinion: the stateful tests run it beside the machine and compare. It must share nothing with the
machine but the entries and the errors, and it must stay naive.
"""

from __future__ import annotations

from typing import Any

from sluicemq.broker.queues import entries as e
from sluicemq.wire.errors import (
    Conflict,
    InvalidRequest,
    ProducerFenced,
    ProducerNotFound,
    QueueNotFound,
    SequenceGap,
    SessionNotFound,
)
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_RELEASE
from sluicemq.wire.settings import QUEUE_SETTINGS_DEFAULT

Address = tuple[int, int]
Message = dict[str, Any]


def tags_in(ranges: list[int]) -> list[int]:
    return [tag for first, last in zip(ranges[::2], ranges[1::2], strict=True) for tag in range(first, last + 1)]


def place(message: Message) -> tuple[int, int, int]:
    return message["ready"], message["zxid"], message["index"]


class Model:
    """State: `messages` by address; for each queue a `line` (in order) and what was `returned` in front of it."""

    def __init__(self) -> None:
        self.time = 0
        self.messages: dict[Address, Message] = {}
        self.queues: dict[int, dict[str, Any]] = {}
        self.sessions: set[int] = set()
        self.producers: dict[int, dict[str, Any]] = {}
        self.fenced: set[int] = set()

    # --- questions -----------------------------------------------------------------------------------------------

    def queue_named(self, name: str) -> int | None:
        for number, queue in self.queues.items():
            if queue["name"] == name:
                return number
        return None

    def in_state(self, queue: int, state: str) -> list[Message]:
        return [m for m in self.messages.values() if m["queue"] == queue and m["state"] == state]

    def ready(self, queue: int) -> list[Message]:
        """All ready messages in the order of delivery."""
        returned = sorted((m for m in self.in_state(queue, "ready") if m["returned"]), key=place)
        return returned + [self.messages[address] for address in self.queues[queue]["line"]]

    def leased(self, session: int, consumer: int) -> dict[int, Message]:
        return {
            m["holder"][2]: m
            for m in self.messages.values()
            if m["state"] == "leased" and m["holder"][:2] == (session, consumer)
        }

    def due(self) -> list[Message]:
        waiting = [m for m in self.messages.values() if m["state"] == "delayed" and m["due"] <= self.time]
        return sorted(waiting, key=lambda m: (m["due"], m["queue"], m["nacked"], place(m)))

    # --- entries -------------------------------------------------------------------------------------------------

    def apply(self, zxid: int, entry: e.Entry) -> Any:
        """Return what the entry should answer: a plain value, or the class of its error."""
        self.time = max(self.time, entry.log_time_ms)
        return getattr(self, type(entry).__name__)(zxid, entry)

    def Epoch(self, zxid: int, entry: e.Epoch) -> None:
        pass

    def SessionOpen(self, zxid: int, entry: e.SessionOpen) -> int:
        self.sessions.add(zxid)
        return zxid

    def SessionClose(self, zxid: int, entry: e.SessionClose) -> Any:
        if entry.session not in self.sessions:
            return SessionNotFound
        self.sessions.discard(entry.session)
        count = 0
        for message in self.messages.values():
            if message["state"] == "leased" and message["holder"][0] == entry.session:
                self.back(message, attempts=message["handed"])
                count += 1
        return count

    def ProducerOpen(self, zxid: int, entry: e.ProducerOpen) -> int:
        if entry.name:
            for number, producer in list(self.producers.items()):
                if producer["name"] == entry.name:
                    del self.producers[number]
                    self.fenced.add(number)
        self.producers[zxid] = {"name": entry.name, "zxids": [], "fenced": []}
        return zxid

    def ProducerClose(self, zxid: int, entry: e.ProducerClose) -> bool:
        # A name that dies takes its fenced numbers along; the stories test that, here names are never closed.
        return self.producers.pop(entry.producer, None) is not None

    def Publish(self, zxid: int, entry: e.Publish) -> Any:
        if entry.producer in self.fenced:
            return ProducerFenced
        if entry.producer not in self.producers:
            return ProducerNotFound
        zxids = self.producers[entry.producer]["zxids"]
        if entry.sequence < 1:
            return InvalidRequest
        if entry.sequence <= len(zxids):
            return zxids[entry.sequence - 1], entry.count, True
        if entry.sequence > len(zxids) + 1:
            return SequenceGap
        if entry.queue not in self.queues:
            return QueueNotFound
        zxids.append(zxid)
        for index in range(entry.count):
            self.messages[zxid, index] = {
                "zxid": zxid,
                "index": index,
                "queue": entry.queue,
                "state": "ready",
                "returned": False,
                "ready": zxid,
                "deliveries": 0,
                "attempts": 0,
                "handed": False,
            }
            self.queues[entry.queue]["line"].append((zxid, index))
        self.queues[entry.queue]["history"].append((zxid, entry.count, len(entry.payload), self.time))
        return zxid, entry.count, False

    def Grant(self, zxid: int, entry: e.Grant) -> list[int]:
        void: list[int] = []
        tag = entry.first_tag
        for start in range(0, len(entry.runs), 3):
            batch, first, count = entry.runs[start : start + 3]
            addresses = [(batch, index) for index in range(first, first + count)]
            if entry.queue in self.queues and self.to_be_had(entry.queue, addresses):
                line = self.queues[entry.queue]["line"]
                for offset, address in enumerate(addresses):
                    message = self.messages[address]
                    if address in line:
                        line.remove(address)
                    message["state"] = "leased"
                    message["handed"] = False
                    if entry.session in self.sessions:
                        message["holder"] = (entry.session, entry.consumer, tag + offset)
                    else:
                        self.back(message, attempts=False)
                if entry.session not in self.sessions:
                    void += range(tag, tag + count)
            else:
                void += range(tag, tag + count)
            tag += count
        return void

    def to_be_had(self, queue: int, addresses: list[Address]) -> bool:
        found = [self.messages[address] for address in addresses if address in self.messages]
        if len(found) < len(addresses) or any(m["queue"] != queue or m["state"] != "ready" for m in found):
            return False
        return all(m["returned"] for m in found) or self.queues[queue]["line"][: len(addresses)] == addresses

    def Settle(self, zxid: int, entry: e.Settle) -> Any:
        tags = tags_in(entry.tags)
        backwards = any(first > last for first, last in zip(entry.tags[::2], entry.tags[1::2], strict=True))
        if entry.verdict not in (1, 2, 3, 4, 16, 17):
            return InvalidRequest
        if backwards or not tags or tags != sorted(set(tags)) or tags[0] < 1:
            return InvalidRequest
        if entry.session not in self.sessions:
            return SessionNotFound
        held = self.leased(entry.session, entry.consumer)
        lost = [tag for tag in tags if tag not in held]
        messages = sorted((held[tag] for tag in tags if tag in held), key=place)
        if entry.verdict == VERDICT_HANDED_OVER:
            for message in messages:
                message["handed"] = True
            return lost, 0
        for message in messages:
            if entry.verdict == VERDICT_ACK:
                message["state"] = "settled"
            elif entry.verdict == VERDICT_RELEASE:
                self.back(message, attempts=False)
            elif entry.verdict == e.ABANDONED:
                self.back(message, attempts=message["handed"])
            else:
                self.back(message, attempts=entry.verdict == VERDICT_NACK or message["handed"])
                message["returned"] = False
                if entry.due_time_ms > self.time:
                    message.update(state="delayed", due=entry.due_time_ms, nacked=zxid)
                else:
                    self.behind_the_tail(message, zxid)
        return lost, len(messages)

    def Clock(self, zxid: int, entry: e.Clock, count: int, forgotten: int) -> int:
        """*items_max* counts runs, which the model does not know: it is told how many messages that were.

        It is told too how many retained batches went: they count likewise.
        """
        self.time = max(self.time, entry.log_time_ms)
        due = self.due()
        assert count <= len(due), "nothing becomes ready before its time"
        assert count >= min(len(due), entry.items_max - forgotten), "each run holds a message at least"
        for message in due[:count]:
            self.behind_the_tail(message, zxid)
        return count

    def Declare(self, zxid: int, entry: e.Declare) -> Any:
        number = self.queue_named(entry.name)
        outcome = "unchanged"
        if number is None:
            number, outcome = zxid, "created"
            self.queues[zxid] = {
                "name": entry.name,
                "line": [],
                "settings": dict(QUEUE_SETTINGS_DEFAULT),
                "history": [],
            }
        settings = self.queues[number]["settings"]
        changes = {name: [settings[name], value] for name, value in entry.settings.items() if settings[name] != value}
        if settings["retention"] is None or entry.settings.get("retention", 1) is None:
            self.queues[number]["history"] = []  # it begins here, or ends
        settings.update(entry.settings)
        if changes and outcome == "unchanged":
            outcome = "changed"
        return number, outcome, changes

    def Delete(self, zxid: int, entry: e.Delete) -> Any:
        number = self.queue_named(entry.name)
        if number is None:
            return QueueNotFound
        here = [m for m in self.messages.values() if m["queue"] == number]
        alive = [m for m in here if m["state"] in ("ready", "leased", "delayed")]
        if alive and entry.if_empty:
            return Conflict
        for message in here:
            del self.messages[message["zxid"], message["index"]]
        del self.queues[number]
        return len(alive)

    def Purge(self, zxid: int, entry: e.Purge) -> Any:
        if entry.queue not in self.queues:
            return QueueNotFound
        dropped = self.in_state(entry.queue, "ready") + self.in_state(entry.queue, "delayed")
        for message in dropped:
            message["state"] = "purged"
        self.queues[entry.queue]["line"].clear()
        return len(dropped)

    def Forget(self, zxid: int, entry: e.Forget) -> Any:
        if entry.queue not in self.queues:
            return QueueNotFound
        ranges = list(zip(entry.entries[::2], entry.entries[1::2], strict=False))
        flat = [number for first, last in ranges for number in (first, last + 1)]
        if not flat or len(entry.entries) % 2 or flat != sorted(flat) or any(first > last for first, last in ranges):
            return InvalidRequest

        def is_lost(number: int) -> bool:
            return any(first <= number <= last for first, last in ranges)

        queue = self.queues[entry.queue]
        gone = [
            m
            for m in self.messages.values()
            if m["queue"] == entry.queue and is_lost(m["zxid"]) and m["state"] in ("ready", "leased", "delayed")
        ]
        for message in gone:
            message["state"] = "purged"
        queue["line"] = [address for address in queue["line"] if not is_lost(address[0])]
        batches = len(queue["history"])
        queue["history"] = [batch for batch in queue["history"] if not is_lost(batch[0])]
        return len(gone), batches - len(queue["history"])

    # --- what is retained ----------------------------------------------------------------------------------------

    def forget(self, number: int, kept: list[tuple[int, int, int, int]]) -> int:
        """Follow the machine in what it let go, which must be the oldest and have had to go; return how many."""
        history = self.queues[number]["history"]
        gone = len(history) - len(kept)
        assert history[gone:] == kept, "what is retained is all that was published since what is not"
        for position, (_, _, _, published_ms) in enumerate(history[:gone]):
            assert self.too_old(number, published_ms) or self.too_much(number, history[position:]), "it could stay"
        self.queues[number]["history"] = kept
        return gone

    def too_old(self, number: int, published_ms: int) -> bool:
        seconds = self.queues[number]["settings"]["retention"].get("seconds")
        return seconds is not None and published_ms + seconds * 1000 <= self.time

    def too_much(self, number: int, history: list[tuple[int, int, int, int]]) -> bool:
        bytes_max = self.queues[number]["settings"]["retention"].get("bytes")
        return bytes_max is not None and sum(size for _, _, size, _ in history) > bytes_max

    def must_forget(self, number: int) -> bool:
        """Whether the next CLOCK entry has to let something go."""
        history = self.queues[number]["history"]
        if not history or self.queues[number]["settings"]["retention"] is None:
            return False
        # By age they go in steps of a second.
        step_ms = self.time // 1000 * 1000
        seconds = self.queues[number]["settings"]["retention"].get("seconds")
        old = seconds is not None and history[0][3] + seconds * 1000 <= step_ms
        return old or self.too_much(number, history)

    # --- moves ---------------------------------------------------------------------------------------------------

    def back(self, message: Message, *, attempts: bool) -> None:
        """The lease is over; the message is ready again where it was."""
        message.update(state="ready", returned=True, handed=False)
        message["deliveries"] += 1
        message["attempts"] += int(attempts)

    def behind_the_tail(self, message: Message, zxid: int) -> None:
        message.update(state="ready", returned=False, ready=zxid)
        self.queues[message["queue"]]["line"].append((message["zxid"], message["index"]))
