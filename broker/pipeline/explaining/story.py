"""The whole story of one message: what the log says happened to it, where it is now, and from when on that is known.

A read of a worker thread, and a few looks into the machine. The leader tells it, because the machine of a follower may
be behind. Must not know sockets: the answer is plain values.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from sluicemq.broker.pipeline.explaining.hearing import Hearing
from sluicemq.broker.pipeline.explaining.life import EVENTS_MAX, Life
from sluicemq.broker.pipeline.explaining.reading import Origin, find_id, read_origin, read_vhost
from sluicemq.broker.pipeline.explaining.whereabouts import Whereabouts
from sluicemq.broker.pipeline.identities import BY_KEY, hashes_of
from sluicemq.broker.queues.chunks import ChunksMissing
from sluicemq.broker.queues.entries_of_transactions import Prepare, Transaction
from sluicemq.broker.queues.entries_with_batches import targets_of
from sluicemq.broker.queues.notes import NAMES
from sluicemq.broker.queues.sparse import Kept
from sluicemq.broker.queues.window import KNOWN_NUMBERS
from sluicemq.storage.errors import StorageError
from sluicemq.wire.batch import Batch
from sluicemq.wire.errors import InternalError, MessageNotFound
from sluicemq.wire.message_ids import default_message_id
from sluicemq.wire.positions import format_position

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sluicemq.broker.pipeline.explaining.life import Event
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic

ID_DIGITS = 16
"""Hexadecimal digits of an id that the broker gave."""
GROUP = 0
EXPLAINED_AT_ONCE_MAX = 2
"""Most messages whose lives are read at a time; others wait."""


class Story(NamedTuple):
    """What is known of a message.

    Attributes:
        facts: About the message as it was published.
        events: What happened to it, in order; a map each.
        places: Where it is now; a map each: `queue`, `state` and more.
        status: All of it in a few words.

    """

    facts: dict[str, Any]
    events: list[dict[str, Any]]
    places: list[dict[str, Any]]
    status: str


class Explaining:
    """Tells the lives of messages, on one leadership.

    Args:
        road: The leadership.

    """

    def __init__(self, road: Road) -> None:
        self._road = road
        self._limiter = trio.CapacityLimiter(EXPLAINED_AT_ONCE_MAX)
        self._hearing = Hearing(road.log, road.ground.index, self._read)

    # --- which message ----------------------------------------------------------------------------------------------

    async def find(self, message_id: str, key: str | None, target: Queue | Topic | None) -> tuple[int, int]:
        """Return zxid and index of the message that has this id.

        Args:
            message_id: The id that the sender gave, or the broker.
            key: The key of the message, where its ids are unique within their keys.
            target: The queue or topic that it was published to, if that is known.

        Raises:
            MessageNotFound: No message is known by that id.

        """
        await self._road.catch_up()
        known = None if target is None else await self._in_window(target, message_id, key)
        if known is None and len(message_id) == ID_DIGITS and _is_hex(message_id):
            known = await self._read(find_id, int(message_id, 16))
        if known is None:
            where = "" if target is None else f" published to {target.name!r:.300}"
            raise MessageNotFound(
                f"no message{where} is known by the id {message_id!r:.256}: senders' ids are remembered where a queue "
                "or topic looks out for duplicates (dedup_window), those that the broker gave as far as the log goes "
                "back; its position, or a search through its queue, finds it otherwise",
                message_id=message_id[:256],
            )
        return known

    async def _in_window(self, target: Queue | Topic, message_id: str, key: str | None) -> tuple[int, int] | None:
        window = target.window
        if window is None:
            return None
        hash_ = hashes_of([message_id], [key] if window.scope == BY_KEY else None, window.scope)

        def ask() -> list[int]:
            now_ms = self._road.machine.log_time_ms
            missing = window.missing(hash_, now_ms)
            if missing:
                raise ChunksMissing(missing)
            return window.look(hash_, now_ms)

        found: list[int] = await self._road.look(ask)
        return (found[2], found[3]) if len(found) >= KNOWN_NUMBERS else None

    # --- its life ---------------------------------------------------------------------------------------------------

    async def explain(self, vhost: str, zxid: int, index: int, target: Queue | Topic | None = None) -> Story:
        """Return the story of the message *index* of the entry *zxid*.

        With *target*, the queue or topic that it was published to: whoever asks may know of no others.

        Raises:
            MessageNotFound: No such message was published, or not there, or nothing of its batch is left in the log.
            InternalError: The log cannot be read.

        """
        road = self._road
        await road.catch_up()
        origin = None if zxid > road.machine.applied_zxid else await self._read(read_origin, zxid)
        if origin is None or index >= origin.entry.count or not await self._is_of(vhost, origin):
            position = format_position(GROUP, zxid, index)
            raise MessageNotFound(
                f"the log holds no message at {position}: it was never published, or it is settled and what the log "
                "kept of its batch was given back to the disk",
                position=position,
            )
        if target is not None and target.id != _destination(origin, index):
            position = format_position(GROUP, zxid, index)
            raise MessageNotFound(
                f"the message at {position} was not published to {target.name!r:.300}: leave the name out",
                position=position,
            )
        facts = self._facts(origin, zxid, index)
        targets = self._targets(origin, index, facts)
        # Subscriptions that are gone are known by nobody: of a topic's message something may always come.
        life = Life(zxid, index, all_known=bool(targets) and "topic" not in facts)
        # Also a queue that is gone: the log says when it went.
        life.queues.update(dict.fromkeys(queue.id for queue in targets) or {_destination(origin, index): None})
        heard = await self._hearing.hear(life, road.machine.applied_zxid)
        # A deletion that was refused stands in the log like any other; numbers of queues come only once.
        life.events = [
            each for each in life.events if each.what != "queue_deleted" or road.machine.queue(each.queue) is None
        ]
        complete = heard.from_zxid <= zxid
        places = await self._places(life, facts, complete=complete)
        events = [{"what": "accepted", "zxid": zxid, "at_ms": facts["published_ms"], "queue": facts["destination"]}]
        if facts.get("duplicate_of"):
            events[0]["duplicate_of"] = facts["duplicate_of"]
        events += map(self._told, life.events)
        facts["history_complete"] = complete
        facts["history_from_zxid"] = heard.from_zxid
        facts["history_read_zxid"] = heard.read_zxid
        facts["events_left_out"] = life.left_out
        if life.left_out:
            assert len(life.events) <= EVENTS_MAX, "the rest is left out"
        return Story(facts, events, places, self._status(life, facts, places, targets))

    async def _is_of(self, vhost: str, origin: Origin) -> bool:
        """Whether the message is one that clients of *vhost* may know of; where nobody knows any more, it is not."""
        machine = self._road.machine
        numbers = [target for target, _ in targets_of(origin.entry)]
        found = [target for number in numbers if (target := machine.queue(number) or machine.sources.get(number))]
        if found:
            return all(target.vhost == vhost for target in found)
        # All that it was published to is gone. Whoever published it was of the same vhost.
        opened = origin.entry.producer
        producer = machine.producers.get(opened)
        return vhost == (await self._read(read_vhost, opened) if producer is None else producer.vhost)

    async def _read(self, read: Any, *arguments: Any) -> Any:
        """Return what *read* finds in the log, in a thread."""
        try:
            return await trio.to_thread.run_sync(read, self._road.log, *arguments, limiter=self._limiter)
        except StorageError as error:
            raise InternalError(f"the broker cannot read its log: {error}") from error

    def _facts(self, origin: Origin, zxid: int, index: int) -> dict[str, Any]:
        """Return what the message said when it was published."""
        entry = origin.entry
        facts: dict[str, Any] = {
            "position": format_position(GROUP, zxid, index),
            "message_id": default_message_id(entry.id_base, index),
            "published_ms": entry.log_time_ms,
            "producer": entry.producer,
            "sequence": entry.sequence,
            "batch_messages": entry.count,
            "kind": {Transaction: "transaction", Prepare: "prepared"}.get(type(entry), "published"),
            "body_kept": True,
        }
        place: int | None = index
        if origin.left is not None:
            inside = any(first <= index < first + count for first, count in origin.left)
            place = Kept(origin.left).position(index, 1) if inside else None
        if place is None:
            facts["body_kept"] = False
            return facts
        message = Batch(Batch(entry.payload).part(place, 1))
        values = {
            "message_id": message.message_ids,
            "key": message.keys,
            "subject": message.subjects,
            "due": message.due_times,
            "ttl_ms": message.ttls,
            "priority": message.priorities,
        }
        facts |= {name: column[0] for name, column in values.items() if column is not None and column[0] is not None}
        facts["body_bytes"] = message.body_bytes
        due = facts.pop("due", None)
        if due is not None:
            facts["due_ms"] = entry.log_time_ms - due if due < 0 else due
        return facts

    def _targets(self, origin: Origin, index: int, facts: dict[str, Any]) -> list[Queue]:
        """Return the queues that the message was for, as they are now; say in *facts* what it was published to."""
        machine = self._road.machine
        number = _destination(origin, index)
        queue, topic = machine.queue(number), machine.sources.get(number)
        facts["destination"] = queue.name if queue is not None else topic.name if topic is not None else ""
        if queue is not None:
            self._judge_identity(queue, facts)
            return [queue]
        if topic is None:
            return []
        self._judge_identity(topic, facts)
        facts["topic"] = topic.name
        numbers = topic.match(self._route(origin, index, facts))
        return [found for number in numbers if (found := machine.queue(number)) is not None]

    @staticmethod
    def _route(origin: Origin, index: int, facts: dict[str, Any]) -> str:
        route = origin.entry.route
        if isinstance(route, tuple):
            route = next((name for first, name in reversed(route) if first <= index), "")
        return facts.get("subject", "") if route is None else route

    def _judge_identity(self, target: Queue | Topic, facts: dict[str, Any]) -> None:
        """Say whether the message was the first one with its id, as far as that is still known."""
        window = target.window
        if window is None or not facts["body_kept"]:
            return
        keys = [facts.get("key")] if window.scope == BY_KEY else None
        hash_ = hashes_of([facts["message_id"]], keys, window.scope)
        if window.missing(hash_, self._road.machine.log_time_ms):
            return
        known = window.look(hash_, self._road.machine.log_time_ms)
        if len(known) >= KNOWN_NUMBERS:
            first = format_position(GROUP, known[2], known[3])
            facts["duplicate_of"] = "" if first == facts["position"] else first

    # --- where it is ------------------------------------------------------------------------------------------------

    async def _places(self, life: Life, facts: dict[str, Any], *, complete: bool) -> list[dict[str, Any]]:
        machine = self._road.machine
        whereabouts = Whereabouts(self._road, life.zxid, life.index)
        due = dict.fromkeys([facts["due_ms"]] if "due_ms" in facts else [])
        due.update({event.facts["due_ms"]: None for event in life.events if "due_ms" in event.facts})
        ready = list(dict.fromkeys(reversed(life.ready)))
        over = life.is_over_in
        places: list[dict[str, Any]] = []
        for number in [*life.queues, *self._dead_letter_queues(life.queues)]:
            queue = machine.queue(number)
            if queue is None or number in over:
                continue
            # Where all that could have happened stands in the log, only a clock or a limit can have moved it.
            found = await whereabouts.find(queue, ready, due, thorough=not (complete and not queue.messages))
            if found is not None:
                place = {"queue": queue.name, "state": found.state, **found.facts}
                if "note" in place:
                    place["note"] = {**place["note"], "kind": NAMES[place["note"]["kind"]]}
                if "session" in place:
                    place["client"] = self._client(place["session"])
                places.append(place)
        facts["looked_everywhere"] = whereabouts.complete
        return places

    def _dead_letter_queues(self, numbers: Iterable[int]) -> list[int]:
        machine = self._road.machine
        known = set(numbers)
        found: list[int] = []
        for number in known:
            queue = machine.queue(number)
            name = None if queue is None else queue.settings["dead_letter"]
            target = None if name is None or queue is None else machine.find_queue(queue.vhost, name)
            if target is not None and target.id not in known:
                found.append(target.id)
        return sorted(set(found))

    # --- in words ---------------------------------------------------------------------------------------------------

    def _told(self, event: Event) -> dict[str, Any]:
        told: dict[str, Any] = {"what": event.what, "zxid": event.zxid, "at_ms": event.at_ms}
        told["queue"] = self._name(event.queue)
        told |= {name: value for name, value in event.facts.items() if value != ""}
        if "to" in told:
            told["to"] = self._name(told["to"])
        if "session" in told:
            told["client"] = self._client(told["session"])
        return told

    def _name(self, number: int) -> str:
        queue = self._road.machine.queue(number) if number else None
        return "" if queue is None else queue.name

    def _client(self, number: int) -> str:
        session = self._road.machine.sessions.get(number)
        return "" if session is None else session.client_name

    def _status(self, life: Life, facts: dict[str, Any], places: list[dict[str, Any]], targets: list[Queue]) -> str:
        if places:
            return ", ".join(f"{place['state']} in {place['queue']}" for place in places)
        if facts.get("duplicate_of"):
            return f"a duplicate of {facts['duplicate_of']}, not stored"
        if life.events and life.events[-1].what != "leased":
            return life.events[-1].what
        ttls_ms = [round(float(queue.settings["ttl"]) * 1000) for queue in targets if queue.settings["ttl"] is not None]
        ttl_ms = min(filter(None, (facts.get("ttl_ms", 0), max(ttls_ms, default=0))), default=0)
        if ttl_ms and facts.get("due_ms", facts["published_ms"]) + ttl_ms <= self._road.machine.log_time_ms:
            return "expired"
        if not facts["destination"]:
            return "gone with its queue"
        return "gone" if facts["history_complete"] else "gone, at a time of which the log holds nothing any more"


def _destination(origin: Origin, index: int) -> int:
    """Return the number of the queue or topic that the message *index* was published to."""
    number = end = 0
    for target, count in targets_of(origin.entry):
        number, end = target, end + count
        if index < end:
            break
    return number


def _is_hex(text: str) -> bool:
    return set(text) <= set("0123456789abcdef")
