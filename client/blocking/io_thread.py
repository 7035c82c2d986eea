"""The one thread on which all blocking clients of a process do their I/O, and how other threads reach it.

An asyncio loop runs on a daemon thread. Whoever wants something of it puts a function into a deque and wakes the loop
once, however much is put there until it looks: waking costs a system call, and a switch between threads far more. This
module must not know what is asked.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import sys
import threading
import time
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any, Generic, ParamSpec, Protocol, TypeVar

from sluicemq.client.errors import ClientClosed, ClientForked, RequestTimeout, SluiceError, another
from sluicemq.client.forks import watch

log = logging.getLogger("sluicemq.client")

P = ParamSpec("P")
T = TypeVar("T")

TURN_POSTS_MAX = 1_000
"""Most posts that are served before the loop looks at its sockets again."""
BACKLOG_MAX = 2_000
"""With so many posts waiting, a thread that goes on posting has to wait."""
EXIT_SECONDS = 1.0
"""How much longer than its own `close_timeout` the end of a client may take when the process exits."""


class Waiting:
    """A thread that waits until the loop wakes it; to the client's runtime it looks like a future."""

    __slots__ = ("_lock",)

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()

    def done(self) -> bool:
        """Whether it was woken; False, because the runtime wakes each once."""
        return False

    def set_result(self, _result: None) -> None:
        """Wake it, and all threads that wait on it."""
        self._lock.release()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait; return whether it was woken in time."""
        woken = self._lock.acquire(timeout=-1 if seconds is None else max(0.0, seconds))
        if woken:
            self._lock.release()  # for the next thread that waits for the same
        return woken


class _Call(Generic[T]):
    """One call of an async function, from the thread that waits to the task that runs it."""

    __slots__ = ("_abandoned", "_error", "_make", "_on_abandoned", "_result", "_task", "waiting")

    def __init__(self, make: Callable[[], Coroutine[Any, Any, T]], on_abandoned: Callable[[T], object] | None) -> None:
        self._make = make
        self._on_abandoned = on_abandoned
        self._abandoned = False
        self._result: list[T] = []
        self._error: BaseException | None = None
        self._task: asyncio.Task[None] | None = None
        self.waiting = Waiting()

    def start(self) -> None:
        if not self._abandoned:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        try:
            result = await self._make()
        except BaseException as error:  # noqa: BLE001, ASYNC103 - it goes on in the thread that waits
            self._error = error
        else:
            self._result.append(result)
            if self._abandoned and self._on_abandoned is not None:
                self._on_abandoned(result)
        self.waiting.set_result(None)

    def abandon(self) -> None:
        """Nobody waits any more. Runs on the loop."""
        self._abandoned = True
        if self._result:
            if self._on_abandoned is not None:
                self._on_abandoned(self._result[0])
        elif self._task is not None:
            self._task.cancel()

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result[0]


class Closable(Protocol):
    """What is closed when the process exits."""

    def close_at_exit(self) -> None:
        """Flush and close; bounded."""


class IoThread:
    """A running loop on a daemon thread; made by `io_thread`.

    Attributes:
        error: Why it is of no use any more: the process was forked, and this is the child.
        open: What is closed when the process exits.

    """

    def __init__(self) -> None:
        self.error: SluiceError | None = None
        self.open: dict[Closable, None] = {}
        self._inbox: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self._woken = False
        ready: list[asyncio.AbstractEventLoop] = []
        started = threading.Event()

        async def serve() -> None:
            ready.append(asyncio.get_running_loop())
            started.set()
            await ready[0].create_future()

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), name="sluicemq-io", daemon=True)
        self._thread.start()
        started.wait()
        self._loop = ready[0]
        self._ident = self._thread.ident
        watch(self)

    # --- what any thread may call ---------------------------------------------------------------------------------

    def post(self, function: Callable[..., object], *args: Any) -> None:
        """Let *function* run on the loop soon, behind everything that was posted before. Waits for nothing.

        Raises:
            ClientForked: This is the child of a fork.
            ClientClosed: The interpreter is being torn down, as when a finalizer of a global object calls.

        """
        if self.error is not None:
            raise another(self.error)
        if sys.is_finalizing():  # daemon threads do not run any more: whoever waited for one would wait for ever
            raise ClientClosed("the process ends, and the client's I/O thread has ended")
        self._inbox.append((function, args))
        if not self._woken:
            self._woken = True
            try:
                self._loop.call_soon_threadsafe(self._drain)
            except BaseException:  # Ctrl-C in the middle: others rely on it that the loop was woken
                self._loop.call_soon_threadsafe(self._drain)
                raise

    @property
    def crowded(self) -> bool:
        """Whether so much waits for the loop that whoever posts should wait too."""
        return len(self._inbox) >= BACKLOG_MAX

    def call(self, function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the async *function* on the loop, and wait for its end. Interrupted by Ctrl-C it is cancelled."""
        return self.await_(lambda: function(*args, **kwargs))

    def await_(
        self,
        make: Callable[[], Coroutine[Any, Any, T]],
        *,
        on_abandoned: Callable[[T], object] | None = None,
        seconds: float | None = None,
    ) -> T:
        """Run what *make* returns on the loop, and wait for its end.

        Args:
            make: Called on the loop.
            on_abandoned: Gets the result, on the loop, where Ctrl-C interrupted the thread that waited for it.
            seconds: How long to wait.

        Raises:
            RequestTimeout: It did not end in time.

        """
        self.check_thread()
        call = _Call(make, on_abandoned)
        self.post(call.start)
        try:
            if not call.waiting.wait(seconds):
                raise RequestTimeout(f"the client's I/O thread did not answer within {seconds:g} seconds")
            return call.outcome()
        except BaseException:  # a Ctrl-C too that comes when the answer is there already
            self.post(call.abandon)
            raise

    def run(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the plain *function* on the loop, and return what it returns or raise what it raises."""
        self.check_thread()
        results: list[T] = []
        errors: list[BaseException] = []
        waiting = Waiting()

        def answer() -> None:
            try:
                results.append(function(*args, **kwargs))
            except BaseException as error:  # noqa: BLE001, ASYNC103 - it goes on in the thread that waits
                errors.append(error)
            waiting.set_result(None)

        self.post(answer)
        waiting.wait()
        if errors:
            raise errors[0]
        return results[0]

    def check_thread(self) -> None:
        """Raise RuntimeError on the I/O thread itself, where a call that waits would wait for ever."""
        if threading.get_ident() == self._ident and self.error is None:
            raise RuntimeError(
                "a blocking client was called on its own I/O thread, for which the call would wait for ever: leave it "
                "to another thread, for example by a queue.Queue"
            )

    # --- on the loop ----------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        self._woken = False
        inbox = self._inbox
        for _ in range(min(len(inbox), TURN_POSTS_MAX)):
            function, args = inbox.popleft()
            try:
                function(*args)
            except Exception:
                log.exception("a call to the client's I/O thread failed")
        if inbox and not self._woken:
            self._woken = True
            self._loop.call_soon(self._drain)

    # --- ends -----------------------------------------------------------------------------------------------------

    def forked(self) -> None:
        """This is the child of a fork, in which the thread does not exist."""
        self.error = ClientForked(
            "the client was open when the process was forked, and is the parent's: call connect() anew"
        )
        self.open.clear()
        _forget_thread(self)


class Hosted:
    """An async context manager that is entered and left in one task of the loop, for threads that come and go."""

    def __init__(self, manager: Any) -> None:
        self._manager = manager
        self._task: asyncio.Task[None] | None = None
        self._leave = asyncio.Event()

    async def enter(self) -> None:
        """Enter it; raises what entering raises."""
        entered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._task = asyncio.get_running_loop().create_task(self._live(entered))
        try:
            await asyncio.shield(entered)
        except asyncio.CancelledError:
            self._task.cancel()
            raise

    async def _live(self, entered: asyncio.Future[None]) -> None:
        try:
            await self._manager.__aenter__()
        except BaseException as error:  # noqa: BLE001, ASYNC103 - it goes on in whoever enters
            if not entered.done():
                entered.set_exception(error)
                entered.exception()  # looked at: whoever waited may be gone
            return  # noqa: ASYNC104
        if not entered.done():
            entered.set_result(None)
        try:
            await self._leave.wait()
        finally:
            await self._manager.__aexit__(None, None, None)  # noqa: ASYNC102 - bounded by close_timeout

    async def leave(self) -> None:
        """Leave it, and wait until that is done; raises what leaving raises."""
        self._leave.set()
        if self._task is not None:
            await asyncio.shield(self._task)


_current: list[IoThread] = []
_starting = threading.Lock()


def io_thread() -> IoThread:
    """Return the I/O thread of this process, started with the first blocking client.

    Raises:
        ClientClosed: The interpreter is being torn down, and no thread can start any more.

    """
    with _starting:
        if not _current:
            if sys.is_finalizing():
                raise ClientClosed("the process ends, and no I/O thread can start any more")
            _current.append(IoThread())
        return _current[0]


def call(function: Callable[P, Coroutine[Any, Any, T]], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run an async function of this library on the I/O thread, and return what it returns.

    For what needs no client: `call(outbox.status)`, `call(probe_cluster, url)`.
    """
    return io_thread().call(function, *args, **kwargs)


def _forget_thread(io: IoThread) -> None:
    global _starting
    _starting = threading.Lock()
    if io in _current:
        _current.remove(io)


@atexit.register
def _close_all() -> None:
    """Flush and close the clients that are still open: what was submitted and settled must not die with the process."""
    for io in _current:
        for one in list(io.open):
            try:
                one.close_at_exit()
            except Exception as error:  # noqa: BLE001 - the others are closed all the same
                log.warning("a client could not be closed in good order when the process ended: %s", error)


def at_once(coroutine: Generator[Any, Any, T] | Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that waits for nothing, in the calling thread."""
    try:
        coroutine.send(None)
    except StopIteration as end:
        result: T = end.value
        return result
    finally:
        coroutine.close()
    raise AssertionError("the coroutine waits for something")


def now() -> float:
    """Return the time of the loop's clock."""
    return time.monotonic()
