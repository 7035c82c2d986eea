"""Asking any broker one question, without a session: also one that does not lead, and while nobody does.

A client proper talks to the leader. Whoever wants to know why there is none, or what another broker has, must be
answered all the same, so this goes through the handshake up to where it is known who asks, puts its one question, and
leaves. This module must not know what is asked.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
from anyio.abc import SocketStream

from sluicemq.client.errors import ConnectionFailed, ProtocolError, SluiceError
from sluicemq.client.url import Address, BrokerUrl, show_address
from sluicemq.wire import messages as m
from sluicemq.wire.connection import Connection, Received, Role
from sluicemq.wire.errors import error_from_wire
from sluicemq.wire.fields import Message as WireMessage
from sluicemq.wire.frames import PREFACE

__all__ = ["ASK_SECONDS", "Told", "ask_any"]

ASK_SECONDS = 3.0
"""How long one broker may take to answer."""
READ_BYTES = 64 * 1024


class Told(NamedTuple):
    """What a broker answered.

    Attributes:
        message: The answer.
        tail: What its frame carries beside it.
        group_id: Of the broker's log.

    """

    message: WireMessage
    tail: memoryview
    group_id: int


async def ask_any(url: BrokerUrl, request: WireMessage, *, name: str, seconds: float) -> Told:
    """Return the first answer to *request* that a broker of *url* gives; they are asked one after the other.

    Args:
        url: Where they are, and who asks.
        request: One that may come before a session is open.
        name: Shown by the broker's tools.
        seconds: How long each broker may take.

    Raises:
        ConnectionFailed: No broker answers; each stands in the text with its cause.
        SluiceError: The brokers refuse to answer.

    """
    problems: list[str] = []
    refusal: SluiceError | None = None
    for address in url.addresses:
        try:
            with anyio.fail_after(seconds):
                async with _connected(address) as stream:
                    return await _ask(stream, url, name, request)
        except TimeoutError:
            problems.append(f"{show_address(address)}: no answer within {seconds:g} s")
        except ConnectionFailed as error:
            problems.append(f"{show_address(address)}: {error}")
        except OSError as error:
            problems.append(f"{show_address(address)}: {error.strerror or error}")
        except SluiceError as error:
            refusal = error
    if refusal is not None:
        raise refusal
    raise ConnectionFailed(f"no broker answers: {'; '.join(problems)}")


@asynccontextmanager
async def _connected(address: Address) -> AsyncIterator[SocketStream]:
    try:
        stream = await anyio.connect_tcp(*address)
    except OSError as error:
        raise ConnectionFailed(str(error.__cause__ or error)) from error
    async with stream:
        yield stream


async def _ask(stream: SocketStream, url: BrokerUrl, name: str, request: WireMessage) -> Told:
    connection = Connection(Role.CLIENT)
    hello = m.Hello(m.PROTOCOL_VERSION_MIN, m.PROTOCOL_VERSION_MAX, client_name=name)
    welcome = (await _turn(stream, connection, PREFACE + connection.send(hello))).message
    if not isinstance(welcome, m.Welcome):
        raise ProtocolError(f"the broker answered a hello with {type(welcome).__name__}")
    user = url.user
    proof = m.Authenticate("ANONYMOUS")
    if user is not None:
        proof = m.Authenticate("PLAIN", f"\0{user}\0{url.password}".encode())
    await _turn(stream, connection, connection.send(proof))
    answer = await _turn(stream, connection, connection.send(request, correlation=1))
    return Told(answer.message, answer.tail, welcome.group_id)


async def _turn(stream: SocketStream, connection: Connection, request: bytes) -> Received:
    """Send, and return the next message of the broker; raise what it refuses with."""
    try:
        await stream.send(request)
        while not (received := connection.receive(await stream.receive(READ_BYTES))):
            pass
    except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
        raise ConnectionFailed("the broker closed the connection before it answered") from None
    message = received[0].message
    if isinstance(message, m.Error):
        raise error_from_wire(message.error)
    if isinstance(message, m.Close):
        raise ConnectionFailed("the broker said goodbye") if message.error is None else error_from_wire(message.error)
    if isinstance(message, m.Challenge):
        raise ProtocolError("the broker asks for more proof than a user and a password")
    return received[0]
