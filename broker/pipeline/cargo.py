"""The frames that one pick becomes: as few as the consumer's frame limit allows, cut between messages.

A client may ask for frames as small as 4 KiB, while a pick is about a mebibyte, and "about" may be much: the dispatcher
knows how many bytes a batch has, not how they lie in it. What does not fit one frame is cut at the borders of runs,
then within a run. A single message that no frame can hold ends the cargo there; the caller decides what that means.
Must not know consumers, leases or the log.
"""

from __future__ import annotations

from operator import itemgetter
from typing import TYPE_CHECKING, Any

from sluicemq.wire.batch import Batch
from sluicemq.wire.frames import FRAME_HEADER_BYTES
from sluicemq.wire.messages import RUN_NUMBERS
from sluicemq.wire.routes import destination_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sluicemq.broker.pipeline.bodies import Stored
    from sluicemq.broker.queues.runs import Run

_history_of = itemgetter(7, 8, 11)  # deliveries, attempts and note
HEAD_BYTES_MAX = 64
"""Most bytes that the head of a DELIVER has beside the numbers of its runs."""
RUN_BYTES_MAX = 9 * RUN_NUMBERS
"""Most bytes that the numbers of one run take."""
TEXT_OVERHEAD_BYTES = 3
"""Most bytes that a text takes in a head beside itself; a run without a text before others takes one."""
FRAME_OVERHEAD_BYTES = FRAME_HEADER_BYTES + HEAD_BYTES_MAX + RUN_BYTES_MAX
"""So many bytes less than a frame has a message, with its columns, for sure to fit."""


class CargoFrame:
    """What one DELIVER frame holds.

    Attributes:
        numbers: `RUN_NUMBERS` numbers a run, as `messages.Deliver` wants them.
        parts: The tail: the runs' batches, one after the other, in pieces.
        destinations: Where each run was published to, below the topic of a subscription; "" where its messages'
            subjects say it. Empty where none has another.
        notes: Why runs came back or died before; empty where none did.

    """

    __slots__ = ("destinations", "notes", "numbers", "parts")

    def __init__(self) -> None:
        self.numbers: list[int] = []
        self.parts: list[bytes | memoryview] = []
        self.destinations: list[str] = []
        self.notes: list[dict[str, Any]] = []

    @property
    def messages(self) -> int:
        """How many messages."""
        return sum(self.numbers[2::RUN_NUMBERS])


