"""`sluicemq publish`: one message from an argument or a file, or a message a line."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluicemq.broker.commands.manners import Failure, json_option, note, on_terminal, print_json, url_option
from sluicemq.broker.commands.moments import LongTime, Time

if TYPE_CHECKING:
    from sluicemq.client import Client, Producer

READ_BYTES = 256 * 1024
NOTE_SECONDS = 1.0


@click.command(name="publish")
@click.argument("queue")
@click.argument("body", required=False)
@click.option(
    "--file",
    "-f",
    "file",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="Take the body from a file; - is standard input.",
)
@click.option("--lines", is_flag=True, help="Publish each line as a message, from standard input or --file.")
@click.option("--key", help="Key of the messages.")
@click.option("--subject", help="Subject of the messages; at a topic, what follows behind its name.")
@click.option("--header", "headers", multiple=True, metavar="NAME=VALUE", help="A header; may be repeated.")
@click.option("--message-id", help="Id of the message instead of one made here.")
@click.option("--delay", type=LongTime(), help="Deliver the messages so long after they were published, not before.")
@click.option("--at", "at", type=Time(), help="Deliver the messages at this time, not before.")
@click.option("--ttl", type=LongTime(), help="Deliver the messages so long at most, from when they are due.")
@click.option(
    "--priority", type=click.IntRange(0, 9), default=0, show_default=True, help="Those of a higher one go first."
)
@click.option(
    "--batch", type=click.IntRange(1, 100_000), default=1000, show_default=True, help="Most lines in one batch."
)
@click.option("--declare", is_flag=True, help="Make the queue if it does not exist.")
@url_option
@json_option
def command(
    queue: str,
    body: str | None,
    file: str | None,
    lines: bool,
    key: str | None,
    subject: str | None,
    headers: tuple[str, ...],
    message_id: str | None,
    delay: float | None,
    at: datetime | None,
    ttl: float | None,
    priority: int,
    batch: int,
    declare: bool,
    url: str,
    as_json: bool,
) -> None:
    """Publish BODY, a file, or a message for each line, to QUEUE, which may be a topic or lie below one.

    Ends when everything is safe on disk. Prints the position of a single message; for lines, how many there were. Lines
    are sent as they come, so that `tail -f` can be piped in; what was sent before an error stays sent.
    """
    if sum((body is not None, file is not None or lines)) != 1:
        raise click.UsageError("give BODY, or --file, or --lines")
    if lines and message_id is not None:
        raise click.UsageError("--message-id is for a single message, not for --lines")
    if delay is not None and at is not None:
        raise click.UsageError("give --delay or --at, not both")
    from sluicemq.broker.commands.asking import with_client

    given = {
        "key": key,
        "subject": subject,
        "headers": _headers(headers),
        "delay": delay,
        "at": at,
        "ttl": ttl,
        "priority": priority or None,
    }
    extra = {name: value for name, value in given.items() if value is not None}

    async def publish(client: Client, source: int | bytes) -> None:
        if declare:
            await client.declare_queue(queue)
        async with client.producer(queue) as producer:
            if isinstance(source, int):
                await _publish_lines(producer, source, batch, extra, as_json)
            else:
                await _publish_one(producer, source, message_id, extra, as_json)

    if lines:
        with _opened(file or "-") as descriptor:
            with_client(url, lambda client: publish(client, descriptor))
    else:
        single = body.encode() if body is not None else _read_whole(file or "-")
        with_client(url, lambda client: publish(client, single))


def _headers(pairs: tuple[str, ...]) -> dict[str, str] | None:
    headers: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise click.UsageError(f"--header {pair!r}: write NAME=VALUE")
        headers[name] = value
    return headers or None


def _read_whole(file: str) -> bytes:
    return sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()


@contextmanager
def _opened(file: str) -> Iterator[int]:
    """Yield a descriptor to read from."""
    if file == "-":
        yield sys.stdin.fileno()
    else:
        with Path(file).open("rb") as opened:
            yield opened.fileno()


async def _publish_one(
    producer: Producer, body: bytes, message_id: str | None, extra: dict[str, Any], as_json: bool
) -> None:
    receipt = await producer.send(body, message_id=message_id, **extra)
    if as_json:
        facts = {"position": receipt.position, "message_id": receipt.message_id, "duplicate": receipt.duplicate}
        print_json(facts)
    else:
        click.echo(receipt.position)


# --- lines ---------------------------------------------------------------------------------------------------------


async def _read_lines(descriptor: int, lines_max: int) -> AsyncIterator[list[bytes]]:
    """Yield the lines that have arrived, without their ends: at most *lines_max*, never waiting for more of them."""
    import trio

    from sluicemq.wire.batch import MESSAGE_BYTES_MAX

    rest = b""
    ended = False
    while not ended:
        piece = await trio.to_thread.run_sync(os.read, descriptor, READ_BYTES, abandon_on_cancel=True)
        ended = not piece
        *whole, rest = (rest + piece).split(b"\n")
        if len(rest) > MESSAGE_BYTES_MAX:
            raise Failure(f"a line of more than {MESSAGE_BYTES_MAX} bytes: no message may be so large")
        if ended and rest:
            whole.append(rest)
        for start in range(0, len(whole), lines_max):
            yield whole[start : start + lines_max]


async def _publish_lines(producer: Producer, descriptor: int, batch: int, extra: dict[str, Any], as_json: bool) -> None:
    from sluicemq.client import NewMessage

    progress = _Progress(shown=not as_json and on_terminal(sys.stderr))
    first = last = None
    try:
        async for lines in _read_lines(descriptor, batch):
            receipts = await producer.send_many([NewMessage(line, **extra) for line in lines] if extra else lines)
            first = first or receipts[0].position
            last = receipts[-1].position
            progress.add(len(lines))
    except BaseException:
        if progress.messages:
            note(f"{progress.messages} messages were published before this")
        raise
    seconds = time.monotonic() - progress.started
    if as_json:
        print_json({"messages": progress.messages, "seconds": seconds, "first_position": first, "last_position": last})
    else:
        rate = f", {progress.messages / seconds:,.0f} a second" if progress.messages > 1 else ""
        click.echo(f"published {progress.messages} messages in {seconds:.2f} s{rate}")


class _Progress:
    """A line on the terminal that says how far we are, at most once a second."""

    def __init__(self, *, shown: bool) -> None:
        self.messages = 0
        self.started = self._noted = time.monotonic()
        self._shown = shown

    def add(self, messages: int) -> None:
        self.messages += messages
        now = time.monotonic()
        if self._shown and now - self._noted >= NOTE_SECONDS:
            self._noted = now
            note(f"{self.messages:,} messages, {self.messages / (now - self.started):,.0f} a second")
