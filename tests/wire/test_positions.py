"""Positions and default message ids: texts that name one thing and parse in one way."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.wire.errors import InvalidRequest
from sluicemq.wire.positions import GROUP_MAX, INDEX_MAX, ZXID_MAX, format_position, parse_position

ADDRESSES = st.tuples(st.integers(0, GROUP_MAX), st.integers(0, ZXID_MAX), st.integers(0, INDEX_MAX))


@given(ADDRESSES)
def test_a_position_leads_back_to_its_address(address):
    assert parse_position(format_position(*address)) == address


@pytest.mark.parametrize(
    "text",
    [
        *["-", "--", "1-2", "1-2-3-4", "-1-2-3", "1-2--3", "+1-2-3", "1_0-2-3", "0x1-2-3", "01-2-3", "A-2-3", "1-2-g"],
        *("", " 1-2-3", "1-2-3 ", "1-2-3\n", "\N{ARABIC-INDIC DIGIT ONE}-2-3", "\ud800-1-1"),
        *("1-2-100000000", "100000000-2-3", "1-10000000000000000-3", "1-2-" + "3" * 10_000),
        *(None, 5, b"1-2-3"),
    ],
    ids=lambda value: f"{value!r:.30}",
)
def test_any_other_text_is_refused(text):
    with pytest.raises(InvalidRequest, match="is no position"):
        parse_position(text)


@given(st.text(alphabet="0123456789abcdefx-+_ ", max_size=30))
def test_one_address_has_one_text(text):
    try:
        address = parse_position(text)
    except InvalidRequest:
        return
    assert format_position(*address) == text
