"""The sections of an image: how a frozen machine is written down.

An image is a sequence of sections, each a kind (a small number) and bytes. `freeze` writes them, `image` reads them;
whoever stores them must give them back whole and in order. This module owns the format. It must not know what the
machine does with what it says, nor files.

**A section** is one msgpack array `[name, version, columns]`. *name* repeats what the kind means, so that a reader that
does not know the kind can say what it refuses. *columns* is a map from the column's name to a list; all lists of a
section have one length, an entry a row. Columns named in `BLOBS` are byte strings instead, into which the rows' parts
are put one after the other. Numbers inside byte strings are little-endian.

**A run** is a row of `runs.RUN_BYTES` bytes, as the queue's index holds it (see `runs.Run` for the fields):
u64 zxid, u64 ready, u32 first, u32 size, u32 batch count, u32 batch bytes, u64 published_ms, u16 deliveries,
u16 attempts. In a delayed run `ready` is when it is due, in milliseconds of log time.

| kind | name | what a row is |
| --- | --- | --- |
| 1 | machine | the machine; one row, the first section |
| 2 | queues | a queue; in the order of their numbers |
| 3 | indexes | an index that is not empty: ready (`place` 0), delayed (1) or retained runs (2); after its queue |
| 4 | chunks | a sealed chunk in order, as many as its index says, which stands before |
| 5 | returned | a run that was given back; after its queue, in any order |
| 6 | sessions | a session; in the order of their numbers |
| 7 | leases | a block of a consumer's table; after all queues and its session, in order |
| 8 | producers | a producer; in any order, `turn` tells theirs |
| 9 | end | the end; one row, the last section, with what must add up |

The columns stand in `LAYOUTS`. Those that need a word:

- indexes: `runs` holds the open rows behind the sealed chunks, `rows` how many; `head` is how many rows in front are
  consumed (of the first chunk; 0 when there is none), `first` and `size` what is left of the run in front (size 0: all
  that its row says), `front_ms` when that was published or is due, `last_ms` when the last delayed one is due
  at the latest, `messages` how many live.
- chunks: `rows` says how many, `base` when the first delayed one is due, also a consumed one. `slot` and `checksum`
  name the page that holds the rows, in front of zeros; slot -1: they stand in `runs`, all of them.
  The other columns are the summary (see `chunks.Summary`), 0 when the rows stand in `runs`.
- queues: `retained` is None, or what `history.History.places` says beside the index of retained runs. Messages that are
  retained are not counted in `messages` of the end: they are elsewhere too, or nowhere.
- leases: `pieces` says how many; of each the first tag in `firsts` (u64), the mark in `handed` (u8), the run in `runs`.
- producers: `fenced` is a list of numbers, `receipts` bytes: the ring of u64 as it lies.
- machine: the limits by which the entries were judged, and counts of what follows.

What follows from the rest is not written: names, due times, who holds leases of a queue, counts of messages.

A change of the format is a new version of its section; a reader refuses what it does not know by name, and never skips.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from sluicemq.wire.errors import SluiceError

FORMAT = 1
"""Version of the format as a whole: which sections there are, and in which order."""

MACHINE, QUEUES, INDEXES, CHUNKS, RETURNED, SESSIONS, LEASES, PRODUCERS, END = range(1, 10)

READY, DELAYED, RETAINED = range(3)
"""Places of an index."""

NO_PAGE = -1
"""Slot of a chunk that stands in the image itself."""


class Layout(NamedTuple):
    """What a kind of section holds."""

    name: str
    version: int
    columns: tuple[str, ...]
    blobs: tuple[str, ...] = ()


LAYOUTS: dict[int, Layout] = {
    MACHINE: Layout("machine", 1, ("format", "zxid", "log_time_ms", "limits", "queues", "sessions", "producers")),
    QUEUES: Layout(
        "queues",
        1,
        ("id", "vhost", "name", "settings", "created_ms", "published", "settled", "purged", "redelivered", "retained"),
    ),
    INDEXES: Layout(
        "indexes",
        1,
        ("queue", "place", "head", "messages", "first", "size", "front_ms", "last_ms", "chunks", "rows"),
        ("runs",),
    ),
    CHUNKS: Layout(
        "chunks",
        1,
        (
            "queue",
            "place",
            "rows",
            "base",
            "slot",
            "checksum",
            "messages",
            "bytes",
            "lowest_zxid",
            "highest_zxid",
            "published_ms",
        ),
        ("runs",),
    ),
    RETURNED: Layout("returned", 1, ("queue",), ("runs",)),
    SESSIONS: Layout("sessions", 1, ("number", "vhost", "identity", "client_name", "resume_token", "opened_ms")),
    LEASES: Layout("leases", 1, ("session", "consumer", "queue", "last_tag", "pieces"), ("firsts", "handed", "runs")),
    PRODUCERS: Layout(
        "producers", 1, ("number", "vhost", "name", "identity", "last", "turn", "heard_ms", "fenced", "receipts")
    ),
    END: Layout("end", 1, ("sections", "messages", "leased")),
}


class ImageUnknown(SluiceError):
    """The image has a section, or a version of one, that this version cannot read: a newer broker wrote it.

    Install the version that wrote it, or start from an older snapshot with the log behind it.
    """

    code = "image_unknown"


class ImageDamaged(SluiceError):
    """The image contradicts itself or its own format, though its checksums held: a bug of ours, or damaged memory.

    Start from an older snapshot with the log behind it, and keep this one for whoever looks for the bug.
    """

    code = "image_damaged"


class Section(NamedTuple):
    """One section of an image."""

    kind: int
    data: bytes


def encode(kind: int, rows: list[tuple[Any, ...]], *blobs: bytes | bytearray) -> Section:
    """Return the section of this kind with these rows; each has one value for every column.

    Args:
        kind: One of the kinds above.
        rows: At least one row.
        blobs: The byte strings in the order of the layout.

    """
    layout = LAYOUTS[kind]
    columns: dict[str, Any] = dict(zip(layout.columns, zip(*rows, strict=True), strict=True))
    columns.update(zip(layout.blobs, blobs, strict=True))
    packed: bytes = msgpack.packb((layout.name, layout.version, columns))
    return Section(kind, packed)


def decode(kind: int, data: bytes) -> dict[str, Any]:
    """Return the columns and byte strings of a section, by name.

    Raises:
        ImageUnknown: The kind or its version is unknown; the text names both.
        ImageDamaged: The bytes are no section of this kind.

    """
    try:
        name, version, columns = msgpack.unpackb(data, strict_map_key=False)
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise ImageDamaged(f"section of kind {kind}: no array of name, version and columns ({error!s:.200})") from None
    layout = LAYOUTS.get(kind)
    if layout is None:
        raise ImageUnknown(
            f"section {name!r:.80} (kind {kind}, version {version!r:.20}) is unknown to this version; "
            "install the version that wrote the snapshot",
            kind=kind,
        )
    if name != layout.name:
        raise ImageDamaged(f"section of kind {kind} is named {name!r:.80} instead of {layout.name!r}", kind=kind)
    if version != layout.version:
        raise ImageUnknown(
            f"version {version!r:.20} of section {name!r} is unknown; this version reads {layout.version}; "
            "install the version that wrote the snapshot",
            kind=kind,
        )
    expected = layout.columns + layout.blobs
    if type(columns) is not dict or tuple(columns) != expected:
        raise ImageDamaged(f"section {name!r} has not the columns {', '.join(expected)}", kind=kind)
    lengths = {len(columns[column]) for column in layout.columns if type(columns[column]) is list}
    if len(lengths) != 1 or any(type(columns[column]) is not list for column in layout.columns):
        raise ImageDamaged(f"the columns of section {name!r} are not lists of one length", kind=kind)
    if any(type(columns[blob]) is not bytes for blob in layout.blobs):
        raise ImageDamaged(f"section {name!r} lacks its bytes: {', '.join(layout.blobs)}", kind=kind)
    return columns
