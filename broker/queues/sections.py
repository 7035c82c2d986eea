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
u16 attempts, u32 key, u64 expires_ms, u32 note, u8 priority, 3 bytes of zeros. In a delayed run
`ready` is when it is due, in milliseconds of log time.

| kind | name | what a row is |
| --- | --- | --- |
| 1 | machine | the machine; one row, the first section |
| 2 | queues | a queue; in the order of their numbers |
| 3 | indexes | an index that is not empty; after its queue |
| 4 | chunks | a sealed chunk in order, as many as its index says, which stands before |
| 5 | returned | a run that was given back; after its queue, in any order |
| 6 | sessions | a session; in the order of their numbers |
| 7 | leases | a block of a consumer's table; after all queues and its session, in order |
| 8 | producers | a producer; in any order, `turn` tells theirs |
| 9 | end | the end; one row, the last section, with what must add up |
| 10 | notes | a note of a queue; after its queue, in any order |
| 11 | topics | a topic; in the order of their numbers, before all queues |
| 12 | bindings | a queue that is bound to a topic; after its topic, before all queues |
| 13 | routes | a route of messages that a topic delays; after its topic, in any order |
| 50 | settled | what a consumer settled last; after its session, in any order |
| 20 | marks | a queue that is paused, or of which settings were declared; after the queue |
| 21 | policies | a policy, in any order |
| 22 | following | a vhost whose queues have to follow policies, the last one by name that has, and since when |
| 23 | schedules | a schedule, in any order |
| 24 | windows | a window of message ids; after its queue or topic |
| 25 | window chunks | a sealed chunk of a window in order, as many as its window says, which stands before |
| 26 | leased ids | a consumer's table whose messages have ids that the queue wants; after the table |
| 27 | window indexes | neighbouring arrays of a window's index, in order; after all its chunks |
| 30 | halves | a half message; in the order of their numbers |
| 31 | decisions | what was decided of a half message; oldest first |
| 60 | cluster | what is known of the brokers; one row |

The columns stand in `LAYOUTS`. Those that need a word:

- indexes: `queue` is the number of a queue, or of a topic for what it delays and retains. `place` says what of: 0
  ready runs, 1 delayed, 2 retained, 3 dead ones, 4 those that expire out of order, 5 held back while a subscription
  catches up, 16 and a priority: ready runs of that. `runs` holds the open rows behind the sealed chunks, `rows` how
  many; `head` is how many rows in front are consumed (of the first chunk; 0 when there is none), `first` and `size`
  what is left of the run in front (size 0: all that its row says), `front_ms` when that was published or is due,
  `front_expires_ms` when it expires, `messages` how many live. `last_ms` is when the last delayed one is due at the
  latest; of ready ones when the last one expires, as far as they expire in order (see `lanes`). `holes` is the bitmap
  of open rows that left, bit 0 of the first byte for the first row.
- chunks: `rows` says how many, `base` when the first delayed one is due, also a consumed one. `holes` is None, or what
  left from between: the bitmap, the messages in it, and of the first row that stayed when it was published and when it
  expires (0, where no row left in front of it). `slot` and `checksum` name the page that holds the rows, in front of
  zeros; slot -1: they stand in `runs`, all of them. Behind them there stand as many rows as `buffered` says: what
  belongs to a chunk of delayed ones and is not in it yet, as it came. The other columns are the summary (see
  `chunks.Summary`), 0 when the rows stand in `runs`.
- indexes, of those that are not in the order of time: `before` is what the rows came to that were appended since it was
  empty and are neither in its chunks nor in `runs`, as `checksums` has it.
- queues: `retained` is None, or what `history.History.places` says beside the index of retained runs. Messages that are
  retained are not counted in `messages` of the end: they are elsewhere too, or nowhere. `bytes` is None where they are
  not counted.
