"""From a host name to a connected socket, past addresses that are silent. Knows neither frames nor TLS."""

from __future__ import annotations

import socket
from typing import Any

import anyio

from sluicemq.client.errors import ConnectionFailed
from sluicemq.client.runtime import Runtime

STAGGER_SECONDS = 0.25
"""When one address of a name has been silent for so long, the next one is tried beside it."""


class _Race:
    """Attempts at the addresses of one name; the first one that connects ends it."""

    def __init__(self, runtime: Runtime) -> None:
        self.connected: list[socket.socket] = []
        self.problems: list[OSError] = []
        self._runtime = runtime

    async def run(self, addresses: list[Any]) -> None:
        """Try *addresses*, which are as `getaddrinfo` returns them, one after the other and at last all at once."""
        async with anyio.create_task_group() as tasks:
            for family, kind, protocol, _, address in addresses:
                over = anyio.Event()
                tasks.start_soon(self._attempt, (family, kind, protocol), address, over, tasks.cancel_scope)
                with anyio.move_on_after(STAGGER_SECONDS):
                    await over.wait()

    async def _attempt(
        self, kind: tuple[int, int, int], address: Any, over: anyio.Event, race: anyio.CancelScope
    ) -> None:
        try:
            self.connected.append(await connected_socket(self._runtime, kind, address))
        except OSError as error:
            self.problems.append(error)
            over.set()
        else:
            race.cancel()


async def connected_socket(runtime: Runtime, kind: tuple[int, int, int], address: Any) -> socket.socket:
    """Return a non-blocking socket of *kind* (family, type, protocol) that is connected to *address*."""
    sock = socket.socket(*kind)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await runtime.connect_socket(sock, address)
    except BaseException:
        sock.close()
        raise
    return sock


async def open_socket(runtime: Runtime, host: str, port: int) -> socket.socket:
    """Return a non-blocking TCP socket that is connected to the first address of *host* that answers.

    Raises:
        OSError: None did; the causes stand in the text.

    """
    race = _Race(runtime)
    try:
        await race.run(await anyio.getaddrinfo(host, port, type=socket.SOCK_STREAM))
    except BaseException:
        for sock in race.connected:
            sock.close()
        raise
    for spare in race.connected[1:]:
        spare.close()
    if race.connected:
        return race.connected[0]
    if len(race.problems) == 1:
        raise race.problems[0]
    texts = dict.fromkeys(str(problem) for problem in race.problems)
    raise ConnectionFailed("; ".join(texts) or "the name has no address")
