"""Decisions of a start about the log: its segments, its joints, its end, and the snapshot that it goes on from.

Pure data; see `decisions`.
"""

from __future__ import annotations

from enum import Enum

from sluicemq.storage.decisions import NOTHING, REPAIR, Decision, Row, Table

__all__ = [
    "CHOICE",
    "END",
    "JOINT",
    "PRESENCE",
    "BadPlace",
    "Behind",
    "Chain",
    "History",
    "LogReach",
    "LogStart",
    "Place",
    "Presence",
    "Proof",
    "Reach",
    "Snapshots",
]


class Place(Enum):
    """Where in the log proper a segment belongs."""

    FIRST = "first"
    MIDDLE = "in the middle"
    LAST = "last"


class Presence(Enum):
    """Whether it is there."""

    THERE = "there"
    MISSING = "missing"


PRESENCE = Table(
    "segments",
    "Whether every segment that the superblock knows of is there.",
    (Place, Presence),
    (
        Row("segment-there", (Presence.THERE,), Decision.START, "The segment is there.", "It is read.", NOTHING),
        Row(
            "segment-first-missing",
            (Presence.MISSING, Place.FIRST),
            Decision.REFUSE,
            "The first segment of the log is missing.",
            "The start is refused, with the name of the file.",
            REPAIR,
        ),
        Row(
            "segment-middle-missing",
            (Presence.MISSING, Place.MIDDLE),
            Decision.REFUSE,
            "A segment in the middle of the log is missing.",
            "The start is refused, with the name of the file.",
            REPAIR,
        ),
        Row(
            "segment-last-missing",
            (Presence.MISSING, Place.LAST),
            Decision.REFUSE,
            "The last segment is missing: the superblock knows that it was there.",
            "The start is refused, with the name of the file.",
            REPAIR,
        ),
    ),
)


class Reach(Enum):
    """How far the records of a segment reach, against what the header of the next one says."""

    EXACT = "exactly to the next"
    SHORT = "not to the next"
    LONG = "beyond the next"


class Chain(Enum):
    """The hash over all headers so far, at the joint."""

    SAME = "same chain"
    OTHER = "another chain"


class BadPlace(Enum):
    """Why the good records of a segment end."""

    BLANK = "no record here"
    CUT_OFF = "the record is longer than the file"
    BAD_BODY = "header or payload do not match their digest"
    DISCONTINUED = "a whole record that does not follow the one before it"


JOINT = Table(
    "inside the log",
    "Whether a segment reaches to the next one, which proves that all of it was durable.",
    (Reach, Chain, BadPlace),
    (
        Row(
            "joint-whole",
            (Reach.EXACT, Chain.SAME),
            Decision.START,
            "The next segment continues where this one ends.",
            "The start goes on.",
            NOTHING,
        ),
        Row(
            "joint-other-chain",
            (Reach.EXACT, Chain.OTHER),
            Decision.REFUSE,
            "The next segment continues another history.",
            "The start is refused, with the next file and offset 0.",
            REPAIR,
        ),
        Row(
            "joint-beyond",
            (Reach.LONG,),
            Decision.REFUSE,
            "A segment holds more than the next one says that it held.",
            "The start is refused, with the next file and offset 0.",
            REPAIR,
        ),
        Row(
            "middle-hole",
            (Reach.SHORT, BadPlace.BLANK),
            Decision.REFUSE,
            "A hole, or a damaged head, in the middle of the log.",
            "The start is refused, with file and offset. Nothing is cut.",
            REPAIR,
        ),
        Row(
            "middle-cut-off",
            (Reach.SHORT, BadPlace.CUT_OFF),
            Decision.REFUSE,
            "A record in the middle of the log that is longer than its file.",
            "The start is refused, with file and offset. Nothing is cut.",
            REPAIR,
        ),
        Row(
            "middle-bad-checksum",
            (Reach.SHORT, BadPlace.BAD_BODY),
            Decision.REFUSE,
            "A bad checksum of header or payload in the middle of the log.",
            "The start is refused, with file and offset. Nothing is cut.",
            REPAIR,
        ),
        Row(
            "middle-wrong-previous",
            (Reach.SHORT, BadPlace.DISCONTINUED),
            Decision.REFUSE,
            "A whole record in the middle of the log that names another one before it.",
            "The start is refused, with file and offset. Nothing is cut.",
            REPAIR,
        ),
    ),
)


class Proof(Enum):
    """Whether a record, a mark or the superblock proves that something beyond the last good entry was durable."""

    NONE = "no proof"
    BEYOND = "more was durable"


class Behind(Enum):
    """What lies behind the last good record."""

    NOTHING = "nothing"
    TRACES = "heads of records"


