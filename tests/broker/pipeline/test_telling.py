"""What DELIVER says of runs that came back: each note once a frame, as far as there is room."""

from __future__ import annotations

from sluicemq.broker.pipeline.cargo import CargoFrame
from sluicemq.broker.pipeline.telling import note_frames, notes_room
from sluicemq.broker.queues import notes
from sluicemq.broker.queues.notes import NoteTable
from sluicemq.broker.queues.runs import Run


def frame(*rows: tuple[int, int, int]) -> CargoFrame:
    made = CargoFrame()
    for zxid, first, size in rows:
        made.numbers += (zxid, first, size, 10, 1, 1, 1, 1, 0)
    return made


def a_table() -> tuple[NoteTable, int, int]:
    table = NoteTable()
    nacked = table.intern(notes.NACKED, "", "out of stock", 1_000)
    died = table.intern(notes.REJECTED, "orders", "closed", 2_000, 3)
    for number in (nacked, died):
        table.hold(number, 9)
    return table, nacked, died


def test_runs_share_a_note_and_those_without_one_have_none() -> None:
    table, nacked, died = a_table()
    runs = [Run(5, 5, 0, 2, 9, 90, 1, note=nacked), Run(5, 5, 2, 1, 9, 90, 1), Run(6, 6, 0, 4, 9, 90, 1, note=nacked)]
    runs.append(Run(7, 7, 0, 1, 1, 9, 1, note=died))
    frames = [frame((5, 0, 2), (5, 2, 1), (6, 0, 1), (6, 1, 1)), frame((6, 2, 2), (7, 0, 1))]
    note_frames(frames, runs, table, 10_000)
    about = {"kind": "nacked", "origin": "", "text": "out of stock", "at_ms": 1_000}
    assert frames[0].notes == [{"runs": [0, 0, 2, 3], **about}]
    dead = {"kind": "rejected", "origin": "orders", "text": "closed", "at_ms": 2_000, "attempts": 3}
    assert frames[1].notes == [{"runs": [0, 0], **about}, {"runs": [1, 1], **dead}]


def test_what_finds_no_room_is_not_said() -> None:
    table, nacked, died = a_table()
    runs = [Run(5, 5, 0, 1, 1, 9, 1, note=nacked), Run(6, 6, 0, 1, 1, 9, 1, note=died)]
    frames = [frame((5, 0, 1), (6, 0, 1))]
    note_frames(frames, runs, table, 120)
    assert [note["text"] for note in frames[0].notes] == ["out of stock"]
    assert notes_room(4_096) == 1_024


def test_a_note_that_went_with_a_purge_is_not_said() -> None:
    frames = [frame((5, 0, 1))]
    note_frames(frames, [Run(5, 5, 0, 1, 1, 9, 1, note=77)], NoteTable(), 10_000)
    assert frames[0].notes == []
