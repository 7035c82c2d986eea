"""Decisions of a start about files: what compaction left, names, first pages, derived files, the order of old ones.

Pure data; see `decisions`.
"""

from __future__ import annotations

from enum import Enum

from sluicemq.storage.decisions import NOTHING, OWN, REPAIR, UPGRADE, Decision, Row, Table
from sluicemq.storage.decisions_superblock import Belongs

__all__ = [
    "DERIVED",
    "FIRST_PAGES",
    "HELD",
    "NAMES",
    "ORDER",
    "REPLACED",
    "Content",
    "DerivedFile",
    "FirstPage",
    "Given",
    "Holding",
    "Kind",
    "Named",
    "Needed",
    "Neighbour",
    "Overlap",
    "Purpose",
    "Replaced",
    "Size",
    "Stretch",
]


# --- 3. Rewritten files and what they replaced ---------------------------------------------------------------


class Stretch(Enum):
    """Which segments a rewritten file stands for."""

    WITHIN = "within the live store"
    INTO_LOG = "reaches into the log"


class Overlap(Enum):
    """Other rewritten files of these segments."""

    APART = "none"
    INSIDE = "it lies inside another"
    ACROSS = "it overlaps another in part"


class Replaced(Enum):
    """Files that it stands for."""

    GONE = "gone"
    THERE = "still there"


class Content(Enum):
    """Its records, read to the end."""

    WHOLE = "whole"
    DAMAGED = "damaged"


REPLACED = Table(
    "rewritten files",
    "What an interrupted compaction left.",
    (Stretch, Overlap, Replaced, Content),
    (
        Row(
            "rewritten-into-log",
            (Stretch.INTO_LOG,),
            Decision.REFUSE,
            "A rewritten file stands for segments of the log proper.",
            "The start is refused: superblock and files are not of one time.",
            REPAIR,
        ),
        Row(
            "rewritten-across",
            (Stretch.WITHIN, Overlap.ACROSS),
            Decision.REFUSE,
            "Two rewritten files overlap, and neither stands for the other.",
            "The start is refused: no compaction leaves that.",
            REPAIR,
        ),
        Row(
            "rewritten-again",
            (Stretch.WITHIN, Overlap.INSIDE),
            Decision.FINISH,
            "A rewritten file lies inside a larger one that replaced it.",
            "The larger one is read to its end, then this one is removed.",
            NOTHING,
        ),
        Row(
            "rewritten",
            (Stretch.WITHIN, Overlap.APART, Replaced.GONE),
            Decision.START,
            "A rewritten file, and nothing left of what it replaced.",
            "Its first page is read; its records are verified when they are read.",
            NOTHING,
        ),
        Row(
            "compaction-interrupted",
            (Stretch.WITHIN, Overlap.APART, Replaced.THERE, Content.WHOLE),
            Decision.FINISH,
            "A rewritten file that is whole, and files that it replaced.",
            "Those are removed.",
            NOTHING,
        ),
        Row(
            "compaction-damaged",
            (Stretch.WITHIN, Overlap.APART, Replaced.THERE, Content.DAMAGED),
            Decision.REFUSE,
            "A rewritten file that is damaged, and files that it was to replace.",
            "The start is refused, and none of them is removed.",
            REPAIR,
        ),
    ),
)


class Purpose(Enum):
    """What a name says of a file."""

    IN_USE = "a file that the broker uses"
    UNFINISHED = "a file that was never finished"
    INCOMING = "a part of a snapshot that another broker sends"
    ORPHAN_INDEX = "an index without its segment"
    SET_ASIDE = "a file that was set aside"
    STRANGE = "a name that the broker does not know"


NAMES = Table(
    "names",
    "Files by their names.",
    (Purpose,),
    (
        Row("name-in-use", (Purpose.IN_USE,), Decision.START, "A file of the broker.", "It is used.", NOTHING),
        Row(
            "name-unfinished",
            (Purpose.UNFINISHED,),
            Decision.FINISH,
            "`sparse.new`, `snapshot.new`, `superblock.new`, `zeroing-N`: an interruption left them.",
            "It is removed, or written anew by the next that is made: nothing ever rested on it.",
            NOTHING,
        ),
        Row(
            "name-incoming",
            (Purpose.INCOMING,),
            Decision.START,
            "`incoming-*`: parts of a snapshot that another broker has begun to send.",
            "They are left alone: receiving goes on behind them, or begins anew. Nothing rests on them.",
            NOTHING,
        ),
        Row(
            "index-orphan",
            (Purpose.ORPHAN_INDEX,),
            Decision.FINISH,
            "An `index-N` without the segment that it belongs to.",
            "It is removed: derived data.",
            NOTHING,
        ),
        Row(
            "name-set-aside",
            (Purpose.SET_ASIDE,),
            Decision.START,
            "`rejected-snapshot-*`, `set-aside-*` (a damaged log whose broker learns from the others), and what `log "
            "repair` put under `damaged/`.",
            "It is never read. Rejected snapshots go when good ones of their age go; the rest stays.",
            "Remove it when it is not needed any more.",
        ),
        Row(
            "name-strange",
            (Purpose.STRANGE,),
            Decision.START,
            "A name that the broker does not know, beside a superblock.",
            "It is left alone; `log verify` names it.",
            "Remove it, if it is yours.",
        ),
    ),
)


