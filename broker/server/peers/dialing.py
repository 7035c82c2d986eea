"""Opening a stream to another broker, and how long to wait before the next try.

`open_stream` reaches an address, says hello, and hears who answers. What it raises tells apart what the core must know
apart: `NobodyListens` is a host that answers for a broker that is not there; everything else may be anything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from sluicemq.broker.config import parse_address
from sluicemq.broker.server.peers.handshake import check_called, hello
from sluicemq.broker.server.peers.stream import PeerStream
from sluicemq.wire.errors import ConnectionFailed, ProtocolError, error_from_wire
from sluicemq.wire.frames import PEER_PREFACE
from sluicemq.wire.peers import PeerHello
from sluicemq.wire.peers_of_links import PeerRefusal

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.pipeline.ensemble.links import Identity
    from sluicemq.broker.server.outbound import Hub

DIAL_SECONDS = 2.0
"""How long a host may take to take a connection, and its broker to answer at first."""
ANSWER_SECONDS_MAX = 16.0
"""How long a broker may take to answer that took longer than it should before: one that is overwhelmed answers late,
and giving up just before it does would go on for ever."""
PAUSE_SECONDS_MIN = 0.05
PAUSE_SECONDS_MAX = 1.0
"""Longest pause between two tries: who comes back is found within a second, and finds us at once."""
REFUSED_SECONDS = 5.0
"""Pause after an answer that only an operator can change: another cluster, another node, another version."""
SHORT_LIFE_SECONDS = 1.0
"""A connection that ended sooner counts as a try that failed."""
_GONE = (ConnectionRefusedError, ConnectionResetError, BrokenPipeError)


class NobodyListens(ConnectionFailed):
    """The host answers, but no broker does: it refused or reset the connection, or closed it without a word."""

    code = "nobody_listens"


class AnswersLate(ConnectionFailed):
    """The host took the connection, and its broker did not answer in time: it is frozen, or overwhelmed."""

    code = "answers_late"


class Backoff:
    """Pauses between tries: they double, and are shortened by chance, so that two brokers do not try in step.

    Args:
        chance: Returns a number from 0 to 1.

    """

    def __init__(self, chance: Callable[[], float]) -> None:
        self._chance = chance
        self._next = 0.0

    def pause(self) -> float:
        """Return how long to wait before the next try, in seconds; 0.0 after `reset`."""
        pause = self._next
        self._next = min(PAUSE_SECONDS_MAX, max(PAUSE_SECONDS_MIN, 2 * pause))
        return pause * (0.5 + 0.5 * self._chance())

    def reset(self) -> None:
        """Begin anew: the last try brought a connection that lasted."""
        self._next = 0.0


async def open_stream(
    address: str,
    own: Identity,
    node: int,
    connection: int,
    kind: int,
    hub: Hub,
    server_version: str,
    answer_seconds: float = DIAL_SECONDS,
) -> tuple[PeerStream, Identity]:
    """Return a stream of this kind to *node* at *address*, and who answered.

    Raises:
        NobodyListens: No broker is there, but its host is.
        AnswersLate: It did not answer within *answer_seconds*.
        ConnectionFailed: It could not be reached, for whatever other reason, or within `DIAL_SECONDS`.
        SluiceError: It refused, or is not who was called.

    """
    stream: PeerStream | None = None
    done = False
    try:
        with trio.fail_after(DIAL_SECONDS):
            host, port = parse_address(address)
            # Happy eyeballs would wait for a second address while the first one is merely slow: that is fine here.
            stream = PeerStream(await trio.open_tcp_stream(host, port), hub)
        with trio.fail_after(answer_seconds):
            asked = hello(own, node, connection, kind, server_version)
            stream.outbound.put(PEER_PREFACE)
            stream.put(asked)
            stream.outbound.flush()
            answered, _tail = await stream.receive_message()
        if isinstance(answered, PeerRefusal):
            raise error_from_wire(answered.error)
        if not isinstance(answered, PeerHello):
            raise ProtocolError(f"node {node} answers a hello with {type(answered).__name__}")
        peer = check_called(own, node, asked, answered)
        done = True
        return stream, peer
    except trio.TooSlowError:
        if stream is not None:
            raise AnswersLate(f"node {node} at {address} did not answer within {answer_seconds:.0f} s") from None
        raise ConnectionFailed(f"node {node} at {address} took no connection within {DIAL_SECONDS:.0f} s") from None
    except OSError as error:
        # ConnectionFailed is one too: the stream ended before an answer.
        if isinstance(error, ConnectionFailed) or _gone(error):
            raise NobodyListens(f"node {node} does not listen at {address}: {error}") from error
        raise ConnectionFailed(f"node {node} at {address} cannot be reached: {error}") from error
    finally:
        if stream is not None and not done:
            stream.close()


def _gone(error: BaseException | None) -> bool:
    """Say whether a host answered for a broker that is not there."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_gone, error.exceptions))
    return error is not None and (isinstance(error, _GONE) or _gone(error.__cause__))
