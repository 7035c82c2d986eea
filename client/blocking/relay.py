"""The relay of an outbox for programs without an event loop: it lives on the I/O thread."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from sluicemq.client.blocking.io_thread import Hosted, IoThread
from sluicemq.client.outbox.relay import Relay as AsyncRelay
from sluicemq.client.outbox.relay import RelayStatistics


class Relay:
    """Sends what an outbox holds; made by `Client.relay`."""

    def __init__(self, io: IoThread, inner: AsyncRelay) -> None:
        self._io = io
        self._inner = inner
        self._hosted = Hosted(inner)

    def run(self) -> None:
        """Relay until Ctrl-C; raises what `Outbox.relay` says, `ClientClosed` when the client is closed."""
        self._io.call(self._inner.run)

    def statistics(self) -> RelayStatistics:
        """Return what it has done so far."""
        return self._inner.statistics()

    def __enter__(self) -> Self:
        self._io.call(self._hosted.enter)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it, after the answers that are under way; raises what it ended with, if the block raised nothing."""
        if self._io.error is not None:
            return
        try:
            self._io.call(self._hosted.leave)
        except Exception:
            if error is None:
                raise