- marks: `paused` is 1 for publishing, 2 for deliveries, 3 for both; `declared` names settings.
- windows: `owner` is the number of a queue or topic, `kind` says whether the ids are of what was published (0) or
  acknowledged (1); the others are those of `window.WindowImage`. `chunks` says how many sealed ones follow, `bytes` how
  many of `rows` are the window's: its open rows, as `window.ROW` has them.
- leased ids: `tags` holds a tag (u64) for each of so many `messages`, ascending, `ids` the hash of its id, 16 bytes.
- window chunks: `slot` and `checksum` as of chunks; slot -1: the rows stand in `rows`, as many as a page has.
- window indexes: how many bytes of each byte string are the row's: `depths` says by how many uppermost bits of a hash
  each array goes (u8), `sizes` how many `entries` it has (u32), these are as in `window_index` (u64). Entries of rows
  that came later may be among them.
- notes: what they are stands in `notes.Note`.
- topics: `kind` of source, "topic"; `paused` as of marks, `retained` as of queues. The note of a delayed row is the
  number of its route.
- bindings: `session` is 0 where the queue stays; `arguments` is None; `filling` is None, or what
  `routing.filling.numbers_of` says of how far the queue has caught up.
- leases: `pieces` says how many; of each the first tag in `firsts` (u64), the mark in `handed` (u8), the run in `runs`.
- settled: `tags` are ranges, `[first, last, ...]`.
- producers: `fenced` is a list of numbers, `receipts` and `id_bases` bytes: the rings of u64 as they lie.
- halves, decisions: what they are stands in `halves.Half` and `halves.Decision`.
- cluster: `configuration` is bytes, empty where nobody said who votes; `addresses` are pairs of number and address.
- machine: the limits by which the entries were judged, and counts of what follows.

What follows from the rest is not written: names, due times, who holds leases of a queue, counts of messages.

A change of the format is a new version of its section; a reader refuses what it does not know by name, and never skips.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgpack

from sluicemq.wire.errors import SluiceError

FORMAT = 7
"""Version of the format as a whole: which sections there are, and in which order."""

MACHINE, QUEUES, INDEXES, CHUNKS, RETURNED, SESSIONS, LEASES, PRODUCERS, END, NOTES = range(1, 11)
TOPICS, BINDINGS, ROUTES = range(11, 14)
MARKS, POLICIES, FOLLOWING, SCHEDULES = range(20, 24)
WINDOWS, WINDOW_CHUNKS, LEASED_IDS, WINDOW_INDEXES = range(24, 28)
HALVES, DECISIONS = range(30, 32)
SETTLED = 50
CLUSTER = 60

READY, DELAYED, RETAINED, DEAD, EXPIRING, HELD = range(6)
LANES = 16
"""Places of an index; that of a lane of a priority beyond 0 is so many more than its priority."""
BY_TIME = frozenset((DELAYED, EXPIRING))
"""Places whose runs are in the order of time."""
COPIES = frozenset((RETAINED, EXPIRING))
"""Places whose runs are elsewhere too, or left."""

NO_PAGE = -1
"""Slot of a chunk that stands in the image itself."""


class Layout(NamedTuple):
    """What a kind of section holds."""

    name: str
    version: int
    columns: tuple[str, ...]
    blobs: tuple[str, ...] = ()


