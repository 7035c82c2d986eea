"""Effects of the disk, one after the other on the log's thread: the queue that the replication core demands.

Appends share a sync where several wait; everything else is an errand between them. A `Join` drops nothing here, it
waits: what was given before it is bounded by the leader's window, and after it the view and the disk are the same.

While a received snapshot takes the log's place there is no log, so what comes meanwhile is held back.
This module must not know what follows from an effect.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from sluicemq.broker.pipeline.ensemble.records import Body, record_of
from sluicemq.broker.replication.effects import Append, Join, NoteRepaired, SavePromise, Token, Truncate
from sluicemq.storage.errors import LogCorrupt
from sluicemq.storage.setting_aside import note_repaired

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.pipeline.append import AppendStage
    from sluicemq.broker.replication.history import Position
    from sluicemq.storage.log import SegmentLog

DiskEffect = Append | Join | NoteRepaired | SavePromise | Truncate


class DiskQueue:
    """See the module.

    Args:
        append: The log's thread.
        log: The log.
        persisted: Called in the event loop with the token of the last effect that is done and durable.

    """

    def __init__(self, append: AppendStage, log: SegmentLog, persisted: Callable[[Token], None]) -> None:
        self._append = append
        self._log = log
        self._persisted = persisted
        # How many records must be durable for which effect to be.
        self._awaited: deque[tuple[int, Token]] = deque()
        self._held: deque[DiskEffect | Callable[[], None]] | None = None

    def submit(self, effect: DiskEffect) -> None:
        """Carry out *effect* behind all that came before."""
        if self._held is not None:
            self._held.append(effect)
        elif isinstance(effect, Append):
            for entry in effect.entries:
                body = entry.body
                self._append.submit(record_of(entry.zxid, body), lazy=isinstance(body, Body) and body.lazy)
            self._awaited.append((self._append.submitted_records, effect.token))
        else:
            token = effect.token
            self._append.send_errand(self._errand_of(effect), lambda: self._persisted(token))

    def flush(self) -> None:
        """Let the disk begin with what came, now: at the end of a step, behind what was sent. It begins soon anyway."""
        self._append.flush()

    @property
    def is_appending(self) -> bool:
        """Whether entries are under way that `persisted` will be told of."""
        return bool(self._awaited)

    def durable(self) -> None:
        """More records are durable."""
        token = None
        while self._awaited and self._awaited[0][0] <= self._append.durable_records:
            _, token = self._awaited.popleft()
        if token is not None:
            self._persisted(token)

    def suspend(self, then: Callable[[], None]) -> None:
        """Hold back what comes from now on, and call *then* when everything before it is done.

        Whoever suspends twice is called again once `resume` was.
        """
        if self._held is not None:
            self._held.append(lambda: self.suspend(then))
            return
        self._held = deque()
        self._append.send_errand(self._log.sync, then)

    def resume(self, append: AppendStage, log: SegmentLog) -> None:
        """Go on with this log and its thread."""
        held, self._held = self._held, None
        assert held is not None, "only what was suspended goes on"
        self._append, self._log = append, log
        self._awaited.clear()
        while held:
            item = held.popleft()
            if callable(item):
                item()
            else:
                self.submit(item)

    # --- on the log's thread ------------------------------------------------------------------------------------------

    def _errand_of(self, effect: Join | NoteRepaired | SavePromise | Truncate) -> Callable[[], object]:
        log = self._log
        if isinstance(effect, Join):
            return log.sync
        if isinstance(effect, SavePromise):
            epoch = effect.epoch
            return lambda: log.save_promised_epoch(epoch)
        if isinstance(effect, NoteRepaired):
            return lambda: note_repaired(log)
        position = effect.position
        return lambda: _truncate(log, position)


def _truncate(log: SegmentLog, position: Position) -> None:
    chain = log.chain_at(position.zxid)
    if chain != position.chain:
        reason = f"the chain at {position} is {chain.hex()}: what is to be cut off is not what was decided about"
        raise LogCorrupt(log.path_of(log.first_segment_name), 0, reason, 0)
    log.truncate_after(position.zxid)
