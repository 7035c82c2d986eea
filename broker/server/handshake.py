"""What the broker answers during the handshake: HELLO, AUTHENTICATE, OPEN.

The order of these frames is the connection's (`sluicemq.wire.connection`); here is only what each one does.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.pipeline.sessions import digest_of
from sluicemq.broker.queues.outcomes import SessionOpened
from sluicemq.broker.server.authorization import MECHANISMS, authenticate, authorize
from sluicemq.wire.errors import AuthenticationFailed, InvalidRequest, NotLeader, VersionMismatch
from sluicemq.wire.frames import FRAME_BYTES_MIN
from sluicemq.wire.messages import (
    PROTOCOL_VERSION_MAX,
    PROTOCOL_VERSION_MIN,
    Authenticate,
    Authenticated,
    Hello,
    Open,
    Opened,
    Welcome,
)
from sluicemq.wire.settings import check_name

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.server.client_session import ClientSession
    from sluicemq.wire.fields import Message

HEARTBEAT_SECONDS_MIN = 2.0
"""Twice as long as the pause between two looks at silence, so that a PING's answer is always in before the next."""
SERVER_NAME = "sluicemq"
TOKEN_BYTES = 16
"""Bytes of the secret that proves whose session it is."""


def hello(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """Choose version and limits."""
    del tail
    assert isinstance(message, Hello)
    if message.role != "client":
        raise NotLeader(f"this broker takes no links of role {message.role!r:.40} yet", role=message.role)
    if message.version_max < PROTOCOL_VERSION_MIN or message.version_min > PROTOCOL_VERSION_MAX:
        raise VersionMismatch(
            f"the client speaks protocol versions {message.version_min} to {message.version_max}, this broker "
            f"{PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION_MAX}; upgrade the older one",
            version_min=PROTOCOL_VERSION_MIN,
            version_max=PROTOCOL_VERSION_MAX,
        )
    config = session.server.config
    frame_bytes_max = config.frame_bytes_max
    if message.frame_bytes_max:
        if message.frame_bytes_max < FRAME_BYTES_MIN:
            raise InvalidRequest(f"frame_bytes_max is {message.frame_bytes_max}; it must be {FRAME_BYTES_MIN} or more")
        frame_bytes_max = min(frame_bytes_max, message.frame_bytes_max)
    heartbeat = message.heartbeat_seconds
    if heartbeat:
        heartbeat = max(HEARTBEAT_SECONDS_MIN, min(heartbeat, config.heartbeat_seconds or heartbeat))
    session.heartbeat_seconds = heartbeat
    session.client_name = message.client_name
    session.reply(
        correlation,
        Welcome(
            min(message.version_max, PROTOCOL_VERSION_MAX),
            frame_bytes_max,
            heartbeat,
            MECHANISMS,
            session.server.ground.log.superblock.current.known_as,
            node_id=session.server.ground.node_id,
            server_name=SERVER_NAME,
            server_version=session.server.version,
        ),
    )
    session.connection.agree(frame_bytes_max)


def authenticate_peer(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """Learn who the peer is."""
    del tail
    assert isinstance(message, Authenticate)
    session.identity = authenticate(message.mechanism, message.response)
    session.reply(correlation, Authenticated(session.identity))


def open_session(
    session: ClientSession, message: Message, correlation: int, tail: memoryview
) -> Awaitable[None] | None:
    """Take up a session that exists; else put a SESSION entry on the road: OPENED follows when it is committed."""
    del tail
    assert isinstance(message, Open)
    vhost = check_name(message.vhost, "vhost")
    if not session.identity:
        raise AuthenticationFailed("OPEN before an identity was proven")
    authorize(session.identity, "open", (vhost, "vhost", vhost))
    if session.server.undecided_until() > trio.current_time():
        return _open_when_decided(session, message, correlation, vhost)
    _open(session, message, correlation, vhost)
    return None


async def _open_when_decided(session: ClientSession, message: Open, correlation: int, vhost: str) -> None:
    """Let a client wait that comes in the middle of an election: sent away, it would have to guess when it is over."""
    await session.server.wait_for_leader()
    if not session.closing:
        _open(session, message, correlation, vhost)


def _open(session: ClientSession, message: Open, correlation: int, vhost: str) -> None:
    sessions = session.road.sessions
    if message.session and sessions.come_back(vhost, session.identity, message.session, message.resume_token, session):
        session.session, session.vhost = message.session, vhost
        session.next_consumer = max(message.consumer_max, sessions.highest_consumer(message.session)) + 1
        session.reply(correlation, _opened(session, message.resume_token, resumed=True))
        session.tell_brokers()
        return
    token = secrets.token_bytes(TOKEN_BYTES) if message.resumable and sessions.grace_seconds else b""

    def opened(outcome: Outcome) -> None:
        if outcome.error is not None:
            session.close(outcome.error)
            return
        assert isinstance(outcome.value, SessionOpened)
        session.session = outcome.value.session
        session.vhost = vhost
        if session.left:
            session.road.produce.close_session(session.session, "connection closed while the session opened")
            return
        sessions.attach(session.session, session)
        session.reply(correlation, _opened(session, token))
        session.tell_brokers()

    digest = digest_of(token) if token else b""
    session.road.produce.open_session(vhost, session.identity, session.client_name, digest, opened)


def _opened(session: ClientSession, token: bytes, *, resumed: bool = False) -> Opened:
    produce = session.road.produce
    return Opened(
        session.session,
        session.road.epoch,
        produce.message_bytes_max,
        produce.batch_bytes_max,
        produce.batch_messages_max,
        resumed,
        token,
    )
