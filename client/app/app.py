"""`App`: what a service consumes and publishes, said with decorators, and how it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from types import SimpleNamespace
from typing import Any, Literal, TypeVar, Unpack

import anyio
import anyio.abc

from sluicemq.client.app.handlers import Handler
from sluicemq.client.app.publishing import Publisher
from sluicemq.client.app.running import run_with_signals, serve
from sluicemq.client.app.working import Plan, Station
from sluicemq.client.client import Client
from sluicemq.client.codecs import Codec
from sluicemq.client.consumer import LEASE_SECONDS_DEFAULT, MAX_LEASE_SECONDS_DEFAULT
from sluicemq.client.errors import ClientClosed
from sluicemq.client.message import Message
from sluicemq.client.options import Duration, count_of, seconds_of
from sluicemq.wire.routes import check_pattern
from sluicemq.wire.settings import (
    QueueSettings,
    TopicSettings,
    check_name,
    check_queue_settings,
    check_topic_settings,
)

URL_VARIABLE = "SLUICEMQ_URL"
URL_DEFAULT = "sluicemq://127.0.0.1:7650"
CONCURRENCY_MAX = 10_000
SHUTDOWN_SECONDS = 30.0

Decorated = TypeVar("Decorated", bound=Callable[..., Any])
Lifespan = Callable[["App"], AbstractAsyncContextManager[object]]
Hook = TypeVar("Hook", bound=Callable[[], Any])


class App:
    """A service: its consumers, what it publishes, and its life from start to drain.

    For example::

        app = App("sluicemq://127.0.0.1:7650")

        @app.consumer("orders", concurrency=8, max_deliveries=5)
        async def handle(order: Order, message: Message) -> None:
            ...

        if __name__ == "__main__":
            app.run()

    A decorated function stays what it is: a test calls it. What a handler may ask for: the value of the message (the
    first parameter that is nothing else, decoded as it is annotated), the `Message`, the `Client`, the `App`, and what
    `Depends(...)` provides.

    Args:
        url: As for `connect`; None: the variable SLUICEMQ_URL when the app starts, else a broker on this machine.
        name: Shown by the broker's tools.
        lifespan: An async context manager around everything that the app does, made of the app; what it opens belongs
            into `app.state`.
        connect_timeout: Seconds or timedelta until the first connection must stand.
        shutdown_timeout: How long handlers may go on once the app shall end; then they are cancelled, and their
            messages given back.
        on_error: Called with what a handler raised, and with its message, beside the log.

    Attributes:
        state: Whatever the user's functions share.

    """

    def __init__(
        self,
        url: str | None = None,
        *,
        name: str | None = None,
        lifespan: Lifespan | None = None,
        connect_timeout: Duration = 10.0,
        shutdown_timeout: Duration = SHUTDOWN_SECONDS,
        on_error: Callable[[Exception, Message], None] | None = None,
    ) -> None:
        self.state = SimpleNamespace()
        self.name = name
        self.lifespan = lifespan
        self.connect_seconds = seconds_of(connect_timeout, "connect_timeout")
        self.shutdown_seconds = seconds_of(shutdown_timeout, "shutdown_timeout")
        self.startup_hooks: list[Callable[[], Any]] = []
        self.shutdown_hooks: list[Callable[[], Any]] = []
        self._url = url
        self._on_error = on_error
        self._plans: list[tuple[Plan, Handler]] = []
        self._publishers: list[tuple[Callable[..., Any], Publisher]] = []
        self._queues: dict[str, QueueSettings] = {}
        self._topics: dict[str, TopicSettings] = {}
        self._running: Client | None = None
        self._stop: anyio.Event | None = None

    # --- what it declares -----------------------------------------------------------------------------------------

    def queue(self, name: str, **settings: Unpack[QueueSettings]) -> str:
        """Declare a queue when the app starts; returns its name. Errors as for `Client.declare_queue`, at once."""
        check_queue_settings(settings)
        self._queues[check_name(name)] = settings
        return name

    def topic(self, name: str, **settings: Unpack[TopicSettings]) -> str:
        """Declare a topic when the app starts; returns its name. Errors as for `Client.declare_topic`, at once."""
        check_topic_settings(settings)
        self._topics[check_name(name, "topic")] = settings
        return name

    # --- what it consumes -----------------------------------------------------------------------------------------

    def consumer(
        self,
        queue: str,
        *,
        concurrency: int = 1,
        codec: Codec | None = None,
        declare: bool = True,
        credit: int | None = None,
        lease: Duration = LEASE_SECONDS_DEFAULT,
        max_lease: Duration = MAX_LEASE_SECONDS_DEFAULT,
        **settings: Unpack[QueueSettings],
    ) -> Callable[[Decorated], Decorated]:
        """Handle the messages of *queue* with the decorated function.

        A function that returns has dealt with its message; one that raises gives it back, to come again by the queue's
        `retry`, and after `max_deliveries` attempts to die. `Retry` and `Reject` say otherwise from any depth. A body
        that cannot be decoded is rejected, with the reason. Where the message is a request, what the function returns
        is the reply, unless it is None.

        Args:
            queue: The queue.
            concurrency: How many messages are handled at a time; 1 to 10,000. `async def` handlers run on the event
                loop, `def` handlers in as many worker threads.
            codec: What decodes the body, and encodes what the handler returns; default: by the handler's annotations.
            declare: Make the queue, or let it converge to *settings*, when the app starts, and the one that
                `dead_letter` names. Without it the queue must exist.
            credit: Most messages that are asked for ahead; default: 16 for each that can be handled at a time, at most
                500.
            lease: How long a message is ours before its lease is renewed; happens by itself while the loop runs.
            max_lease: After so long a message is renewed no more, so that a handler that hangs does not keep it.
            settings: Of the queue, see `QueueSettings`: `retry`, `max_deliveries`, `dead_letter`, `ordering`, ...

        Raises:
            TypeError: The handler asks for something that there is not, or an argument has the wrong type.
            InvalidRequest: A name, number or setting that is not allowed.
            UnknownOption: No such setting.

        """
        if settings and not declare:
            raise TypeError("settings are for a queue that the app declares: leave out declare=False, or the settings")
        check_queue_settings(settings)
        plan = self._plan(check_name(queue), None, declare, settings, concurrency, credit, lease, max_lease, codec)
        return self._decorator(plan, codec)

    def subscriber(
        self,
        pattern: str,
        name: str | None = None,
        *,
        concurrency: int = 1,
        codec: Codec | None = None,
        credit: int | None = None,
        lease: Duration = LEASE_SECONDS_DEFAULT,
        max_lease: Duration = MAX_LEASE_SECONDS_DEFAULT,
        **settings: Unpack[QueueSettings],
    ) -> Callable[[Decorated], Decorated]:
        """Handle what is published to a topic, as far as it matches *pattern*, with the decorated function.

        Args:
            pattern: Begins with the topic's name, see `Client.subscribe`; declare the topic with `topic`, if need be.
            name: Name of the subscription, which stays, and which all processes of the app share. None: a temporary
                one, with which each process gets everything while it runs.
            concurrency: As for `consumer`, and so are the others.
            codec: Likewise.
            credit: Likewise.
            lease: Likewise.
            max_lease: Likewise.
            settings: Likewise.

        Raises:
            TypeError, InvalidRequest, UnknownOption: As for `consumer`.

        """
        check_queue_settings(settings)
        own = None if name is None else check_name(name, "subscription")
        plan = self._plan(own, check_pattern(pattern), True, settings, concurrency, credit, lease, max_lease, codec)
        return self._decorator(plan, codec)

    def _plan(
        self,
        queue: str | None,
        pattern: str | None,
        declare: bool,
        settings: QueueSettings,
        concurrency: int,
        credit: int | None,
        lease: Duration,
        max_lease: Duration,
        codec: Codec | None,
    ) -> Plan:
        workers = count_of(concurrency, "concurrency", maximum=CONCURRENCY_MAX)
        return Plan(queue, pattern, declare, settings, workers, credit, lease, max_lease, codec)

    def _decorator(self, plan: Plan, codec: Codec | None) -> Callable[[Decorated], Decorated]:
        def decorate(function: Decorated) -> Decorated:
            # Classes that are local to the function in which the handler is defined are found in its frame.
            names = dict(sys._getframe(1).f_locals)
            known: dict[type, Callable[[], Any]] = {Client: self._client, App: lambda: self}
            self._plans.append((plan, Handler(function, codec, known, names)))
            return function

        return decorate

    # --- what it publishes ----------------------------------------------------------------------------------------

    def publisher(self, destination: str, *, codec: Codec | None = None) -> Publisher:
        """Return what publishes values to *destination*: with `send`, or what a handler returns.

            @app.consumer("orders")
            @app.publisher("bills")
            async def bill(order: Order) -> Bill: ...

        As a decorator it stands beside `consumer` or `subscriber`, in any order and any number. The results and the
        acknowledgement of the message are one transaction: after a crash there is neither a bill too many nor one too
        few.

        Args:
            destination: A queue, a topic, or a name below a topic.
            codec: What encodes the values; default: bytes as they are, str as UTF-8, everything else as JSON.

        """
        return Publisher(destination, codec, self._client, lambda *pair: self._publishers.append(pair))

    # --- its life -------------------------------------------------------------------------------------------------

    def on_startup(self, function: Hook) -> Hook:
        """Call the decorated function when the app is connected, before it handles anything; `def` or `async def`."""
        self.startup_hooks.append(function)
        return function

    def on_shutdown(self, function: Hook) -> Hook:
        """Call the decorated function when all handlers have ended, while the app is still connected.

        Not where an error ends the app: what must be closed in any case belongs into the `lifespan`.
        """
        self.shutdown_hooks.append(function)
        return function

    @property
    def url(self) -> str:
        """Where it connects."""
        return self._url or os.environ.get(URL_VARIABLE) or URL_DEFAULT

    @property
    def client(self) -> Client:
        """The client, while the app runs.

        Raises:
            ClientClosed: It does not run.

        """
        return self._client()

    def _client(self) -> Client:
        if self._running is None:
            raise ClientClosed("the app does not run: its client is there between its start and its end")
        return self._running

    def stations(self) -> list[Station]:
        """Return the handlers with all that was said of them; for the app's own use."""
        return [
            Station(
                plan,
                handler,
                [publisher for function, publisher in self._publishers if function is handler.function],
                self._on_error,
            )
            for plan, handler in self._plans
        ]

    async def declare(self, client: Client) -> None:
        """Declare what `queue`, `topic` and the `dead_letter` of consumers name; for the app's own use."""
        for name, settings in self._topics.items():
            await client.declare_topic(name, **settings)
        for name, queue_settings in self._queues.items():
            await client.declare_queue(name, **queue_settings)
        for plan, _ in self._plans:
            dead_letter = plan.settings.get("dead_letter")
            if plan.declare and dead_letter and dead_letter not in self._queues:
                await client.declare_queue(dead_letter)

    async def serve(  # noqa: ASYNC128 - `running` does
        self, *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Run the app in this task until `stop` is called: for programs with an event loop of their own, and tests.

        `await group.start(app.serve)` returns when the app handles messages, with anyio and with trio alike.

        Raises:
            ConnectionFailed: No broker could be reached in time.
            SluiceError: A consumer is over, for example because its queue was deleted.
            Exception: What a hook raised.

        """
        if self._stop is not None:
            raise RuntimeError("the app runs already")
        self._stop = anyio.Event()
        try:
            await serve(self, self._stop, self._connected, task_status.started)
        finally:
            self._running = self._stop = None

    def _connected(self, client: Client) -> None:
        self._running = client

    def stop(self) -> None:
        """Let the app end in good order: take nothing more, finish what is in hand, give the rest back.

        To be called from the event loop that runs it. Does nothing where it does not run.
        """
        if self._stop is not None:
            self._stop.set()

    def run(self, *, backend: Literal["asyncio", "trio"] = "asyncio") -> None:
        """Run the app until SIGTERM or SIGINT (Ctrl-C) arrives and everything is drained; a second one ends it at once.

        Only here are signal handlers installed, for as long as it runs.

        Args:
            backend: The event loop.

        Raises:
            As `serve`.

        """
        run_with_signals(self, backend)
