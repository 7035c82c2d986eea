"""What brokers say to each other crosses the wire as it was said; what does not fit is refused by name."""

from __future__ import annotations

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.wire import peers
from sluicemq.wire.errors import InvalidRequest, ProtocolError
from sluicemq.wire.frames import PEER_PREFACE, PREFACE, FrameReader, pack_frame
from sluicemq.wire.peers import (
    ENTRY_NUMBERS,
    HEADERS_BYTES_MAX,
    PEER_MESSAGES,
    PeerEntry,
    Propose,
    decode_peer_message,
    pack_entries,
    unpack_entries,
)
from tests.wire.strategies import messages_of, smallest_of, wrong_values_of

ALL = sorted(PEER_MESSAGES.values(), key=lambda cls: cls.TYPE)
FIELDS = [(cls, field) for cls in ALL for field in cls.FIELDS]
every_message = pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
every_field = pytest.mark.parametrize(
    ("cls", "field"), FIELDS, ids=lambda one: getattr(one, "__name__", None) or one.name
)

ENTRIES = st.lists(
    st.builds(
        PeerEntry,
        st.integers(0, 2**64 - 1),
        st.integers(1, 255),
        st.integers(0, 255),
        st.integers(0, 2**16 - 1),
        st.binary(max_size=30),
        st.binary(max_size=200),
    ),
    min_size=1,
    max_size=8,
)


def propose(entries: list[int], headers: bytes | None) -> Propose:
    return Propose(2, 3, 4, 5, bytes(8), bytes(8), 6, entries, headers)


def crossed(entries: list[PeerEntry]) -> list[PeerEntry]:
    fixed, headers, tail = pack_entries(entries)
    head = propose(fixed, headers).encode()
    data = pack_frame(Propose.TYPE, head, sum(map(len, tail))) + b"".join(tail)
    (frame,) = FrameReader(1 << 26).feed(data)
    message = decode_peer_message(frame.type, frame.head, len(frame.tail))
    assert isinstance(message, Propose)
    return unpack_entries(message, frame.tail)


@every_message
@given(data=st.data())
def test_every_message_comes_back_as_it_was_sent(cls, data) -> None:
    sent = data.draw(messages_of(cls))
    assert cls.decode(sent.encode()) == sent


@every_field
def test_a_wrong_value_is_refused_by_name_on_both_sides(cls, field) -> None:
    right = cls.decode(msgpack.packb(smallest_of(cls)))
    values = {each.name: getattr(right, each.name) for each in cls.FIELDS}
    for value in wrong_values_of(field.kind):
        with pytest.raises(ProtocolError, match=rf"{cls.__name__}\.{field.name}\b"):
            cls.decode(msgpack.packb({**smallest_of(cls), field.number: value}))
        if field.required or value != field.default:
            with pytest.raises(InvalidRequest, match=rf"{cls.__name__}\.{field.name}\b"):
                cls(**{**values, field.name: value}).encode()


@every_message
def test_a_missing_field_is_named_an_unknown_odd_one_ignored_and_an_even_one_refused(cls) -> None:
    head = smallest_of(cls)
    assert cls.decode(msgpack.packb({**head, 201: "later"})) == cls.decode(msgpack.packb(head))
    with pytest.raises(ProtocolError, match="200"):
        cls.decode(msgpack.packb({**head, 200: "later"}))
    for field in cls.FIELDS:
        if field.required:
            rest = {number: value for number, value in head.items() if number != field.number}
            with pytest.raises(ProtocolError, match=rf"{cls.__name__}\.{field.name} is missing"):
                cls.decode(msgpack.packb(rest))


@given(data=st.data())
def test_bytes_that_were_changed_on_their_way_give_a_message_or_a_protocol_error_and_nothing_else(data) -> None:
    cls = data.draw(st.sampled_from(ALL))
    head = bytearray(data.draw(messages_of(cls)).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(head) - 1))
        head[place] = data.draw(st.integers(0, 255))
    head = head[: data.draw(st.integers(0, len(head)))]
    try:
        message = decode_peer_message(cls.TYPE, bytes(head), 0)
        if isinstance(message, Propose):
            unpack_entries(message, memoryview(b""))
    except ProtocolError:
        pass


def test_types_that_no_broker_knows_are_refused() -> None:
    with pytest.raises(ProtocolError, match="type 99 are unknown between brokers"):
        decode_peer_message(99, b"\x80", 0)


def test_a_tail_where_none_belongs_is_refused() -> None:
    head = peers.Commit(1, 2, 3, 4).encode()
    with pytest.raises(ProtocolError, match="Commit comes with 7 bytes behind its head"):
        decode_peer_message(peers.Commit.TYPE, head, 7)


