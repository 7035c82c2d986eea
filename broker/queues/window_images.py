"""Message ids within an image: how windows, and the ids of leased messages, are written down and put together again.

The format stands in `sections`.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, Protocol

from sluicemq.broker.queues import sections as s
from sluicemq.broker.queues.chunks import CHUNK_BYTES, Page
from sluicemq.broker.queues.window import ID_BYTES, WindowChunk, WindowImage
from sluicemq.broker.queues.window_index import WindowIndex
from sluicemq.broker.queues.windows import PUBLISHED, SETTLED, followed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sluicemq.broker.queues.chunks import ChunkPool
    from sluicemq.broker.queues.leases import FrozenLeases
    from sluicemq.broker.queues.queue import Queue
    from sluicemq.broker.queues.routing.topic import Topic
    from sluicemq.broker.queues.sessions import Session
    from sluicemq.broker.queues.window_index import IndexPiece


class Packer(Protocol):
    """What gathers rows of sections, see `freeze`."""

    def add(self, kind: int, row: tuple[Any, ...], *blobs: bytes | bytearray | memoryview) -> None:
        """Add a row."""

    def flush_full(self) -> Iterator[s.Section | None]:
        """Close the open sections if they are large enough."""


def pack_windows(packer: Packer, owner: int, windows: list[tuple[int, WindowImage]]) -> Iterator[s.Section | None]:
    """Pack the ids of a queue or topic."""
    for kind, image in windows:
        rows = image.open_rows[: image.open_bytes]  # a slice, not a view: the array grows meanwhile
        packer.add(s.WINDOWS, (owner, kind, *image[:6], len(image.chunks), len(rows)), rows)
        yield from packer.flush_full()
        for chunk in image.chunks:
            page, data = chunk.page, chunk.data
            known = (owner, kind, chunk.number, chunk.newest_ms)
            if page is not None:
                packer.add(s.WINDOW_CHUNKS, (*known, *page), b"")
            else:
                assert data is not None, "the rows of a chunk are in memory or on a page"
                packer.add(s.WINDOW_CHUNKS, (*known, s.NO_PAGE, 0), data)
            yield from packer.flush_full()
        for piece in image.fingerprints.index.pieces():
            packer.add(s.WINDOW_INDEXES, (owner, kind, *map(len, piece)), *piece)
            yield from packer.flush_full()


def leased_ids_of(table: FrozenLeases) -> tuple[tuple[int, int, int], bytes, bytes]:
    """Return the row of a consumer's table whose messages have ids, with its parts of the byte strings."""
    tags = sorted(table.ids)
    ids = b"".join(map(table.ids.__getitem__, tags))
    return (table.session, table.consumer, len(tags)), array("Q", tags).tobytes(), ids


def put_leased_ids(columns: dict[str, Any], sessions: dict[int, Session]) -> None:
    """Take a section `leased ids`; the tables of all sessions are there."""
    tags = array("Q", columns.pop("tags"))
    ids: bytes = columns.pop("ids")
    start = 0
    for session, consumer, count in zip(*columns.values(), strict=True):
        known = sessions[session].leases[consumer].ids
        for position in range(start, start + count):
            known[tags[position]] = ids[position * ID_BYTES : (position + 1) * ID_BYTES]
        start += count
    assert start == len(tags) == len(ids) // ID_BYTES, "leased ids and counts agree"


class WindowLoader:
    """Puts the windows of an image together, section by section.

    Args:
        pool: Keeps accounts of the chunks.
        queues: The queues of the image, by number; they are there before their windows.
        topics: Likewise the topics.

    """

    def __init__(self, pool: ChunkPool | None, queues: dict[int, Queue], topics: dict[int, Topic]) -> None:
        self._pool = pool
        self._queues = queues
        self._topics = topics
        self._windows: dict[tuple[int, int], tuple[WindowImage, list[WindowChunk], int]] = {}
        self._indexes: dict[tuple[int, int], list[IndexPiece]] = {}

    def read_windows(self, columns: dict[str, Any]) -> None:
        """Take a section `windows`."""
        all_rows: bytes = columns.pop("rows")
        start = 0
        for owner, kind, scope, number, *numbers, chunks, bytes_ in zip(*columns.values(), strict=True):
            rows = bytearray(all_rows[start : start + bytes_])
            start += bytes_
            floor, floor_ms, look_ms, confirmed = numbers
            image = WindowImage(
                scope, number, floor, floor_ms, look_ms, confirmed, (), rows, bytes_, WindowIndex().held(0)
            )
            self._windows[owner, kind] = image, [], chunks
            self._indexes[owner, kind] = []
        assert start == len(all_rows), "ids and windows agree"

    def read_chunks(self, columns: dict[str, Any]) -> None:
        """Take a section `window chunks`."""
        all_rows: bytes = columns.pop("rows")
        start = 0
        for owner, kind, number, newest_ms, slot, checksum in zip(*columns.values(), strict=True):
            chunks = self._windows[owner, kind][1]
            if slot == s.NO_PAGE:
                chunks.append(WindowChunk(None, number, all_rows[start : start + CHUNK_BYTES], newest_ms))
                start += CHUNK_BYTES
            else:
                assert self._pool is not None, "chunks on pages need a pool"
                chunks.append(WindowChunk.of_page(number, Page(slot, checksum), newest_ms))
        assert start == len(all_rows), "ids and chunks agree"

    def read_indexes(self, columns: dict[str, Any]) -> None:
        """Take a section `window indexes`."""
        all_bytes: list[bytes] = [columns.pop(name) for name in s.LAYOUTS[s.WINDOW_INDEXES].blobs]
        starts = [0] * len(all_bytes)
        for owner, kind, *sizes in zip(*columns.values(), strict=True):
            depths, counts, entries = (
                blob[start : start + size] for blob, start, size in zip(all_bytes, starts, sizes, strict=True)
            )
            self._indexes[owner, kind].append((depths, counts, entries))
            starts = [start + size for start, size in zip(starts, sizes, strict=True)]
        assert starts == list(map(len, all_bytes)), "indexes and their sizes agree"

    def place_all(self) -> None:
        """Give all windows to their queues and topics, whose settings must ask for them."""
        for (owner, kind), (image, chunks, count) in self._windows.items():
            assert len(chunks) == count, "all chunks of a window are there"
            target = self._queues.get(owner) or self._topics[owner]
            window = followed(None, target.settings, kind, 0, self._pool)
            assert window is not None, "who has ids wants them"
            assert window.scope == image.scope, "ids are of the scope that the settings name"
            index = WindowIndex.of_pieces(self._indexes.pop((owner, kind)))
            window.restore(image._replace(chunks=tuple(chunks), fingerprints=index.held(0)))
            if kind == PUBLISHED:
                target.window = window
            else:
                assert kind == SETTLED, "ids are of what was published or acknowledged"
                self._queues[owner].settled_window = window
