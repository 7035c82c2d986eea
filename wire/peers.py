"""Every message that brokers of one cluster say to each other: one frozen dataclass a frame type.

This module owns the vocabulary of peer connections, as `messages` owns that of clients; the frames are the same
(`frames`), so is the rule for fields (`fields`): even numbers must be understood, odd ones may be ignored. A peer
connection begins with a preface of its own, so the types have numbers of their own. It must not know what any of it
means: who may lead, and when what may be said, is the business of the broker's replication core.

Every message names the `epoch` it speaks of and the `connection` it was made for; those between a leader and a learner
also the learner's `session`.

Propose carries entries, and so does the stream of a snapshot. What is fixed of them stands in the head, six numbers
each; then come their bytes: the payloads, one behind the other, are the tail of the frame, and are never copied into
msgpack. Their headers stand in the head if they are short, else in front of the payloads. So a single large payload,
received by `frames.FrameReader`, is one `bytes` object from the socket to the disk.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sluicemq.wire.errors import ProtocolError
from sluicemq.wire.fields import (
    Message,
    binary,
    boolean,
    list_of,
    message,
    numbers,
    optional,
    text,
    unsigned,
    wire_field,
)
from sluicemq.wire.peers_of_links import Beat, ClusterNamed, NodeFigures, PeerRefusal, StreamWanted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

PEER_VERSION_MIN = 2
PEER_VERSION_MAX = 2
"""2: a leader tells how patient it is, and hashes of states take in more; brokers that differ in that must not meet, or
the alarm would stop the one in the minority."""

CHAIN_BYTES = 8
INCARNATION_BYTES = 16
CLUSTER_ID_BYTES = 16
ADDRESS_BYTES_MAX = 300
DIGEST_BYTES_MAX = 64
STATE_PARTS_MAX = 64
PART_NAME_BYTES_MAX = 64
VOTERS_MAX = 1_000
"""Most nodes in one list."""
EPOCH_ROWS_MAX = 4_096
"""Most epochs of a log in one message."""
ENTRIES_MAX = 100_000
"""Most entries in one Propose."""
ENTRY_NUMBERS = 6
"""Numbers that stand in the head for one entry: zxid, kind, kind version, flags, bytes of header, bytes of payload."""
HEADERS_BYTES_MAX = 64 * 1024
"""Headers of entries that are longer than this together do not stand in the head."""

SOURCE_BYTES = 16
CONFIGURATION_BYTES_MAX = 64 * 1024
FILE_SNAPSHOT, FILE_PAGES = 1, 2
"""The two files of a snapshot."""
PIECE_BYTES_MAX = 4 * 1024 * 1024
"""Most bytes of a file in one SnapshotPiece."""

STREAM_CONTROL, STREAM_DATA, STREAM_SNAPSHOT, STREAM_SNAPSHOT_WANTED = 1, 2, 3, 4
"""What a stream of a connection is for: short messages that overtake everything, what keeps its order, a snapshot that
its opener sends, a snapshot that its opener is sent."""

_node = unsigned(32)
_zxid = unsigned(64)
_chain = binary(CHAIN_BYTES)
_digest = binary(DIGEST_BYTES_MAX)
_nodes = numbers(32, items_max=VOTERS_MAX)
_part_names = list_of(text(PART_NAME_BYTES_MAX), STATE_PARTS_MAX)
_part_digests = list_of(_digest, STATE_PARTS_MAX)


@message(1)
class PeerHello(Message):
    """Either side, first frame of every stream: who I am, whom I want to speak to, and in which versions.

    `cluster_id` is only a proposal while `founded` is false. `address` is where others reach me, HOST:PORT.
    """

    version_min: int = wire_field(2, unsigned(16))
    version_max: int = wire_field(4, unsigned(16))
    cluster_id: bytes = wire_field(6, binary(CLUSTER_ID_BYTES))
    group_id: int = wire_field(8, unsigned(32))
    node: int = wire_field(10, _node)
    incarnation: bytes = wire_field(12, binary(INCARNATION_BYTES))
    addressed_node: int = wire_field(14, _node)
    connection: int = wire_field(16, unsigned(64))
    stream: int = wire_field(18, unsigned(8))
    founded: bool = wire_field(20, boolean, default=True)
    address: str = wire_field(3, text(ADDRESS_BYTES_MAX), default="")
    server_version: str = wire_field(1, text(255), default="")


@message(2)
class Notification(Message):
    """Whom I would follow, or whom I do follow."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    round: int = wire_field(8, unsigned(64))
    role: int = wire_field(10, unsigned(8))
    vote_zxid: int = wire_field(12, _zxid)
    vote_leader: int = wire_field(14, _node)
    node: int = wire_field(16, _node)
    incarnation: bytes = wire_field(18, binary(INCARNATION_BYTES))
    own_zxid: int = wire_field(20, _zxid)
    configuration_zxid: int | None = wire_field(22, optional(_zxid), default=None)
    listed: list[int] = wire_field(24, _nodes, default=[])
    damaged: int = wire_field(26, unsigned(1), default=0)