# --- 4. First pages ------------------------------------------------------------------------------------------


class Kind(Enum):
    """What kind of file it is."""

    LOG = "segment of the log"
    LIVE = "old segment"
    SPARSE = "rewritten file"
    SNAPSHOT = "snapshot"
    PAGES = "page file"
    INDEX = "index"


class FirstPage(Enum):
    """Its first page."""

    GOOD = "good"
    DAMAGED = "truncated or garbage"
    NEWER = "of an unknown version"


class Named(Enum):
    """What the page says against the file's name."""

    RIGHT = "right name"
    WRONG = "wrong name"


class Size(Enum):
    """The file's size, or what lies behind the first page, against what the page says."""

    WHOLE = "whole"
    SHORTENED = "shortened"


_ENTRIES = (Kind.LOG, Kind.LIVE, Kind.SPARSE)
_NAMED = (*_ENTRIES, Kind.SNAPSHOT)
_BOUND = (*_ENTRIES, Kind.SNAPSHOT, Kind.PAGES)

FIRST_PAGES = Table(
    "first pages",
    "Whether a file is what its name says.",
    (Kind, FirstPage, Belongs, Named, Size),
    (
        Row(
            "file-whole",
            (*_NAMED, FirstPage.GOOD, Belongs.OURS, Named.RIGHT, Size.WHOLE),
            Decision.START,
            "The first page is ours, of this file, and the file has its size.",
            "The start goes on.",
            NOTHING,
        ),
        Row(
            "file-header-damaged",
            (*_ENTRIES, FirstPage.DAMAGED),
            Decision.REFUSE,
            "The first page of a segment or rewritten file is truncated or garbage.",
            "The start is refused, with file and offset 0.",
            REPAIR,
        ),
        Row(
            "file-newer",
            (*_BOUND, FirstPage.NEWER),
            Decision.REFUSE,
            "A segment, rewritten file, snapshot or page file of an unknown version.",
            "The start is refused.",
            UPGRADE,
        ),
        Row(
            "file-foreign",
            (*_BOUND, FirstPage.GOOD, Belongs.OTHER_CLUSTER, Belongs.OTHER_GROUP),
            Decision.REFUSE,
            "A segment, rewritten file, snapshot or page file of another cluster or group.",
            "The start is refused.",
            OWN,
        ),
        Row(
            "file-misnamed",
            (*_ENTRIES, FirstPage.GOOD, Belongs.OURS, Named.WRONG),
            Decision.REFUSE,
            "A segment or rewritten file under the name of another.",
            "The start is refused.",
            "Give it its name back, restore the directory from a backup, or let `sluicemq log repair` rename it: it "
            "shows first what it would do, and nothing in the file is lost.",
        ),
        Row(
            "file-shortened",
            (*_ENTRIES, FirstPage.GOOD, Belongs.OURS, Named.RIGHT, Size.SHORTENED),
            Decision.REFUSE,
            "A segment or rewritten file is smaller than it was when it was made.",
            "The start is refused: this is never a torn tail, for the size was durable before the first record.",
            REPAIR,
        ),
        Row(
            "snapshot-header-damaged",
            (Kind.SNAPSHOT, FirstPage.DAMAGED),
            Decision.FALL_BACK,
            "The first page of a snapshot is truncated or garbage.",
            "It does not count and is set aside; the table of snapshots decides which one does.",
            NOTHING,
        ),
        Row(
            "snapshot-misnamed",
            (Kind.SNAPSHOT, FirstPage.GOOD, Belongs.OURS, Named.WRONG),
            Decision.FALL_BACK,
            "A snapshot under the name of another.",
            "It does not count and is set aside.",
            NOTHING,
        ),
        Row(
            "snapshot-damaged",
            (Kind.SNAPSHOT, FirstPage.GOOD, Belongs.OURS, Named.RIGHT, Size.SHORTENED),
            Decision.FALL_BACK,
            "A snapshot whose sections or footer are damaged or cut off.",
            "It does not count and is set aside.",
            NOTHING,
        ),
        Row(
            "pages-header-damaged",
            (Kind.PAGES, FirstPage.DAMAGED),
            Decision.REBUILD,
            "The first page of `pages` or `pages-copy` is garbage.",
            "It is written anew: pages are proven by the checksums of those who name them.",
            NOTHING,
        ),
        Row(
            "pages-shortened",
            (Kind.PAGES, FirstPage.GOOD, Belongs.OURS, Size.SHORTENED),
            Decision.FALL_BACK,
            "`pages` and `pages-copy` both end before a page that a snapshot names.",
            "That snapshot does not count and is set aside; the table of snapshots decides which one does.",
            NOTHING,
        ),
        Row(
            "pages-whole",
            (Kind.PAGES, FirstPage.GOOD, Belongs.OURS, Size.WHOLE),
            Decision.START,
            "The page files are ours, and one of them reaches to every page that kept snapshots name.",
            "The start goes on. A page that one file does not hold as it was written is mended from the other.",
            NOTHING,
        ),
        Row(
            "index-whole",
            (Kind.INDEX, FirstPage.GOOD, Named.RIGHT, Size.WHOLE),
            Decision.START,
            "An index of this segment and this generation.",
            "It is used when the segment is read.",
            NOTHING,
        ),
        Row(
            "index-newer",
            (Kind.INDEX, FirstPage.NEWER),
            Decision.REBUILD,
            "An index of an unknown version.",
            "It is made anew when the segment is read: derived data.",
            NOTHING,
        ),
        Row(
            "index-garbage",
            (Kind.INDEX, FirstPage.DAMAGED),
            Decision.REBUILD,
            "The first page of an index is truncated or garbage.",
            "It is made anew when the segment is read.",
            NOTHING,
        ),
        Row(
            "index-misnamed",
            (Kind.INDEX, FirstPage.GOOD, Named.WRONG),
            Decision.REBUILD,
            "An index of another segment or generation.",
            "It is made anew when the segment is read.",
            NOTHING,
        ),
        Row(
            "index-shortened",
            (Kind.INDEX, FirstPage.GOOD, Named.RIGHT, Size.SHORTENED),
            Decision.REBUILD,
            "The table of an index is damaged or cut off.",
            "It is made anew when the segment is read.",
            NOTHING,
        ),
    ),
)


