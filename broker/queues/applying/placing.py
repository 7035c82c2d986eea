"""Parts of a batch come into a queue or a topic: first it is asked whether they may, then they are put where they wait.

What stands in one entry and holds as a whole (transactions), or was judged before (half messages), needs the two apart;
`publishing` and `routing` do both at once for the batch that is published alone. This module must not know producers,
nor entries.
"""

from __future__ import annotations

from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.queues.applying.identifying import cut_pieces, pieces_of, retain_runs
from sluicemq.broker.queues.applying.limiting import make_room, refuse_overflow
from sluicemq.broker.queues.applying.routing import deliver
from sluicemq.broker.queues.entry import GROUP_NUMBERS
from sluicemq.broker.queues.outcomes import Effect, Ready, Retained
from sluicemq.broker.queues.pauses import refuse_paused
from sluicemq.broker.queues.runs import Run, bytes_in, messages_in
from sluicemq.wire.batch import PRIORITY_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.wire.errors import SluiceError

_due_of = itemgetter(1)  # of a run that waits: its due time stands where its place will be


class Arrival(NamedTuple):
    """What comes: neighbouring messages of a batch, cut into groups.

    Attributes:
        part: All of them; its `ready` is no matter.
        groups: What they say about delivery, as in `entries.PublishGrouped`.
        routes: The routes that the groups name.
        fresh: First and count of those neighbours that are new, by index in the batch; None: all of them are.

    """

    part: Run
    groups: Sequence[int]
    routes: Sequence[str]
    fresh: list[tuple[int, int]] | None = None

    def runs(self) -> list[Run]:
        """Return what of it is new."""
        part = self.part
        if self.fresh is None:
            return [part]
        ends = part.first + part.size
        cut = [(max(first, part.first), min(first + size, ends)) for first, size in self.fresh]
        return [part._replace(first=first, size=end - first) for first, end in cut if first < end]


class Share(NamedTuple):
    """What of a batch comes into one queue, or waits in a topic: at once, and later, with its due time as `ready`."""

    ready: list[Run]
    waiting: list[Run]

    @property
    def messages(self) -> int:
        """How many messages."""
        return messages_in(self.ready) + messages_in(self.waiting)

    @property
    def bytes(self) -> int:
        """About how many bytes they take."""
        return bytes_in(self.ready) + bytes_in(self.waiting)


def problem_of_groups(groups: Sequence[int], count: int, routes: int) -> str | None:
    """Return what is wrong with the groups of *count* messages, or None: a leader with a mistake proposes such ones."""
    counts = groups[::GROUP_NUMBERS]
    if not counts or min(counts) < 1 or sum(counts) != count:
        return f"the groups of a batch of {count} messages hold {sum(counts)}"
    if max(groups[3::GROUP_NUMBERS]) > PRIORITY_MAX:
        return f"priorities are 0 to {PRIORITY_MAX}, not {max(groups[3::GROUP_NUMBERS])}"
    if max(groups[4::GROUP_NUMBERS]) >> 32:
        return "the number of a key has 32 bits"
    if max(groups[5::GROUP_NUMBERS]) > routes:
        return f"a group names a route that is none of the {routes}"
    return None


def share_of(arrival: Arrival, ttl: object, now_ms: int) -> tuple[Share, list[str], list[str]]:
    """Return where the messages wait, and the routes of those that are ready and of those that are not.

    Args:
        arrival: What comes.
        ttl: The setting of the queue or topic: seconds, or None.
        now_ms: Log time.

    """
    own_ttl_ms = round(float(ttl or 0) * 1000)  # type: ignore[arg-type] # a number, as settings are checked
    share = Share([], [])
    ready_routes: list[str] = []
    waiting_routes: list[str] = []
    part = arrival.part
    pieces = pieces_of(arrival.groups, first=part.first)
    if arrival.fresh is not None:
        pieces = list(cut_pieces(pieces, arrival.fresh))
    for first, size, due_ms, ttl_ms, priority, key, route in pieces:
        waits = due_ms > now_ms
        if own_ttl_ms and (not ttl_ms or own_ttl_ms < ttl_ms):
            ttl_ms = own_ttl_ms
        expires_ms = (due_ms if waits else now_ms) + ttl_ms if ttl_ms else 0
        place = due_ms if waits else part.zxid
        run = part._replace(ready=place, first=first, size=size, key=key, expires_ms=expires_ms, priority=priority)
        (share.waiting if waits else share.ready).append(run)
        (waiting_routes if waits else ready_routes).append(arrival.routes[route - 1] if route else "")
    return share, ready_routes, waiting_routes


# --- may it come? --------------------------------------------------------------------------------------------------


def refuse_queue(queue: Queue, messages: int, bytes_: int) -> SluiceError | None:
    """Return why so many messages more may not come into the queue: it is paused or full."""
    if queue.paused:
        paused = refuse_paused(queue)
        if paused is not None:
            return paused
    if queue.is_limited and messages > 0:
        return refuse_overflow(queue, messages, bytes_)
    return None


