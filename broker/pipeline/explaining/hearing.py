"""Lets a life hear all that the log tells of it: chapter by chapter, in order, as far back as the log is whole.

What lies in front of what the index knows is read once, a bounded number of bytes a question, in worker threads;
whoever asks again goes on from there. A message whose life is over needs nothing that comes later. Must not know the
machine.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from sluicemq.broker.pipeline.explaining.index import Gap
from sluicemq.broker.pipeline.explaining.reading import read_chapter, read_life

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from typing import Any

    from sluicemq.broker.pipeline.explaining.index import Chapter, LogIndex, Stretch
    from sluicemq.broker.pipeline.explaining.life import Life
    from sluicemq.storage.log import SegmentLog

UNKNOWN_BYTES_MAX = 256 * 1024 * 1024
"""So many bytes of the log that the index does not know are read for one question, or one chapter more."""
FORGOTTEN_BYTES_MAX = 512 * 1024 * 1024
"""And so many of which it has forgotten all but what a chapter says. It takes a message that lived through very much
log among very many consumers to need more: then its story has gaps."""


class Heard(NamedTuple):
    """How much of the log told.

    Attributes:
        from_zxid: The story is whole from this entry on.
        read_zxid: What comes behind this entry was too much to be read for one question; 0: nothing was.

    """

    from_zxid: int
    read_zxid: int


class Hearing:
    """Reads one log with its index.

    Args:
        log: The log.
        index: What is known of it.
        read: Calls a function in a thread, with the log and further arguments.

    """

    def __init__(self, log: SegmentLog, index: LogIndex, read: Callable[..., Awaitable[Any]]) -> None:
        self._log = log
        self._index = index
        self._read = read

    async def hear(self, life: Life, last_zxid: int) -> Heard:
        """Give *life* all that is told of it up to the entry *last_zxid*."""
        index = self._index
        index.forget_before(self._log.whole_files()[0].first_zxid - 1)
        from_zxid = at = self._whole_behind(life.zxid)
        left, left_again, read_zxid = UNKNOWN_BYTES_MAX, FORGOTTEN_BYTES_MAX, 0
        while not life.is_over and (part := index.part_behind(at, last_zxid)) is not None:
            if isinstance(part, Gap):
                if left > 0:
                    at, taken = await self._look(part, at)
                    left -= max(taken, 1)
                else:
                    read_zxid = read_zxid or at
                    from_zxid = at = part.last
            else:
                if part.open or part.all.may_tell(life):
                    stretches = part.stretches
                    if stretches is None and left_again > 0:
                        stretches, taken = await self._look_again(part)
                        left_again -= taken
                    index.use(part)
                    missing: int = part.last if stretches is None else await self._read(read_life, [*stretches], life)
                    from_zxid = max(from_zxid, missing)
                at = max(part.last, at + 1)
        # Files may have gone meanwhile: what was read of them then need not have been all.
        return Heard(max(from_zxid, self._whole_behind(life.zxid)), read_zxid)

    async def _look(self, gap: Gap, at: int) -> tuple[int, int]:
        """Read a chapter of a gap; return up to where there is nothing behind *at*, and how many bytes were read.

        Chapters begin where files do, so that they come out alike whatever is asked first.
        """
        files = self._log.whole_files()
        file = next((each for each in files if each.last_zxid > at), files[-1])
        behind, last = max(file.first_zxid - 1, gap.behind), min(file.last_zxid, gap.last)
        chapter, taken = await self._read(read_chapter, behind, last)
        if chapter is not None:
            self._index.put(chapter)
            return at, taken
        return max(last, at + 1, self._whole_behind(0)), taken

    async def _look_again(self, chapter: Chapter) -> tuple[list[Stretch] | None, int]:
        """Read a chapter of which the stretches were forgotten; None: they are not all there any more."""
        again, taken = await self._read(partial(read_chapter, whole=True), chapter.behind, chapter.last)
        if again is None:
            return None, taken
        self._index.put(again)
        return again.stretches, taken

    def _whole_behind(self, zxid: int) -> int:
        """Return *zxid*, or where the log is whole from, if that is later."""
        return max(zxid, self._log.whole_files()[0].first_zxid - 1)
