"""The messages of the replication core as frames between brokers, and back.

The core's messages hold positions, members and entries; `wire.peers` holds numbers and bytes. Here is the one place
that knows both, and the one that checks what fields alone cannot say: lengths of hashes, orders, names of roles. What
is wrong is a `ProtocolError`, which ends the connection and nothing else.

Entries: the bodies are the shell's (`Bodies`). The chain hash of each entry that comes in is worked out from its bytes
and the position before it, and compared with what the sender says of the last: so nothing that was damaged on its way,
in a way that the network's own checksums have missed, is ever handed to the core.

This module must not know sockets, sessions, or when what is sent.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol

from sluicemq.broker.replication import messages as core
from sluicemq.broker.replication.agreement import StateHash
from sluicemq.broker.replication.history import Entry, Position
from sluicemq.broker.replication.membership import Member
from sluicemq.broker.replication.patience import FACTOR_MAX
from sluicemq.storage.record import Record, encode_head, record_size
from sluicemq.wire import peers
from sluicemq.wire.errors import ProtocolError
from sluicemq.wire.frames import pack_frame

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.wire.fields import Message

ROLES = {core.Role.LOOKING: 1, core.Role.FOLLOWING: 2, core.Role.LEADING: 3, core.Role.OBSERVING: 4}
METHODS = {core.Method.DIFF: 1, core.Method.TRUNC: 2, core.Method.SNAP: 3}
_ROLES = {number: role for role, number in ROLES.items()}
_METHODS = {number: method for method, number in METHODS.items()}


class Bodies(Protocol):
    """How the shell turns bodies of entries into records of the log, and back."""

    def record_of(self, zxid: int, body: object) -> Record:
        """Return the record that holds *body*."""
        ...

    def body_in(self, record: Record) -> object:
        """Return the body that *record* holds; an `EpochRecord` or `MembershipRecord` for the core's own kinds.

        Raises:
            ProtocolError: It cannot be read.

        """
        ...


class PackedMessage(NamedTuple):
    """A message as bytes: one frame, to be sent in this order.

    Attributes:
        head: Header and head of the frame.
        tail: Buffers behind it, not copied; empty for all but proposals.

    """

    head: bytes
    tail: list[bytes]


def pack_peer_message(message: core.Message, bodies: Bodies) -> PackedMessage:
    """Return the frame that carries *message*.

    Raises:
        InvalidRequest: A value does not fit its field: a bug of ours.

    """
    if isinstance(message, core.Propose):
        return _pack_propose(message, bodies)
    packed = _PACK[type(message)](message)
    return PackedMessage(pack_frame(packed.TYPE, packed.encode()), [])


def unpack_peer_message(type_: int, head: bytes | memoryview, tail: memoryview, bodies: Bodies) -> core.Message:
    """Return the message of a frame.

    Raises:
        ProtocolError: The frame is malformed, or says what cannot be; or the message is none of the core's.

    """
    message = peers.decode_peer_message(type_, head, len(tail))
    if isinstance(message, peers.Propose):
        return _unpack_propose(message, tail, bodies)
    unpack = _UNPACK.get(type(message))
    if unpack is None:
        raise ProtocolError(f"{type(message).__name__} does not belong among the messages of the replication core")
    return unpack(message)


# --- entries ----------------------------------------------------------------------------------------------------------


def seal(zxid: int, previous: Position, body: object, bodies: Bodies) -> Entry:
    """Return the entry *zxid* behind *previous*, with the chain hash that the log gives it."""
    return _sealed(bodies.record_of(zxid, body), previous, body)


def _sealed(record: Record, previous: Position, body: object) -> Entry:
    _, chain = encode_head(0, 0, 0, previous.zxid, previous.chain, record)
    size_bytes = record_size(len(record.header) + len(record.payload))
    return Entry(record.zxid, previous.zxid, chain, size_bytes, body)


def _pack_propose(message: core.Propose, bodies: Bodies) -> PackedMessage:
    records = (peers.PeerEntry(*bodies.record_of(entry.zxid, entry.body)) for entry in message.entries)
    entries, headers, tail = peers.pack_entries(records)
    packed = peers.Propose(
        epoch=message.epoch,
        connection=message.connection,
        session=message.session,
        previous_zxid=message.previous.zxid,
        previous_chain=message.previous.chain,
        last_chain=message.entries[-1].chain,
        commit=message.commit,
        entries=entries,
        headers=headers,
    )
    head = packed.encode()
    return PackedMessage(pack_frame(packed.TYPE, head, sum(map(len, tail))), tail)


def _unpack_propose(message: peers.Propose, tail: memoryview, bodies: Bodies) -> core.Propose:
    previous = last = _position(message.previous_zxid, message.previous_chain)
    entries: list[Entry] = []
    for fields in peers.unpack_entries(message, tail):
        record = Record(*fields)
        entry = _sealed(record, last, bodies.body_in(record))
        entries.append(entry)
        last = entry.position
    if last.chain != message.last_chain:
        raise ProtocolError(f"proposals up to {last} arrived damaged: their sender has another chain hash there")
    return core.Propose(message.epoch, message.connection, message.session, previous, tuple(entries), message.commit)


# --- parts ------------------------------------------------------------------------------------------------------------


def _position(zxid: int, chain: bytes) -> Position:
    if len(chain) != peers.CHAIN_BYTES:
        raise ProtocolError(f"a chain hash of {len(chain)} bytes; it has {peers.CHAIN_BYTES}")
    return Position(zxid, chain)


def _member(node: int, incarnation: bytes) -> Member:
    if len(incarnation) != peers.INCARNATION_BYTES:
        raise ProtocolError(f"an incarnation of {len(incarnation)} bytes; it has {peers.INCARNATION_BYTES}")
    return Member(node, incarnation)


def _pack_state(state: StateHash) -> tuple[int, bytes, list[str], list[bytes]]:
    return state.zxid, state.digest, [name for name, _ in state.parts], [digest for _, digest in state.parts]


def _pack_state_if(state: StateHash | None) -> tuple[int | None, bytes, list[str], list[bytes]]:
    return (None, b"", [], []) if state is None else _pack_state(state)


def _state(message: peers.Ping | peers.Pong | peers.Diverged) -> StateHash | None:
    names, digests = message.part_names, message.part_digests
    if len(names) != len(digests):
        raise ProtocolError(f"{type(message).__name__}: {len(names)} names of parts, but {len(digests)} hashes of them")
    if message.state_zxid is None:
        return None
    return StateHash(message.state_zxid, message.state_digest, tuple(zip(names, digests, strict=True)))


# --- message by message -----------------------------------------------------------------------------------------------


def _pack_notification(one: core.Notification) -> Message:
    known = None if one.configuration_zxid < 0 else one.configuration_zxid
    return peers.Notification(
        epoch=one.epoch,
        connection=one.connection,
        round=one.round,
        role=ROLES[one.role],
        vote_zxid=one.vote.zxid,
        vote_leader=one.vote.leader,
        node=one.member.node,
        incarnation=one.member.incarnation,
        own_zxid=one.own_zxid,
        configuration_zxid=known,
        listed=list(one.listed),
        damaged=int(one.damaged),
    )


def _notification(one: peers.Notification) -> core.Message:
    role = _ROLES.get(one.role)
    if role is None:
        raise ProtocolError(f"Notification.role is {one.role}, which is none")
    return core.Notification(
        epoch=one.epoch,
        connection=one.connection,
        round=one.round,
        role=role,
        vote=core.Vote(one.vote_zxid, one.vote_leader),
        member=_member(one.node, one.incarnation),
        own_zxid=one.own_zxid,
        configuration_zxid=-1 if one.configuration_zxid is None else one.configuration_zxid,
        listed=tuple(one.listed),
        damaged=bool(one.damaged),
    )


def _pack_ack_epoch(one: core.AckEpoch) -> Message:
    zxids, chains = [end.zxid for end in one.ends], b"".join(end.chain for end in one.ends)
    return peers.AckEpoch(one.epoch, one.connection, one.session, int(one.promised), zxids, chains)


def _ack_epoch(one: peers.AckEpoch) -> core.Message:
    zxids, chains = one.end_zxids, one.end_chains
    if not zxids or len(chains) != len(zxids) * peers.CHAIN_BYTES:
        raise ProtocolError(f"AckEpoch: {len(zxids)} ends of epochs with {len(chains)} bytes of chain hashes")
    if any(before >> 32 >= after >> 32 for before, after in pairwise(zxids)):
        raise ProtocolError("AckEpoch: each epoch has one end, and they rise")
    size = peers.CHAIN_BYTES
    ends = tuple(Position(zxid, chains[at * size : at * size + size]) for at, zxid in enumerate(zxids))
    return core.AckEpoch(one.epoch, one.connection, one.session, bool(one.promised), ends)


def _pack_synchronize(one: core.Synchronize) -> Message:
    return peers.Synchronize(
        epoch=one.epoch,
        connection=one.connection,
        session=one.session,
        method=METHODS[one.method],
        zxid=one.position.zxid,
        chain=one.position.chain,
        commit=one.commit,
        last_zxid=one.last_zxid,
    )


def _synchronize(one: peers.Synchronize) -> core.Message:
    method = _METHODS.get(one.method)
    if method is None:
        raise ProtocolError(f"Synchronize.method is {one.method}, which is none")
    position = _position(one.zxid, one.chain)
    return core.Synchronize(one.epoch, one.connection, one.session, method, position, one.commit, one.last_zxid)


def _patience(one: peers.NewEpoch | peers.Ping) -> int:
    if not 1 <= one.patience <= FACTOR_MAX:
        raise ProtocolError(f"{type(one).__name__}.patience is {one.patience}, not from 1 to {FACTOR_MAX}")
    return one.patience


def _diverged(one: peers.Diverged) -> core.Message:
    state = _state(one)
    assert state is not None, "its zxid is required"
    return core.Diverged(one.epoch, one.connection, one.session, state, tuple(one.agreeing))


_PACK: dict[type[core.Message], Callable[..., Message]] = {
    core.Notification: _pack_notification,
    core.FollowerInfo: lambda one: peers.FollowerInfo(one.epoch, one.connection, one.session, *one.member),
    core.NewEpoch: lambda one: peers.NewEpoch(one.epoch, one.connection, one.session, one.patience),
    core.AckEpoch: _pack_ack_epoch,
    core.Synchronize: _pack_synchronize,
    core.Ack: lambda one: peers.Ack(one.epoch, one.connection, one.session, one.zxid),
    core.SnapshotInstalled: lambda one: peers.SnapshotInstalled(one.epoch, one.connection, one.session, *one.position),
    core.Commit: lambda one: peers.Commit(one.epoch, one.connection, one.session, one.commit),
    core.Ping: lambda one: peers.Ping(
        one.epoch, one.connection, one.session, one.number, one.commit, *_pack_state_if(one.state), one.patience
    ),
    core.Pong: lambda one: peers.Pong(one.epoch, one.connection, one.session, one.number, *_pack_state_if(one.state)),
    core.HandOver: lambda one: peers.HandOver(one.epoch, one.connection, one.session, one.leader),
    core.Diverged: lambda one: peers.Diverged(
        one.epoch, one.connection, one.session, list(one.agreeing), *_pack_state(one.state)
    ),
}

_UNPACK: dict[type[Message], Callable[..., core.Message]] = {
    peers.Notification: _notification,
    peers.FollowerInfo: lambda one: core.FollowerInfo(
        one.epoch, one.connection, one.session, _member(one.node, one.incarnation)
    ),
    peers.NewEpoch: lambda one: core.NewEpoch(one.epoch, one.connection, one.session, _patience(one)),
    peers.AckEpoch: _ack_epoch,
    peers.Synchronize: _synchronize,
    peers.Ack: lambda one: core.Ack(one.epoch, one.connection, one.session, one.zxid),
    peers.SnapshotInstalled: lambda one: core.SnapshotInstalled(
        one.epoch, one.connection, one.session, _position(one.zxid, one.chain)
    ),
    peers.Commit: lambda one: core.Commit(one.epoch, one.connection, one.session, one.commit),
    peers.Ping: lambda one: core.Ping(
        one.epoch, one.connection, one.session, one.number, one.commit, _state(one), _patience(one)
    ),
    peers.Pong: lambda one: core.Pong(one.epoch, one.connection, one.session, one.number, _state(one)),
    peers.HandOver: lambda one: core.HandOver(one.epoch, one.connection, one.session, one.leader),
    peers.Diverged: _diverged,
}
