"""What must hold of delayed runs, whatever happened to them: read back and asserted, for audits and tests.

Reads everything, pages too, so it blocks. Must not change anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.chunks import CHUNK_BYTES, CHUNK_RUNS, READY_OFFSET, RUN_BYTES, long_column, sizes
from sluicemq.broker.queues.runs import messages_in

if TYPE_CHECKING:
    from sluicemq.broker.queues.delayed import DelayedRuns


def check_delayed(delayed: DelayedRuns) -> None:
    """Assert what the rest relies on.

    Raises:
        AssertionError: It does not hold; the text says what.

    """
    runs = delayed.runs()
    times = [run.ready if delayed._offset == READY_OFFSET else run.expires_ms for run in runs]
    assert times == sorted(times), "delayed messages are in the order in which they are due"
    assert delayed.next_due_ms == (times[0] if times else None), "it is known when the first is due"
    assert not times or delayed._last_ms >= times[-1], "it is known until when the last is due"
    assert delayed.messages == messages_in(runs), "delayed messages are counted"
    assert len(delayed._chunks) == len(delayed._firsts) == len(delayed._buffers), "each chunk has a time and a buffer"
    for number, (chunk, first_ms) in enumerate(zip(delayed._chunks, delayed._firsts, strict=True)):
        rows = delayed._data(chunk, read_back=True)
        assert rows is not None, "rows lie in memory or on a page"
        assert chunk.fifo is delayed, "a chunk knows where it belongs"
        assert chunk.base == first_ms <= delayed._due_at(rows, 0), "chunks are found by their first row"
        due = long_column(rows, delayed._offset, 0 if number else delayed._head)
        assert min(due) == due[0], "nothing in a chunk is due before its first row"
        assert chunk is not delayed._front or due == sorted(due), "the rows of the first chunk are in order"
        assert 0 < chunk.rows == len(rows) // RUN_BYTES <= CHUNK_RUNS, "chunks are neither empty nor too large"
        assert chunk.messages == sum(sizes(rows)), "a chunk knows how many messages it has"
        if number and delayed._buffers[number]:
            assert min(long_column(delayed._buffers[number], delayed._offset)) >= first_ms, "buffers belong to chunks"
    assert len(delayed._open) < CHUNK_BYTES, "open rows are sealed when they are enough"
    assert not delayed._chunks or delayed._head < delayed._chunks[0].rows, "what is consumed is dropped"
