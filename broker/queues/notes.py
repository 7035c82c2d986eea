"""Notes: why messages of a queue were given back or died, once for all of which that is true.

A run has room for the number of a note, not for a text. Messages that came back together, or in the same second for the
same reason, share one; it goes with the last of them. So a queue whose consumers fail in a thousand ways keeps a
thousand texts, however many messages wait. This module must not know queues.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from sluicemq.broker.queues.runs import Run

NACKED, EXPIRED, SESSION_ENDED, REJECTED, MAX_DELIVERIES, TTL, OVERFLOW, PURGED_BY = range(1, 9)
NAMES = {
    NACKED: "nacked",
    EXPIRED: "expired",
    SESSION_ENDED: "session_ended",
    REJECTED: "rejected",
    MAX_DELIVERIES: "max_deliveries",
    TTL: "ttl",
    OVERFLOW: "overflow",
    PURGED_BY: "purged_by",
}
"""What happened, by number; `expired` is a lease, `ttl` a message."""

# Frozen by the log's format, see `MachineLimits`: they show in the state.
NOTES_MAX = 10_000
"""Most different notes of one queue; beyond them only what happened is noted."""
TEXT_CHARACTERS_MAX = 200
"""A text is cut after so many characters."""
_NUMBERS = 1 << 32


NoteKey = tuple[int, str, str, int, int]


class Note(NamedTuple):
    """A note.

    Attributes:
        kind: What happened, one of the numbers above.
        origin: Name of the queue in which it did, where that is another one; else "".
        text: What whoever did it said.
        at_ms: Log time of the first time.
        living: Messages that are ready, leased or delayed and have the note.
        dead: Dead letters that have it.
        attempts: Of messages that died in another queue, how many were made there.

    """

    kind: int
    origin: str
    text: str
    at_ms: int
    living: int = 0
    dead: int = 0
    attempts: int = 0

    @property
    def key(self) -> NoteKey:
        """What tells notes apart."""
        return self.kind, self.origin, self.text, self.at_ms // 1000, self.attempts


class NoteTable:
    """The notes of one queue.

    Attributes:
        next_number: Number of the next new note, if that is free.

    """

    __slots__ = ("_notes", "_numbers", "next_number")

    def __init__(self) -> None:
        self.next_number = 1
        self._notes: dict[int, Note] = {}
        self._numbers: dict[NoteKey, int] = {}

    def __len__(self) -> int:
        return len(self._notes)

    def items(self) -> Iterator[tuple[int, Note]]:
        """Yield (number, note) in the order of the numbers."""
        return iter(sorted(self._notes.items()))

    def get(self, number: int) -> Note | None:
        """Return the note of this number, if it is one."""
        return self._notes.get(number)

    def intern(self, kind: int, origin: str, text: str, at_ms: int, attempts: int = 0) -> int:
        """Return the number of the note that says this, made if there was none; somebody must `hold` it at once."""
        note = Note(kind, origin, text[:TEXT_CHARACTERS_MAX], at_ms, attempts=attempts)
        number = self._numbers.get(note.key)
        if number is None and len(self._notes) >= NOTES_MAX:
            note = Note(kind, "", "", 0)
            number = self._numbers.get(note.key)
        if number is None:
            number = self.next_number
            while not number or number in self._notes:
                number = (number + 1) % _NUMBERS
            self.next_number = (number + 1) % _NUMBERS
            self.put(number, note)
        return number

    def put(self, number: int, note: Note) -> None:
        """Let *number* be that of *note*."""
        self._notes[number] = note
        self._numbers[note.key] = number

    def hold(self, number: int, living: int, dead: int = 0) -> None:
        """Note that so many messages more have the note; negative: fewer. It goes with the last one."""
        note = self._notes[number]
        living += note.living
        dead += note.dead
        assert living >= 0, "no more messages lose a note than had it"
        assert dead >= 0, "no more messages lose a note than had it"
        if living or dead:
            self._notes[number] = note._replace(living=living, dead=dead)
        else:
            del self._notes[number]
            del self._numbers[note.key]

    def release(self, runs: Iterable[Run]) -> None:
        """Note that *runs*, which lived, are gone."""
        for run in runs:
            if run.note:
                self.hold(run.note, -run.size)

    def release_dead(self, runs: Iterable[Run]) -> None:
        """Note that *runs*, which were dead letters, are gone."""
        for run in runs:
            if run.note:
                self.hold(run.note, 0, -run.size)

    def keep_only(self, runs: Iterable[Run]) -> None:
        """Note that of the living messages only *runs* are left."""
        left: dict[int, int] = {}
        for run in runs:
            if run.note:
                left[run.note] = left.get(run.note, 0) + run.size
        for number, note in list(self._notes.items()):
            self.hold(number, left.get(number, 0) - note.living)

    def frozen(self) -> list[tuple[int, Note]]:
        """Return all notes as they are now."""
        return list(self._notes.items())