@message(3)
class FollowerInfo(Message):
    """Learner to leader: I want to learn from you; `epoch` is what I have promised so far."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    node: int = wire_field(8, _node)
    incarnation: bytes = wire_field(10, binary(INCARNATION_BYTES))


@message(4)
class NewEpoch(Message):
    """Leader to learner: this is the epoch I want to begin, or have begun; be so many times as patient with me."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    patience: int = wire_field(8, unsigned(8), default=1)


@message(5)
class AckEpoch(Message):
    """Learner to leader: this is my log, the last position of each epoch; 8 bytes of chain for each zxid."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    promised: int = wire_field(8, unsigned(1))
    end_zxids: list[int] = wire_field(10, numbers(64, items_max=EPOCH_ROWS_MAX))
    end_chains: bytes = wire_field(12, binary(CHAIN_BYTES * EPOCH_ROWS_MAX))


@message(6)
class Synchronize(Message):
    """Leader to learner: do this to your log first."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    method: int = wire_field(8, unsigned(8))
    zxid: int = wire_field(10, _zxid)
    chain: bytes = wire_field(12, _chain)
    commit: int = wire_field(14, _zxid)
    last_zxid: int = wire_field(16, _zxid)


@message(7)
class Propose(Message):
    """Leader to learner: append these behind `previous`. The tail holds their payloads; see the module."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    previous_zxid: int = wire_field(8, _zxid)
    previous_chain: bytes = wire_field(10, _chain)
    last_chain: bytes = wire_field(12, _chain)
    commit: int = wire_field(14, _zxid)
    entries: list[int] = wire_field(16, numbers(64, multiple_of=ENTRY_NUMBERS, items_max=ENTRY_NUMBERS * ENTRIES_MAX))
    headers: bytes | None = wire_field(18, optional(binary(HEADERS_BYTES_MAX)), default=None)


@message(8)
class Ack(Message):
    """Learner to leader: my log is yours up to `zxid`, durably."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    zxid: int = wire_field(8, _zxid)


@message(9)
class SnapshotInstalled(Message):
    """Learner to leader: a snapshot is durable and my log begins there."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    zxid: int = wire_field(8, _zxid)
    chain: bytes = wire_field(10, _chain)


@message(10)
class Commit(Message):
    """Leader to learner: everything up to `commit` is committed."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    commit: int = wire_field(8, _zxid)


@message(11)
class Ping(Message):
    """Leader to learner: I lead; and what my state hashes to at some entry, if `state_zxid` is not nil."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    number: int = wire_field(8, unsigned(64))
    commit: int = wire_field(10, _zxid)
    state_zxid: int | None = wire_field(12, optional(_zxid), default=None)
    state_digest: bytes = wire_field(14, _digest, default=b"")
    part_names: list[str] = wire_field(16, _part_names, default=[])
    part_digests: list[bytes] = wire_field(18, _part_digests, default=[])
    patience: int = wire_field(20, unsigned(8), default=1)


@message(12)
class Pong(Message):
    """Learner to leader: I follow you; and what my state hashes to at that entry, if I know."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    number: int = wire_field(8, unsigned(64))
    state_zxid: int | None = wire_field(12, optional(_zxid), default=None)
    state_digest: bytes = wire_field(14, _digest, default=b"")
    part_names: list[str] = wire_field(16, _part_names, default=[])
    part_digests: list[bytes] = wire_field(18, _part_digests, default=[])


