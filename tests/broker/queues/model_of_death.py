"""How messages of a queue fail, age, make room and die, as anyone would write it first: one dict a message.

The other opinion beside the machine. It must share nothing with it but entries and the names of notes, and it must
stay naive. What it does not decide is the order in which messages of one entry leave because of their age.
"""

from __future__ import annotations

from itertools import count
from typing import Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_queues as q
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_REJECT, VERDICT_RELEASE
from sluicemq.wire.settings import QUEUE_SETTINGS_DEFAULT

Message = dict[str, Any]
GONE = ("settled", "expired", "dropped", "purged")
Note = tuple[str, str, str, int]
"""What happened, where, what was said, attempts there."""


def tags_in(ranges: list[int]) -> list[int]:
    return [tag for first, last in zip(ranges[::2], ranges[1::2], strict=True) for tag in range(first, last + 1)]


def place(message: Message) -> tuple[int, int, int, int]:
    return -message["priority"], message["ready"], message["zxid"], message["index"]


class Model:
    """Every message ever published, wherever it is now."""

    def __init__(self) -> None:
        self.time = 0
        self.order = count()
        self.messages: list[Message] = []
        self.settings: dict[str, dict[str, Any]] = {}
        self.numbers: dict[int, str] = {}

    # --- questions -----------------------------------------------------------------------------------------------

    def where(self, queue: str, *states: str) -> list[Message]:
        return [m for m in self.messages if m["queue"] == queue and m["state"] in states]

    def alive(self, queue: str) -> int:
        return len(self.where(queue, "ready", "leased", "delayed"))

    def ready(self, queue: str) -> list[Message]:
        """In the order of delivery: what came back lies in front of its priority."""
        return sorted(
            self.where(queue, "ready"),
            key=lambda m: (-m["priority"], 0, place(m)) if m["back"] else (-m["priority"], 1, m["order"]),
        )

    def delayed(self, queue: str) -> list[Message]:
        return sorted(self.where(queue, "delayed"), key=lambda m: (m["due"], m["order"]))

    def leased(self, session: int, consumer: int) -> dict[int, Message]:
        return {m["tag"]: m for m in self.messages if m["state"] == "leased" and m["holder"] == (session, consumer)}

    # --- entries -------------------------------------------------------------------------------------------------

    def declare(self, zxid: int, entry: e.Declare) -> None:
        if entry.name not in self.settings:
            self.settings[entry.name] = dict(QUEUE_SETTINGS_DEFAULT)
            self.numbers[zxid] = entry.name
        self.settings[entry.name].update(entry.settings)

    def publish(self, zxid: int, entry: e.PublishGrouped) -> bool:
        """Return whether the batch was taken."""
        queue = self.numbers[entry.queue]
        settings = self.settings[queue]
        limit = settings["max_length"]
        if limit is not None and settings["overflow"] == "reject" and self.alive(queue) + entry.count > limit:
            return False
        groups = [entry.groups[start : start + 6] for start in range(0, len(entry.groups), 6)]
        index = 0
        for size, due, ttl, priority, _key, _route in groups:
            waits = due > self.time
            ttls = [each for each in (ttl, round((settings["ttl"] or 0) * 1000)) if each]
            for _ in range(size):
                message = {
                    "zxid": zxid,
                    "index": index,
                    "queue": queue,
                    "priority": priority,
                    "expires": (due if waits else self.time) + min(ttls) if ttls else 0,
                    "deliveries": 0,
                    "attempts": 0,
                    "note": None,
                    "back": False,
                    "handed": False,
                    "ready": zxid,
                    "order": next(self.order),
                    "state": "delayed" if waits else "ready",
                    "due": due,
                }
                self.messages.append(message)
                index += 1
        self.make_room(zxid, queue, entry.count)
        return True

    def make_room(self, zxid: int, queue: str, came: int) -> None:
        settings = self.settings[queue]
        if settings["max_length"] is None or settings["overflow"] == "reject":
            return
        for _ in range(min(self.alive(queue) - settings["max_length"], came + 1_000)):
            ready = self.ready(queue)
            if not ready:
                break
            lowest = ready[-1]["priority"]
            head = next(m for m in ready if m["priority"] == lowest)
            if settings["overflow"] == "dead_letter":
                self.die(zxid, [head], "overflow", "")
            else:
                head["state"] = "dropped"

    def grant(self, entry: e.Grant, in_order: bool) -> None:
        queue = self.numbers[entry.queue]
        tag = entry.first_tag
        for zxid, first, size in zip(entry.runs[::3], entry.runs[1::3], entry.runs[2::3], strict=True):
            for index in range(first, first + size):
                ready = self.ready(queue)
                found = next(m for m in ready if (m["zxid"], m["index"]) == (zxid, index))
                assert found is ready[0] or not in_order, "the front of the queue goes"
                found.update(state="leased", holder=(entry.session, entry.consumer), tag=tag, handed=False)
                tag += 1

    def settle(self, zxid: int, entry: e.Settle) -> None:
        held = self.leased(entry.session, entry.consumer)
        messages = sorted((held[tag] for tag in tags_in(entry.tags) if tag in held), key=place)
        verdict = entry.verdict
        if verdict == VERDICT_HANDED_OVER:
            for message in messages:
                message["handed"] = True
            return
        if verdict == VERDICT_ACK:
            for message in messages:
                message["state"] = "settled"
            return
        if verdict == VERDICT_REJECT:
            for message in messages:
                self.lease_ends(message, 1)
            self.die(zxid, messages, "rejected", entry.reason)
            return
        if verdict in (VERDICT_RELEASE, e.ABANDONED):
            kind = None if verdict == VERDICT_RELEASE else "session_ended"
            self.come_back(zxid, messages, kind, entry.reason)
            return
        kind, text = ("nacked", entry.reason) if verdict == VERDICT_NACK else ("expired", "")
        again = self.tried(zxid, messages, kind, text)
        waiting: list[tuple[int, Message]] = []
        for message in again:
            due = entry.due_time_ms
            if due == e.BY_RETRY_POLICY:
                due = self.time + self.delay(message)
            waiting.append((due, message))
        for due, message in sorted(waiting, key=lambda item: item[0]) if waiting else []:
            if due > self.time:
                message.update(state="delayed", due=due, order=next(self.order))
            else:
                self.line_up(zxid, message)

    def delay(self, message: Message) -> int:
        policy = self.settings[message["queue"]]["retry"]
        if policy is None:
            return round(self.settings[message["queue"]]["retry_delay"] * 1000)
        if isinstance(policy, list):
            return round(policy[min(message["attempts"], len(policy)) - 1] * 1000)
        seconds = policy["initial"]
        for _ in range(message["attempts"] - 1):
            seconds = min(seconds * policy["factor"], policy["max"])
        return round(seconds * 1000)

    def close(self, zxid: int, session: int, reason: str) -> None:
        held = [m for m in self.messages if m["state"] == "leased" and m["holder"][0] == session]
        for queue in dict.fromkeys(m["queue"] for m in held):
            self.come_back(zxid, [m for m in held if m["queue"] == queue], "session_ended", reason)

    def clock(self, zxid: int) -> None:
        for queue in list(self.settings):
            old = [m for m in self.where(queue, "ready") if 0 < m["expires"] <= self.time]
            self.grow_old(zxid, old)
        for queue in list(self.settings):
            for message in [m for m in self.delayed(queue) if m["due"] <= self.time]:
                if 0 < message["expires"] <= self.time:
                    self.grow_old(zxid, [message])
                else:
                    self.line_up(zxid, message)

    def purge(self, entry: e.Purge) -> None:
        for message in self.where(self.numbers[entry.queue], "ready", "delayed"):
            message["state"] = "purged"

    def redrive(self, zxid: int, entry: q.Redrive) -> None:
        going: dict[str, list[Message]] = {}
        for message in self.named(entry.queue, entry.runs):
            note: Note = message["note"]
            target = self.numbers[entry.to] if entry.to else (note[1] or message["queue"])
            going.setdefault(target, []).append(message)
        for target, messages in going.items():
            for message in messages:
                message.update(queue=target, deliveries=0, attempts=0, note=None)
                ttl = self.settings[target]["ttl"]
                message["expires"] = self.time + round(ttl * 1000) if ttl else 0
                self.line_up(zxid, message)
            self.make_room(zxid, target, len(messages))

    def discard(self, entry: q.Discard) -> None:
        for message in self.named(entry.queue, entry.runs):
            message["state"] = "purged"

    def named(self, queue: int, runs: list[int]) -> list[Message]:
        found: list[Message] = []
        for zxid, first, size in zip(runs[1::4], runs[2::4], runs[3::4], strict=True):
            for index in range(first, first + size):
                found += [
                    m
                    for m in self.where(self.numbers[queue], "dead", "ready")
                    if (m["zxid"], m["index"]) == (zxid, index)
                    and (m["state"] == "dead" or (m["note"] is not None and m["note"][1]))
                ]
        return found

    # --- moves ---------------------------------------------------------------------------------------------------

    def lease_ends(self, message: Message, attempts: int) -> None:
        message["deliveries"] += 1
        message["attempts"] += attempts

    def come_back(self, zxid: int, messages: list[Message], kind: str | None, text: str) -> None:
        """Give messages back to their places."""
        if kind is None:
            for message in messages:
                self.lease_ends(message, 0)
            again = self.young(zxid, messages)
        else:
            again = self.tried(zxid, messages, kind, text)
        for message in again:
            message.update(state="ready", back=True)

    def tried(self, zxid: int, messages: list[Message], kind: str, text: str) -> list[Message]:
        """Count an attempt where one was made; return those that go on."""
        again: list[Message] = []
        dying: list[Message] = []
        for message in messages:
            counts = kind == "nacked" or message["handed"]
            self.lease_ends(message, int(counts))
            note: Note | None = message["note"]
            if note is None or (counts and not note[1]):
                message["note"] = (kind, "", text, 0)
            most = self.settings[message["queue"]]["max_deliveries"]
            (dying if counts and most is not None and message["attempts"] >= most else again).append(message)
        self.die(zxid, dying, "max_deliveries", text)
        return self.young(zxid, again)

    def young(self, zxid: int, messages: list[Message]) -> list[Message]:
        old = [m for m in messages if 0 < m["expires"] <= self.time]
        self.grow_old(zxid, old)
        return [m for m in messages if m not in old]

    def grow_old(self, zxid: int, messages: list[Message]) -> None:
        for message in messages:
            if self.settings[message["queue"]]["dead_letter"] is not None:
                self.die(zxid, [message], "ttl", "")
            else:
                message["state"] = "expired"

    def die(self, zxid: int, messages: list[Message], kind: str, text: str) -> None:
        for message in messages:
            origin = message["queue"]
            target = self.settings[origin]["dead_letter"]
            if target not in self.settings:
                message.update(state="dead", note=(kind, "", text, 0))
                continue
            ttl = self.settings[target]["ttl"]
            message.update(
                queue=target,
                note=(kind, origin, text, message["attempts"]),
                deliveries=0,
                attempts=0,
                expires=self.time + round(ttl * 1000) if ttl else 0,
            )
            self.line_up(zxid, message)

    def line_up(self, zxid: int, message: Message) -> None:
        message.update(state="ready", back=False, ready=zxid, order=next(self.order))