class Demand:
    """What several arrivals want of queues and topics together, so that they are judged as a whole.

    Attributes:
        queues: Messages and bytes that come into each queue, by number.

    """

    def __init__(self, machine: Machine) -> None:
        self.queues: dict[int, tuple[int, int]] = {}
        self._machine = machine
        self._direct: set[int] = set()
        self._delayed_routes: dict[int, set[str]] = {}

    def _add(self, number: int, messages: int, bytes_: int) -> None:
        before = self.queues.get(number, (0, 0))
        self.queues[number] = before[0] + messages, before[1] + bytes_

    def of_queue(self, queue: Queue, arrival: Arrival) -> None:
        """Add what comes into a queue, waiting or not."""
        runs = arrival.runs()
        if runs:
            self._direct.add(queue.id)
            self._add(queue.id, messages_in(runs), bytes_in(runs))

    def of_topic(self, topic: Topic, arrival: Arrival) -> None:
        """Add what comes into a topic now, to each subscription that gets some of it."""
        if not arrival.runs():
            return  # all of it came before, which is confirmed however the topic stands now
        share, ready_routes, waiting_routes = share_of(arrival, topic.settings["ttl"], self._machine.log_time_ms)
        self._delayed_routes.setdefault(topic.id, set()).update(filter(None, waiting_routes))
        for run, route in zip(share.ready, ready_routes, strict=True):
            for number in topic.match(route):
                if number not in topic.fillings:
                    self._add(number, run.size, bytes_in([run]))

    def refusal(self, freed: Mapping[int, tuple[int, int]]) -> SluiceError | None:
        """Return why not all of it may come; *freed* are messages and bytes that leave queues by the same entry."""
        for number, (messages, bytes_) in sorted(self.queues.items()):
            queue = self._machine.existing_queue(number)
            less = freed.get(number, (0, 0))
            messages, bytes_ = messages - less[0], bytes_ - less[1]
            if number in self._direct:
                refusal = refuse_queue(queue, messages, bytes_)
            else:
                refusal = refuse_overflow(queue, messages, bytes_) if queue.is_limited and messages > 0 else None
            if refusal is not None:
                return refusal
        for number, routes in sorted(self._delayed_routes.items()):
            topic = self._machine.sources.get(number)
            assert topic is not None, "something comes into it"
            limit = refuse_paused(topic) or (topic.routes.room_for(routes) if routes else None)
            if limit is not None:
                return limit
        return None


# --- it comes --------------------------------------------------------------------------------------------------------


def into_queue(machine: Machine, zxid: int, queue: Queue, arrival: Arrival) -> list[Effect]:
    """Put an arrival where it waits in a queue, because of the entry *zxid*; others make room.

    It may have been stored long before, by another entry: to those who read what is retained it comes now.
    """
    now_ms = machine.log_time_ms
    share, _, _ = share_of(arrival, queue.settings["ttl"], now_ms)
    if queue.keys is not None:
        # It has no priorities, whatever it had when the leader or the sender looked.
        share = Share(*([run._replace(priority=0) for run in runs] for runs in share))
    queue.used_ms = now_ms
    effects: list[Effect] = []
    queue.arrive([*share.ready, *share.waiting])
    if share.ready:
        queue.make_ready(share.ready, zxid)
        effects.append(Ready(queue.id))
    for due_ms, runs in groupby(sorted(share.waiting, key=_due_of), key=_due_of):
        queue.delayed.add(due_ms, list(runs))
    if queue.is_limited:
        effects += make_room(machine, zxid, queue, share.messages)
    if queue.history is not None:
        retain_runs(queue.history, zxid, arrival.runs(), now_ms)
        effects.append(Retained(queue.id))
    machine.due_changed(queue)
    return effects


def into_topic(machine: Machine, zxid: int, topic: Topic, arrival: Arrival) -> list[Effect]:
    """Hand an arrival to those who match now, and let the rest of it wait in the topic; likewise."""
    share, ready_routes, waiting_routes = share_of(arrival, topic.settings["ttl"], machine.log_time_ms)
    topic.published_total += share.messages
    ready = [run._replace(ready=zxid) for run in share.ready]
    effects = deliver(machine, zxid, topic, ready, list(map(topic.match, ready_routes)))
    waiting = [
        run._replace(note=topic.routes.hold(route, run.size))
        for run, route in zip(share.waiting, waiting_routes, strict=True)
    ]
    for due_ms, runs in groupby(sorted(waiting, key=_due_of), key=_due_of):
        topic.delayed.add(due_ms, list(runs))
    if topic.history is not None and ready:
        retain_runs(topic.history, zxid, ready, machine.log_time_ms)
        effects.append(Retained(topic.id))
    machine.due_changed(topic)
    return effects
