"""Three faces of one client, and how a story that knows none of them runs on each.

A story is an `async def` about one client. On trio and asyncio it runs as it stands, in many tasks. For the blocking
client its `await`s wait for nothing: each call blocks its thread and is done when it returns, so a thread can run the
story from beginning to end without an event loop.
"""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from typing import Any

import anyio

from sluicemq.client import blocking, connect

TASKS = 64
THREADS = 8
STORY_SECONDS_MAX = 180

Story = Callable[[Any, int], Awaitable[None]]
Part = Callable[[Any], Awaitable[None]]


class Answer:
    """What a blocking call has returned: awaiting it gives that; where the async call waits for nothing, it is that."""

    def __init__(self, value: Any) -> None:
        self._value = wrapped(value)

    def __await__(self) -> Any:
        return self._value
        yield  # a generator, as `__await__` must be

    def __getattr__(self, name: str) -> Any:
        return getattr(self._value, name)

    def __len__(self) -> int:
        return len(self._value)

    def __iter__(self) -> Any:
        return iter(self._value)

    def __getitem__(self, place: Any) -> Any:
        return self._value[place]

    async def __aenter__(self) -> Any:
        return await self._value.__aenter__()

    async def __aexit__(self, *what: object) -> Any:
        return await self._value.__aexit__(*what)

    def __aiter__(self) -> Any:
        return self._value.__aiter__()

    async def __anext__(self) -> Any:
        return await self._value.__anext__()


class Face:
    """An object of the blocking client with the manners of its async brother."""

    def __init__(self, inner: Any) -> None:
        object.__setattr__(self, "inner", inner)

    def __await__(self) -> Any:
        return self.inner.result()
        yield

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.inner, name)
        if not callable(found):
            return wrapped(found)

        def call(*args: Any, **kwargs: Any) -> Answer:
            return Answer(found(*[getattr(each, "inner", each) for each in args], **kwargs))

        return call

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self.inner, name, value)

    def __len__(self) -> int:
        return len(self.inner)

    def __iter__(self) -> Any:
        return map(wrapped, self.inner)

    def __getitem__(self, place: Any) -> Any:
        return wrapped(self.inner[place])

    async def __aenter__(self) -> Any:
        return wrapped(self.inner.__enter__())

    async def __aexit__(self, *what: object) -> Any:
        return self.inner.__exit__(*what)

    def __aiter__(self) -> Any:
        return self

    async def __anext__(self) -> Any:
        try:
            return wrapped(next(self.inner))
        except StopIteration:
            raise StopAsyncIteration from None


def wrapped(value: Any) -> Any:
    return Face(value) if type(value).__module__.startswith("sluicemq.client.blocking.") else value


def driven(coroutine: Any) -> None:
    """Run a story, or a part of one, whose awaits wait for nothing."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise AssertionError("the story waits for an event loop")


async def nothing(_client: Any) -> None:
    """Neither before nor after the story is there anything to do."""


def in_threads(url: str, before: Part, story: Story, after: Part) -> None:
    """Run *story* on threads with one blocking client."""
    failures: list[BaseException] = []

    def work(client: blocking.Client, number: int) -> None:
        try:
            driven(story(Face(client), number))
        except Exception as error:
            failures.append(error)

    with blocking.connect(url) as client:
        driven(before(Face(client)))
        workers = [threading.Thread(target=work, args=(client, number), daemon=True) for number in range(THREADS)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(STORY_SECONDS_MAX)
            assert not worker.is_alive(), "the story does not end"
        if failures:
            raise failures[0]
        driven(after(Face(client)))


def in_tasks(backend: str, url: str, before: Part, story: Story, after: Part) -> None:
    """Run *story* in tasks of one event loop with one client."""

    async def main() -> None:
        failures: list[BaseException] = []

        async def work(client: Any, number: int) -> None:
            try:
                await story(client, number)
            except Exception as error:
                failures.append(error)

        with anyio.fail_after(STORY_SECONDS_MAX):
            async with connect(url) as client:
                await before(client)
                async with anyio.create_task_group() as group:
                    for number in range(TASKS):
                        group.start_soon(work, client, number)
                if failures:
                    raise failures[0]
                await after(client)

    anyio.run(main, backend=backend)


FACES = ("blocking", "trio", "asyncio")


def run(face: str, url: str, story: Story, *, before: Part = nothing, after: Part = nothing) -> None:
    """Run *story* on *face*, as often at once as it gets; *before* and *after* it once, with the same client."""
    if face == "blocking":
        in_threads(url, before, story, after)
    else:
        in_tasks(face, url, before, story, after)
