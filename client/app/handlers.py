"""What a handler's signature asks for, and how it is called: on the event loop, or on a worker thread.

It must not know consumers: it gets a message and returns what the function returned.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager, AsyncExitStack
from functools import partial
from typing import Any, TypeVar

import anyio
import anyio.to_thread

from sluicemq.client.codecs import BYTES, Codec, codec_for, decoded
from sluicemq.client.errors import Undecodable
from sluicemq.client.handling import Reject, Retry
from sluicemq.client.message import Message

T = TypeVar("T")

Function = Callable[..., Any]


class _Dependency:
    """A parameter's default that says where its value comes from."""

    def __init__(self, function: Function) -> None:
        self.function = function


def Depends(function: Callable[..., Any]) -> Any:
    """Let a handler's parameter get what *function* returns, for each message anew.

    Args:
        function: Takes nothing, or the `Message`. What it returns is awaited where it is awaitable, and entered (and
            left after the handler, with its exception) where it is a context manager, async or not. So a function with
            `@asynccontextmanager` opens and closes, say, a transaction around the handler.

    """
    if not callable(function):
        raise TypeError(f"Depends takes a function, not {type(function).__name__}")
    return _Dependency(function)


class Handler:
    """A function of the user's, and what its parameters stand for.

    Args:
        function: The function; `async def` runs on the event loop, `def` in a worker thread.
        codec: What decodes the body; None: the one for the annotation of the parameter that gets the value.
        known: Types of which there is one object for all messages, and those.
        names: Where annotations that are texts find names that the function's module does not have.

    Raises:
        TypeError: A parameter that stands for nothing, or an annotation for which there is no codec.

    """

    def __init__(
        self, function: Function, codec: Codec | None, known: dict[type, Callable[[], Any]], names: dict[str, Any]
    ) -> None:
        self.function = function
        self.name = getattr(function, "__qualname__", type(function).__name__)
        self.is_async = is_async(function)
        self._parts: list[tuple[str, Callable[[Message], Any]]] = []
        self._dependencies: list[tuple[str, Function]] = []
        hints = _hints(function, names)
        self.returns: Any = hints.get("return", inspect.Parameter.empty)
        value: inspect.Parameter | None = None
        for parameter in inspect.signature(function).parameters.values():
            hint = hints.get(parameter.name, parameter.annotation)
            if isinstance(parameter.default, _Dependency):
                self._dependencies.append((parameter.name, parameter.default.function))
            elif hint is Message or (hint is parameter.empty and parameter.name == "message"):
                self._parts.append((parameter.name, _message))
            elif isinstance(hint, type) and hint in known:
                self._parts.append((parameter.name, partial(_known, known[hint])))
            elif value is None and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
                value = parameter
                self._parts.append((parameter.name, _value))
                if codec is None:
                    codec = BYTES if hint is parameter.empty else codec_for(hint)
            elif parameter.default is parameter.empty:
                raise TypeError(
                    f"the handler {self.name} has a parameter {parameter.name!r} that stands for nothing: a handler "
                    "gets the value of the message, the Message, the Client, the App, and what Depends(...) says"
                )
        self._codec = codec or BYTES

    def decode(self, message: Message) -> None:
        """Let `message.value` be what the body means.

        Raises:
            Reject: It means nothing.

        """
        message.set_value(decoded_or_rejected(self._codec, message.body))

    async def __call__(self, message: Message, limiter: anyio.CapacityLimiter) -> Any:
        """Call the function for a message whose body is decoded; return what it returned."""
        arguments = {name: part(message) for name, part in self._parts}
        try:
            if not self._dependencies:
                return await self._called(arguments, limiter)
            async with AsyncExitStack() as stack:
                for name, function in self._dependencies:
                    arguments[name] = await _provided(function, message, stack)
                return await self._called(arguments, limiter)
        except ExceptionGroup as group:
            signal = _signal_in(group)
            if signal is None:
                raise
            raise signal from group

    async def _called(self, arguments: dict[str, Any], limiter: anyio.CapacityLimiter) -> Any:
        if self.is_async:
            return await self.function(**arguments)
        return await anyio.to_thread.run_sync(
            partial(self.function, **arguments), limiter=limiter, abandon_on_cancel=True
        )


def decoded_or_rejected(codec: Codec, body: bytes) -> Any:
    """Return what *body* means; raise `Reject` with the reason where it means nothing."""
    try:
        return decoded(codec, body)
    except Undecodable as error:
        raise Reject(error.text) from error


def is_async(function: Function) -> bool:
    """Whether calling it only makes a coroutine."""
    if isinstance(function, partial):
        return is_async(function.func)
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _message(message: Message) -> Message:
    return message


def _known(get: Callable[[], Any], _message: Message) -> Any:
    return get()


def _value(message: Message) -> Any:
    return message.value


def _hints(function: Function, names: dict[str, Any]) -> dict[str, Any]:
    target = function.func if isinstance(function, partial) else function
    if not inspect.isroutine(target):
        target = type(target).__call__
    try:
        return typing.get_type_hints(target, localns=names)
    except NameError as error:
        raise TypeError(
            f"an annotation of the handler {getattr(target, '__qualname__', target)} names {error.name!r}, which is "
            "not known where the handler is decorated"
        ) from error


async def _provided(function: Function, message: Message, stack: AsyncExitStack) -> Any:
    wants = bool(inspect.signature(function).parameters)
    provided = function(message) if wants else function()
    if isinstance(provided, AbstractAsyncContextManager):
        return await stack.enter_async_context(provided)
    if isinstance(provided, AbstractContextManager):
        return stack.enter_context(provided)
    if inspect.isawaitable(provided):
        return await _awaited(provided)
    return provided


async def _awaited(what: Awaitable[T]) -> T:
    return await what


def _signal_in(group: ExceptionGroup[Exception]) -> Exception | None:
    """Return the `Retry` or `Reject` that the tasks of a handler raised, if they raised nothing else."""
    signals, others = group.split((Retry, Reject))
    if signals is None or others is not None:
        return None
    first: BaseException = signals
    while isinstance(first, BaseExceptionGroup):
        first = first.exceptions[0]
    return first if isinstance(first, Exception) else None