@message(13)
class HandOver(Message):
    """Leader to learner: `leader` is to begin the next epoch."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    leader: int = wire_field(8, _node)


@message(14)
class Diverged(Message):
    """Leader to learner: your state differs from this one, which the agreeing nodes have."""

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    agreeing: list[int] = wire_field(8, _nodes)
    state_zxid: int = wire_field(12, _zxid)
    state_digest: bytes = wire_field(14, _digest)
    part_names: list[str] = wire_field(16, _part_names, default=[])
    part_digests: list[bytes] = wire_field(18, _part_digests, default=[])


# --- snapshots: on a stream of their own ------------------------------------------------------------------------------


@message(15)
class SnapshotOffer(Message):
    """Leader to learner: I have a snapshot for this session; `source` is how I know this very file of it.

    `configuration` says who votes at the snapshot, as the record of entry `configuration_zxid` does.
    """

    epoch: int = wire_field(2, unsigned(32))
    connection: int = wire_field(4, unsigned(64))
    session: int = wire_field(6, unsigned(64))
    zxid: int = wire_field(8, _zxid)
    chain: bytes = wire_field(10, _chain)
    source: bytes = wire_field(12, binary(SOURCE_BYTES))
    snapshot_bytes: int = wire_field(14, unsigned(64))
    pages_bytes: int = wire_field(16, unsigned(64))
    configuration: bytes = wire_field(18, binary(CONFIGURATION_BYTES_MAX))
    configuration_zxid: int = wire_field(20, _zxid)


@message(16)
class SnapshotWanted(Message):
    """Learner to leader: send what is missing here: entries behind this one, and the two files from these bytes on."""

    session: int = wire_field(6, unsigned(64))
    entries_after: int = wire_field(8, _zxid)
    snapshot_bytes: int = wire_field(10, unsigned(64))
    pages_bytes: int = wire_field(12, unsigned(64))


@message(17)
class SnapshotEntries(Message):
    """Leader to learner: entries that are alive, ascending; laid out as those of Propose."""

    session: int = wire_field(6, unsigned(64))
    entries: list[int] = wire_field(8, numbers(64, multiple_of=ENTRY_NUMBERS, items_max=ENTRY_NUMBERS * ENTRIES_MAX))
    headers: bytes | None = wire_field(10, optional(binary(HEADERS_BYTES_MAX)), default=None)


@message(18)
class SnapshotPiece(Message):
    """Leader to learner: bytes of one of the two files from `offset` on; they are the tail of the frame."""

    session: int = wire_field(6, unsigned(64))
    file: int = wire_field(8, unsigned(8))
    offset: int = wire_field(10, unsigned(64))


@message(19)
class SnapshotEnd(Message):
    """Leader to learner: that was all. Learner to leader: I have it, durably."""

    session: int = wire_field(6, unsigned(64))


PEER_MESSAGES: dict[int, type[Message]] = {
    cls.TYPE: cls
    for cls in (
        PeerHello,
        Notification,
        FollowerInfo,
        NewEpoch,
        AckEpoch,
        Synchronize,
        Propose,
        Ack,
        SnapshotInstalled,
        Commit,
        Ping,
        Pong,
        HandOver,
        Diverged,
        SnapshotOffer,
        SnapshotWanted,
        SnapshotEntries,
        SnapshotPiece,
        SnapshotEnd,
        PeerRefusal,
        Beat,
        ClusterNamed,
        StreamWanted,
        NodeFigures,
    )
}
"""All of them, by frame type."""


class PeerEntry(NamedTuple):
    """One entry of the log as it travels: the fields of a record of the log, in the same order."""

    zxid: int
    kind: int
    kind_version: int
    flags: int
    header: bytes
    payload: bytes


def decode_peer_message(type_: int, head: bytes | memoryview, tail_bytes: int) -> Message:
    """Return the message of a frame.

    Args:
        type_: The frame's type.
        head: Its head.
        tail_bytes: Length of its tail; entries and pieces of files have one.

    Raises:
        ProtocolError: The type is unknown, the head is malformed, or the tail is not as long as the head says.

    """
    cls = PEER_MESSAGES.get(type_)
    if cls is None:
        raise ProtocolError(f"frames of type {type_} are unknown between brokers")
    decoded = cls.decode(head)
    if isinstance(decoded, SnapshotPiece):
        if not 0 < tail_bytes <= PIECE_BYTES_MAX:
            raise ProtocolError(f"SnapshotPiece of {tail_bytes} bytes; it may have 1 to {PIECE_BYTES_MAX}")
        if decoded.file not in (FILE_SNAPSHOT, FILE_PAGES):
            raise ProtocolError(f"SnapshotPiece.file is {decoded.file}, which is none")
        return decoded
    expected = _tail_bytes(decoded) if isinstance(decoded, Propose | SnapshotEntries) else 0
    if tail_bytes != expected:
        raise ProtocolError(f"{cls.__name__} comes with {tail_bytes} bytes behind its head; its fields say {expected}")
    return decoded


def pack_entries(entries: Iterable[PeerEntry]) -> tuple[list[int], bytes | None, list[bytes]]:
    """Return the `entries` and `headers` of a message, and the buffers that are its tail, none of them copied."""
    fixed: list[int] = []
    headers: list[bytes] = []
    payloads: list[bytes] = []
    headers_bytes = 0
    for zxid, kind, kind_version, flags, header, payload in entries:
        fixed += (zxid, kind, kind_version, flags, len(header), len(payload))
        headers_bytes += len(header)
        if header:
            headers.append(header)
        if payload:
            payloads.append(payload)
    if headers_bytes <= HEADERS_BYTES_MAX:
        return fixed, b"".join(headers), payloads
    return fixed, None, headers + payloads


def unpack_entries(carrier: Propose | SnapshotEntries, tail: memoryview) -> list[PeerEntry]:
    """Return the entries of a message with its tail. A payload that is the whole tail is not copied.

    Raises:
        ProtocolError: There is none, kind, version or flags are out of range, or the lengths do not add up.

    """
    fixed, name = carrier.entries, type(carrier).__name__
    if not fixed:
        raise ProtocolError(f"{name} without entries")
    if max(fixed[1::ENTRY_NUMBERS]) > 0xFF or max(fixed[2::ENTRY_NUMBERS]) > 0xFF:
        raise ProtocolError(f"{name}.entries: kinds and their versions have 8 bits")
    if max(fixed[3::ENTRY_NUMBERS]) > 0xFFFF:
        raise ProtocolError(f"{name}.entries: flags have 16 bits")
    if len(tail) != _tail_bytes(carrier):
        raise ProtocolError(f"{name}: a tail of {len(tail)} bytes; its entries take {_tail_bytes(carrier)}")
    if carrier.headers is None:
        headers = memoryview(tail)[: sum(fixed[4::ENTRY_NUMBERS])]
        payloads = tail[len(headers) :]
    else:
        headers, payloads = memoryview(carrier.headers), tail
    return list(_cut(fixed, headers, payloads))


def _cut(fixed: Sequence[int], headers: memoryview, payloads: memoryview) -> Iterable[PeerEntry]:
    header_at = payload_at = 0
    for place in range(0, len(fixed), ENTRY_NUMBERS):
        zxid, kind, kind_version, flags, header_bytes, payload_bytes = fixed[place : place + ENTRY_NUMBERS]
        header = bytes(headers[header_at : header_at + header_bytes])
        payload = _as_bytes(payloads[payload_at : payload_at + payload_bytes])
        header_at += header_bytes
        payload_at += payload_bytes
        yield PeerEntry(zxid, kind, kind_version, flags, header, payload)


def _as_bytes(view: memoryview) -> bytes:
    whole = view.obj
    return whole if type(whole) is bytes and len(whole) == len(view) else bytes(view)


def _tail_bytes(carrier: Propose | SnapshotEntries) -> int:
    """Return how long the tail must be. Raises ProtocolError if headers and their lengths disagree."""
    headers_bytes, payloads_bytes = sum(carrier.entries[4::ENTRY_NUMBERS]), sum(carrier.entries[5::ENTRY_NUMBERS])
    if carrier.headers is None:
        return headers_bytes + payloads_bytes
    if len(carrier.headers) != headers_bytes:
        raise ProtocolError(
            f"{type(carrier).__name__}.headers has {len(carrier.headers)} bytes; the headers of its entries take "
            f"{headers_bytes}"
        )
    return payloads_bytes
