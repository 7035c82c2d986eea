"""How much of the settled log is kept for those who read it later: `explain`, above all.

Whole files in front of the log proper are kept, without a gap, as long as the settings say: reclaiming begins in front
of them. Which they are follows from what lies on the disk alone, so nothing has to be remembered over a restart, and a
setting that changes takes effect with the next pass. A file goes when all of it is older than it need be.

History is the first thing that goes when the disk fills: it shrinks while less than `DiskSpace.tight_bytes` is free,
which is before publishers are slowed. This module must not know what is alive, nor who reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.sparse import time_of
from sluicemq.storage.errors import ZxidNotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.pipeline.keeping.disk_space import DiskSpace
    from sluicemq.storage.log import SegmentLog
    from sluicemq.storage.reading import WholeFile


class History:
    """The settled history of one log.

    Args:
        log: Opened log.
        space: The room on its disk.
        seconds: Files are kept until all that they hold is so old; 0: no matter how old.
        bytes_max: And no more than so many bytes of them; 0: no matter how many. Nothing is kept where both are 0.
        now_ms: Returns the log time; called in the reclaimer's thread.

    Attributes:
        bytes: What the kept files took at the last look.

    """

    def __init__(
        self,
        log: SegmentLog,
        space: DiskSpace,
        *,
        seconds: float = 0.0,
        bytes_max: int = 0,
        now_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        self._log = log
        self._space = space
        self._age_max_ms = int(seconds * 1000)
        self._bytes_max = bytes_max
        self._now_ms = now_ms
        # When the last entry of a file was written, or a little later, by the number of the file.
        self._times: dict[int, int] = {}
        # Before the first look: all that may be.
        self.bytes = sum(each.bytes for each in log.whole_files() if not each.in_log) if self.wanted else 0

    @property
    def wanted(self) -> bool:
        """Whether any is kept."""
        return bool(self._age_max_ms or self._bytes_max)

    def kept_behind(self) -> int | None:
        """Return the entry behind which all files of the live store stay whole; None: nothing is kept. Blocks.

        Raises:
            LogCorrupt, LogReadFailed: A file cannot be read.

        """
        if not self.wanted:
            return None
        files = self._log.whole_files()
        old = [each for each in files if not each.in_log]
        left = self._bytes_left(sum(each.bytes for each in old))
        oldest_ms = self._now_ms() - self._age_max_ms if self._age_max_ms else 0
        kept_behind, kept = files[len(old)].first_zxid - 1, 0
        for each in reversed(old):
            if kept + each.bytes > left or (oldest_ms and self._ended_ms(each) < oldest_ms):
                break
            kept_behind = each.first_zxid - 1
            kept += each.bytes
        self._times = {each.sequence: time for each in old if (time := self._times.get(each.sequence)) is not None}
        self.bytes = kept
        return kept_behind

    def _bytes_left(self, taken: int) -> int:
        """Return how many bytes may be kept of those that are *taken*."""
        self._space.look()
        missing = max(0, self._space.tight_bytes - self._space.view.free_bytes)
        return min(self._bytes_max or taken, taken - missing)

    def _ended_ms(self, file: WholeFile) -> int:
        """Return the time of the entry behind a file: nothing in there is younger."""
        known = self._times.get(file.sequence)
        if known is None:
            try:
                behind = self._log.read_along(file.last_zxid + 1, 1, exact=False)[0]
            except ZxidNotFound:
                return self._now_ms()  # nothing was written since
            self._times[file.sequence] = known = time_of(behind.kind, behind.header)
        return known
