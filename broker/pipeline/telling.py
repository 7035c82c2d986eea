"""What DELIVER says of runs that came back or died elsewhere: each note once a frame, with the runs that it is true of.

Must not know consumers, nor how frames are cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sluicemq.broker.queues.notes import NAMES
from sluicemq.wire.messages import NOTES_MAX, RUN_NUMBERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sluicemq.broker.pipeline.cargo import CargoFrame
    from sluicemq.broker.queues.notes import Note, NoteTable
    from sluicemq.broker.queues.runs import Run

NOTES_BYTES = 16 * 1024
"""Room for notes in a frame; in smaller frames a quarter of it. Runs whose note finds none are delivered without it."""
NOTE_OVERHEAD_BYTES = 96
"""Most bytes of a note beside its texts and runs."""
RANGE_BYTES = 10
"""Most bytes that a range of runs takes in a note."""


def notes_room(frame_bytes_max: int) -> int:
    """Return how many bytes of a frame are kept for notes, where a queue has any."""
    return min(NOTES_BYTES, frame_bytes_max // 4)


def note_frames(frames: Sequence[CargoFrame], runs: Sequence[Run], notes: NoteTable, room: int) -> None:
    """Say in each of *frames* what the notes of its runs say.

    Args:
        frames: What *runs* were put into, in order; some of them in parts.
        runs: All runs of the pick.
        notes: Those of their queue, as it is now.
        room: Bytes for them in each frame.

    """
    every = _note_numbers(frames, runs)
    for frame in frames:
        shown: dict[int, list[int]] = {}
        left = room
        for position in range(len(frame.numbers) // RUN_NUMBERS):
            number = next(every)
            ranges = shown.get(number)
            if ranges is not None:
                if ranges[-1] == position - 1:
                    ranges[-1] = position
                elif left >= RANGE_BYTES:
                    ranges += (position, position)
                    left -= RANGE_BYTES
                continue
            note = notes.get(number) if number else None
            if note is None or len(shown) == NOTES_MAX:
                continue
            left -= NOTE_OVERHEAD_BYTES + len(note.text.encode()) + len(note.origin.encode())
            if left < 0:
                left = 0
                continue
            shown[number] = [position, position]
            frame.notes.append({"runs": shown[number], **described(note)})


def _note_numbers(frames: Sequence[CargoFrame], runs: Sequence[Run]) -> Iterator[int]:
    """Yield the number of the note of each row of the frames."""
    following = iter(runs)
    run = next(following)
    for frame in frames:
        for row in range(0, len(frame.numbers), RUN_NUMBERS):
            zxid, first = frame.numbers[row : row + 2]
            while run.zxid != zxid or not run.first <= first < run.first + run.size:
                run = next(following)
            yield run.note


def described(note: Note) -> dict[str, Any]:
    """Return what a note says, as it travels."""
    shown: dict[str, Any] = {"kind": NAMES[note.kind], "origin": note.origin, "text": note.text, "at_ms": note.at_ms}
    if note.origin:
        shown["attempts"] = note.attempts
    return shown
