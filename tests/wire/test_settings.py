"""Settings and names: a typo fails on both sides alike."""

from __future__ import annotations

import math

import pytest

from sluicemq.wire.errors import InvalidRequest, UnknownOption
from sluicemq.wire.messages import NAME_BYTES_MAX
from sluicemq.wire.settings import (
    QUEUE_SETTINGS_DEFAULT,
    RETRY_DELAY_SECONDS_MAX,
    QueueSettings,
    check_name,
    check_queue_settings,
)


def test_the_names_for_type_checkers_are_the_names_with_defaults():
    assert set(QueueSettings.__annotations__) == set(QUEUE_SETTINGS_DEFAULT)
    assert check_queue_settings(QUEUE_SETTINGS_DEFAULT) == QUEUE_SETTINGS_DEFAULT


def test_missing_settings_are_not_filled_in():
    assert check_queue_settings({}) == {}


@pytest.mark.parametrize(
    ("value", "checked"), [(0, 0.0), (5, 5.0), (0.25, 0.25), (RETRY_DELAY_SECONDS_MAX, RETRY_DELAY_SECONDS_MAX)]
)
def test_a_retry_delay_is_seconds(value, checked):
    found = check_queue_settings({"retry_delay": value})["retry_delay"]
    assert found == checked
    assert type(found) is float


def test_negative_zero_becomes_zero_so_that_equal_settings_are_equal_bytes():
    assert math.copysign(1, check_queue_settings({"retry_delay": -0.0})["retry_delay"]) == 1


@pytest.mark.parametrize(
    "value",
    [None, True, "1", -0.1, float("nan"), float("inf"), RETRY_DELAY_SECONDS_MAX + 1, 10**400, [], {}],
    ids=lambda value: f"{value!r:.20}",
)
def test_a_wrong_retry_delay_is_named(value):
    with pytest.raises(InvalidRequest, match="retry_delay is"):
        check_queue_settings({"retry_delay": value})


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ({"seconds": 60}, {"seconds": 60.0}),
        ({"bytes": 1}, {"bytes": 1}),
        ({"bytes": 5, "seconds": 1.5}, {"seconds": 1.5, "bytes": 5}),
    ],
)
def test_retention_by_age_by_bytes_or_both(value, expected):
    checked = check_queue_settings({"retention": value})["retention"]
    assert checked == expected
    assert checked is None or list(checked) == list(expected), "in one order: equal settings are equal bytes"


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (60, "retention is 60"),
        ({}, "retention is {}"),
        ({"days": 1}, "must be None or name seconds, bytes or both"),
        ({"seconds": 0.5}, "0.5 seconds; it must be 1 to"),
        ({"seconds": True}, "True seconds"),
        ({"seconds": float("nan")}, "nan seconds"),
        ({"seconds": None}, "None seconds"),
        ({"bytes": 0}, "0 bytes"),
        ({"bytes": 1.5}, "1.5 bytes"),
        ({"bytes": (1 << 60) + 1, "seconds": 5}, "it must be an integer from 1 to"),
    ],
)
def test_a_wrong_retention_is_named(value, words):
    with pytest.raises(InvalidRequest, match=words):
        check_queue_settings({"retention": value})


def test_a_typo_is_answered_with_the_names_that_exist():
    with pytest.raises(UnknownOption, match="no setting 'retry_dely'; known are: retention, retry_delay") as caught:
        check_queue_settings({"retry_dely": 1})
    assert caught.value.option == "retry_dely"


@pytest.mark.parametrize(
    "name",
    ["orders", "a", "Ärger", "eu.orders-2_x/y", "日本", "with blank within", "no\u00a0break", "x" * NAME_BYTES_MAX],
)
def test_a_good_name_is_returned(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "has 0 bytes"),
        ("x" * (NAME_BYTES_MAX + 1), "has 256 bytes"),
        ("ü" * 128, "has 256 bytes"),
        ("two\nlines", "control characters"),
        ("nul\x00", "control characters"),
        (" outer", "outer blanks"),
        ("outer ", "outer blanks"),
        ("orders.*", "wildcard"),
        ("orders.#", "wildcard"),
        ("half\ud800", "no valid Unicode"),
        (5, "must be text, not int"),
        (b"bytes", "must be text, not bytes"),
        (None, "must be text, not NoneType"),
    ],
)
def test_a_bad_name_is_refused_with_the_reason(name, words):
    with pytest.raises(InvalidRequest, match=f"the name of a topic .*{words}"):
        check_name(name, "topic")


def test_the_rule_for_names_is_this_and_no_other_for_ever():
    """A broker judges a name again whenever it reads its log: the verdict must not depend on Python's Unicode tables.

    So every character is pinned here, and none of them may ever change sides without a new version of the entry.
    """
    never = {*range(0x20), *range(0x7F, 0xA0), 0x2028, 0x2029, ord("*"), ord("#"), *range(0xD800, 0xE000)}
    not_outside = {0x20, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x202F, 0x205F, 0x3000}

    def refused(pattern):
        return {code for code in range(0x110000) if not accepted(pattern.format(chr(code)))}

    assert refused("a{}b") == never
    assert refused("{}b") == refused("a{}") == refused("{}") == never | not_outside


def accepted(name):
    try:
        check_name(name)
    except InvalidRequest:
        return False
    return True
