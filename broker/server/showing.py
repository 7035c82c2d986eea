"""Messages that are shown and not delivered, as PEEKED and REPLAYED hold them: bounded, and without any change.

Who chose the runs must be reading (`Bodies.reading`) until this is done. Must not know which request it was.
"""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import trio

from sluicemq.wire.errors import InternalError, MessageNotFound, MessageTooLarge
from sluicemq.wire.messages import RUN_NUMBERS
from sluicemq.wire.routes import destination_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.pipeline.bodies import Bodies, Stored
    from sluicemq.broker.queues.machine import Machine
    from sluicemq.broker.queues.runs import Run

SHOWN_HEAD_BYTES = 256
"""Room for what a frame holds beside messages and the numbers of their runs."""
SHOWN_RUN_BYTES = 9 * RUN_NUMBERS
PEEK_MESSAGES_MAX = 10_000
PEEK_BYTES_MAX = 8 * 1024 * 1024
SLICE_SECONDS = 0.004
"""After so long with one request the event loop serves others first."""
LOAD_BYTES_MAX = 4 * 1024 * 1024
"""Most bytes of whole batches that are read from disk at once for one request, but one batch at least."""


class Shown(NamedTuple):
    """What fits a frame.

    Attributes:
        numbers: `RUN_NUMBERS` numbers a run.
        parts: The tail: the runs' batches, one after the other.
        runs: What was taken of the runs; fewer than there were, or a part of the first, where there was no room.
        destinations: Where each run was published to, as in DELIVER; empty where all are "".

    """

    numbers: list[int]
    parts: list[bytes | memoryview]
    runs: list[Run]
    destinations: list[str]


def topic_name(machine: Machine, number: int) -> str:
    """Return the name of the topic that has this number, or that the queue is a subscription of; "" for others."""
    sources = machine.sources
    topic = sources.get(number) or sources.topic_of(number)
    return "" if topic is None else topic.name


async def show_ready(bodies: Bodies, runs: list[Run], frame_bytes_max: int, topic: str = "") -> Shown:
    """Return as many of *runs*, from the front of a queue, as a frame of so many bytes takes. Raises as `show`."""
    frame_room = frame_bytes_max - SHOWN_HEAD_BYTES
    room = min(frame_room, PEEK_BYTES_MAX)
    if runs and runs[0].batch_bytes > room:
        # One message is always shown, unless it alone is larger than the client takes.
        runs = [runs[0]._replace(size=1)]
    return await show(bodies, runs, room, frame_room, topic)


async def show(bodies: Bodies, runs: Sequence[Run], room: int, frame_room: int, topic: str = "") -> Shown:
    """Return as many of *runs* as *room* bytes take; one message, where there is one, may take *frame_room*.

    *topic* is that of the runs, if they have one.

    Raises:
        MessageTooLarge: The first message alone takes more.
        MessageNotFound: The first message is gone: a repair gave it up.
        InternalError: Its bytes on the disk are damaged; the text names the file.

    """
    shown = Shown([], [], [], [])
    loaded: dict[int, Stored] = {}
    started = time.perf_counter()
    for number, run in enumerate(runs):
        if run.zxid not in loaded:
            try:
                loaded = await _load_some(bodies, runs, number)
            except (InternalError, MessageNotFound):
                if shown.parts:
                    break  # what lies before it is shown; whoever asks for it hears it
                raise
        stored = loaded[run.zxid]
        taken, destination = _routed(stored, run, topic)
        part = _part(stored, taken)
        while not shown.parts and taken.size > 1 and len(part) + SHOWN_RUN_BYTES > room:
            # A part was chosen by the mean size of the batch's messages, and these are larger.
            taken = taken.split(taken.size // 2)[0]
            part = _part(stored, taken)
        cost = len(part) + SHOWN_RUN_BYTES + len(destination.encode())
        if cost > (room if shown.parts else frame_room):
            break
        room -= cost
        shown.parts.append(part)
        shown.runs.append(taken)
        shown.destinations.append(destination)
        shown.numbers.extend((taken.zxid, taken.first, taken.size, len(part)))
        shown.numbers.extend((stored.published_ms, stored.producer, stored.id_base, run.deliveries, run.attempts))
        if taken.size < run.size:
            break
        if time.perf_counter() - started > SLICE_SECONDS:
            await trio.lowlevel.checkpoint()
            started = time.perf_counter()
    if runs and not shown.parts:
        raise MessageTooLarge(
            f"the message in front takes {cost} bytes; this connection takes {frame_room}: "
            "connect with a larger frame_bytes_max",
            message_bytes=cost,
        )
    return shown if any(shown.destinations) else shown._replace(destinations=[])


def _routed(stored: Stored, run: Run, topic: str) -> tuple[Run, str]:
    """Return as much of *run* as was published to one destination, and that; "" where its messages' subjects say it."""
    if not topic or not stored.route:
        return run, ""
    (_, count, route), *others = stored.routed(run.first, run.size)
    # What follows went elsewhere in the same transaction: it begins the next page.
    return run.split(count)[0] if others else run, destination_of(topic, route) if route else ""


def _part(stored: Stored, run: Run) -> bytes | memoryview:
    """Return the messages of *run* as a batch."""
    if run.whole:
        return stored.batch.data
    # Apart from the cached one, which would keep what is decoded here.
    return b"".join(stored.undecoded().part_pieces(run.first, run.size))


async def _load_some(bodies: Bodies, runs: Sequence[Run], start: int) -> dict[int, Stored]:
    """Return the first of *runs* from *start* on, and others if they are all there."""
    try:
        return await _load(bodies, runs, start)
    except (InternalError, MessageNotFound):
        return await bodies.load_to_show([runs[start].zxid])


async def _load(bodies: Bodies, runs: Sequence[Run], number: int) -> dict[int, Stored]:
    """Return the batch of this one of *runs*, and as many of those behind it as are worth one read."""
    stored = bodies.get(runs[number].zxid)
    if stored is not None:
        return {runs[number].zxid: stored}
    wanted: dict[int, None] = {}
    size = 0
    for run in islice(runs, number, None):
        size += run.batch_bytes
        if wanted and size > LOAD_BYTES_MAX:
            break
        wanted[run.zxid] = None
    return await bodies.load_to_show(wanted)
