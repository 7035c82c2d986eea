"""Windows of message ids: a plain list of all ids that were ever recorded, with where and when.

An id is known while its last row is young enough and among the last so many. An id here is the hash that the entry
holds; all zeros is none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicemq.wire.settings import DEDUP_IDS_MAX, DEDUP_SCOPES

if TYPE_CHECKING:
    from tests.broker.queues.naive.world import Address, Queue, Topic, World

ID_BYTES = 16
Known = dict[int, "Address"]
"""Where the original of each duplicate lies, by the duplicate's index in its entry."""


class Window:
    """The ids of one queue or topic: rows of (id, zxid, index, time)."""

    def __init__(self, scope: int, age: int, most: int) -> None:
        self.scope = scope
        self.age = age
        self.most = most
        self.rows: list[tuple[bytes, int, int, int]] = []
        self.confirmed = 0

    def find(self, id_: bytes, now: int) -> Address | None:
        for behind, (other, zxid, index, time) in enumerate(reversed(self.rows), 1):
            if other == id_:
                return (zxid, index) if behind <= self.most and now < time + self.age else None
        return None

    def look(self, ids: dict[int, bytes], now: int) -> Known:
        """Which of the messages of these ids are known, compared with what is recorded only."""
        found = {index: self.find(id_, now) for index, id_ in ids.items()}
        return {index: place for index, place in found.items() if place is not None}

    def judge(self, ids: dict[int, bytes], zxid: int, now: int) -> Known:
        """Which of them are duplicates, also of each other; what is new is recorded."""
        known: Known = {}
        for index, id_ in ids.items():
            place = self.find(id_, now)
            if place is None:
                self.rows.append((id_, zxid, index, now))
            else:
                known[index] = place
        self.confirmed += len(known)
        return known

    def limit(self, age: int, most: int, now: int) -> None:
        """Other limits hold from now on; what counts no more never counts again."""
        if (age, most) != (self.age, self.most):
            behind = len(self.rows)
            for number, (_, zxid, index, time) in enumerate(self.rows):
                if behind - number > self.most or now >= time + self.age:
                    self.rows[number] = (b"", zxid, index, time)
        self.age, self.most = age, most

    def copy(self) -> Window:
        other = Window(self.scope, self.age, self.most)
        other.rows, other.confirmed = list(self.rows), self.confirmed
        return other


def followed(window: Window | None, settings: dict[str, Any], seconds: float, most: int, now: int) -> Window | None:
    """The window that the settings ask for: the same one as far as it can go on."""
    scope = DEDUP_SCOPES.index(settings["dedup_scope"])
    if not seconds:
        return None
    age, most = round(seconds * 1000), most or DEDUP_IDS_MAX
    if window is None or window.scope != scope:
        return Window(scope, age, most)
    window.limit(age, most, now)
    return window


def follow_windows(world: World, holder: Queue | Topic) -> None:
    settings, now = holder["settings"], world.time
    holder["window"] = followed(holder["window"], settings, settings["dedup_window"], settings["dedup_count"], now)
    if "settled_window" in settings:
        holder["settled_ids"] = followed(holder["settled_ids"], settings, settings["settled_window"], 0, now)


def ids_in(ids: bytes, first: int = 0, size: int | None = None) -> dict[int, bytes]:
    """The ids of so many messages by index, without those that have none."""
    count = len(ids) // ID_BYTES
    indexes = range(first, count if size is None else first + size)
    found = {index: bytes(ids[index * ID_BYTES : (index + 1) * ID_BYTES]) for index in indexes}
    return {index: id_ for index, id_ in found.items() if any(id_)}


def holder_of(world: World, number: int) -> Queue | Topic | None:
    return world.queues.get(number) or world.topics.get(number)


def window_for(world: World, number: int, scope: int) -> Window | None:
    """The window that judges ids of this scope, if one does."""
    holder = holder_of(world, number)
    window = None if holder is None else holder["window"]
    return window if window is not None and window.scope == scope else None


def spread(known: list[int]) -> Known:
    """What an answer says of duplicates, message by message."""
    found: Known = {}
    for first, count, zxid, index in zip(*(iter(known),) * 4, strict=True):
        for offset in range(count):
            found[first + offset] = (zxid, index + offset)
    return found
