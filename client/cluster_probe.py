"""Asking any broker how its cluster is, without a session: also one that does not lead, and while nobody does.

A client proper talks to the leader. Whoever wants to know why there is none must be answered all the same, so this goes
through the handshake up to where it is known who asks, puts its one question, and leaves.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import SocketStream

from sluicemq.client.cluster import ClusterReport, report_of
from sluicemq.client.errors import ConnectionFailed, ProtocolError, SluiceError
from sluicemq.client.url import Address, parse_url, show_address
from sluicemq.wire import messages as m
from sluicemq.wire.connection import Connection, Role
from sluicemq.wire.errors import error_from_wire
from sluicemq.wire.fields import Message as WireMessage
from sluicemq.wire.frames import PREFACE

__all__ = ["probe_cluster"]

PROBE_SECONDS = 3.0
"""How long one broker may take to answer."""
READ_BYTES = 64 * 1024


async def probe_cluster(url: str, *, name: str = "", seconds: float = PROBE_SECONDS) -> ClusterReport:
    """Return how the cluster is, as the first broker of *url* knows it that answers.

    Args:
        url: `sluicemq://HOST:PORT[,HOST:PORT...]`.
        name: Shown by the broker's tools.
        seconds: How long each broker may take.

    Raises:
        InvalidRequest: The URL is none.
        ConnectionFailed: No broker answers; each stands in the text with its cause.
        SluiceError: The brokers refuse to answer.

    """
    broker = parse_url(url)
    problems: list[str] = []
    refusal: SluiceError | None = None
    for address in broker.addresses:
        try:
            with anyio.fail_after(seconds):
                async with _connected(address) as stream:
                    return await _ask(stream, broker.user, broker.password, name)
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


async def _ask(stream: SocketStream, user: str | None, password: str, name: str) -> ClusterReport:
    connection = Connection(Role.CLIENT)
    hello = m.Hello(m.PROTOCOL_VERSION_MIN, m.PROTOCOL_VERSION_MAX, client_name=name)
    await _turn(stream, connection, PREFACE + connection.send(hello))
    proof = m.Authenticate("ANONYMOUS") if user is None else m.Authenticate("PLAIN", f"\0{user}\0{password}".encode())
    await _turn(stream, connection, connection.send(proof))
    return report_of(await _turn(stream, connection, connection.send(m.ClusterStatus(), correlation=1)))


async def _turn(stream: SocketStream, connection: Connection, request: bytes) -> WireMessage:
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
    return message
