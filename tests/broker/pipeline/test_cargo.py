"""What one pick becomes on the wire: every message once, in order, in frames that fit, or an end at the one that does
not."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.pipeline.bodies import Stored
from sluicemq.broker.pipeline.cargo import FRAME_OVERHEAD_BYTES, Cargo
from sluicemq.broker.queues.runs import Run
from sluicemq.wire.batch import Batch, encode_batch
from sluicemq.wire.frames import FRAME_BYTES_MIN, FRAME_HEADER_BYTES
from sluicemq.wire.messages import RUN_NUMBERS, Deliver


def run_of(zxid: int, batch: Batch, first: int, size: int) -> Run:
    return Run(zxid, zxid, first, size, batch.count, len(batch.data), 1_000, 2, 1)


def loaded(frame_bytes_max: int, pieces: list[tuple[Batch, int, int]]) -> tuple[Cargo, list[int]]:
    """Return the cargo of *pieces* (batch, first, size), and the numbers of the batches that are through."""
    runs = [run_of(zxid, batch, first, size) for zxid, (batch, first, size) in enumerate(pieces, 1)]
    bodies = {
        run.zxid: Stored(batch, 1_000, 7, run.zxid, batch.count)
        for run, (batch, _, _) in zip(runs, pieces, strict=True)
    }
    cargo = Cargo(frame_bytes_max)
    through: list[int] = []
    cargo.load(runs, bodies, through.append)
    assert cargo.granted == [number for run in runs for number in (run.zxid, run.first, run.size)]
    return cargo, through


def delivered(cargo: Cargo, frame_bytes_max: int) -> list[tuple[int, int, bytes]]:
    """Return (zxid, index, body) of every message in the frames, having seen that each frame is what it must be."""
    found = []
    for frame in cargo.frames:
        tail = b"".join(frame.parts)
        head = Deliver(2**32 - 1, 2**64 - 1, frame.numbers).encode()
        assert FRAME_HEADER_BYTES + len(head) + len(tail) <= frame_bytes_max
        messages = 0
        for place in range(0, len(frame.numbers), RUN_NUMBERS):
            zxid, first, count, size, published_ms, producer, sequence, deliveries, attempts = frame.numbers[
                place : place + RUN_NUMBERS
            ]
            assert (published_ms, producer, sequence, deliveries, attempts) == (1_000, 7, zxid, 3, 1)
            batch = Batch(tail[:size])
            tail = tail[size:]
            assert batch.count == count
            found += [(zxid, first + index, body) for index, body in enumerate(batch.bodies)]
            messages += count
        assert tail == b""
        assert messages == frame.messages
    assert len(found) == cargo.messages
    return found


def wanted(pieces: list[tuple[Batch, int, int]]) -> list[tuple[int, int, bytes]]:
    return [
        (zxid, index, batch.bodies[index])
        for zxid, (batch, first, size) in enumerate(pieces, 1)
        for index in range(first, first + size)
    ]


def test_what_fits_one_frame_is_one_frame_with_whole_batches_untouched() -> None:
    batches = [Batch(encode_batch([b"a", b"b"])), Batch(encode_batch([b"c"]))]
    cargo, _ = loaded(FRAME_BYTES_MIN, [(batch, 0, batch.count) for batch in batches])

    assert len(cargo.frames) == 1
    assert [part is batch.data for part, batch in zip(cargo.frames[0].parts, batches, strict=True)] == [True, True]


def test_neighbours_of_a_batch_that_differ_only_in_their_keys_are_cut_out_of_it_together() -> None:
    batch = Batch(encode_batch([b"%d" % number for number in range(8)]))
    runs = [run_of(4, batch, first, 1)._replace(key=first + 1) for first in (1, 2, 3, 5, 6)]
    runs[2] = runs[2]._replace(attempts=9)
    cargo = Cargo(FRAME_BYTES_MIN)
    cargo.load(runs, {4: Stored(batch, 1_000, 7, 4, batch.count)}, lambda _zxid: None)
    assert cargo.granted == [4, 1, 1, 4, 2, 1, 4, 3, 1, 4, 5, 1, 4, 6, 1]
    numbers = cargo.frames[0].numbers
    rows = [numbers[place : place + RUN_NUMBERS] for place in range(0, len(numbers), RUN_NUMBERS)]
    assert [(row[1], row[2], row[-1]) for row in rows] == [(1, 2, 1), (3, 1, 9), (5, 2, 1)]
    tail = b"".join(cargo.frames[0].parts)
    assert Batch(tail[: rows[0][3]]).bodies == [b"1", b"2"]


def test_runs_that_fit_no_frame_together_go_into_several() -> None:
    pieces = [(Batch(encode_batch([bytes([number]) * 1500])), 0, 1) for number in range(5)]
    cargo, _ = loaded(FRAME_BYTES_MIN, pieces)

    assert [frame.messages for frame in cargo.frames] == [2, 2, 1]
    assert delivered(cargo, FRAME_BYTES_MIN) == wanted(pieces)


def test_a_batch_larger_than_a_frame_is_cut_between_its_messages() -> None:
    batch = Batch(encode_batch([b"%04d" % number + bytes(number % 90) for number in range(1000)], keys=["k"] * 1000))
    cargo, _ = loaded(FRAME_BYTES_MIN, [(batch, 0, 1000)])

    assert delivered(cargo, FRAME_BYTES_MIN) == wanted([(batch, 0, 1000)])
    assert len(cargo.frames) < 2.5 * len(batch.data) / FRAME_BYTES_MIN, "frames are filled, not one for each message"


def test_cutting_a_batch_keeps_nothing_decoded_in_it() -> None:
    batch = Batch(encode_batch([b"%04d" % number + bytes(number % 9) for number in range(1000)]))
    loaded(FRAME_BYTES_MIN, [(batch, 0, 1000)])

    assert batch._bodies is None


def test_a_part_of_a_batch_is_cut_at_its_own_indexes_and_its_end_lets_the_decoded_batch_go() -> None:
    batch = Batch(encode_batch([b"%d" % number + bytes(200 + number) for number in range(100)]))
    middle, through_middle = loaded(FRAME_BYTES_MIN, [(batch, 10, 80)])
    end, through_end = loaded(FRAME_BYTES_MIN, [(batch, 90, 10)])

    assert delivered(middle, FRAME_BYTES_MIN) == wanted([(batch, 10, 80)])
    assert delivered(end, FRAME_BYTES_MIN) == wanted([(batch, 90, 10)])
    assert (through_middle, through_end) == ([], [1])


@pytest.mark.parametrize("place", [0, 1, 5, 9])
def test_a_message_that_fits_no_frame_ends_the_cargo_in_front_of_it(place: int) -> None:
    bodies = [b"%d" % number for number in range(10)]
    bodies[place] = bytes(5000)
    pieces = [(Batch(encode_batch([b"ahead"])), 0, 1), (Batch(encode_batch(bodies)), 0, 10)]
    pieces.append((Batch(encode_batch([b"behind"])), 0, 1))
    cargo, _ = loaded(FRAME_BYTES_MIN, pieces)

    assert delivered(cargo, FRAME_BYTES_MIN) == wanted(pieces)[: 1 + place]
    assert cargo.too_large_bytes == len(encode_batch([bytes(5000)]))


def test_the_largest_message_that_is_sure_to_fit_fits() -> None:
    body_bytes = FRAME_BYTES_MIN - FRAME_OVERHEAD_BYTES - len(encode_batch([bytes(1000)])) + 1000
    exact, over = Batch(encode_batch([bytes(body_bytes)])), Batch(encode_batch([bytes(body_bytes + 1)]))

    assert len(delivered(loaded(FRAME_BYTES_MIN, [(exact, 0, 1)])[0], FRAME_BYTES_MIN)) == 1
    assert loaded(FRAME_BYTES_MIN, [(over, 0, 1)])[0].too_large_bytes == len(over.data)


@given(
    st.integers(FRAME_BYTES_MIN, 20_000),
    st.lists(st.lists(st.integers(0, 6_000), min_size=1, max_size=20), min_size=1, max_size=8),
    st.data(),
)
def test_every_message_is_sent_once_in_order_up_to_the_first_that_fits_nothing(
    frame_bytes_max: int, sizes: list[list[int]], data: st.DataObject
) -> None:
    pieces = []
    for lengths in sizes:
        batch = Batch(encode_batch([bytes([index]) * length for index, length in enumerate(lengths)]))
        first = data.draw(st.integers(0, batch.count - 1))
        pieces.append((batch, first, data.draw(st.integers(1, batch.count - first))))
    cargo, _ = loaded(frame_bytes_max, pieces)
    everything = wanted(pieces)
    found = delivered(cargo, frame_bytes_max)

    assert found == everything[: len(found)]
    if cargo.too_large_bytes:
        assert cargo.too_large_bytes == len(encode_batch([everything[len(found)][2]]))
        assert cargo.too_large_bytes > frame_bytes_max - FRAME_OVERHEAD_BYTES
    else:
        assert len(found) == len(everything)
