"""Runs: neighbouring messages of one batch that share one fate, and the queue's index that holds them packed.

A run is the machine's only currency: whatever happens to messages happens to runs, which are split where a border
falls inside one. This module must not know queues, leases or sessions.

Why packed: a backlog of a million single messages is a million runs. As rows of `RUN_BYTES` in a few byte arrays they
take 44 bytes each and the garbage collector never looks at them; one call in C reads a thousand of them.
"""

from __future__ import annotations

from collections import deque
from operator import itemgetter
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DELIVERIES_MAX = 65_535  # frozen by the log's format, see `MachineLimits`: it shows in the state
"""Deliveries and attempts of a message are counted up to here."""
CHUNK_RUNS = 1_024
"""Runs in one byte array of the index."""

_ROW = Struct("=QQIIIIQHH")
RUN_BYTES = _ROW.size
_CHUNK_BYTES = CHUNK_RUNS * RUN_BYTES
_FRONT = Struct("=II")
_FRONT_OFFSET = 16  # of `first` and `size` within a row
_ROW_WORDS = RUN_BYTES // 4
_SIZE_WORD = 5


class Run(NamedTuple):
    """Messages *first* to *first + size - 1* of the batch that the entry *zxid* published.

    Attributes:
        zxid: The PUBLISH entry; together with an index, the address of a message.
        ready: The entry that made the messages ready; (ready, zxid, first) is the place in the queue.
        first: Index of the first message within the batch.
        size: How many messages.
        batch_count: Messages in the whole batch.
        batch_bytes: Bytes of the whole batch.
        published_ms: Log time of the PUBLISH entry.
        deliveries: Leases that these messages have had; a lease that still runs is not among them.
        attempts: Hand-overs to user code that are known to have begun, without the running lease.

    """

    zxid: int
    ready: int
    first: int
    size: int
    batch_count: int
    batch_bytes: int
    published_ms: int
    deliveries: int = 0
    attempts: int = 0

    @property
    def place(self) -> tuple[int, int, int]:
        """What the queue is ordered by."""
        return (self.ready, self.zxid, self.first)

    @property
    def whole(self) -> bool:
        """Whether the run is the whole batch, so that its bytes can be forwarded untouched."""
        return self.size == self.batch_count

    def split(self, count: int) -> tuple[Run, Run]:
        """Return the first *count* messages and the rest; both must have at least one message."""
        assert 0 < count < self.size, "a run is split inside"
        zxid, ready, first, size, *shared = self
        return Run(zxid, ready, first, count, *shared), Run(zxid, ready, first + count, size - count, *shared)

    def bytes_of(self, count: int) -> int:
        """Return about how many bytes *count* messages of the batch take: its mean, rounded up."""
        return -(-self.batch_bytes * count // self.batch_count)

    def settled_back(self, ready: int, attempts: int) -> Run:
        """Return the run after a lease has ended without an ack: one delivery and *attempts* more."""
        return Run(
            self.zxid,
            ready,
            self.first,
            self.size,
            self.batch_count,
            self.batch_bytes,
            self.published_ms,
            min(self.deliveries + 1, DELIVERIES_MAX),
            min(self.attempts + attempts, DELIVERIES_MAX),
        )


size_of = itemgetter(3)
"""`run.size`, for loops that run in C."""
place_of = itemgetter(1, 0, 2)
"""`run.place`, for loops that run in C."""


def messages_in(runs: Iterable[Run]) -> int:
    """Return how many messages *runs* hold."""
    return sum(map(size_of, runs))


def flat_runs(runs: Sequence[Run]) -> list[int]:
    """Return *runs* as a GRANT names them: `[zxid, first, size, ...]`."""
    flat: list[int] = []
    for run in runs:
        flat += (run[0], run[2], run[3])
    return flat


def joined(runs: Iterable[Run]) -> list[Run]:
    """Return *runs* with neighbours made one where nothing but a border tells them apart.

    Leases fall to pieces as consumers settle; without this a batch that comes back message by message would stay in
    a thousand pieces for ever.
    """
    result: list[Run] = []
    last: Run | None = None
    for run in runs:
        if (
            last is not None
            and last.zxid == run.zxid
            and last.first + last.size == run.first
            and last.ready == run.ready
            and last.deliveries == run.deliveries
            and last.attempts == run.attempts
        ):
            last = result[-1] = last._replace(size=last.size + run.size)
        else:
            result.append(run)
            last = run
    return result


class RunFifo:
    """Runs in the order in which they became ready: appended behind, consumed in front, readable everywhere.

    Each run keeps its ordinal for ever: 0 for the first one that was ever appended. So a reader's position stays true
    however much is consumed in front of it.

    Attributes:
        head: Ordinal of the first run; equals *tail* when empty.
        tail: Ordinal of the next run to be appended.
        messages: Messages in all runs.

    """

    __slots__ = ("_base", "_chunks", "head", "messages", "tail")

    def __init__(self) -> None:
        self.head = 0
        self.tail = 0
        self.messages = 0
        self._chunks: deque[bytearray] = deque()
        self._base = 0  # ordinal of the first row of the first chunk

    def __len__(self) -> int:
        return self.tail - self.head

    def append(self, run: Run) -> None:
        """Put *run* behind all others."""
        chunks = self._chunks
        if not chunks or len(chunks[-1]) == _CHUNK_BYTES:
            if not chunks:
                self._base = self.tail
            chunks.append(bytearray())
        chunks[-1] += _ROW.pack(*run)
        self.tail += 1
        self.messages += run[3]

    def extend(self, runs: Iterable[Run]) -> None:
        """Put *runs* behind all others, in their order."""
        for run in runs:
            self.append(run)

    def first(self) -> Run | None:
        """Return the run in front."""
        if self.head == self.tail:
            return None
        return Run._make(_ROW.unpack_from(self._chunks[0], (self.head - self._base) * RUN_BYTES))

    def read(self, ordinal: int, runs_max: int) -> list[Run]:
        """Return at most *runs_max* runs from *ordinal* on, or from the front if that is consumed already."""
        ordinal = max(ordinal, self.head)
        end = min(ordinal + runs_max, self.tail)
        runs: list[Run] = []
        while ordinal < end:
            number, row = divmod(ordinal - self._base, CHUNK_RUNS)
            count = min(end - ordinal, CHUNK_RUNS - row)
            rows = self._chunks[number][row * RUN_BYTES : (row + count) * RUN_BYTES]
            runs += map(Run._make, _ROW.iter_unpack(rows))
            ordinal += count
        return runs

    def find(self, messages: int) -> tuple[int, int]:
        """Return the ordinal of the run after *messages* messages, and how many of them lie within that run.

        The sizes of a chunk are added in C, 20 ns a run: a look far into a long queue must not block the others.
        """
        left = messages
        if left >= self.messages:
            return self.tail, 0
        ordinal = self.head
        for number, chunk in enumerate(self._chunks):
            row = ordinal - self._base - number * CHUNK_RUNS
            with memoryview(chunk) as view, view.cast("I") as words:
                sizes = words[row * _ROW_WORDS + _SIZE_WORD :: _ROW_WORDS].tolist()
            held = sum(sizes)
            if left < held:
                for size in sizes:
                    if left < size:
                        return ordinal, left
                    left -= size
                    ordinal += 1
            left -= held
            ordinal += len(sizes)
        raise AssertionError("the sizes of all runs add up to the messages of the queue")

    def consume(self, runs: int, messages: int) -> None:
        """Drop the *runs* in front, which hold *messages* messages."""
        self.head += runs
        self.messages -= messages
        assert self.head <= self.tail, "no more runs are consumed than there are"
        while self.head - self._base >= CHUNK_RUNS:
            self._chunks.popleft()
            self._base += CHUNK_RUNS
        if self.head == self.tail:
            self._chunks.clear()
            self._base = self.head

    def trim(self, messages: int) -> None:
        """Drop *messages* messages, but not all, of the run in front."""
        chunk = self._chunks[0]
        offset = (self.head - self._base) * RUN_BYTES + _FRONT_OFFSET
        first, size = _FRONT.unpack_from(chunk, offset)
        assert 0 < messages < size, "a run is trimmed inside"
        _FRONT.pack_into(chunk, offset, first + messages, size - messages)
        self.messages -= messages

    def clear(self) -> None:
        """Drop everything; ordinals go on."""
        self.head = self.tail
        self.messages = 0
        self._chunks.clear()
        self._base = self.tail

    def packed(self) -> bytes:
        """Return all rows as bytes: the same for the same runs, whatever the history."""
        skip = (self.head - self._base) * RUN_BYTES
        return b"".join(self._chunks)[skip:]
