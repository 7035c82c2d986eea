"""The record on disk: recognised whole, refused when anything about it is wrong."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.storage.record import (
    CHAIN_START,
    HEAD_BYTES,
    MAGIC,
    Record,
    body_digest,
    chain_after,
    encode_head,
    encode_mark,
    parse_head,
    record_size,
    seed_of,
)

u64 = st.integers(0, 2**64 - 1)
records = st.builds(
    Record,
    u64,
    st.integers(1, 255),
    st.integers(0, 255),
    st.integers(0, 65535),
    st.binary(max_size=40),
    st.binary(max_size=200),
)


@given(records, u64, u64, u64, st.binary(min_size=8, max_size=8), st.integers(0, 2**40))
def test_a_head_tells_everything_that_was_put_in(record, generation, synced, previous, chain, offset):
    head_bytes, chain_here = encode_head(seed_of(generation), offset, synced, previous, chain, record)

    head = parse_head(b"before" + head_bytes, 6, seed_of(generation), offset)

    assert len(head_bytes) == HEAD_BYTES
    assert head is not None
    assert head[:7] == (record.zxid, previous, len(record.header), len(record.payload), *record[1:4])
    assert head.digest == body_digest(record.header, record.payload)
    assert (head.synced_up_to, head.chain) == (synced, chain_here)
    assert head.size == record_size(len(record.header) + len(record.payload))
    assert head.size % 8 == 0


@given(records, u64, st.integers(0, 2**40), st.integers(0, HEAD_BYTES * 8 - 1))
def test_a_flipped_bit_anywhere_makes_the_head_invalid(record, generation, offset, bit):
    head_bytes, _ = encode_head(seed_of(generation), offset, 0, 0, CHAIN_START, record)
    damaged = bytearray(head_bytes)
    damaged[bit // 8] ^= 1 << bit % 8

    assert parse_head(bytes(damaged), 0, seed_of(generation), offset) is None


@given(records, st.integers(0, 2**32), st.integers(1, 2**32), st.integers(0, 2**40), st.integers(1, 2**40))
def test_a_head_counts_only_in_its_generation_and_at_its_offset(record, generation, later, offset, further):
    head_bytes, _ = encode_head(seed_of(generation), offset, 0, 0, CHAIN_START, record)

    assert parse_head(head_bytes, 0, seed_of(generation + later), offset) is None
    assert parse_head(head_bytes, 0, seed_of(generation), offset + further) is None


@given(records, u64, st.tuples(u64, u64), st.tuples(u64, u64), st.tuples(u64, u64))
def test_the_chain_is_the_same_on_every_broker(record, previous, generations, synced, offsets):
    """Generation, offset and what was synced are local: two brokers differ in them and still agree on the chain."""
    one, other = (
        encode_head(seed_of(generations[n]), offsets[n] % 2**40, synced[n], previous, CHAIN_START, record)[1]
        for n in (0, 1)
    )

    assert one == other


@given(records, records)
def test_the_chain_depends_on_every_neutral_field_and_on_history(one, other):
    chains = [encode_head(1, 0, 0, 0, CHAIN_START, record)[1] for record in (one, other)]
    digests = [(*r[:4], len(r.header), len(r.payload), body_digest(r.header, r.payload)) for r in (one, other)]

    assert (chains[0] == chains[1]) == (digests[0] == digests[1])
    assert chains[0] != encode_head(1, 0, 0, 0, b"another.", one)[1]


def test_a_mark_repeats_the_position_before_it():
    mark = parse_head(encode_mark(5, 4096, 77, 77, b"chain..."), 0, 5, 4096)

    assert mark is not None
    assert (mark.kind, mark.zxid, mark.previous_zxid, mark.synced_up_to, mark.chain) == (0, 77, 77, 77, b"chain...")
    assert mark.size == HEAD_BYTES


def test_the_format_does_not_change_by_accident():
    """Golden bytes: whoever changes them must raise SEGMENT_FORMAT_VERSION and keep reading the old ones."""
    record = Record(1 << 32 | 2, 3, 4, 5, b"head", b"payload")

    head_bytes, chain = encode_head(seed_of(6), 4096, 1 << 32, 1 << 32 | 1, b"previous", record)

    assert head_bytes[:4] == MAGIC
    assert head_bytes.hex() == (
        "b553715258cfb0c2020000000100000001000000010000000400000007000000"
        "030405006aacf8b300000000010000007f3a9c8585841c03"
    )
    head = parse_head(head_bytes, 0, seed_of(6), 4096)
    assert head is not None
    assert chain == chain_after(b"previous", head.neutral)


@pytest.mark.parametrize("length", range(HEAD_BYTES))
def test_a_head_that_is_cut_off_is_no_head(length):
    head_bytes, _ = encode_head(1, 0, 0, 0, CHAIN_START, Record(1, 1, 0, 0, b"", b""))

    assert parse_head(head_bytes[:length], 0, 1, 0) is None