class DerivedFile(Enum):
    """Files that may be missing."""

    INDEX = "index"
    PAGES = "both page files"
    PAGES_COPY = "one of the two page files"


class Given(Enum):
    """Whether it is there."""

    THERE = "there"
    MISSING = "missing"


class Needed(Enum):
    """Whether kept snapshots name pages."""

    NO = "no page is named"
    YES = "pages are named"


DERIVED = Table(
    "derived files",
    "What an index or page file that is missing means.",
    (DerivedFile, Given, Needed),
    (
        Row("derived-there", (Given.THERE,), Decision.START, "It is there.", "Its first page is read.", NOTHING),
        Row(
            "index-missing",
            (Given.MISSING, DerivedFile.INDEX),
            Decision.REBUILD,
            "An index is missing.",
            "It is made anew when the segment is read.",
            NOTHING,
        ),
        Row(
            "pages-new",
            (Given.MISSING, DerivedFile.PAGES, Needed.NO),
            Decision.REBUILD,
            "`pages` and `pages-copy` are both missing, and no snapshot names a page.",
            "They are made anew.",
            NOTHING,
        ),
        Row(
            "pages-copy-missing",
            (Given.MISSING, DerivedFile.PAGES_COPY),
            Decision.REBUILD,
            "One of `pages` and `pages-copy` is missing.",
            "It is made anew, and filled from the other: with each page that is read, and by the next scrub.",
            NOTHING,
        ),
        Row(
            "pages-missing",
            (Given.MISSING, DerivedFile.PAGES, Needed.YES),
            Decision.FALL_BACK,
            "`pages` and `pages-copy` are both missing, and a snapshot names pages.",
            "They are made anew. Snapshots that name pages do not count and are set aside; the next table goes on.",
            NOTHING,
        ),
    ),
)


class Neighbour(Enum):
    """Where the next file begins, against where this one does."""

    BEHIND = "behind it"
    BEFORE = "before it"


ORDER = Table(
    "order of old files",
    "Whether the files of the live store follow each other.",
    (Neighbour,),
    (
        Row(
            "old-files-in-order",
            (Neighbour.BEHIND,),
            Decision.START,
            "Each old file begins behind the one before. Gaps are what died.",
            "The start goes on.",
            NOTHING,
        ),
        Row(
            "old-files-out-of-order",
            (Neighbour.BEFORE,),
            Decision.REFUSE,
            "An old file begins before the one that comes earlier by its name.",
            "The start is refused.",
            REPAIR,
        ),
    ),
)


class Holding(Enum):
    """Where the entries lie that messages are alive in."""

    ALL = "each in a file"
    SOME = "some in no file"


HELD = Table(
    "living messages",
    "Whether everything that is alive, when the snapshot is loaded and the log replayed, lies in a file.",
    (Holding,),
    (
        Row(
            "messages-held",
            (Holding.ALL,),
            Decision.START,
            "Each message that is not settled or is retained lies within an old file or the log.",
            "The start goes on.",
            NOTHING,
        ),
        Row(
            "old-file-missing",
            (Holding.SOME,),
            Decision.REFUSE,
            "Messages are alive in entries that lie between the files: an old file was deleted or lost.",
            "The start is refused, with the files around each gap, the entries, the queues and how many messages.",
            "Bring the file back, or restore the directory from a backup. Otherwise `sluicemq log repair` shows what "
            "is lost, and goes on without it when told to.",
        ),
    ),
)