class Cargo:
    """What the DELIVER frames and the GRANT of one pick say.

    Args:
        frame_bytes_max: Largest frame that the consumer's connection takes.
        topic: Name of the topic that the queue is a subscription of; None where it is none.
        notes_bytes: Room in each frame for what is said of runs that came back, unless one message needs all of it.

    Attributes:
        frames: The frames, in order; their tags follow each other.
        granted: All runs of the pick, as GRANT wants them.
        too_large_bytes: Bytes of the first message that fits no frame, 0 when all fit. Neither it nor what was picked
            behind it is in `frames`.

    """

    __slots__ = ("_notes_bytes", "_room", "_room_max", "_topic", "frames", "granted", "too_large_bytes")

    def __init__(self, frame_bytes_max: int, topic: str | None = None, notes_bytes: int = 0) -> None:
        self._topic = topic
        self.frames = [CargoFrame()]
        self.granted: list[int] = []
        self.too_large_bytes = 0
        self._notes_bytes = notes_bytes
        self._room_max = frame_bytes_max - FRAME_HEADER_BYTES - HEAD_BYTES_MAX
        self._room = self._room_max - notes_bytes

    @property
    def messages(self) -> int:
        """How many messages all frames hold together."""
        return sum(frame.messages for frame in self.frames)

    def load(self, runs: Sequence[Run], bodies: Mapping[int, Stored], forget_decoded: Callable[[int], None]) -> None:
        """Add *runs*, whose batches are in *bodies*; *forget_decoded* hears of batches that are through."""
        if self.too_large_bytes:
            self._grant(runs)
            return
        if self._topic is not None and any(bodies[run.zxid].route for run in runs):
            self._load_routed(runs, bodies)
            return
        # Per run as little as can be: there may be as many runs as messages.
        numbers, parts, room = self.frames[-1].numbers, self.frames[-1].parts, self._room
        self._grant(runs)
        for run in neighbours_joined(runs):
            stored = bodies[run.zxid]
            if run.whole:
                size = len(stored.batch.data)
                room -= size + RUN_BYTES_MAX
                if room >= 0:
                    parts.append(stored.batch.data)
            else:
                pieces = stored.part_pieces(run.first, run.size)
                size = sum(map(len, pieces))
                room -= size + RUN_BYTES_MAX
                if room >= 0:
                    parts += pieces
                if run.first + run.size == stored.end:
                    forget_decoded(run.zxid)
            if room < 0:
                self._room = room + size + RUN_BYTES_MAX
                whole = stored.batch.data if run.whole else b"".join(pieces)
                self._put(run, stored, whole, run.first, run.size)
                if self.too_large_bytes:
                    return
                numbers, parts, room = self.frames[-1].numbers, self.frames[-1].parts, self._room
            else:
                numbers += (
                    run.zxid,
                    run.first,
                    run.size,
                    size,
                    stored.published_ms,
                    stored.producer,
                    stored.id_base,
                    run.deliveries + 1,
                    run.attempts,
                )
        self._room = room

    def _load_routed(self, runs: Sequence[Run], bodies: Mapping[int, Stored]) -> None:
        """Add *runs* whose frames must say where their messages were published to."""
        for position, run in enumerate(runs):
            stored = bodies[run.zxid]
            for first, count, route in stored.routed(run.first, run.size):
                whole = run.whole and count == run.size
                part = stored.batch.data if whole else b"".join(stored.part_pieces(first, count))
                self._put(run, stored, part, first, count, self._destination_of(route))
                if self.too_large_bytes:
                    self._grant(runs[position:])
                    return
            self.granted += (run.zxid, run.first, run.size)

    def _destination_of(self, route: str | None) -> str:
        return destination_of(self._topic, route) if self._topic is not None and route else ""

    def _grant(self, runs: Sequence[Run]) -> None:
        for run in runs:
            self.granted += (run.zxid, run.first, run.size)

    def _put(
        self, run: Run, stored: Stored, part: bytes | memoryview, first: int, count: int, destination: str = ""
    ) -> None:
        """Put *part*, the *count* messages of *run* from *first* on, where there is room: in this frame, the next, or
        by halves in several. No half is walked through more often than it is cut, however small the frames are."""
        cost = len(part) + RUN_BYTES_MAX + len(destination.encode()) + TEXT_OVERHEAD_BYTES
        if cost > self._room_max:
            self._put_halves(run, stored, part, first, count, destination)
            return
        if cost > self._room:
            if self.frames[-1].numbers:
                self.frames.append(CargoFrame())
            self._room = max(self._room_max - self._notes_bytes, cost)
        self._room -= cost
        frame = self.frames[-1]
        if destination:
            before = len(frame.numbers) // RUN_NUMBERS
            frame.destinations += [""] * (before - len(frame.destinations))
            frame.destinations.append(destination)
        frame.parts.append(part)
        frame.numbers += (
            run.zxid,
            first,
            count,
            len(part),
            stored.published_ms,
            stored.producer,
            stored.id_base,
            run.deliveries + 1,
            run.attempts,
        )

    def _put_halves(
        self, run: Run, stored: Stored, part: bytes | memoryview, first: int, count: int, destination: str
    ) -> None:
        if count == 1:
            self.too_large_bytes = len(part)
            return
        # A batch of its own, because the cached one would keep what is decoded here.
        batch = Batch(part)
        half = count // 2
        for start, size in ((0, half), (half, count - half)):
            self._put(run, stored, batch.part(start, size), first + start, size, destination)
            if self.too_large_bytes:
                return


def neighbours_joined(runs: Sequence[Run]) -> Sequence[Run]:
    """Return *runs* as they are sent: those that follow each other in a batch, with the same history, as one.

    A queue that is ordered by key has a run a message, and what is cut out of a batch costs by the piece. Keys and
    lifetimes, by which they differ here, are in the batch itself or of no interest to whoever gets the messages.
    """
    joined: list[Run] = []
    last: Run | None = None
    for run in runs:
        if (
            last is not None
            and run[0] == last[0]
            and run[2] == last[2] + last[3]
            and _history_of(run) == _history_of(last)
        ):
            last = joined[-1] = last._replace(size=last[3] + run[3])
        else:
            joined.append(run)
            last = run
    return joined
