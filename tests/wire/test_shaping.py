"""How limits are written: every form means one thing, has one spelling, and what is none is named."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.wire.errors import InvalidRequest
from sluicemq.wire.settings import check_queue_settings
from sluicemq.wire.shaping import (
    ADAPTIVE_DEFAULT,
    ALGORITHMS,
    PublishLimit,
    adaptive,
    bytes_rate,
    delivery_rate,
    publish_limit,
    publish_limit_of,
    rate_plan,
)

MONDAY, FRIDAY, SATURDAY, SUNDAY = 0, 4, 5, 6


@pytest.mark.parametrize(
    ("value", "kept"),
    [
        (None, None),
        (50, 50.0),
        (0.5, 0.5),
        ("50/s", 50.0),
        ("600 / min", 10.0),
        ("100/10s", 10.0),
        ("50/s from 9 to 18", "50/s from 9 to 18"),
        ("  50/s   from 09:00 to 18:00 on mon-sun ", "50/s from 9 to 18"),
        ("50/s from 9:30 to 18 on mon-fri; 0/s; in Europe/Berlin", None),
        ("5/s on sat, sun; unlimited", "5/s on sat,sun; unlimited"),
        ("1/s from 22 to 6 on fri-mon", "1/s from 22 to 6 on mon,fri,sat,sun"),
        ("50/s; in UTC", 50.0),
    ],
)
def test_a_rate_is_a_number_or_windows_in_one_spelling(value, kept):
    checked = delivery_rate("delivery_rate", value)
    if value is not None and kept is None:
        kept = "50/s from 9:30 to 18 on mon,tue,wed,thu,fri; 0/s; in Europe/Berlin"
    assert checked == kept
    assert delivery_rate("delivery_rate", checked) == checked, "its own spelling is one of them"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0, "it must be None or 1e-05 to 1e"),
        (True, "is True"),
        (float("nan"), "is nan"),
        ("", "'' is no rate"),
        ("fast", "'fast' is no rate with its time: write a number"),
        ("0/s", "pause the queue"),
        ("unlimited", "set None"),
        ("50/s from 9 to 9", "no time at all"),
        ("50/s from 24 to 3", "no time at all"),
        ("50/s from 9 to 25", "no time of the day"),
        ("50/s from 9:60 to 18", "no time of the day"),
        ("50/s on mon-fry", "'mon-fry', which is no day"),
        ("50/s on , ", "names no day"),
        ("99999999/s from 1 to 2", "is 1e.08 messages a second"),
        ("5/0s", "counts within 0 seconds"),
        ("; ".join(["1/s from 1 to 2"] * 25), "25 windows"),
        ("5/s" + " " * 500, "503 characters"),
        ([50], r"is \[50\]"),
    ],
)
def test_what_is_no_rate_is_named(value, words):
    with pytest.raises(InvalidRequest, match=words):
        delivery_rate("delivery_rate", value)


@pytest.mark.parametrize(
    ("day", "hour", "rate"),
    [
        (MONDAY, 8.99, 500),
        (MONDAY, 9, 50),
        (FRIDAY, 17.99, 50),
        (FRIDAY, 18, 500),
        (SATURDAY, 9, 500),
        (SATURDAY, 22, 0),
        (SUNDAY, 5.99, 0),
        (SUNDAY, 6, 500),
        (SUNDAY, 23, 500),
    ],
)
def test_the_first_window_that_holds_counts_also_past_midnight(day, hour, rate):
    plan = rate_plan("50/s from 9 to 18 on mon-fri; 0/s from 22 to 6 on sat; 500/s; in Europe/Berlin")
    assert plan.zone == "Europe/Berlin"
    assert plan.rate_at(day, int(hour * 60)) == rate


def test_where_no_window_holds_there_is_no_limit():
    assert rate_plan("50/s from 9 to 18").rate_at(MONDAY, 0) == math.inf
    assert not rate_plan("50/s from 9 to 18").is_steady
    assert rate_plan(50.0).is_steady


@pytest.mark.parametrize(
    ("text", "kept", "limit"),
    [
        ("token_bucket 1000/s burst 5000", None, PublishLimit("token_bucket", 1000, 1, 5000)),
        ("token_bucket 0.5/s", None, PublishLimit("token_bucket", 0.5, 1, 1)),
        ("token_bucket 30/min", None, PublishLimit("token_bucket", 30, 60, 30)),
        ("leaky_bucket  50 / s", "leaky_bucket 50/s", PublishLimit("leaky_bucket", 50, 1, 1)),
        ("fixed_window 1000/min", None, PublishLimit("fixed_window", 1000, 60, 1000)),
        ("sliding_window 100/10s", None, PublishLimit("sliding_window", 100, 10, 100)),
    ],
)
def test_a_limit_of_publishing_is_a_line_of_text(text, kept, limit):
    checked = publish_limit("publish_limit", text)
    assert checked == (kept or text)
    assert publish_limit_of(checked) == limit


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1000, 'is 1000; write "token_bucket'),
        ("1000/s", 'write "token_bucket'),
        ("bucket 5/s", 'write "token_bucket'),
        ("fixed_window 5/s burst 7", "no burst"),
        ("sliding_window 0.5/s", "a whole number"),
        ("fixed_window 0/s", "out of range"),
        ("token_bucket 99999999/s", "out of range"),
        ("token_bucket 5/s burst 0", "a burst is 1 to"),
        ("fixed_window 5/8d", "counts within 691200 seconds"),
    ],
)
def test_what_is_no_limit_of_publishing_is_named(value, words):
    with pytest.raises(InvalidRequest, match=words):
        publish_limit("publish_limit", value)


def test_the_adaptive_mode_is_filled_up_with_what_it_does_not_name():
    assert adaptive("delivery_adaptive", None) is None
    assert adaptive("delivery_adaptive", {}) == ADAPTIVE_DEFAULT
    kept = adaptive("delivery_adaptive", {"latency": 1, "min": 10})
    assert kept == {**ADAPTIVE_DEFAULT, "min": 10.0, "latency": 1.0}
    assert list(kept) == list(ADAPTIVE_DEFAULT), "in one order: equal settings are equal bytes"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (True, "is True"),
        ({"rate": 5}, "it must be None or"),
        ({"min": 0}, "min is 0"),
        ({"min": 10, "max": 5}, "max is 5, below min"),
        ({"latency": 0}, "latency is 0"),
        ({"failures": 1.5}, "failures is 1.5"),
        ({"max": "many"}, "max is 'many'"),
    ],
)
def test_a_wrong_adaptive_mode_is_named(value, words):
    with pytest.raises(InvalidRequest, match=words):
        adaptive("delivery_adaptive", value)


def test_bytes_a_second_are_a_number():
    assert bytes_rate("delivery_bytes_rate", 1_000_000) == 1e6
    with pytest.raises(InvalidRequest, match="bytes a second"):
        bytes_rate("delivery_bytes_rate", 0.5)


def test_limits_are_settings_of_queues():
    given = {"delivery_rate": "50/s from 9 to 18", "delivery_burst": 10, "max_concurrency": 8}
    assert check_queue_settings(given) == given


_rates = st.builds("{}/{}".format, st.integers(1, 9_999), st.sampled_from(("s", "min", "10s", "h")))
_hours = st.integers(0, 23)
_windows = st.builds("{} from {}:30 to {}".format, _rates, _hours, _hours)


@given(st.lists(_windows, min_size=1, max_size=5), _rates)
def test_every_spelling_means_what_was_written(windows, otherwise):
    text = "; ".join([*windows, otherwise])
    kept = delivery_rate("delivery_rate", text)
    assert delivery_rate("delivery_rate", kept) == kept
    assert rate_plan(kept).windows == rate_plan(text).windows


@given(st.text(max_size=40) | st.sampled_from(ALGORITHMS))
def test_no_text_breaks_the_readers(text):
    for check in (delivery_rate, publish_limit):
        try:
            kept = check("setting", text)
        except InvalidRequest:
            continue
        assert check("setting", kept) == kept
