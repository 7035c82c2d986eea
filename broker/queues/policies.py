"""Policies: settings for all queues whose names match a pattern, as far as they were declared without them.

A queue's settings are what was declared, before what the policy says that holds for it, before the defaults. When a
policy changes, the queues of its vhost follow one by one, by name, as items of CLOCK entries, so that a hundred
thousand of them stall nobody; until its turn comes a queue is as it was. This module must not know what settings mean.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from sluicemq.broker.queues.routing.trie import PatternTrie

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.queue import Queue

POLICIES_MAX = 1_000
"""Most policies of one vhost; frozen by the log's format, see `MachineLimits`."""
POLICIES_ID = 0
"""What stands for all policies among the numbers of queues that are due: no entry has this number."""


class PolicyRow(NamedTuple):
    """A policy.

    Attributes:
        vhost: Whose queues.
        name: Its name.
        pattern: Which queues: dotted words, `*` for one of them, `#` for any number.
        order: Of several that match, the one with the largest order holds; of those the first by name.
        settings: Settings of queues.

    """

    vhost: str
    name: str
    pattern: str
    order: int
    settings: dict[str, Any]


@lru_cache(maxsize=1_000)
def _trie(pattern: str) -> PatternTrie:
    return PatternTrie([(pattern, 1)])


def matches(pattern: str, queue: str) -> bool:
    """Whether a queue of this name is one of a policy with this pattern."""
    return bool(_trie(pattern).match(queue))


class Policies:
    """The policies of all vhosts, and which queues have not followed their last change yet.

    Attributes:
        id: What stands for them in the index of due times.
        next_due_ms: When CLOCK has something to do: at once while queues have to follow, else never (None).

    """

    id = POLICIES_ID

    def __init__(self) -> None:
        self._rows: dict[str, dict[str, PolicyRow]] = {}
        self._following: dict[str, str] = {}
        self._by_key: set[str] = set()
        self.next_due_ms: int | None = None

    def of(self, vhost: str) -> list[PolicyRow]:
        """Return the policies of a vhost, sorted by name."""
        return [row for _, row in sorted(self._rows.get(vhost, {}).items())]

    def find(self, vhost: str, name: str) -> PolicyRow | None:
        """Return the policy of this name."""
        return self._rows.get(vhost, {}).get(name)

    def orders_by_key(self, vhost: str) -> bool:
        """Whether any policy of a vhost orders queues by key, so that subscriptions may want the keys of messages."""
        return vhost in self._by_key

    def _note_order(self, vhost: str) -> None:
        if any(row.settings.get("ordering") == "key" for row in self._rows.get(vhost, {}).values()):
            self._by_key.add(vhost)
        else:
            self._by_key.discard(vhost)

    def holds_for(self, vhost: str, queue: str) -> PolicyRow | None:
        """Return the policy that holds for a queue of this name, if any does."""
        matching = [row for row in self._rows.get(vhost, {}).values() if matches(row.pattern, queue)]
        return min(matching, key=lambda row: (-row.order, row.name), default=None)

    def settings_for(self, queue: Queue) -> dict[str, Any]:
        """Return the settings of a queue that its policy gives; none of those that were declared."""
        row = self.holds_for(queue.vhost, queue.name)
        if row is None:
            return {}
        return {name: value for name, value in row.settings.items() if name not in queue.declared}

    def put(self, row: PolicyRow, log_time_ms: int) -> None:
        """Let *row* take the place of one of its name; one without settings takes it away. Queues follow from now."""
        rows = self._rows.setdefault(row.vhost, {})
        if row.settings:
            rows[row.name] = row
        else:
            rows.pop(row.name, None)
            if not rows:
                del self._rows[row.vhost]
        self._note_order(row.vhost)
        self._following[row.vhost] = ""
        if self.next_due_ms is None:
            self.next_due_ms = log_time_ms

    # --- following -----------------------------------------------------------------------------------------------

    @property
    def following(self) -> tuple[str, str] | None:
        """The vhost whose queues follow now, and the name of the last one that did; None: all have."""
        return next(iter(self._following.items()), None)

    def followed(self, vhost: str, name: str | None) -> None:
        """Note that the queues of a vhost up to this *name* have followed; None: all of them."""
        if name is None:
            del self._following[vhost]
            if not self._following:
                self.next_due_ms = None
        else:
            self._following[vhost] = name

    # --- images --------------------------------------------------------------------------------------------------

    def frozen(self) -> tuple[list[PolicyRow], list[tuple[str, str, int]]]:
        """Return all rows, and (vhost, name of the last queue that followed, since when), which nothing changes."""
        rows = [row for rows in self._rows.values() for row in rows.values()]
        return rows, [(vhost, name, self.next_due_ms or 0) for vhost, name in self._following.items()]

    def restore(self, row: PolicyRow) -> None:
        """Take over what an image held."""
        self._rows.setdefault(row.vhost, {})[row.name] = row
        self._note_order(row.vhost)

    def restore_following(self, vhost: str, name: str, due_ms: int) -> None:
        """Likewise."""
        self._following[vhost] = name
        self.next_due_ms = due_ms

    def canonical(self) -> Iterator[Any]:
        """Yield all that further judgements depend on."""
        yield [(vhost, self.of(vhost)) for vhost in sorted(self._rows)]
        yield list(self._following.items()), self.next_due_ms
