"""The log's thread under a test's control: its clock stands still until the test moves it, and its syncs wait.

`ThreadTime` stands in for the inbox and the clock of `AppendStage`, whose thread is the product's own: where it waits
for an entry "for 5 ms at most", those are the test's milliseconds. `HeldSyncs` makes the simulated disk slow, for as
long as a test wants it to be. Both must not know what entries mean.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import trio

from sluicemq.broker.pipeline import append as append_module
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    import pytest

    from tests.disk import SimulatedDisk

"""Real seconds after which a thread that does not do what a test waits for is given up."""


class ThreadTime:
    """Inbox and clock of the log's thread.

    Attributes:
        now: Seconds on the thread's clock.

    """

    def __init__(self) -> None:
        self.now = 0.0
        self._items: deque[Any] = deque()
        self._changed = threading.Condition()
        self._waiting = False
        self._until: float | None = None

    @classmethod
    def installed(cls, monkeypatch: pytest.MonkeyPatch) -> ThreadTime:
        """Return one that the next `AppendStage` takes."""
        made = cls()
        monkeypatch.setattr(append_module, "time", SimpleNamespace(monotonic=lambda: made.now))
        monkeypatch.setattr(append_module, "queue", SimpleNamespace(SimpleQueue=lambda: made, Empty=queue.Empty))
        return made

    # --- what the stage calls ---------------------------------------------------------------------------------

    def put(self, item: Any) -> None:
        """As `SimpleQueue.put`."""
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> Any:
        """As `SimpleQueue.get`, but the timeout passes on this clock."""
        with self._changed:
            self._waiting, self._until = True, None if timeout is None else self.now + timeout
            self._changed.notify_all()
            try:
                while not self._items:
                    if self._until is not None and self.now >= self._until:
                        raise queue.Empty
                    self._changed.wait()
                return self._items.popleft()
            finally:
                self._waiting = False

    def get_nowait(self) -> Any:
        """As `SimpleQueue.get_nowait`."""
        with self._changed:
            if not self._items:
                raise queue.Empty
            return self._items.popleft()

    # --- what a test calls ------------------------------------------------------------------------------------

    def _blocked(self) -> bool:
        return self._waiting and not self._items and (self._until is None or self.now < self._until)

    async def settled(self) -> float | None:
        """Wait until the thread has nothing to do; return for how many seconds more it would wait (None: for good)."""
        return await trio.to_thread.run_sync(self._wait_until_blocked)

    def _wait_until_blocked(self) -> float | None:
        with self._changed:
            assert self._changed.wait_for(self._blocked, WAIT_SECONDS), "the log's thread does not come to rest"
            return None if self._until is None else self._until - self.now

    def move(self, seconds: float) -> None:
        """Move the clock."""
        with self._changed:
            self.now += seconds
            self._changed.notify_all()

    async def passes(self, seconds: float) -> None:
        """Move the clock, and wait until the thread has done what became due."""
        self.move(seconds)
        await self.settled()


class HeldSyncs:
    """Syncs of segments that wait for the test, one at a time.

    Attributes:
        writes: How many writes to segments began.

    """

    def __init__(self, disk: SimulatedDisk) -> None:
        self.writes = 0
        self._holding = False
        self._begun = threading.Semaphore(0)
        self._let_go = threading.Semaphore(0)
        disk.observer = self._observe

    def _observe(self, kind: str, name: str) -> None:
        if not name.startswith("segment-"):
            return
        if kind == "write":
            self.writes += 1
        elif kind == "sync" and self._holding:
            self._begun.release()
            assert self._let_go.acquire(timeout=WAIT_SECONDS), "a sync was held and never let go"

    def hold(self) -> None:
        """Let every sync from now on wait for `let_go`."""
        self._holding = True

    async def begun(self) -> None:
        """Wait until a sync is under way; each call waits for another one."""
        assert await trio.to_thread.run_sync(lambda: self._begun.acquire(timeout=WAIT_SECONDS)), "no sync began"

    def let_go(self) -> None:
        """Let the sync that is under way end."""
        self._let_go.release()

    def let_all_go(self) -> None:
        """Let the sync that is under way end, and hold no other."""
        self._holding = False
        self._let_go.release()