@pytest.mark.parametrize(
    ("file", "tail_bytes", "match"),
    [
        (peers.FILE_PAGES, 0, "of 0 bytes"),
        (peers.FILE_SNAPSHOT, peers.PIECE_BYTES_MAX + 1, "may have"),
        (3, 9, "file is 3"),
    ],
)
def test_pieces_of_files_have_a_bounded_tail_and_a_known_file(file: int, tail_bytes: int, match: str) -> None:
    head = peers.SnapshotPiece(1, file, 5).encode()
    with pytest.raises(ProtocolError, match=match):
        decode_peer_message(peers.SnapshotPiece.TYPE, head, tail_bytes)
    good = peers.SnapshotPiece(1, peers.FILE_PAGES, 5)
    assert decode_peer_message(peers.SnapshotPiece.TYPE, good.encode(), 9) == good


def test_entries_of_a_snapshot_are_laid_out_as_those_of_proposals_and_may_leave_gaps() -> None:
    entries = [PeerEntry(7, 6, 1, 0, b"header", b"alive"), PeerEntry(90, 6, 1, 0, b"", b"alive too")]
    fixed, headers, tail = pack_entries(entries)
    message = peers.SnapshotEntries(4, fixed, headers)
    payloads = b"".join(tail)
    decoded = decode_peer_message(message.TYPE, message.encode(), len(payloads))
    assert isinstance(decoded, peers.SnapshotEntries)
    assert unpack_entries(decoded, memoryview(payloads)) == entries
    with pytest.raises(ProtocolError, match="SnapshotEntries comes with 3 bytes"):
        decode_peer_message(message.TYPE, message.encode(), 3)


def test_a_client_is_told_from_a_broker_by_its_first_bytes() -> None:
    assert len(PEER_PREFACE) == len(PREFACE)
    assert PEER_PREFACE[0] == PREFACE[0]
    assert PEER_PREFACE != PREFACE


# --- entries ----------------------------------------------------------------------------------------------------------


@given(ENTRIES)
def test_entries_cross_the_wire(entries: list[PeerEntry]) -> None:
    assert crossed(entries) == entries


@pytest.mark.parametrize("header_bytes", [0, HEADERS_BYTES_MAX // 2, HEADERS_BYTES_MAX // 2 + 1])
def test_long_headers_travel_in_front_of_the_payloads(header_bytes: int) -> None:
    entries = [PeerEntry(number, 6, 1, 0, bytes([number]) * header_bytes, b"payload") for number in (1, 2)]
    fixed, headers, _ = pack_entries(entries)
    assert (headers is None) == (2 * header_bytes > HEADERS_BYTES_MAX)
    assert crossed(entries) == entries
    assert len(propose(fixed, headers).encode()) < HEADERS_BYTES_MAX + 200


def test_payloads_are_sent_without_a_copy_and_a_large_one_is_received_without_one() -> None:
    payload = b"x" * (1 << 20)
    fixed, headers, tail = pack_entries([PeerEntry(9, 6, 1, 0, b"header", payload)])
    assert len(tail) == 1
    assert tail[0] is payload
    reader = FrameReader(1 << 26)
    frames = reader.feed(pack_frame(Propose.TYPE, propose(fixed, headers).encode(), len(payload)))
    assert not frames
    (frame,) = reader.feed(payload)
    (entry,) = unpack_entries(propose(fixed, headers), frame.tail)
    assert entry.payload is frame.tail.obj
    assert entry.payload == payload


@pytest.mark.parametrize(
    ("entries", "headers", "tail", "match"),
    [
        ([], b"", b"", "without entries"),
        ([1, 256, 0, 0, 0, 0], b"", b"", "8 bits"),
        ([1, 1, 256, 0, 0, 0], b"", b"", "8 bits"),
        ([1, 1, 1, 65_536, 0, 0], b"", b"", "16 bits"),
        ([1, 1, 1, 0, 3, 0], b"ab", b"", "headers has 2 bytes; the headers of its entries take 3"),
        ([1, 1, 1, 0, 2, 5], b"ab", b"1234", "tail of 4 bytes; its entries take 5"),
        ([1, 1, 1, 0, 2, 5], None, b"ab1234", "tail of 6 bytes; its entries take 7"),
        ([1, 1, 1, 0, 0, 2**63], b"", b"", "tail of 0 bytes"),
    ],
)
def test_entries_that_do_not_add_up_are_refused(entries, headers, tail, match) -> None:
    with pytest.raises(ProtocolError, match=match):
        unpack_entries(propose(entries, headers), memoryview(tail))


@given(ENTRIES, st.data())
def test_lengths_that_were_changed_are_refused_or_cut_the_same_bytes_elsewhere(entries, data) -> None:
    fixed, headers, tail = pack_entries(entries)
    place = data.draw(st.integers(0, len(entries) - 1)) * ENTRY_NUMBERS + data.draw(st.sampled_from([4, 5]))
    fixed[place] += data.draw(st.integers(1, 50))
    with pytest.raises(ProtocolError):
        unpack_entries(propose(fixed, headers), memoryview(b"".join(tail)))
