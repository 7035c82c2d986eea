"""Reading round bad sectors: all that can be read is read, what cannot is named to the sector, and asked for once."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.storage import unreadable
from sluicemq.storage.unreadable import AroundGaps, Gaps
from tests.disk import SimulatedDisk

SIZE = 20_000
DATA = bytes(1 + number % 250 for number in range(SIZE))


def opened(*bad: tuple[int, int]) -> tuple[AroundGaps, Gaps, list[int]]:
    """A file with bad sectors, all that these ranges (start, length) touch; the list takes each read that fails."""
    disk = SimulatedDisk(1)
    file = disk.open("file", create=True)
    file.pwritev([DATA], 0)
    for start, length in bad:
        first = start - start % 512
        disk.make_unreadable("file", first, start + length + -(start + length) % 512 - first)
    failed: list[int] = []
    read = file.pread

    def counting(length: int, offset: int) -> bytes:
        try:
            return read(length, offset)
        except OSError:
            failed.append(offset)
            raise

    file.pread = counting  # type: ignore[method-assign]
    gaps = Gaps()
    return AroundGaps(file, gaps), gaps, failed


def expected(*bad: tuple[int, int]) -> bytes:
    data = bytearray(DATA)
    for start, length in bad:
        first, end = start - start % 512, min(SIZE, start + length + -(start + length) % 512)
        data[first:end] = bytes(end - first)
    return bytes(data)


def test_one_bad_byte_costs_one_sector():
    file, gaps, _ = opened((5000, 1))
    assert file.pread(SIZE, 0) == expected((5000, 1))
    assert list(gaps) == [(4608, 5120)]
    assert str(next(iter(gaps))) == "bytes 4608 to 5119 cannot be read (I/O error)"


def test_a_sector_that_failed_is_not_asked_for_again():
    file, _, failed = opened((5000, 1), (9000, 2000))
    file.pread(SIZE, 0)
    failed.clear()
    for offset in range(0, SIZE, 700):
        assert file.pread(4096, offset) == expected((5000, 1), (9000, 2000))[offset : offset + 4096]
    assert failed == []


def test_a_healthy_file_is_read_as_it_is_and_ends_where_it_ends():
    file, gaps, _ = opened()
    assert file.pread(SIZE + 100, 0) == DATA
    assert file.pread(100, SIZE - 10) == DATA[-10:]
    assert file.pread(100, SIZE) == b""
    assert list(gaps) == []


@given(
    st.lists(st.tuples(st.integers(0, SIZE - 1), st.integers(1, 3000)), max_size=4),
    st.lists(st.tuples(st.integers(0, SIZE + 100), st.integers(1, 6000)), min_size=1, max_size=6),
)
def test_whatever_is_bad_and_however_it_is_read_everything_else_comes(bad, reads):
    bad = [(start, min(length, SIZE - start)) for start, length in bad]
    file, gaps, _ = opened(*bad)
    for offset, length in reads:
        found = file.pread(length, offset)
        assert found == expected(*bad)[offset : offset + length]
    named = {sector for gap in gaps for sector in range(gap.start // 512, -(-gap.end // 512))}
    assert named <= {sector for start, length in bad for sector in range(start // 512, -(-(start + length) // 512))}


def test_a_large_bad_stretch_is_given_up_in_larger_pieces_after_a_while(monkeypatch):
    monkeypatch.setattr(unreadable, "SECTORS_MAX", 4)
    monkeypatch.setattr(unreadable, "PIECE_BYTES", 4096)
    file, gaps, failed = opened((2048, 12_000))
    data = file.pread(SIZE, 0)
    assert data[:2048] == DATA[:2048]
    assert data[16_384:] == DATA[16_384:]
    assert list(gaps) == [(2048, 16_384)]
    assert len(failed) < 40


def test_another_error_is_not_gone_round():
    file, _, _ = opened()
    file.close()
    with pytest.raises(OSError, match="closed") as failure:
        file.pread(10, 0)
    assert failure.value.errno == errno.EBADF
    for change in (lambda: file.pwritev([b""], 0), file.sync, lambda: file.truncate(0)):
        with pytest.raises(OSError, match="only read"):
            change()
