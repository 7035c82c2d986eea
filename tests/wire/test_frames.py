"""A stream of bytes, cut anywhere, gives the same frames; and what it costs to read them."""

from __future__ import annotations

import itertools
import sys
import time
import tracemalloc
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.wire import frames as frames_module
from sluicemq.wire.errors import FrameTooLarge, ProtocolError
from sluicemq.wire.frames import (
    FRAME_HEADER_BYTES,
    LARGE_TAIL_BYTES,
    LARGE_TAIL_GROWTH,
    PINNED_SHARE,
    Frame,
    FrameReader,
    pack_frame,
)

MIB = 1024 * 1024


def frame(type_: int = 44, head: bytes = b"\x80", tail: bytes = b"", correlation: int = 7) -> bytes:
    return pack_frame(type_, head, len(tail), correlation=correlation) + tail


def plain(frames) -> list[tuple]:
    return [(found.type, found.flags, found.correlation, bytes(found.head), bytes(found.tail)) for found in frames]


THREE = [
    (44, 0, 7, b"\x80", b"tail" * 10),
    (8, 0, 0, b"", b""),
    (53, 0, 2**32 - 1, b"head" * 30, bytes(range(256))),
]
STREAM = b"".join(
    pack_frame(type_, head, len(tail), correlation=number) + tail for type_, _, number, head, tail in THREE
)


def test_three_frames_in_one_read():
    reader = FrameReader()
    assert plain(reader.feed(STREAM)) == THREE
    assert reader.buffered_bytes == reader.missing_bytes == 0


@pytest.mark.parametrize("cut", range(1, len(STREAM)))
def test_three_frames_cut_in_two_at_every_byte(cut):
    reader = FrameReader()
    assert plain([*reader.feed(STREAM[:cut]), *reader.feed(STREAM[cut:])]) == THREE


def test_three_frames_byte_by_byte_always_knowing_what_is_missing():
    reader = FrameReader()
    found = []
    for place in range(len(STREAM)):
        missing, buffered = reader.missing_bytes, reader.buffered_bytes
        completed = reader.feed(STREAM[place : place + 1])
        if missing:
            assert bool(completed) == (missing == 1 and not reader.missing_bytes)
        if not completed:
            assert reader.buffered_bytes == buffered + 1
        found += completed
    assert plain(found) == THREE


@given(st.lists(st.tuples(st.binary(max_size=40), st.binary(max_size=300)), max_size=8), st.data())
def test_any_frames_cut_anywhere(contents, data):
    stream = b"".join(frame(1 + number, head, tail) for number, (head, tail) in enumerate(contents))
    cuts = sorted(data.draw(st.sets(st.integers(0, len(stream)), max_size=12)))
    reader = FrameReader()
    found = []
    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        found += reader.feed(stream[start:end])
    assert [entry[3:] for entry in plain(found)] == contents
    assert reader.buffered_bytes == 0


# --- what a header may not say ------------------------------------------------------------------------------------


def header(length: int = 13, type_: int = 8, flags: int = 0, reserved: int = 0, head_length: int = 1) -> bytes:
    number = length.to_bytes(4, "big") + bytes((type_, flags)) + reserved.to_bytes(2, "big")
    return number + bytes(4) + head_length.to_bytes(4, "big")


@pytest.mark.parametrize(
    ("bytes_", "error", "words"),
    [
        (header(length=2**32 - 1), FrameTooLarge, "announces 4294967299 bytes, allowed are 65536"),
        (header(length=65_536 - 3), FrameTooLarge, "announces 65537 bytes"),
        (header(length=11, head_length=0), ProtocolError, "too few"),
        (header(length=0, head_length=0), ProtocolError, "too few"),
        (header(head_length=2), ProtocolError, "too few for its head of 2"),
        (header(head_length=2**32 - 1), ProtocolError, "too few"),
        (header(flags=1), ProtocolError, "flags 0x01"),
        (header(flags=0x80), ProtocolError, "flags 0x80"),
        (header(reserved=1), ProtocolError, "reserved bits"),
        (header(reserved=0x8000), ProtocolError, "reserved bits"),
    ],
)
def test_a_header_that_lies_is_refused_as_soon_as_it_is_there(bytes_, error, words):
    with pytest.raises(error, match=words):
        FrameReader().feed(bytes_)
    reader = FrameReader()
    assert reader.feed(bytes_[:-1]) == []
    with pytest.raises(error, match=words):
        reader.feed(bytes_[-1:])


