"""Bodies have the lengths that were asked for, cannot be compressed, and carry a stamp without growing."""

from __future__ import annotations

import zlib

import pytest

from bench.bodies import BATCH_BYTES_MAX, STAMP, batch_of, make_batches, stamp_of, stamped


def test_varying_lengths_lie_around_the_nominal_size() -> None:
    lengths = [len(body) for batch in make_batches(100, 1000, vary=True) for body in batch]
    assert (min(lengths), max(lengths)) == (50, 150)
    assert sum(lengths) / len(lengths) == pytest.approx(100, rel=0.02)


def test_equal_lengths_are_equal() -> None:
    assert {len(body) for batch in make_batches(100, 50, vary=False) for body in batch} == {100}


def test_bodies_cannot_be_compressed() -> None:
    text = b"".join(make_batches(1024, 100, vary=True)[0])
    assert len(zlib.compress(text)) > 0.99 * len(text)


@pytest.mark.parametrize(("size", "batch"), [(100, 1000), (1024, 1000), (65_536, 32), (BATCH_BYTES_MAX + 1, 1)])
def test_a_batch_has_a_thousand_messages_unless_they_are_too_large(size: int, batch: int) -> None:
    assert batch_of(size, 1000) == batch


def test_a_stamp_replaces_the_first_bytes() -> None:
    body = bytes(range(100))
    marked = stamped(body, 12.5)
    assert stamp_of(marked) == 12.5
    assert len(marked) == 100
    assert marked[STAMP.size :] == body[STAMP.size :]


def test_a_body_without_a_stamp_has_none() -> None:
    assert stamp_of(b"nothing of the kind, but long enough") is None
    assert stamp_of(b"short") is None
