"""The broker's port: accepts connections, tells protocols apart by their first bytes, watches over silence.

One port serves everything; today only the native protocol has a face behind it. A peer that speaks another one is
told so in its own words and closed.
"""

from __future__ import annotations

import errno
import logging
import math
import time
from typing import TYPE_CHECKING, Protocol

import trio

from sluicemq.broker.server.client_session import ClientSession
from sluicemq.broker.server.mailboxes import Mailboxes
from sluicemq.broker.server.outbound import Hub
from sluicemq.broker.server.requests import HANDLERS
from sluicemq.broker.server.turnstile import Turnstile
from sluicemq.wire.connection import State
from sluicemq.wire.errors import BrokerStopping, HeartbeatLost, LimitReached, NotLeader, RequestTimeout, error_to_wire
from sluicemq.wire.frames import PEER_PREFACE, PREFACE, pack_frame
from sluicemq.wire.messages import Close

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from sluicemq.broker.config import BrokerConfig
    from sluicemq.broker.pipeline.ensemble.cluster import ClusterControl
    from sluicemq.broker.pipeline.ground import Ground
    from sluicemq.broker.pipeline.road import Road

logger = logging.getLogger("sluicemq.listener")

HANDSHAKE_SECONDS = 10.0
"""A connection that is not open after this long is closed."""
WATCH_SECONDS = 1.0
"""How often silence is looked at."""
BACKLOG = 1024
ACCEPT_RETRY_SECONDS = 0.1
STRANGER_SECONDS = 1.0
"""How long a peer of another protocol may take to hear that it is wrong here, and to go."""
STRANGER_READ_BYTES = 16 * 1024
PEER_STREAMS_RESERVED = 256
"""So many connections beyond the limit may say their first bytes: clients that take all there are must not keep the
brokers of a cluster from each other."""
FULL_SECONDS = 1.0
"""How long those may take."""
TOLD_APART_BYTES = 4
"""So many bytes of a preface tell clients from brokers."""
_OUT_OF_RESOURCES = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS}
_HTTP_METHODS = (b"GET ", b"POST", b"PUT ", b"HEAD", b"DELE", b"OPTI", b"PATC", b"CONN", b"TRAC")
_HTTP_ANSWER = (
    b"HTTP/1.1 426 Upgrade Required\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: 59\r\n\r\n"
    b"This port speaks the SluiceMQ protocol, there is no HTTP.\r\n"
)


class Peers(Protocol):
    """Who serves the other brokers of the cluster."""

    async def accept(self, stream: trio.SocketStream, first: bytes) -> None:
        """Serve a stream that opens with the preface of brokers, until it ends; *first* was read from it already."""


