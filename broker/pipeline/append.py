"""Stage 2, append: a thread of its own writes entries to the segment log and syncs them, group by group.

What arrives while one fdatasync runs forms the next write: group commit without an artificial wait. Entries that
nobody waits for (GRANT) do not force a sync of their own; they ride with the next one, at the latest after
`LAZY_SYNC_SECONDS`. When the log falls idle, a MARK covers what was confirmed last (design section 5).

A second thread prepares segments in advance and minds the room on the disk (`disk_space`).

This stage must not know what entries mean. Any error of the log is fatal: it is handed to `on_failure` and the
thread ends; nothing after it is ever reported durable.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable

import trio

from sluicemq.broker.pipeline.keeping.disk_space import DiskSpace
from sluicemq.storage.errors import SpareNotPrepared
from sluicemq.storage.log import SegmentLog
from sluicemq.storage.record import HEAD_BYTES, Record

GROUP_BYTES_MAX = 4 * 1024 * 1024
"""Most bytes in one write; more would only delay the first confirm of the group."""
GROUP_RECORDS_MAX = 4096
PENDING_BYTES_MAX = 32 * 1024 * 1024
"""Sessions stop reading while more than this waits for the disk."""
LAZY_SYNC_SECONDS = 0.005
SPARE_PAUSE_SECONDS = 0.03
"""Pause after each piece of a spare segment that nobody waits for yet."""
LOOK_BYTES = 16 * 1024 * 1024
"""After so many bytes the log's thread looks itself how much of the disk is free."""
IDLE_MARK_SECONDS = 0.2
SYNC_SHARE = 0.05
"""Weight of the last sync in the mean of how long syncs take."""


RECORD_BYTES = 64
"""About what a record takes beyond its header and payload."""


_Item = tuple[Record, bool] | tuple[None, Callable[[], object]] | None
"""An entry and whether it is lazy, or an errand, or the end."""


def _size(record: Record) -> int:
    return len(record.payload) + len(record.header) + RECORD_BYTES


