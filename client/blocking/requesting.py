"""A reply that a thread waits for when it suits."""

from __future__ import annotations

import anyio

from sluicemq.client.blocking.io_thread import IoThread
from sluicemq.client.errors import RequestTimeout
from sluicemq.client.options import Duration, seconds_of
from sluicemq.client.requesting import PendingReply as AsyncPendingReply
from sluicemq.client.requesting import ReplyMessage


class PendingReply:
    """The reply to a submitted request; made by `Client.submit_request`. Ask for it from any thread."""

    def __init__(self, io: IoThread, inner: AsyncPendingReply) -> None:
        self._io = io
        self._inner = inner

    @property
    def destination(self) -> str:
        """Where the request went."""
        return self._inner.destination

    @property
    def done(self) -> bool:
        """Whether `result` would not wait."""
        return self._inner.done

    def result(self, timeout: Duration | None = None) -> ReplyMessage:
        """Wait for the reply and return it.

        Args:
            timeout: How long to wait, in seconds or as a timedelta; default: until the request's own time is over.

        Raises:
            RequestTimeout: No reply in time; with *timeout*, it may still come.
            RequestFailed: Whoever served the request says that it failed.
            RequestDied: Its last attempt failed, and nobody tries again; a `RequestFailed` as well.
            SluiceError: The request could not be sent.

        """
        seconds = None if timeout is None else seconds_of(timeout, "timeout")

        async def wait() -> ReplyMessage:
            with anyio.move_on_after(seconds):
                return await self._inner
            raise RequestTimeout("there is no reply yet; it may still come")

        return self._io.call(wait)

    def cancel(self) -> None:
        """Want no reply any more."""
        self._io.run(self._inner.cancel)

    def __repr__(self) -> str:
        return repr(self._inner)
