"""A stream of bytes, cut anywhere, gives the same frames; and what it costs to read them."""

from __future__ import annotations

import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.wire.errors import FrameTooLarge, ProtocolError
from sluicemq.wire.frames import FRAME_HEADER_BYTES, PINNED_SHARE, FrameReader, pack_frame

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
