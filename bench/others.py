"""What all others on this machine took of its processors while something was measured.

The load average counts our own work as well; this does not. The kernel's threads and interrupts work for whoever writes
and sends, which is us; so they do not count as others. What a hypervisor took from this machine does.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress

import psutil

from bench.servers import usage_of


class Others:
    """A measurement from its beginning."""

    def __init__(self) -> None:
        self._seconds = _others_seconds()
        self._began = time.monotonic()

    def processors(self) -> float:
        """Return how many processors others kept busy since then, on average."""
        elapsed = time.monotonic() - self._began
        return round(max(0.0, _others_seconds() - self._seconds) / elapsed, 3) if elapsed > 0 else 0.0


def _others_seconds() -> float:
    """Return what processes that are not ours have worked on all processors together; the start of counting is any."""
    times = psutil.cpu_times()
    # What guests of this machine take is counted in `user` and `nice` already.
    busy = sum(getattr(times, name, 0.0) for name in ("user", "nice", "system", "steal"))
    return busy - usage_of(os.getpid()).cpu_seconds - _kernel_seconds()


def _kernel_seconds() -> float:
    """Return what the kernel's own threads have worked; 0 where they cannot be seen, as in a container."""
    with suppress(psutil.Error):
        parent = psutil.Process(2)
        if parent.name() == "kthreadd":
            return sum(map(_worked_seconds, parent.children()))
    return 0.0


def _worked_seconds(process: psutil.Process) -> float:
    with suppress(psutil.Error):
        times = process.cpu_times()
        return float(times.user + times.system)
    return 0.0
