"""Which files of the live store to drop, to rewrite, to merge: pure arithmetic on sizes.

The rules, and why disk use and writing stay bounded:

1. A file in which nothing is alive is dropped.
2. A file of which at most half is alive is rewritten, together with neighbours of that kind. So the store takes at most
   twice what is alive, plus what came since; and each byte written frees at least one, so that rewriting never writes
   more than was appended.
3. Neighbours are merged when that makes a file at least `MERGE_FACTOR` times as large as the largest of them (files
   below `SMALL_BYTES` count as that large). So a byte is merged once for each factor of four between `SMALL_BYTES` and
   the size of a segment, four times with segments of 64 MiB, and the number of files stays small. One merge takes
   `MERGE_RUNS_MAX` runs at most: what dies meanwhile must not wait for long, and time goes by runs, not by bytes.

No file becomes larger than a segment, so rewriting needs the room of one segment beside what is there. This module must
not know records, snapshots or disks.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Action", "Step", "StoredFile", "plan"]

KIB = 1024
ALIVE_SHARE_MAX = 2
"""A file is rewritten when what is alive in it is at most one part in this many."""
MERGE_FACTOR = 4
SMALL_BYTES = 256 * KIB
MERGE_RUNS_MAX = 65_536
"""Most runs that are alive in the files of one merge: a second or so of work."""
MERGE_FILES_MAX = 64
"""Most files that are merged into one at once."""
DROP_FILES_MAX = 16
"""Most files that are dropped in one step."""


class StoredFile(NamedTuple):
    """A file of the live store, and what is known to be alive in it.

    Attributes:
        first_sequence: First segment that it stands for.
        last_sequence: Last segment that it stands for.
        first_zxid: No entry in it is below.
        last_zxid: No entry in it is above.
        bytes: Its size on disk.
        live_bytes: About how many of them a file would have that holds only what is alive.
        live_runs: Runs of messages that are alive; 0 exactly when nothing is.

    """

    first_sequence: int
    last_sequence: int
    first_zxid: int
    last_zxid: int
    bytes: int
    live_bytes: int
    live_runs: int


class Action(Enum):
    """What to do with some files."""

    DROP = "drop"
    REWRITE = "rewrite"
    """Too little of them is alive."""

    MERGE = "merge"
    """They are small."""


class Step(NamedTuple):
    """One thing to do. It takes the files of whole segments *first_sequence* to *last_sequence*."""

    action: Action
    files: tuple[StoredFile, ...]

    @property
    def first_sequence(self) -> int:
        """First segment."""
        return self.files[0].first_sequence

    @property
    def last_sequence(self) -> int:
        """Last segment."""
        return self.files[-1].last_sequence

    @property
    def first_zxid(self) -> int:
        """No entry of the files is below."""
        return self.files[0].first_zxid

    @property
    def last_zxid(self) -> int:
        """No entry of the files is above."""
        return self.files[-1].last_zxid

    @property
    def bytes(self) -> int:
        """What the files take on disk."""
        return sum(each.bytes for each in self.files)

    @property
    def live_bytes(self) -> int:
        """What is alive in them, about."""
        return sum(each.live_bytes for each in self.files)

    @property
    def live_runs(self) -> int:
        """Runs that are alive in them."""
        return sum(each.live_runs for each in self.files)


def plan(files: Sequence[StoredFile], *, through_zxid: int, target_bytes: int, runs_max: int) -> list[Step]:
    """Return what to do now, in this order: what is dead goes first, because it may lie between what is made one; then
    what frees the most; merging has time.

    Args:
        files: The live store, in order.
        through_zxid: Nothing above is touched: the older of the kept snapshots needs it.
        target_bytes: Largest file to make.
        runs_max: Most runs that may be alive in the files of one step; where one file has more, it stays as it is.

    """
    within = [each for each in files if each.last_zxid <= through_zxid]
    alive = [each for each in within if each.live_runs]
    taken: set[int] = set()
    steps: list[Step] = []
    for group in _neighbours(alive, target_bytes, runs_max):
        steps.append(Step(Action.REWRITE, group))
        taken.update(each.first_sequence for each in group)
    return [*_drops(within), *steps, *_merges(alive, taken, target_bytes, min(runs_max, MERGE_RUNS_MAX))]


def _drops(files: Sequence[StoredFile]) -> Iterator[Step]:
    dead: list[StoredFile] = []
    for each in files:
        if not each.live_runs:
            dead.append(each)
        if dead and (each.live_runs or len(dead) == DROP_FILES_MAX):
            yield Step(Action.DROP, tuple(dead))
            dead = []
    if dead:
        yield Step(Action.DROP, tuple(dead))


def _neighbours(files: Sequence[StoredFile], target_bytes: int, runs_max: int) -> Iterator[tuple[StoredFile, ...]]:
    """Yield neighbouring files of which too little is alive, cut where they would make too large a file."""
    group: list[StoredFile] = []
    bytes_ = runs = 0
    for each in files:
        wasteful = each.live_bytes * ALIVE_SHARE_MAX <= each.bytes and each.live_runs <= runs_max
        if group and (not wasteful or bytes_ + each.live_bytes > target_bytes or runs + each.live_runs > runs_max):
            yield tuple(group)
            group, bytes_, runs = [], 0, 0
        if wasteful:
            group.append(each)
            bytes_ += each.live_bytes
            runs += each.live_runs
    if group:
        yield tuple(group)


def _merges(files: Sequence[StoredFile], taken: set[int], target_bytes: int, runs_max: int) -> Iterator[Step]:
    start = 0
    while start < len(files):
        count = _worth_merging(files[start : start + MERGE_FILES_MAX], taken, target_bytes, runs_max)
        if count:
            yield Step(Action.MERGE, tuple(files[start : start + count]))
        start += max(count, 1)


def _worth_merging(files: Sequence[StoredFile], taken: set[int], target_bytes: int, runs_max: int) -> int:
    """Return how many of the *files* in front to merge: as many as can be, 0 where it is not worth it."""
    best = bytes_ = counted = largest = runs = 0
    for number, each in enumerate(files, 1):
        bytes_ += each.bytes
        runs += each.live_runs
        if each.first_sequence in taken or bytes_ > target_bytes or runs > runs_max:
            break
        size = max(each.bytes, SMALL_BYTES)
        counted += size
        largest = max(largest, size)
        if counted >= MERGE_FACTOR * largest:
            best = number
    return best
