"""Decisions of a start about the superblock: whose directory it is, whether there is a log, and an interrupted cut.

Pure data; see `decisions`.
"""

from __future__ import annotations

from enum import Enum

from sluicemq.storage.decisions import NOTHING, OWN, REPAIR, UPGRADE, Decision, Row, Table

__all__ = [
    "BEGINNING",
    "INSTALLATION",
    "INTENT",
    "OWNER",
    "Begun",
    "Belongs",
    "Copies",
    "FirstCopy",
    "Installing",
    "Intent",
    "IntentSegment",
    "Leftovers",
    "NewFiles",
    "Others",
    "SecondCopy",
    "SuperblockFile",
]


# --- 1. The superblock ---------------------------------------------------------------------------------------


class SuperblockFile(Enum):
    """The file `superblock`."""

    THERE = "there"
    MISSING = "missing"


class Others(Enum):
    """Segments, rewritten files or snapshots beside it."""

    NONE = "no other data"
    SOME = "other data"


class FirstCopy(Enum):
    """Its first copy."""

    WHOLE = "first copy whole"
    DAMAGED = "first copy damaged"
    NEWER = "first copy of a newer version"


class SecondCopy(Enum):
    """Its second copy."""

    WHOLE = "second copy whole"
    DAMAGED = "second copy damaged"
    NEWER = "second copy of a newer version"


class Copies(Enum):
    """Two whole copies."""

    EQUAL = "equal"
    DIFFERENT = "one older than the other"


class Belongs(Enum):
    """Whose file it is."""

    OURS = "ours"
    OTHER_CLUSTER = "another cluster's"
    OTHER_GROUP = "another group's"


_THERE = SuperblockFile.THERE
_FOREIGN = (Belongs.OTHER_CLUSTER, Belongs.OTHER_GROUP)

OWNER = Table(
    "superblock",
    "Who the directory belongs to, and what was promised.",
    (SuperblockFile, Others, FirstCopy, SecondCopy, Copies, Belongs),
    (
        Row(
            "empty-directory",
            (SuperblockFile.MISSING, Others.NONE),
            Decision.FORM,
            "No superblock, and no other data.",
            "A new log is formed.",
            NOTHING,
        ),
        Row(
            "superblock-missing",
            (SuperblockFile.MISSING, Others.SOME),
            Decision.REFUSE,
            "No superblock, yet segments, rewritten files or snapshots.",
            "The start is refused: a missing part is never taken for an empty log.",
            REPAIR,
        ),
        Row(
            "superblock-newer",
            (_THERE, FirstCopy.NEWER),
            Decision.REFUSE,
            "The first copy was written by a newer version.",
            "The start is refused.",
            UPGRADE,
        ),
        Row(
            "superblock-half-newer",
            (_THERE, FirstCopy.WHOLE, FirstCopy.DAMAGED, SecondCopy.NEWER),
            Decision.REFUSE,
            "The second copy was written by a newer version.",
            "The start is refused, also when the first copy could be read: it is older.",
            UPGRADE,
        ),
        Row(
            "superblock-lost",
            (_THERE, FirstCopy.DAMAGED, SecondCopy.DAMAGED),
            Decision.REFUSE,
            "Both copies are truncated or garbage.",
            "The start is refused: what the broker promised to others is not known.",
            REPAIR,
        ),
        Row(
            "superblock-foreign",
            (_THERE, FirstCopy.WHOLE, SecondCopy.WHOLE, *_FOREIGN),
            Decision.REFUSE,
            "It names another cluster or group.",
            "The start is refused.",
            OWN,
        ),
        Row(
            "superblock-foreign-second",
            (_THERE, FirstCopy.DAMAGED, SecondCopy.WHOLE, *_FOREIGN),
            Decision.REFUSE,
            "The first copy is damaged, and the second names another cluster or group.",
            "The start is refused, and nothing is mended.",
            OWN,
        ),
        Row(
            "superblock-foreign-first",
            (_THERE, FirstCopy.WHOLE, SecondCopy.DAMAGED, *_FOREIGN),
            Decision.REFUSE,
            "The second copy is damaged, and the first names another cluster or group.",
            "The start is refused, and nothing is mended.",
            OWN,
        ),
        Row(
            "superblock-first-copy-damaged",
            (_THERE, FirstCopy.DAMAGED, SecondCopy.WHOLE, Belongs.OURS),
            Decision.REBUILD,
            "The first copy is truncated or garbage, the second is whole.",
            "The first is written anew from the second, before anything rests on it.",
            "Nothing; if it happens again, check the disk.",
        ),
        Row(
            "superblock-second-copy-damaged",
            (_THERE, FirstCopy.WHOLE, SecondCopy.DAMAGED, Belongs.OURS),
            Decision.REBUILD,
            "The second copy is truncated or garbage, the first is whole.",
            "The second is written anew from the first, before anything rests on it.",
            "Nothing; if it happens again, check the disk.",
        ),
        Row(
            "superblock-copy-older",
            (_THERE, FirstCopy.WHOLE, SecondCopy.WHOLE, Copies.DIFFERENT, Belongs.OURS),
            Decision.REBUILD,
            "Both copies are whole, one is older: a save was interrupted.",
            "The newer one counts; the older is written anew.",
            NOTHING,
        ),
        Row(
            "superblock-whole",
            (_THERE, FirstCopy.WHOLE, SecondCopy.WHOLE, Copies.EQUAL, Belongs.OURS),
            Decision.START,
            "Two whole, equal copies of ours.",
            "The start goes on.",
            NOTHING,
        ),
    ),
)