def test_the_largest_frame_allowed_is_taken_and_no_byte_more():
    tail = bytes(1000 - FRAME_HEADER_BYTES - 1)
    assert len(FrameReader(1000).feed(frame(tail=tail))) == 1
    with pytest.raises(FrameTooLarge) as caught:
        FrameReader(1000).feed(frame(tail=tail + b"x"))
    assert (caught.value.frame_bytes, caught.value.frame_bytes_max) == (1001, 1000)


# --- what it costs ------------------------------------------------------------------------------------------------


def test_an_announced_length_takes_no_memory():
    reader = FrameReader(2**40)
    reader.feed(header(length=2**32 - 1))
    assert reader.buffered_bytes == FRAME_HEADER_BYTES
    assert reader.missing_bytes == 2**32 + 3 - FRAME_HEADER_BYTES


def test_a_frame_that_arrives_whole_is_not_copied():
    data = frame(tail=bytes(100_000))
    (found,) = FrameReader(MIB).feed(data)
    assert found.tail.obj is data
    assert found.head.obj is data


def test_sixteen_mebibytes_in_small_pieces_cost_linear_time():
    data = frame(tail=bytes(16 * MIB))
    pieces = [data[start : start + 4096] for start in range(0, len(data), 4096)]
    times = []
    for _ in range(3):
        reader = FrameReader(32 * MIB)
        started = time.process_time()
        found = [each for piece in pieces for each in reader.feed(piece)]
        times.append(time.process_time() - started)
        assert [len(each.tail) for each in found] == [16 * MIB]
    # Linear is 0.02 s here. Joining anew for every piece copies 32 GiB, which takes seconds on any machine.
    assert min(times) < 0.5


def test_pieces_of_a_large_frame_are_not_kept_beside_it():
    data = frame(tail=bytes(1000))
    reader = FrameReader()
    piece = data[:500]
    references = sys.getrefcount(piece)
    reader.feed(piece)
    assert sys.getrefcount(piece) == references
    (found,) = reader.feed(data[500:])
    assert bytes(found.tail) == bytes(1000)


def test_a_small_tail_does_not_hold_a_large_buffer():
    small, large = frame(tail=b"small"), frame(tail=bytes(200_000))
    data = small + large
    first, second = FrameReader(MIB).feed(data)
    assert first.tail.obj is not data
    assert second.tail.obj is data


@given(st.lists(st.integers(0, 3000), min_size=1, max_size=30), st.integers(1, 5000))
def test_a_kept_tail_holds_at_most_a_few_times_its_size(sizes, piece_bytes):
    stream = b"".join(frame(tail=bytes(size)) for size in sizes)
    reader = FrameReader(MIB)
    for start in range(0, len(stream), piece_bytes):
        for found in reader.feed(stream[start : start + piece_bytes]):
            assert memoryview(found.tail.obj).nbytes <= PINNED_SHARE * len(found.tail)


