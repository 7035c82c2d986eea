"""What exists only while a client is entered: its connection, its background tasks, and who hears what the broker says.

Apart from `client`, which is what users call. This module must not know calls.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import anyio

from sluicemq.client.attachment import Attachment
from sluicemq.client.consumer import Consumer
from sluicemq.client.errors import ClientForked, InternalError, SluiceError
from sluicemq.client.forks import unwatch, watch
from sluicemq.client.publisher import Publisher
from sluicemq.client.reconnect import Link
from sluicemq.client.replying import Replying
from sluicemq.client.requesting import Requests
from sluicemq.client.runtime import Runtime, Slot, Stream, current_runtime
from sluicemq.client.session import Identity
from sluicemq.client.timers import Timers
from sluicemq.client.transaction_calls import TransactionParts
from sluicemq.client.url import Address
from sluicemq.wire import messages as m
from sluicemq.wire.fields import Message as WireMessage

log = logging.getLogger("sluicemq.client")

CHECKED_DESTINATIONS_MAX = 10_000
"""Names that are remembered as good."""


class Parts:
    """What exists only while the client is entered."""

    def __init__(
        self,
        addresses: tuple[Address, ...],
        identity: Identity,
        open_stream: Callable[[Address], Awaitable[Stream]],
        request_seconds: float,
    ) -> None:
        self.runtime: Runtime = current_runtime()
        self.timers = Timers(self.runtime)
        self.link = Link(self.runtime, self.timers, addresses, identity, open_stream)
        self.link.listen(self._unasked)
        self.runtime.on_failure = self._failed
        self.by_number: dict[int, tuple[Consumer, Attachment]] = {}
        self.publishers: dict[Publisher, None] = {}
        self.shared: Publisher | None = None
        self.checked_destinations: set[str] = set()
        self.is_forked = False
        self.requests = Requests(self.runtime, self.timers, self.link)
        self.replying = Replying(self.link, request_seconds, self.shared_publisher)
        self.transactions = TransactionParts.made(self.runtime, self.link, self.spawn)
        self._tasks = anyio.create_task_group()
        self._scopes: list[anyio.CancelScope] = []
        self._running = 0
        self._all_ended = Slot()

    def forked(self) -> None:
        """This is the child of a fork: every further call raises `ClientForked`, and nothing is sent."""
        self.is_forked = True
        self.link.forked(
            ClientForked("the client was open when the process was forked, and is the parent's: call connect() anew")
        )

    def shared_publisher(self) -> Publisher:
        """Return the producer that single sends share; another one where the last has failed."""
        publisher = self.shared
        if publisher is None or publisher.error is not None:
            if publisher is not None:
                self.publishers.pop(publisher, None)
            publisher = self.shared = Publisher(self.runtime, self.timers, self.link)
            publisher.join()
            self.publishers[publisher] = None
        return publisher

    def remember_destination(self, destination: str) -> None:
        """Spare the next send the check of the name."""
        if len(self.checked_destinations) >= CHECKED_DESTINATIONS_MAX:
            self.checked_destinations.clear()
        self.checked_destinations.add(destination)

    def _unasked(self, message: WireMessage, tail: memoryview) -> None:
        if isinstance(message, (m.Deliver, m.LeasesLost, m.ConsumerEnded)):
            self._tell_consumer(message, tail)
        elif isinstance(message, m.Blocked):
            for publisher in self.publishers:
                publisher.blocked(message)
        elif isinstance(message, m.Unblocked):
            for publisher in self.publishers:
                publisher.unblocked(message.destination)
        elif isinstance(message, m.ReplyArrived):
            self.requests.arrived(message, tail)
        elif isinstance(message, m.Check):
            self.transactions.checkers.asked(message, tail)

    def _tell_consumer(self, message: m.Deliver | m.LeasesLost | m.ConsumerEnded, tail: memoryview) -> None:
        found = self.by_number.get(message.consumer)
        if found is None:
            return  # of a consumer that ended on our side meanwhile
        consumer, attachment = found
        if isinstance(message, m.Deliver):
            consumer.delivered(attachment, message, tail)
        elif isinstance(message, m.LeasesLost):
            attachment.lost(message.tags, message.reason)
        else:
            consumer.ended(message)

    async def start(self) -> None:
        """Start the background tasks."""
        await self._tasks.__aenter__()
        watch(self)
        for task in (self.runtime.run_hops, self.timers.run, self.link.run):
            self.spawn(task)

    def spawn(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run *task* until the client ends."""
        self._running += 1
        # Shielded, because the last verdicts must get through when the body is cancelled; `stop` ends it.
        scope = anyio.CancelScope(shield=True)
        self._scopes.append(scope)
        self._tasks.start_soon(self._guarded, task, scope)

    async def _guarded(self, task: Callable[[], Awaitable[None]], scope: anyio.CancelScope) -> None:
        """Run *task* so that a bug of ours reaches the callers as an error, and never cancels the user's body."""
        try:
            with scope:
                await task()
        except Exception as error:  # noqa: BLE001 - reported to every caller
            self._failed(error)
        finally:
            self._running -= 1
            if not self._running:
                self.runtime.wake(self._all_ended)

    def _failed(self, error: Exception) -> None:
        failure = InternalError(f"the client failed in the background: {error!r:.500}")
        failure.__cause__ = error
        log.error("%s", failure, exc_info=error)
        self.link.fail(failure)

    async def flush(self) -> None:
        """Send everything that waits, give back what nobody handled, and wait for the answers."""
        attached = list(self.by_number.values())
        for consumer, attachment in attached:
            consumer.leave()
            attachment.flush(force=True)
        for _, attachment in attached:
            try:
                await attachment.confirmed()
            except SluiceError as error:
                log.info("the last verdicts were not confirmed: %s", error)
        if self.shared is not None:
            await self.shared.flushed()

    async def stop(self) -> None:
        """End the background tasks and wait for them; leaves the task group that was entered in `start`."""
        unwatch(self)
        if self.is_forked:
            return  # the tasks wait in a poll that the parent shares: cancelling them here would deafen it
        for scope in self._scopes:
            scope.cancel()
        # The group is left without the body's exception, which therefore leaves as it is and not inside a group.
        # Waiting first, shielded, leaves nothing for the group itself to wait for, hence nothing to be cancelled in.
        try:
            with anyio.CancelScope(shield=True):
                while self._running:
                    await self.runtime.park(self._all_ended)
        finally:
            # No shield stops KeyboardInterrupt, and a group that is never left breaks the loop.
            await self._tasks.__aexit__(None, None, None)  # noqa: ASYNC102 - bounded by close_timeout