# --- A snapshot of another broker in the place of the log ----------------------------------------------------


class Installing(Enum):
    """The note of an installation in the superblock."""

    NONE = "none"
    NOTED = "noted"


class NewFiles(Enum):
    """The files that are to be the log from then on, under their names or as incoming ones."""

    THERE = "all there"
    MISSING = "one is missing"


INSTALLATION = Table(
    "installation",
    "Whether a snapshot of another broker was being put in the place of the log.",
    (Installing, NewFiles),
    (
        Row(
            "no-installation",
            (Installing.NONE,),
            Decision.START,
            "No installation is noted.",
            "The start goes on; what was received so far waits for the rest.",
            NOTHING,
        ),
        Row(
            "installation-interrupted",
            (Installing.NOTED, NewFiles.THERE),
            Decision.FINISH,
            "An installation is noted and was interrupted.",
            "It is carried out: the new files get their names, what is old is removed, the note is cleared.",
            NOTHING,
        ),
        Row(
            "installation-without-files",
            (Installing.NOTED, NewFiles.MISSING),
            Decision.REFUSE,
            "An installation is noted, and one of its files is missing.",
            "The start is refused.",
            REPAIR,
        ),
    ),
)


# --- 2. Where the log begins, and an interrupted truncation --------------------------------------------------


class Begun(Enum):
    """Whether the superblock names a first segment."""

    YES = "begun"
    NO = "not begun"


class Leftovers(Enum):
    """Files of a log that the superblock does not name yet."""

    NONE = "none"
    BLANK_FIRST = "a first segment without an entry"
    DATA = "entries or later files"


BEGINNING = Table(
    "beginning",
    "Whether there is a log at all.",
    (Begun, Leftovers),
    (
        Row("log-begun", (Begun.YES,), Decision.START, "The superblock names the log's files.", "It is read.", NOTHING),
        Row(
            "log-not-begun",
            (Begun.NO, Leftovers.NONE, Leftovers.BLANK_FIRST),
            Decision.FORM,
            "The very first start was interrupted before the log was begun.",
            "It is begun anew.",
            NOTHING,
        ),
        Row(
            "log-not-begun-yet-data",
            (Begun.NO, Leftovers.DATA),
            Decision.REFUSE,
            "The superblock says that the log was never begun, yet there are entries or later files.",
            "The start is refused: this superblock is not that of these files.",
            REPAIR,
        ),
    ),
)


class Intent(Enum):
    """The note of a truncation in the superblock."""

    NONE = "none"
    NOTED = "noted"


class IntentSegment(Enum):
    """The segment in which the log is to end."""

    THERE = "there"
    MISSING = "missing"


INTENT = Table(
    "truncation",
    "Whether the log was in the middle of being cut.",
    (Intent, IntentSegment),
    (
        Row("no-truncation", (Intent.NONE,), Decision.START, "No truncation is noted.", "The start goes on.", NOTHING),
        Row(
            "truncation-interrupted",
            (Intent.NOTED, IntentSegment.THERE),
            Decision.FINISH,
            "A truncation is noted and was interrupted.",
            "It is carried out: later segments are retired, newest first, the rest is zeroed, the note is cleared.",
            NOTHING,
        ),
        Row(
            "truncation-without-segment",
            (Intent.NOTED, IntentSegment.MISSING),
            Decision.REFUSE,
            "A truncation is noted in a segment that is missing.",
            "The start is refused.",
            REPAIR,
        ),
    ),
)
