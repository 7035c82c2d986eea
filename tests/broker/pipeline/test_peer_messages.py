"""The core's messages as bytes, and back; and what is refused before the core sees it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.pipeline.peer_messages import METHODS, ROLES, pack_peer_message, seal, unpack_peer_message
from sluicemq.broker.replication import messages as core
from sluicemq.broker.replication.agreement import StateHash
from sluicemq.broker.replication.history import Position
from sluicemq.broker.replication.membership import Member
from sluicemq.broker.replication.patience import FACTOR_MAX
from sluicemq.storage.record import Record
from sluicemq.wire import peers
from sluicemq.wire.errors import ProtocolError
from sluicemq.wire.frames import FrameReader


class PlainBodies:
    """Bodies are (kind, header, payload)."""

    def record_of(self, zxid: int, body: object) -> Record:
        assert isinstance(body, tuple)
        kind, header, payload = body
        return Record(zxid, kind, 1, 0, header, payload)

    def body_in(self, record: Record) -> object:
        return record.kind, record.header, record.payload


BODIES = PlainBodies()
ZXIDS = st.integers(0, 2**64 - 1)
NODES = st.integers(0, 2**32 - 1)
EPOCHS = st.integers(0, 2**32 - 1)
NUMBERS = st.integers(0, 2**64 - 1)
MEMBERS = st.builds(Member, NODES, st.binary(min_size=16, max_size=16))
CHAINS = st.binary(min_size=8, max_size=8)
POSITIONS = st.builds(Position, ZXIDS, CHAINS)
PATIENCE = st.integers(1, FACTOR_MAX)
SESSION = {"epoch": EPOCHS, "connection": NUMBERS, "session": NUMBERS}
PARTS = st.lists(st.tuples(st.text("abcdef", max_size=9), st.binary(max_size=16)), max_size=4).map(tuple)
STATES = st.builds(StateHash, ZXIDS, st.binary(max_size=64), PARTS)
ENDS = st.lists(
    st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), CHAINS), min_size=1, unique_by=lambda one: one[0]
).map(lambda found: tuple(Position(epoch << 32 | counter, chain) for epoch, counter, chain in sorted(found)))
MESSAGES = st.one_of(
    st.builds(
        core.Notification,
        EPOCHS,
        NUMBERS,
        NUMBERS,
        st.sampled_from(core.Role),
        st.builds(core.Vote, ZXIDS, NODES),
        MEMBERS,
        ZXIDS,
        st.just(-1) | ZXIDS,
        st.lists(NODES, max_size=7).map(tuple),
        st.booleans(),
    ),
    st.builds(core.FollowerInfo, **SESSION, member=MEMBERS),
    st.builds(core.NewEpoch, **SESSION, patience=PATIENCE),
    st.builds(core.AckEpoch, **SESSION, promised=st.booleans(), ends=ENDS),
    st.builds(
        core.Synchronize,
        **SESSION,
        method=st.sampled_from(core.Method),
        position=POSITIONS,
        commit=ZXIDS,
        last_zxid=ZXIDS,
    ),
    st.builds(core.Ack, **SESSION, zxid=ZXIDS),
    st.builds(core.SnapshotInstalled, **SESSION, position=POSITIONS),
    st.builds(core.Commit, **SESSION, commit=ZXIDS),
    st.builds(core.Ping, **SESSION, number=NUMBERS, commit=ZXIDS, state=st.none() | STATES, patience=PATIENCE),
    st.builds(core.Pong, **SESSION, number=NUMBERS, state=st.none() | STATES),
    st.builds(core.HandOver, **SESSION, leader=NODES),
    st.builds(core.Diverged, **SESSION, state=STATES, agreeing=st.lists(NODES, max_size=7).map(tuple)),
)
SAID = st.lists(st.tuples(st.integers(1, 255), st.binary(max_size=20), st.binary(max_size=90)), min_size=1, max_size=6)


def proposal(*bodies: object) -> core.Propose:
    previous = last = Position((3 << 32) + 7, b"chain  7")
    entries = []
    for body in bodies:
        entries.append(seal(last.zxid + 1, last, body, BODIES))
        last = entries[-1].position
    return core.Propose(3, 11, 12, previous, tuple(entries), 9)


def crossed(message: core.Message) -> core.Message:
    packed = pack_peer_message(message, BODIES)
    (frame,) = FrameReader(1 << 26).feed(packed.head + b"".join(packed.tail))
    return unpack_peer_message(frame.type, frame.head, frame.tail, BODIES)


@given(MESSAGES)
def test_every_message_of_the_core_comes_back_as_it_was_said(message: core.Message) -> None:
    assert crossed(message) == message


@given(SAID)
def test_proposals_come_back_with_the_chain_hashes_that_their_bytes_give(bodies: list[object]) -> None:
    message = proposal(*bodies)
    assert crossed(message) == message


def test_every_role_method_and_message_has_bytes() -> None:
    assert set(ROLES) == set(core.Role)
    assert set(METHODS) == set(core.Method)
    said = {cls for cls in vars(core).values() if isinstance(cls, type) and issubclass(cls, core.Message)}
    said -= {core.Message, core.LearnerMessage}
    # What links say to each other about themselves stands in a module of its own.
    of_the_core = (cls for cls in peers.PEER_MESSAGES.values() if cls.__module__ == peers.__name__)
    names = {cls.__name__ for cls in of_the_core} - {"PeerHello"}
    names -= {"SnapshotOffer", "SnapshotWanted", "SnapshotEntries", "SnapshotPiece", "SnapshotEnd"}
    assert {cls.__name__ for cls in said} == names


@pytest.mark.parametrize("place", range(0, 60, 7))
def test_a_proposal_that_was_damaged_on_its_way_never_reaches_the_core(place: int) -> None:
    packed = pack_peer_message(proposal((6, b"header", b"x" * 30), (8, b"", b"y" * 30)), BODIES)
    tail = bytearray(b"".join(packed.tail))
    tail[place] ^= 1
    (frame,) = FrameReader(1 << 26).feed(packed.head + bytes(tail))
    with pytest.raises(ProtocolError, match=r"proposals up to 3\.9/.* arrived damaged"):
        unpack_peer_message(frame.type, frame.head, frame.tail, BODIES)


NOTIFICATION = peers.Notification(1, 2, 3, 1, 5, 6, 7, bytes(16), 8)
ACK_EPOCH = peers.AckEpoch(1, 2, 3, 1, [1 << 32, 2 << 32], bytes(16))
PING = peers.Ping(1, 2, 3, 4, 5, 6, b"digest", ["queues"], [b"1"])


@pytest.mark.parametrize(
    ("message", "match"),
    [
        (replace(NOTIFICATION, role=5), "Notification.role is 5"),
        (replace(NOTIFICATION, incarnation=b"short"), "an incarnation of 5 bytes"),
        (replace(ACK_EPOCH, end_chains=bytes(15)), "2 ends of epochs with 15 bytes"),
        (replace(ACK_EPOCH, end_zxids=[], end_chains=b""), "0 ends of epochs"),
        (replace(ACK_EPOCH, end_zxids=[2 << 32, 1 << 32]), "they rise"),
        (replace(ACK_EPOCH, end_zxids=[1 << 32, (1 << 32) + 1]), "each epoch has one end"),
        (peers.Synchronize(1, 2, 3, 4, 5, bytes(8), 6, 7), "Synchronize.method is 4"),
        (peers.Synchronize(1, 2, 3, 1, 5, bytes(7), 6, 7), "a chain hash of 7 bytes"),
        (peers.SnapshotInstalled(1, 2, 3, 5, b""), "a chain hash of 0 bytes"),
        (peers.NewEpoch(1, 2, 3, 0), "NewEpoch.patience is 0, not from 1 to 4"),
        (replace(PING, patience=5), "Ping.patience is 5"),
        (replace(PING, part_digests=[]), "Ping: 1 names of parts, but 0 hashes"),
        (peers.PeerHello(1, 1, bytes(16), 0, 1, bytes(16), 2, 3, 1), "PeerHello does not belong"),
    ],
)
def test_what_fields_alone_cannot_say_is_checked_too(message, match: str) -> None:
    with pytest.raises(ProtocolError, match=match):
        unpack_peer_message(message.TYPE, message.encode(), memoryview(b""), BODIES)