class Server:
    """Everything that the sessions of one listener share.

    Args:
        road: The road that requests take; None as long as this broker does not lead (`lead`).
        config: Limits.
        version: Version of this broker, told in WELCOME.
        connections_max: Most connections at once, those that have said nothing yet among them; default as configured.
        ground: Log and machine; needed where there is no road.

    """

    def __init__(
        self,
        road: Road | None,
        config: BrokerConfig,
        version: str,
        *,
        connections_max: int | None = None,
        ground: Ground | None = None,
    ) -> None:
        known = road.ground if ground is None and road is not None else ground
        assert known is not None, "whoever does not lead has a ground"
        self.road = road
        self.ground = known
        self.not_leader: Callable[[], NotLeader] = lambda: NotLeader("this broker does not lead at the moment")
        self.undecided_until: Callable[[], float] = lambda: -math.inf
        self._leader_known = trio.Event()
        self.brokers: Callable[[], Iterable[str]] = tuple
        self.config = config
        self.version = version
        self.hub = Hub()
        self.mailboxes = Mailboxes()
        self.turnstile = Turnstile()
        self.handlers = HANDLERS
        self.sessions: set[ClientSession] = set()
        self.peers: Peers | None = None
        self.cluster: ClusterControl | None = None
        self.started_monotonic = time.monotonic()
        self._connections_max = config.connections_max if connections_max is None else connections_max
        self._with_peers_max = self._connections_max + PEER_STREAMS_RESERVED
        self._connections = 0
        self.partial_bytes = 0
        self._stopping = False
        self._session_count_changed = trio.Event()
        self._any_session = trio.Event()
        self.use(known)
        if road is not None:
            road.given_up.requesters = self.mailboxes

    # --- leaderships --------------------------------------------------------------------------------------------------

    def use(self, ground: Ground) -> None:
        """Log and machine are these from now on."""
        self.ground = ground
        ground.after_advance = self.hub.flush

    def lead(self, road: Road) -> None:
        """This broker leads and serves: requests take this road."""
        self.road = road
        road.produce.message_bytes_max = self.config.message_bytes_max
        road.produce.batch_bytes_max = self.config.batch_bytes_max
        road.produce.batch_messages_max = self.config.batch_messages_max
        road.produce.stopping = self._stopping
        road.given_up.requesters = self.mailboxes
        self.leader_changed()

    def leader_changed(self) -> None:
        """Another broker leads, or none, or it became known who does."""
        self._leader_known.set()
        self._leader_known = trio.Event()

    async def wait_for_leader(self) -> None:
        """Wait until this broker serves, or knows who does, as long as that may be soon."""
        while (until := self.undecided_until()) > trio.current_time():
            with trio.move_on_at(until):
                await self._leader_known.wait()
        await self.turnstile.pass_through()

    def stop_leading(self, reason: NotLeader) -> None:
        """The leadership is over: every client of it hears so, and finds the next leader by itself."""
        self.road = None
        for session in list(self.sessions):
            session.road_ended(reason)
        self.hub.flush()

    def tell_brokers(self) -> None:
        """Let every client know where all brokers are: something about that changed."""
        for session in list(self.sessions):
            if session.connection.state is State.OPEN:
                session.tell_brokers()
        self.hub.flush()

    # --- connections --------------------------------------------------------------------------------------------------

    async def run(self, listeners: list[trio.SocketListener]) -> None:
        """Serve everyone who connects, until cancelled; closing a listener only ends its accepting."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch)
            for listener in listeners:
                nursery.start_soon(self._accept, listener, nursery)

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            exhausted = None
            try:
                nursery.start_soon(self._serve, await listener.accept())
            except trio.ClosedResourceError:
                return
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    raise
                exhausted = error
            if exhausted is not None:
                logger.warning("cannot accept connections: %s; trying again", exhausted)
                await trio.sleep(ACCEPT_RETRY_SECONDS)

    async def _serve(self, stream: trio.SocketStream) -> None:
        self._connections += 1
        try:
            async with stream:
                if self._stopping:
                    await _turn_away(stream, BrokerStopping("the broker is shutting down"))
                    return
                full = self._connections > self._connections_max
                first = b""
                if not full or (self.peers is not None and self._connections <= self._with_peers_max):
                    first = await _first_bytes(stream, FULL_SECONDS if full else HANDSHAKE_SECONDS)
                if first.startswith(PEER_PREFACE[:TOLD_APART_BYTES]) and self.peers is not None:
                    await self.peers.accept(stream, first)
                    return
                if full:
                    limit = self._connections_max
                    await _turn_away(
                        stream,
                        LimitReached(f"the broker serves {limit} connections", limit="connections_max", value=limit),
                    )
                    return
                await self.turnstile.pass_through()
                if not first or self._stopping:
                    return
                if not first.startswith(PREFACE[:1]):
                    await _answer_stranger(stream, first)
                    return
                session = ClientSession(self, stream, bytes(first))
                self.sessions.add(session)
                self._any_session.set()
                await session.run()
        except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
            logger.debug("a connection broke: %s", error)
        except Exception:
            # Whatever went wrong with one connection, the others are served.
            logger.exception("a connection ended by an error of ours")
        finally:
            self._connections -= 1

    def session_ended(self, session: ClientSession) -> None:
        """Called by each session at its end."""
        self.sessions.discard(session)
        self._session_count_changed.set()

    async def _watch(self) -> None:
        """Send heartbeats, and close who is silent for too long; sleeps for good while there are no connections."""
        while True:
            if not self.sessions:
                self._any_session = trio.Event()
                await self._any_session.wait()
            await trio.sleep(WATCH_SECONDS)
            now = trio.current_time()
            for session in list(self.sessions):
                session.gathering.relax()
                if session.connection.state is State.OPEN:
                    _look_after(session, now)
                elif now - session.started_at > HANDSHAKE_SECONDS:
                    session.close(RequestTimeout(f"the handshake took longer than {HANDSHAKE_SECONDS:.0f} s"))
            self.hub.flush()

    async def stop(self, grace_seconds: float) -> None:
        """End every session within *grace_seconds*: what is on the road is confirmed first, then each hears CLOSE."""
        deadline = trio.current_time() + grace_seconds
        self._stopping = True
        if self.road is not None:
            self.road.produce.stopping = True
            self.road.dispatch.paused = True
            with trio.move_on_at(deadline):
                await self.ground.wait_idle()
        self.hub.flush()
        for session in list(self.sessions):
            session.close(BrokerStopping("the broker is shutting down; the client reconnects by itself"))
        with trio.move_on_at(deadline):
            while self.sessions:
                self._session_count_changed = trio.Event()
                await self._session_count_changed.wait()
        if self.road is not None:
            with trio.move_on_at(deadline):
                await self.ground.wait_idle()


def _look_after(session: ClientSession, now: float) -> None:
    """Ask a silent client whether it is there; close the connection when it does not answer."""
    heartbeat = session.heartbeat_seconds
    if not heartbeat:
        return
    silent, stuck = now - session.received_at, now - session.outbound.sent_at
    if session.suspended:
        # We do not read: silence is no sign of death then, but to take nothing for so long is.
        if session.outbound.full and stuck > 2 * heartbeat:
            session.close(HeartbeatLost(f"the client has taken nothing for {stuck:.1f} s"))
    elif silent > 2 * heartbeat:
        session.close(HeartbeatLost(f"nothing was heard from the client for {silent:.1f} s"))
    elif max(silent, stuck) > heartbeat / 2 and not session.outbound.full:
        # A peer that gets deliveries all the time and has nothing to say is asked too.
        session.ping()


async def _first_bytes(stream: trio.SocketStream, seconds: float) -> bytes:
    """Return enough of what a connection opens with to tell who it is; nothing where nothing comes in time."""
    first = b""
    with trio.move_on_after(seconds):
        while PEER_PREFACE.startswith(first) and len(first) < TOLD_APART_BYTES:
            more = await stream.receive_some(64 - len(first))
            if not more:
                break
            first += more
    return first


async def _turn_away(stream: trio.SocketStream, error: LimitReached | BrokerStopping) -> None:
    with trio.move_on_after(1.0):
        await stream.send_all(pack_frame(Close.TYPE, Close(error_to_wire(error)).encode()))


async def _answer_stranger(stream: trio.SocketStream, first: bytes) -> None:
    logger.info("a connection speaks another protocol: it opens with %r", first[:8])
    answer = b""
    if first.startswith(_HTTP_METHODS):
        answer = _HTTP_ANSWER
    elif first.startswith(b"\x16"):
        answer = b"\x15\x03\x01\x00\x02\x02\x28"  # a TLS alert: fatal, handshake_failure
    elif first.startswith(b"AMQP"):
        answer = b"AMQP\x00\x00\x00\x00"  # no version of AMQP is spoken here
    with trio.move_on_after(STRANGER_SECONDS):
        await stream.send_all(answer)
        # Closing with unread bytes would reset the connection, and the stranger might never read the answer.
        await stream.send_eof()
        while await stream.receive_some(STRANGER_READ_BYTES):
            pass