class AppendStage(trio.abc.Instrument):
    """The log's thread and its inbox.

    Args:
        log: Opened log; from now on only this thread appends to it.
        space: Judges the room on the log's disk.
        gathers: Wake the thread at `flush`, or before the event loop sleeps, instead of at every entry. For who sends
            entries to other brokers too: the thread would take the interpreter from the middle of that.
        on_durable: Called in the event loop with the zxid up to which everything is durable.
        on_failure: Called in the event loop, once, with the error that ended the thread.

    """

    def __init__(
        self,
        log: SegmentLog,
        *,
        on_durable: Callable[[int], None],
        on_failure: Callable[[BaseException], None],
        space: DiskSpace | None = None,
        gathers: bool = False,
    ) -> None:
        self._log = log
        self._gathers = gathers
        self._gathered: list[_Item] = []
        self.space = space or DiskSpace(log)
        self._on_durable = on_durable
        self._on_failure = on_failure
        self._inbox: queue.SimpleQueue[_Item] = queue.SimpleQueue()
        self._submitted_bytes = 0
        self.submitted_records = 0
        self._written_bytes = 0
        self._written_records = 0
        self._unsynced_since: float | None = None
        self.sync_seconds = 0.0
        self._durable_bytes = 0
        self._durable_records = 0
        self._looked_at_bytes = 0
        self._durable_zxid = log.last_zxid
        self._room: trio.Event | None = None
        self._token: trio.lowlevel.TrioToken | None = None
        self._thread = threading.Thread(target=self._run, name="sluicemq-log", daemon=True)
        self._spares_wanted = threading.Event()
        self._failed = False
        self._stopping = False
        self._stopping_soon = threading.Event()
        self.on_low: Callable[[], None] | None = None
        """Called in the event loop again and again while the disk is so low that publishing is refused."""
        self.on_tight: Callable[[], None] | None = None
        """Called in the event loop again and again while the disk is so low that history is to go."""
        self._spares_thread = threading.Thread(target=self._mind_the_disk, name="sluicemq-spares", daemon=True)

    def start(self) -> None:
        """Start the threads; call it within the event loop that is to hear of durable entries."""
        self._token = trio.lowlevel.current_trio_token()
        if self._gathers:
            trio.lowlevel.add_instrument(self)
        self.space.look()  # a broker that starts on a full disk refuses from the first publish on
        self._thread.start()
        self._spares_thread.start()

    def submit(self, record: Record, *, lazy: bool = False) -> None:
        """Hand *record* to the thread. With *lazy* nobody waits for it: it does not force a sync of its own."""
        self._submitted_bytes += _size(record)
        self.submitted_records += 1
        if self._gathers:
            self._gathered.append((record, lazy))
        else:
            self._inbox.put((record, lazy))

    def flush(self) -> None:
        """Hand over what was gathered."""
        if self._gathered:
            gathered, self._gathered = self._gathered, []
            for item in gathered:
                self._inbox.put(item)

    def before_io_wait(self, timeout: float) -> None:
        """The event loop is going to sleep: nothing gathered stays behind."""
        del timeout
        self.flush()

    async def run_on_log_thread(self, errand: Callable[[], object]) -> None:
        """Return when the log's thread has done *errand*, behind what was submitted; its failure ends the thread."""
        done = trio.Event()
        self.send_errand(errand, done.set)
        await done.wait()

    def send_errand(self, errand: Callable[[], object], done: Callable[[], object]) -> None:
        """Let the log's thread do *errand*, behind what was submitted, and then call *done* in the event loop."""
        assert self._token is not None
        token = self._token

        def run() -> None:
            errand()
            token.run_sync_soon(done)

        self.flush()
        self._inbox.put((None, run))

    @property
    def durable_records(self) -> int:
        """How many of the records that were submitted are durable: the oldest ones."""
        return self._durable_records

    @property
    def submitted_bytes(self) -> int:
        """Bytes of all records that were submitted, as the log counts them."""
        return self._submitted_bytes - (RECORD_BYTES - HEAD_BYTES) * self.submitted_records

    @property
    def pending_bytes(self) -> int:
        """Bytes submitted and not durable yet."""
        return self._submitted_bytes - self._durable_bytes

    @property
    def congested(self) -> bool:
        """Whether sessions should stop reading until `wait_for_room` returns."""
        return self.pending_bytes > PENDING_BYTES_MAX

    async def wait_for_room(self) -> None:
        """Wait until less than `PENDING_BYTES_MAX` waits for the disk."""
        while self.congested:
            if self._room is None:
                self._room = trio.Event()
            await self._room.wait()

    async def stop(self) -> None:
        """Write and sync what was submitted, then end the threads."""
        self._stopping = True
        self._log.spares.end_preparing()
        self._stopping_soon.set()
        self._spares_wanted.set()
        self.flush()
        if self._gathers and self._token is not None:
            self._gathers = False
            trio.lowlevel.remove_instrument(self)
        self._inbox.put(None)
        if self._thread.ident is not None:
            await trio.to_thread.run_sync(self._thread.join)
            await trio.to_thread.run_sync(self._spares_thread.join)

    # --- in the log's thread ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            self._write_until_stopped()
        except Exception as error:  # noqa: BLE001 - whatever it is, the broker must not go on without its log
            self._tell(error)

    def _write_until_stopped(self) -> None:
        marked = True
        while True:
            try:
                first = self._inbox.get(timeout=self._patience(marked))
            except queue.Empty:
                if self._unsynced_since is not None:
                    self._sync()
                else:
                    self._log.mark_idle()
                    marked = True
                continue
            if first is None:
                break
            marked = False
            if self._write_group(first):
                break
        if self._unsynced_since is not None:
            self._sync()
        self._log.mark_idle()

    def _patience(self, marked: bool) -> float | None:
        """Return how long the next entry may take to come before something else is to be done."""
        if self._unsynced_since is not None:
            return max(0.0, self._unsynced_since + LAZY_SYNC_SECONDS - time.monotonic())
        return None if marked else IDLE_MARK_SECONDS

    def _write_group(self, item: _Item) -> bool:
        """Write *item* and what else has arrived, and sync it if anybody waits; return whether the end has come."""
        group: list[Record] = []
        group_bytes = 0
        urgent = False
        errand: Callable[[], object] | None = None
        while item is not None:
            if item[0] is None:
                errand = item[1]
                break
            record, lazy = item
            group.append(record)
            group_bytes += _size(record)
            urgent = urgent or not lazy
            if group_bytes >= GROUP_BYTES_MAX or len(group) >= GROUP_RECORDS_MAX:
                break
            try:
                item = self._inbox.get_nowait()
            except queue.Empty:
                break
        if group:
            self._log.append(group)
            self._written_bytes += group_bytes
            self._written_records += len(group)
            if self._unsynced_since is None:
                self._unsynced_since = time.monotonic()
            if urgent or time.monotonic() - self._unsynced_since >= LAZY_SYNC_SECONDS:
                self._sync()
        if errand is not None:
            errand()
        return item is None

    def _sync(self) -> None:
        started = time.monotonic()
        zxid = self._log.sync()
        self.sync_seconds += SYNC_SHARE * (time.monotonic() - started - self.sync_seconds)
        self._unsynced_since = None
        self._durable_bytes = self._written_bytes
        self._durable_records = self._written_records
        self._durable_zxid = zxid
        assert self._token is not None
        self._token.run_sync_soon(self._announce, idempotent=True)
        if self._log.needs_spare:
            self._spares_wanted.set()
        if self._written_bytes - self._looked_at_bytes >= LOOK_BYTES:
            self._looked_at_bytes = self._written_bytes
            self.space.look()

    def _tell(self, error: BaseException) -> None:
        assert self._token is not None
        try:
            self._token.run_sync_soon(self._fail, error)
        except trio.RunFinishedError:
            pass

    # --- in the event loop ------------------------------------------------------------------------------------

    def _announce(self) -> None:
        self._on_durable(self._durable_zxid)
        if self._room is not None and not self.congested:
            self._room.set()
            self._room = None

    def _fail(self, error: BaseException) -> None:
        # Either thread may fail, and both may: the first failure is the reason.
        if not self._failed:
            self._failed = True
            self._on_failure(error)

    # --- in the spares' thread --------------------------------------------------------------------------------

    def _mind_the_disk(self) -> None:
        """Zero the next segments in the background, so that the log never waits for one; and look for room."""
        try:
            while not self._stopping:
                self.space.look()
                assert self._token is not None
                if self.space.is_tight and self.on_tight is not None:
                    self._token.run_sync_soon(self.on_tight, idempotent=True)
                if self.space.refusing and self.on_low is not None:
                    self._token.run_sync_soon(self.on_low, idempotent=True)
                if self.space.may_prepare():
                    self._prepare_spare()
                elif self._log.needs_spare:
                    # There is no room, and only time helps: that the log wants one is no news.
                    self._stopping_soon.wait(self.space.look_seconds)
                else:
                    self._spares_wanted.wait(self.space.look_seconds)
                    self._spares_wanted.clear()
        except Exception as error:  # noqa: BLE001 - an unexplained thread death must not pass unseen
            self._tell(error)

    def _pause_preparing(self) -> None:
        """Another spare is ready, so this one has time: writing and syncing it at full speed would delay confirms."""
        self.space.look()
        self._stopping_soon.wait(SPARE_PAUSE_SECONDS)

    def _prepare_spare(self) -> None:
        started = time.monotonic()
        try:
            self._log.prepare_spare(self.space.floor_bytes, self._pause_preparing)
        except SpareNotPrepared as error:
            self.space.spare_failed(error, time.monotonic() - started)
        else:
            self.space.spare_made()