def test_a_frame_behind_a_large_one_does_not_hold_its_buffer():
    stream = frame(tail=bytes(MIB)) + frame(tail=b"x" * 100)
    reader = FrameReader(2 * MIB)
    found = [*reader.feed(stream[: MIB // 2]), *reader.feed(stream[MIB // 2 :])]
    assert [len(each.tail) for each in found] == [MIB, 100]
    assert memoryview(found[1].tail.obj).nbytes == 100


# --- large frames, received where they stay ------------------------------------------------------------------------


def receive(reader: FrameReader, stream: bytes, sizes) -> list[Frame]:
    """Give *stream* to *reader* as a socket does: into its buffer where it lends one, else as a piece of bytes."""
    found = []
    place = 0
    while place < len(stream):
        size = next(sizes)
        room = reader.writable(size)
        if room is None:
            found += reader.feed(stream[place : place + size])
            place += size
        else:
            count = min(len(room), len(stream) - place)
            room[:count] = stream[place : place + count]
            found += reader.filled(count)
            place += count
    return found


@given(
    st.lists(st.tuples(st.binary(max_size=40), st.integers(0, 3000)), min_size=1, max_size=8),
    st.lists(st.integers(1, 1500), min_size=1, max_size=20),
)
def test_any_frames_large_or_small_filled_or_fed_come_out_whole(contents, sizes):
    stream = b"".join(frame(1 + n, head, bytes([n]) * tail_bytes) for n, (head, tail_bytes) in enumerate(contents))
    with mock.patch.object(frames_module, "LARGE_TAIL_BYTES", 1000):
        for take in (receive, feed_all):
            reader = FrameReader()
            found = take(reader, stream, itertools.cycle(sizes))
            assert [entry[3:] for entry in plain(found)] == [
                (head, bytes([n]) * tail_bytes) for n, (head, tail_bytes) in enumerate(contents)
            ]
            assert reader.buffered_bytes == reader.missing_bytes == 0
            assert reader.writable(1) is None


def feed_all(reader: FrameReader, stream: bytes, sizes) -> list[Frame]:
    found = []
    place = 0
    while place < len(stream):
        size = next(sizes)
        found += reader.feed(stream[place : place + size])
        place += size
    return found


def test_a_large_tail_becomes_a_bytes_object_of_its_own_without_a_copy():
    stream = frame(tail=bytes(16 * MIB))
    reader = FrameReader(32 * MIB)
    tracemalloc.start()
    try:
        (found,) = receive(reader, stream, itertools.repeat(MIB))
        _, peak_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert type(found.tail.obj) is bytes
    assert len(found.tail.obj) == len(found.tail) == 16 * MIB
    # Once, and a part of it while the buffer grew to its full size: a copy at the end would take twice the size.
    assert peak_bytes < 25 * MIB


@pytest.mark.parametrize("first_bytes", [100, 4_000, 32_768, 131_072, MIB])
def test_a_large_tail_is_moved_a_few_times_and_never_at_its_very_end(first_bytes):
    stream = frame(tail=bytes(4 * MIB))
    reader = FrameReader(8 * MIB)
    reader.feed(stream[:first_bytes])
    rooms = [reader.buffered_bytes]
    while (room := reader.writable(MIB)) is not None:
        if reader.buffered_bytes != rooms[-1]:
            rooms.append(reader.buffered_bytes)
        reader.filled(len(room))
    assert len(rooms) <= 5
    assert rooms[-1] > 4 * MIB
    assert all(before <= 2 * MIB + 100 for before in rooms[:-1]), f"more than half of the tail was moved: {rooms}"


def test_a_lent_buffer_cannot_be_written_to_once_the_frame_is_given_away():
    stream = frame(tail=bytes(LARGE_TAIL_BYTES))
    reader = FrameReader(MIB)
    reader.feed(stream[:100])
    room = reader.writable(MIB)
    assert room is not None
    room[:] = stream[100:]
    (found,) = reader.filled(len(room))
    with pytest.raises(ValueError, match="released"):
        room[0] = 1
    assert bytes(found.tail) == bytes(LARGE_TAIL_BYTES)


def test_a_lent_buffer_ends_with_the_frame_and_with_what_was_asked_for():
    reader = FrameReader(4 * MIB)
    reader.feed(frame(tail=bytes(MIB))[: 100 + FRAME_HEADER_BYTES])
    room = reader.writable(1000)
    assert room is not None
    assert len(room) == 1000
    reader.filled(1000)
    lent = 1000
    while (room := reader.writable(8 * MIB)) is not None:
        lent += len(room)
        reader.filled(len(room))
    assert lent == MIB + 1 - 100


def test_room_for_a_large_frame_grows_with_what_arrived():
    stream = frame(tail=bytes(32 * MIB))
    reader = FrameReader(64 * MIB)
    arrived = 0
    sizes = itertools.repeat(50_000)
    while arrived < 30 * MIB:
        receive(reader, stream[arrived : arrived + 50_000], sizes)
        arrived += 50_000
        assert reader.buffered_bytes <= max(2 * LARGE_TAIL_BYTES, LARGE_TAIL_GROWTH * arrived)
        assert reader.missing_bytes == len(stream) - arrived