LAYOUTS: dict[int, Layout] = {
    MACHINE: Layout(
        "machine",
        3,
        ("format", "zxid", "log_time_ms", "id_moment", "limits", "queues", "sessions", "producers", "topics"),
    ),
    QUEUES: Layout(
        "queues",
        5,
        (
            "id",
            "vhost",
            "name",
            "settings",
            "created_ms",
            "published",
            "settled",
            "purged",
            "redelivered",
            "retained",
            "expired",
            "dropped",
            "dead",
            "moved",
            "bytes",
            "next_note",
            "used_ms",
            "redriven",
            "discarded",
            "parked",
            "waiting",
        ),
    ),
    INDEXES: Layout(
        "indexes",
        3,
        (
            "queue",
            "place",
            "head",
            "messages",
            "first",
            "size",
            "front_ms",
            "last_ms",
            "front_expires_ms",
            "holes",
            "chunks",
            "rows",
            "before",
        ),
        ("runs",),
    ),
    CHUNKS: Layout(
        "chunks",
        3,
        (
            "queue",
            "place",
            "rows",
            "base",
            "holes",
            "buffered",
            "slot",
            "checksum",
            "messages",
            "bytes",
            "lowest_zxid",
            "highest_zxid",
            "published_ms",
            "ready",
            "expires_ms",
        ),
        ("runs",),
    ),
    RETURNED: Layout("returned", 2, ("queue",), ("runs",)),
    SESSIONS: Layout(
        "sessions", 2, ("number", "vhost", "identity", "client_name", "resume_token", "opened_ms", "closed")
    ),
    LEASES: Layout("leases", 2, ("session", "consumer", "queue", "last_tag", "pieces"), ("firsts", "handed", "runs")),
    SETTLED: Layout("settled", 1, ("session", "consumer", "tags")),
    PRODUCERS: Layout(
        "producers",
        2,
        ("number", "vhost", "name", "identity", "last", "turn", "heard_ms", "fenced", "receipts", "id_bases"),
    ),
    NOTES: Layout("notes", 1, ("queue", "number", "kind", "origin", "text", "at_ms", "living", "dead", "attempts")),
    TOPICS: Layout(
        "topics",
        4,
        (
            "id",
            "kind",
            "vhost",
            "name",
            "settings",
            "created_ms",
            "published",
            "unrouted",
            "expired",
            "cancelled",
            "paused",
            "retained",
            "next_route",
        ),
    ),
    BINDINGS: Layout("bindings", 1, ("topic", "queue", "pattern", "session", "arguments", "filling")),
    ROUTES: Layout("routes", 1, ("topic", "number", "text", "messages")),
    MARKS: Layout("marks", 1, ("queue", "paused", "declared")),
    POLICIES: Layout("policies", 1, ("vhost", "name", "pattern", "order", "settings")),
    FOLLOWING: Layout("following", 1, ("vhost", "name", "due_ms")),
    SCHEDULES: Layout(
        "schedules",
        2,
        (
            "number",
            "vhost",
            "name",
            "cron",
            "timezone",
            "destination",
            "catch_up",
            "next_due_ms",
            "published",
            "failed",
            "problem",
            "payload",
        ),
    ),
    LEASED_IDS: Layout("leased ids", 1, ("session", "consumer", "messages"), ("tags", "ids")),
    HALVES: Layout(
        "halves",
        2,
        (
            "number",
            "vhost",
            "target",
            "target_name",
            "to_topic",
            "destination",
            "group",
            "identity",
            "producer",
            "sequence",
            "messages",
            "batch_bytes",
            "prepared_ms",
            "check_after_ms",
            "checks",
            "next_check_ms",
            "groups",
            "routes",
            "id_scope",
            "ids",
        ),
    ),
    DECISIONS: Layout("decisions", 2, ("number", "vhost", "committed", "decided_ms", "known")),
    WINDOWS: Layout(
        "windows",
        1,
        ("owner", "kind", "scope", "number", "floor", "floor_ms", "look_ms", "confirmed", "chunks", "bytes"),
        ("rows",),
    ),
    WINDOW_CHUNKS: Layout("window chunks", 1, ("owner", "kind", "number", "newest_ms", "slot", "checksum"), ("rows",)),
    WINDOW_INDEXES: Layout(
        "window indexes", 1, ("owner", "kind", "depths_bytes", "sizes_bytes", "bytes"), ("depths", "sizes", "entries")
    ),
    CLUSTER: Layout("cluster", 1, ("configuration_zxid", "configuration", "addresses")),
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