END = Table(
    "the log's end",
    "Whether what is wrong at the end is a write that was never confirmed, or damage.",
    (BadPlace, Proof, Behind),
    (
        Row(
            "end-clean",
            (BadPlace.BLANK, BadPlace.CUT_OFF, BadPlace.BAD_BODY, Proof.NONE, Behind.NOTHING),
            Decision.START,
            "The log simply ends.",
            "The start goes on.",
            NOTHING,
        ),
        Row(
            "end-torn",
            (BadPlace.BLANK, BadPlace.CUT_OFF, BadPlace.BAD_BODY, Proof.NONE, Behind.TRACES),
            Decision.CUT,
            "Traces of a write, and no proof that it was durable: a torn tail, whatever sectors of it arrived.",
            "The intent to cut is saved, the traces are zeroed, the intent is cleared; the log says what was cut.",
            "Nothing: no entry of it was ever confirmed.",
        ),
        Row(
            "end-damaged",
            (BadPlace.BLANK, BadPlace.CUT_OFF, BadPlace.BAD_BODY, Proof.BEYOND),
            Decision.REFUSE,
            "The log ends before an entry that is known to have been durable: damage, or a shortened last file.",
            "The start is refused, with file, offset and the entry that is proven. Nothing is cut.",
            REPAIR,
        ),
        Row(
            "end-wrong-previous",
            (BadPlace.DISCONTINUED,),
            Decision.REFUSE,
            "The last records do not follow the one before them: no write of ours made that.",
            "The start is refused, with file and offset. Nothing is cut.",
            REPAIR,
        ),
    ),
)


class Snapshots(Enum):
    """The snapshots that are there."""

    NONE = "none"
    NEWEST_GOOD = "the newest is good"
    OLDER_GOOD = "newer ones are damaged, an older one is good"
    ALL_DAMAGED = "all are damaged"


class LogStart(Enum):
    """Where the log proper begins."""

    FIRST_ENTRY = "at the first entry ever"
    REACHES_BACK = "at or before the good snapshot"
    BEHIND = "behind the good snapshot"


class LogReach(Enum):
    """Where the log ends."""

    REACHES = "at or behind the good snapshot"
    SHORT = "before the good snapshot"


class History(Enum):
    """The chain value in the snapshot against the log's, where the log knows it."""

    SAME = "same chain"
    OTHER = "another chain"


_GOOD = (Snapshots.NEWEST_GOOD, Snapshots.OLDER_GOOD)
_BACK = (LogStart.FIRST_ENTRY, LogStart.REACHES_BACK)

CHOICE = Table(
    "snapshots",
    "From which snapshot the machine is loaded.",
    (Snapshots, LogStart, LogReach, History),
    (
        Row(
            "snapshot-none",
            (Snapshots.NONE, LogStart.FIRST_ENTRY),
            Decision.START,
            "No snapshot, and the log begins with the first entry.",
            "The whole log is replayed.",
            NOTHING,
        ),
        Row(
            "snapshot-missing",
            (Snapshots.NONE, LogStart.REACHES_BACK, LogStart.BEHIND),
            Decision.REFUSE,
            "No snapshot, and the log begins later than with the first entry.",
            "The start is refused: what came before is not known.",
            "Restore the directory from a backup; in a cluster, start with an empty directory.",
        ),
        Row(
            "snapshots-all-damaged",
            (Snapshots.ALL_DAMAGED, LogStart.FIRST_ENTRY),
            Decision.FALL_BACK,
            "All snapshots are damaged, and the log begins with the first entry.",
            "They are set aside, and the whole log is replayed.",
            "Nothing; if it happens again, check the disk.",
        ),
        Row(
            "snapshots-lost",
            (Snapshots.ALL_DAMAGED, LogStart.REACHES_BACK, LogStart.BEHIND),
            Decision.REFUSE,
            "All snapshots are damaged, and the log begins later than with the first entry.",
            "The start is refused: what came before is not known.",
            "Restore the directory from a backup; in a cluster, start with an empty directory.",
        ),
        Row(
            "snapshot-ahead",
            (*_GOOD, LogReach.SHORT),
            Decision.REFUSE,
            "The log ends before the newest good snapshot.",
            "The start is refused: entries that were durable are gone.",
            REPAIR,
        ),
        Row(
            "snapshot-too-old",
            (*_GOOD, LogReach.REACHES, LogStart.BEHIND),
            Decision.REFUSE,
            "The log begins behind the newest good snapshot.",
            "The start is refused: the entries between them are gone.",
            "Restore the directory from a backup; in a cluster, start with an empty directory.",
        ),
        Row(
            "snapshot-other-history",
            (*_GOOD, LogReach.REACHES, *_BACK, History.OTHER),
            Decision.REFUSE,
            "The newest good snapshot was made of another history than the log's.",
            "The start is refused.",
            REPAIR,
        ),
        Row(
            "snapshot-newest",
            (Snapshots.NEWEST_GOOD, LogReach.REACHES, *_BACK, History.SAME),
            Decision.START,
            "The newest snapshot is good, and the log goes on from it.",
            "It is loaded, and the log behind it replayed.",
            NOTHING,
        ),
        Row(
            "snapshot-older",
            (Snapshots.OLDER_GOOD, LogReach.REACHES, *_BACK, History.SAME),
            Decision.FALL_BACK,
            "The newest snapshots are damaged; the log goes on from an older one.",
            "Those are set aside; the older one is loaded, and more of the log replayed.",
            "Nothing; if it happens again, check the disk.",
        ),
    ),
)
