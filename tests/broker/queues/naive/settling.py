"""Grants and what ends them: acks, nacks, rejections, releases, leases that run out, sessions that end."""

from __future__ import annotations

from typing import Any

from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues import entries_of_sessions as s
from sluicemq.wire.errors import InvalidRequest, SessionNotFound
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_HANDED_OVER, VERDICT_NACK, VERDICT_REJECT, VERDICT_RELEASE
from tests.broker.queues.naive.dying import fail, note, young
from tests.broker.queues.naive.patterns import drop
from tests.broker.queues.naive.windows import ids_in
from tests.broker.queues.naive.world import (
    Address,
    Message,
    Queue,
    World,
    address,
    chunks_of,
    is_keyed,
    line,
    milliseconds,
    place,
    tags_in,
    within,
)


def session_open(world: World, zxid: int, entry: e.SessionOpen) -> Any:
    world.sessions.add(zxid)
    return zxid


def session_close(world: World, zxid: int, entry: e.SessionClose) -> Any:
    if entry.session not in world.sessions:
        return SessionNotFound
    world.sessions.discard(entry.session)
    world.closed.discard(entry.session)
    count = 0
    for queue in list(world.queues.values()):
        held = [m for m in within(queue, "leased") if m["holder"][0] == entry.session]
        count += len(held)
        give_back(world, zxid, queue, tried(world, zxid, queue, held, "session_ended", entry.reason))
    for queue in list(world.queues.values()):
        if queue["topic"] is not None and queue["session"] == entry.session:
            drop(world, queue)
    return count


def resume(world: World, zxid: int, entry: s.Resume) -> Any:
    """A client comes back and keeps what it names; the rest goes back, as if its connection had ended."""
    if entry.session not in world.sessions:
        return SessionNotFound
    who = entry.session, entry.consumer
    named = tags_in(entry.tags)
    settled = [tag for tag in named if tag in world.answered.get(who, ())]
    held = world.leases(*who)
    lost = [tag for tag in named if tag not in held and tag not in settled]
    over = [message for tag, message in held.items() if tag not in named]
    if over:
        queue = world.queues[over[0]["queue"]]
        give_back(world, zxid, queue, tried(world, zxid, queue, over, "session_ended", entry.reason))
    return lost, settled, world.last_tags[who] if held else 0


def mark_closed(world: World, zxid: int, entry: s.MarkClosed) -> None:
    world.closed = (world.closed | set(entry.closed)) & world.sessions - set(entry.back)


# --- grants ---------------------------------------------------------------------------------------------------------


def named(entry: e.Grant) -> list[tuple[int | None, list[Address]]]:
    """Return where each run that the entry names became ready, if it says so, and its messages."""
    rows: list[tuple[int | None, list[int]]]
    if isinstance(entry, e.GrantPlaced):
        rows = [(ready, run) for ready, *run in chunks_of(entry.runs, 4)]
    else:
        rows = [(None, run) for run in chunks_of(entry.runs, 3)]
    return [(ready, [(zxid, index) for index in range(first, first + size)]) for ready, (zxid, first, size) in rows]


def grant(world: World, entry: e.Grant, undisturbed: bool, void: list[int], given_back: set[Address]) -> None:
    """Lease what the entry names, but for the tags that are void.

    Which these are, the machine says, because it knows what lies in front: they need a reason, and none is there where
    nothing happened since the grant was planned. Where the session has ended, all are void, and it says what of it was
    given back at once.
    """
    queue = world.queues.get(entry.queue)
    lives = entry.session in world.sessions
    ids = ids_in(entry.ids) if isinstance(entry, e.GrantIdentified) else {}
    tag = entry.first_tag
    for ready, addresses in named(entry):
        wanted = list(zip(addresses, range(tag, tag + len(addresses)), strict=True))
        tag += len(addresses)
        assert lives or all(own_tag in void for _, own_tag in wanted), "nothing is leased to a session that has ended"
        had = [(place, own) for place, own in wanted if own not in void or (not lives and place in given_back)]
        if len(had) < len(wanted):
            assert not undisturbed, "what is granted at once is there"
            assert not had or ready is not None, "a run in front is leased or void as a whole"
            lost = [place for place, _ in wanted if place not in {place for place, _ in had}]
            assert ready is None or queue is None or nothing_there(queue, ready, lost), "what is there is leased"
        if not had:
            continue
        assert queue is not None, "nothing is leased of a queue that is gone"
        found = find_ready(queue, ready, [place for place, _ in had])
        assert len(found) == len(had), "what is leased was ready"
        for message, (_, own_tag) in zip(found, had, strict=True):
            queue["totals"]["redelivered"] += bool(message["deliveries"])
            holder = entry.session, entry.consumer
            id_ = ids.get(own_tag - entry.first_tag, b"")
            world.last_tags[holder] = own_tag
            message.update(state="leased", holder=holder, tag=own_tag, handed=False, id=id_)
            if not lives:
                message["deliveries"] += 1
                world.give_back(message)


def nothing_there(queue: Queue, ready: int, addresses: list[Address]) -> bool:
    """Whether none of these is ready where it became ready; one that died in several subscriptions may be."""
    return all(m["note"] is not None and m["note"][1] for m in find_ready(queue, ready, addresses))


def find_ready(queue: Queue, ready: int | None, addresses: list[Address]) -> list[Message]:
    """The ready messages of these addresses; of several copies of one the first in line."""
    by_address: dict[Address, Message] = {}
    for message in line(queue):
        if ready is None or message["ready"] == ready:
            by_address.setdefault(address(message), message)
    return [by_address[each] for each in addresses if each in by_address]


