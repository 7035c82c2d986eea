"""`sluicemq consume`: takes messages from a queue, looks at them, or reads what it retains, and prints them."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import click

from sluicemq.broker.commands.manners import Failure, SecondsRange, json_option, url_option
from sluicemq.broker.commands.moments import Moment

if TYPE_CHECKING:
    from datetime import datetime

    from sluicemq.client import Client, Message, PeekedMessage, Replay

IDLE_SECONDS = 1.0
"""A queue from which nothing came for so long counts as empty."""
BATCH_MESSAGES = 500
PEEK_MESSAGES = 100


@click.command(name="consume")
@click.argument("queue")
@click.option("--count", "-n", type=click.IntRange(1), help="End after so many messages; exit code 1 if fewer came.")
@click.option("--follow", is_flag=True, help="Wait for more messages when there are none.")
@click.option(
    "--timeout",
    type=SecondsRange(0.01),
    metavar="S",
    help="Seconds without a message after which to end.  [default: 1; with --follow: never]",
)
@click.option(
    "--peek/--ack", "peek", default=False, help="Look only and leave the messages, or take them (the default)."
)
@click.option(
    "--weight",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Its share of a queue that deals by weight or by key, its rank in one with failover.",
)
@click.option(
    "--from",
    "begin",
    type=Moment(),
    help="Read what the queue retains from there on, settled or not, and leave it: a position, a time "
    "(2026-11-21T08:00, local unless it says otherwise), so long ago (-2h), or start.",
)
@click.option("--to", "end", type=Moment(), help="With --from: end before that position or time.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["body", "json", "full"]),
    default="body",
    show_default=True,
    help="What to print of a message, a line each.",
)
@url_option
@json_option
def command(
    queue: str,
    count: int | None,
    follow: bool,
    timeout: float | None,
    peek: bool,
    weight: int,
    begin: str | datetime | None,
    end: str | datetime | None,
    form: str,
    url: str,
    as_json: bool,
) -> None:
    """Take messages from QUEUE and print them, a line each; ends when the queue is empty.

    A message is acknowledged after it was printed; into a pipe, that is when it went into the pipe, so use --count
    rather than `head`. Formats: `body` is the bytes as they are; `json` an object with key,
    headers, attempt, position and body (base64 where it is no UTF-8, and then `body_encoding` says so); `full` the same
    for people.

    With --from nothing is taken: it reads again what was published to a queue that has the setting `retention`, until
    the newest message, or with --follow for ever.
    """
    if peek and follow:
        raise click.UsageError("--peek looks once; it cannot --follow")
    if peek and begin is not None:
        raise click.UsageError("--peek looks at what is ready, --from at what is retained: choose one")
    if end is not None and begin is None:
        raise click.UsageError("--to ends what --from begins: give both")
    from sluicemq.broker.commands.asking import with_client

    show = _FORMATS["json" if as_json else form]
    idle = timeout if timeout is not None else None if follow else IDLE_SECONDS

    async def consume(client: Client) -> int:
        if begin is not None:
            return await _read(
                client.replay(queue, begin, end, follow=follow), count, timeout if follow else None, show
            )
        return await (_peek(client, queue, count, show) if peek else _take(client, queue, count, idle, weight, show))

    taken = with_client(url, consume)
    if count is not None and taken < count:
        raise Failure(f"only {taken} of {count} messages came")


async def _take(
    client: Client, queue: str, count: int | None, idle: float | None, weight: int, show: Callable[[Any], bytes]
) -> int:
    taken = 0
    async with client.consumer(
        queue, credit=BATCH_MESSAGES if count is None else min(count, BATCH_MESSAGES), weight=weight
    ) as consumer:
        while count is None or taken < count:
            wanted = BATCH_MESSAGES if count is None else min(BATCH_MESSAGES, count - taken)
            batch = await consumer.receive(max_messages=wanted, max_wait=idle)
            if not len(batch):
                break
            try:
                _write(map(show, batch))
            except BrokenPipeError:
                consumer.on_lease_lost = lambda _error: None  # expected: the reader went away, the messages stay
                raise
            await batch.ack()
            taken += len(batch)
        await consumer.flush()
    return taken


async def _peek(client: Client, queue: str, count: int | None, show: Callable[[Any], bytes]) -> int:
    seen = 0
    while count is None or seen < count:
        wanted = PEEK_MESSAGES if count is None else min(PEEK_MESSAGES, count - seen)
        messages = await client.peek(queue, count=wanted, skip=seen)
        if not messages:
            break
        _write(map(show, messages))
        seen += len(messages)
    return seen


async def _read(replay: Replay, count: int | None, idle: float | None, show: Callable[[Any], bytes]) -> int:
    import trio

    seen = 0
    while count is None or seen < count:
        wanted = BATCH_MESSAGES if count is None else min(BATCH_MESSAGES, count - seen)
        messages: list[PeekedMessage] = []
        with trio.move_on_after(math.inf if idle is None else idle):
            messages = await replay.receive(wanted)
        if not messages:
            break
        _write(map(show, messages))
        seen += len(messages)
    return seen


def _write(lines: Iterable[bytes]) -> None:
    # Flushed before anything is acknowledged: what nobody can read any more must not count as handled.
    sys.stdout.buffer.write(b"".join(lines))
    sys.stdout.buffer.flush()


# --- formats -------------------------------------------------------------------------------------------------------


def as_plain(message: Message | PeekedMessage) -> dict[str, Any]:
    """Return a message as JSON can carry it."""
    import base64

    plain: dict[str, Any] = {
        "position": message.position,
        "message_id": message.message_id,
        "destination": message.destination,
        "key": message.key,
        "headers": dict(message.headers),
        "published_at": message.published_at.isoformat(),
    }
    if hasattr(message, "attempt"):
        plain["attempt"] = message.attempt
    else:
        plain["deliveries"], plain["attempts"] = message.deliveries, message.attempts
    try:
        plain["body"] = message.body.decode("utf-8")
    except UnicodeDecodeError:
        plain["body"] = base64.b64encode(message.body).decode("ascii")
        plain["body_encoding"] = "base64"
    return plain


def _body(message: Message | PeekedMessage) -> bytes:
    return b"%b\n" % message.body


def _json(message: Message | PeekedMessage) -> bytes:
    import json

    return json.dumps(as_plain(message), ensure_ascii=False, default=_shown_as_text).encode() + b"\n"


def _shown_as_text(value: object) -> str:
    return value.hex() if isinstance(value, bytes) else str(value)


def _full(message: Message | PeekedMessage) -> bytes:
    plain = as_plain(message)
    names = ("position", "published_at", "message_id", "attempt", "attempts")
    facts = [f"{name}={plain[name]}" for name in names if name in plain]
    if message.key is not None:
        facts.append(f"key={message.key}")
    facts += [f"{name}={value!r}" for name, value in message.headers.items()]
    return b"%b\n  %b\n" % (" ".join(facts).encode(), message.body)


_FORMATS: dict[str, Callable[[Any], bytes]] = {"body": _body, "json": _json, "full": _full}
