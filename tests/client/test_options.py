"""Durations, bodies and attributes as users pass them."""

from datetime import timedelta
from math import inf, nan
from typing import Any

import pytest

from sluicemq.client.errors import InvalidRequest
from sluicemq.client.options import check_attributes, count_of, owned_body, seconds_of


@pytest.mark.parametrize(("value", "seconds"), [(2, 2.0), (0.5, 0.5), (timedelta(minutes=1), 60.0), (0, 0.0)])
def test_a_duration_is_seconds_or_a_timedelta(value, seconds):
    assert seconds_of(value, "timeout") == seconds


@pytest.mark.parametrize("value", [nan, -1, -0.001, inf, timedelta(seconds=-1), 1e12, 10**400, -(10**400)])
def test_a_duration_is_never_nan_negative_or_endless(value):
    with pytest.raises(InvalidRequest, match="timeout is"):
        seconds_of(value, "timeout")


@pytest.mark.parametrize("value", ["1", None, True, b"1"])
def test_something_else_is_no_duration(value):
    with pytest.raises(TypeError, match="timeout must be seconds or a timedelta"):
        seconds_of(value, "timeout")


def test_a_least_and_a_most_duration_are_kept():
    with pytest.raises(InvalidRequest, match=r"heartbeat is 3601; it must be 0 to 3600 seconds"):
        seconds_of(3601, "heartbeat", maximum=3600)
    with pytest.raises(InvalidRequest) as caught:
        seconds_of(10**400, "timeout")
    assert len(str(caught.value)) < 200
    with pytest.raises(InvalidRequest, match="an integer of thousands of digits"):
        seconds_of(10**5000, "timeout")
    with pytest.raises(InvalidRequest, match=r"lease is 0.01; it must be 0.05"):
        seconds_of(0.01, "lease", minimum=0.05)


def test_counts_are_positive_integers():
    assert count_of(3, "credit") == 3
    for out_of_range in (0, -1, 2**32, 10**400, 10**5000):
        with pytest.raises(InvalidRequest, match="credit is"):
            count_of(out_of_range, "credit")
    no_integers: list[Any] = [1.0, True, "1"]
    for wrong in no_integers:
        with pytest.raises(TypeError, match="credit must be an integer"):
            count_of(wrong, "credit")


def test_a_mutable_body_is_copied():
    mutable = bytearray(b"before")
    owned = owned_body(mutable)
    mutable[:] = b"after!"
    assert owned == b"before"
    assert owned_body(memoryview(b"view")) == b"view"
    unchanged = b"bytes"
    assert owned_body(unchanged) is unchanged


def test_a_text_body_is_told_about_encode():
    with pytest.raises(TypeError, match=r"\.encode\(\)"):
        owned_body("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not int"):
        owned_body(7)  # type: ignore[arg-type]


def test_attributes_are_checked_by_type_and_length():
    check_attributes("k" * 1024, "s", {"a": 1}, "i" * 256)
    with pytest.raises(TypeError, match="key must be str"):
        check_attributes(b"k", None, None, None)  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest, match="key has 1025 bytes"):
        check_attributes("k" * 1025, None, None, None)
    with pytest.raises(InvalidRequest, match="message_id has 258 bytes"):
        check_attributes(None, None, None, "é" * 129)
    with pytest.raises(InvalidRequest, match="message_id is empty: leave it out"):
        check_attributes(None, None, None, "")
    check_attributes("", "", {}, None)
    with pytest.raises(InvalidRequest, match="no valid Unicode"):
        check_attributes(None, "\ud800", None, None)
    with pytest.raises(TypeError, match="headers must be a mapping"):
        check_attributes(None, None, [("a", 1)], None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="name of a header"):
        check_attributes(None, None, {1: 1}, None)  # type: ignore[dict-item]