# --- settlements ----------------------------------------------------------------------------------------------------

VERDICTS = (1, 2, 3, 4, e.EXPIRED, e.ABANDONED)
BY_CLIENTS = (VERDICT_ACK, VERDICT_NACK, VERDICT_RELEASE, VERDICT_REJECT, e.SETTLED_BEFORE)
"""Verdicts of which a client that comes back hears that they hold; what the broker settles by an id is one of them."""
VERDICTS_JUDGED = (*VERDICTS, VERDICT_REJECT, e.SETTLED_BEFORE)


def settle(world: World, zxid: int, entry: e.Settle) -> Any:
    tags = tags_in(entry.tags)
    backwards = any(first > last for first, last in chunks_of(entry.tags, 2))
    verdicts = VERDICTS_JUDGED if isinstance(entry, e.SettleJudged) else VERDICTS
    if backwards or not tags or tags != sorted(set(tags)) or tags[0] < 1 or entry.verdict not in verdicts:
        return InvalidRequest
    if entry.session not in world.sessions:
        return SessionNotFound
    held = world.leases(entry.session, entry.consumer)
    lost = [tag for tag in tags if tag not in held]
    messages = sorted((held[tag] for tag in tags if tag in held), key=place)
    if entry.verdict == VERDICT_HANDED_OVER:
        for message in messages:
            message["handed"] = True
        return lost, 0
    if entry.verdict in BY_CLIENTS:
        world.answered.setdefault((entry.session, entry.consumer), set()).update(tag for tag in tags if tag in held)
    if messages:
        end_leases(world, zxid, entry, world.queues[messages[0]["queue"]], messages)
    return lost, len(messages)


def end_leases(world: World, zxid: int, entry: e.Settle, queue: Queue, messages: list[Message]) -> None:
    verdict = entry.verdict
    window = queue["settled_ids"]
    if verdict == e.SETTLED_BEFORE:
        known = [m for m in messages if m["id"] and window is not None and window.find(m["id"], world.time)]
        for message in known:
            world.gone(queue, message, "settled")
            window.confirmed += 1
        messages, verdict = [m for m in messages if all(m is not other for other in known)], VERDICT_RELEASE
    if verdict == VERDICT_ACK:
        for message in messages:
            world.gone(queue, message, "settled")
            if window is not None and message["id"]:
                window.rows.append((message["id"], zxid, 0, world.time))
    elif verdict == VERDICT_RELEASE:
        for message in messages:
            message["deliveries"] += 1
        give_back(world, zxid, queue, young(world, zxid, queue, messages))
    elif verdict == VERDICT_REJECT:
        for message in messages:
            message["deliveries"] += 1
            message["attempts"] += 1
        fail(world, zxid, queue, messages, "rejected", entry.reason)
    elif verdict == e.ABANDONED:
        give_back(world, zxid, queue, tried(world, zxid, queue, messages, "session_ended", entry.reason))
    else:
        kind, text = ("nacked", entry.reason) if verdict == VERDICT_NACK else ("expired", "")
        again = tried(world, zxid, queue, messages, kind, text)
        try_later(world, zxid, queue, again, entry.due_time_ms)


def give_back(world: World, zxid: int, queue: Queue, messages: list[Message]) -> None:
    for message in messages:
        world.give_back(message)


def tried(world: World, zxid: int, queue: Queue, messages: list[Message], kind: str, text: str) -> list[Message]:
    """Count an attempt of each message of which somebody made one, and note why it failed; return those that go on."""
    again: list[Message] = []
    dying: list[Message] = []
    most = queue["settings"]["max_deliveries"]
    for message in sorted(messages, key=place):
        counts = kind == "nacked" or message["handed"]
        message["deliveries"] += 1
        message["attempts"] += counts
        is_stranger = message["note"] is not None and message["note"][1]
        if message["note"] is None or (counts and not is_stranger):
            message["note"] = note(world, kind, "", text)
        (dying if counts and most is not None and message["attempts"] >= most else again).append(message)
    fail(world, zxid, queue, dying, "max_deliveries", text)
    return young(world, zxid, queue, again)


def try_later(world: World, zxid: int, queue: Queue, messages: list[Message], due: int) -> None:
    times = [(world.time + retry_delay(queue, m) if due == e.BY_RETRY_POLICY else due, m) for m in messages]
    for when, message in sorted(times, key=lambda item: item[0]):
        if when > world.time:
            world.wait(message, when)
    for when, message in times:
        if when <= world.time:
            world.come_back(queue, message, zxid)


def retry_delay(queue: Queue, message: Message) -> int:
    policy = queue["settings"]["retry"]
    attempts = max(message["attempts"], 1)
    if policy is None:
        return milliseconds(queue["settings"]["retry_delay"])
    if isinstance(policy, list):
        return milliseconds(policy[min(attempts, len(policy)) - 1])
    seconds = policy["initial"]
    for _ in range(attempts - 1):
        seconds = min(seconds * policy["factor"], policy["max"])
    return milliseconds(seconds)


def key_is_open(queue: Queue, key: int) -> bool:
    """Whether messages of the key may be delivered, as far as nobody has one."""
    trying = any(m["key"] == key and m["deliveries"] for m in within(queue, "delayed"))
    return not is_keyed(queue) or not key or (key not in queue["parked"] and not trying)
