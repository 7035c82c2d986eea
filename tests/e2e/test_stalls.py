"""Neither the disk nor one client's huge batch blocks the broker's event loop.

The promise is 20 ms. It is held here against the processor time of the longest turn: a machine that runs tests takes
the processor away from a process for tens of milliseconds, in the middle of its turn, and only the thread's own clock
stands still meanwhile. What that clock does not see, a thread of the broker that keeps the interpreter's lock or a
turn that waits for the disk, shows by the clock on the wall, where five times as much is allowed. The best of six
tries counts, because what the broker's own work blocks shows in every try. `python -m tests.e2e.stalls` measures both
against the promise, on a machine with nothing else to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.stalls import SCENARIOS, STALL_SECONDS_PROMISED, Stalls, best_of

if TYPE_CHECKING:
    from pathlib import Path

MARGIN = 5
TRIES = 6


def holds(stalls: Stalls) -> bool:
    """Whether the promise was kept as far as a busy machine can tell."""
    return stalls.broker_cpu < STALL_SECONDS_PROMISED and stalls.broker_longest < MARGIN * STALL_SECONDS_PROMISED


@pytest.mark.parametrize("name", [name for name in SCENARIOS if name != "nothing"])
def test_no_load_blocks_the_event_loop(name: str, tmp_path: Path) -> None:
    stalls = best_of(name, tmp_path, seconds=1.0, tries=TRIES, enough=holds)
    assert holds(stalls), stalls
    assert stalls.pings > 10, "the broker answered others all the time"
