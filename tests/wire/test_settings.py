"""Settings and names: a typo fails on both sides alike."""

from __future__ import annotations

import math

import pytest

from sluicemq.wire import settings as settings_module
from sluicemq.wire.errors import InvalidRequest, UnknownOption
from sluicemq.wire.messages import NAME_BYTES_MAX
from sluicemq.wire.settings import (
    NOT_YET,
    QUEUE_SETTINGS,
    QUEUE_SETTINGS_DEFAULT,
    RETRY_DELAY_SECONDS_MAX,
    TOPIC_SETTINGS,
    TOPIC_SETTINGS_DEFAULT,
    QueueSettings,
    TopicSettings,
    check_name,
    check_own_dead_letter,
    check_queue_settings,
    check_topic_settings,
    compare_settings,
    effective_settings,
)


def test_the_names_for_type_checkers_are_the_names_with_defaults():
    assert set(QueueSettings.__annotations__) == set(QUEUE_SETTINGS_DEFAULT)
    assert set(TopicSettings.__annotations__) == set(TOPIC_SETTINGS_DEFAULT) == set(TOPIC_SETTINGS)
    assert check_queue_settings(QUEUE_SETTINGS_DEFAULT) == QUEUE_SETTINGS_DEFAULT
    assert check_topic_settings(TOPIC_SETTINGS_DEFAULT) == TOPIC_SETTINGS_DEFAULT
    assert set(QUEUE_SETTINGS) >= NOT_YET


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
    with pytest.raises(
        UnknownOption, match=r"no setting 'retry_dely'; known are: .*retention, .*retry_delay"
    ) as caught:
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


# --- every setting -------------------------------------------------------------------------------------------------


@pytest.fixture
def everything_works(monkeypatch):
    monkeypatch.setattr(settings_module, "NOT_YET", frozenset())


def test_a_setting_that_nobody_acts_upon_yet_is_refused_but_at_its_default(monkeypatch):
    monkeypatch.setattr(settings_module, "NOT_YET", frozenset(["ttl"]))
    assert check_queue_settings({"ttl": None}) == {"ttl": None}
    with pytest.raises(UnknownOption, match="ttl is known, but this version does not act upon it") as caught:
        check_queue_settings({"ttl": 5})
    assert caught.value.option == "ttl"
    with pytest.raises(InvalidRequest, match=r"ttl is 'soon'; it must be None, or 0.001 to"):
        check_queue_settings({"ttl": "soon"})


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("retry", None, None),
        ("retry", [0, 10, 60.5], [0.0, 10.0, 60.5]),
        ("retry", (1,), [1.0]),
        ("retry", {"initial": 1}, {"initial": 1.0, "factor": 2.0, "max": 3600.0, "jitter": 0.0}),
        ("retry", {"initial": 7200}, {"initial": 7200.0, "factor": 2.0, "max": 7200.0, "jitter": 0.0}),
        (
            "retry",
            {"jitter": 1, "max": 9, "factor": 1, "initial": 0.001},
            {"initial": 0.001, "factor": 1.0, "max": 9.0, "jitter": 1.0},
        ),
        ("max_deliveries", 1, 1),
        ("max_deliveries", 65_535, 65_535),
        ("dead_letter", "graveyard", "graveyard"),
        ("ttl", 0.001, 0.001),
        ("ttl", 60, 60.0),
        ("expires", 1, 1.0),
        ("max_length", 1, 1),
        ("max_bytes", 1 << 60, 1 << 60),
        ("overflow", "drop_head", "drop_head"),
        ("overflow", "dead_letter", "dead_letter"),
        ("mode", "exclusive", "exclusive"),
        ("mode", "failover", "failover"),
        ("ordering", "key", "key"),
        ("key_in_flight_max", 10_000, 10_000),
        ("poison_key", "park", "park"),
        ("poison_key", "skip", "skip"),
        ("dispatch", "weighted", "weighted"),
        ("dispatch", "two_choices", "two_choices"),
        ("message_bytes_max", 1, 1),
    ],
)
@pytest.mark.usefixtures("everything_works")
def test_a_good_value_is_kept_in_its_one_form(name, value, kept):
    checked = check_queue_settings({name: value})[name]
    assert repr(checked) == repr(kept), "types and order too: equal settings are equal bytes"
    assert repr(check_queue_settings({name: checked})[name]) == repr(kept), "what was kept is kept again"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("retry", [], "lists 0 delays"),
        ("retry", [1.0] * 33, "lists 33 delays; it must be 1 to 32"),
        ("retry", [1, "2"], "lists '2'; a delay must be 0 to"),
        ("retry", [float("nan")], "lists nan"),
        ("retry", 5, "must be None, a list of seconds"),
        ("retry", {"factor": 2}, "of which initial is needed"),
        ("retry", {"initial": 1, "cap": 2}, "must be None, a list"),
        ("retry", {"initial": 0}, "retry: initial is 0; it must be 0.001 to"),
        ("retry", {"initial": 1, "factor": 0.5}, "factor is 0.5; it must be 1 to 100"),
        ("retry", {"initial": 1, "max": True}, "max is True"),
        ("retry", {"initial": 10, "max": 5}, "max is 5, below initial, which is 10"),
        ("retry", {"initial": 1, "jitter": 1.1}, "jitter is 1.1; it must be 0 to 1"),
        ("max_deliveries", 0, "it must be None, or an integer from 1 to 65535"),
        ("max_deliveries", 1.0, "max_deliveries is 1.0"),
        ("max_deliveries", True, "max_deliveries is True"),
        ("dead_letter", "a*", "dead_letter: the name of a queue must not hold"),
        ("dead_letter", 5, "must be None or the name of a queue"),
        ("ttl", 0, "ttl is 0; it must be None, or 0.001 to"),
        ("expires", 0.5, "expires is 0.5; it must be None, or 1 to"),
        ("max_length", 0, "max_length is 0"),
        ("max_bytes", 1.5, "max_bytes is 1.5"),
        ("overflow", "drop", "it must be one of: reject, drop_head, dead_letter"),
        ("overflow", None, "overflow is None"),
        ("mode", "", "it must be one of: shared, exclusive, failover"),
        ("ordering", "fair", "it must be one of: fifo, key"),
        ("key_in_flight_max", None, "it must be an integer from 1 to 10000"),
        ("poison_key", [], "poison_key is"),
        ("dispatch", "fastest", "round_robin, weighted, random, least_in_flight, two_choices"),
        ("message_bytes_max", (8 << 20) + 1, "message_bytes_max is"),
        ("dedup_window", -1, "must be 0, which turns it off, or 0.001 to"),
        ("dedup_window", True, "must be 0, which turns it off"),
        ("dedup_count", 50_000_001, "an integer from 0 to 50000000"),
        ("dedup_scope", "message", "queue, key"),
    ],
)
@pytest.mark.usefixtures("everything_works")
def test_a_wrong_value_is_named_with_what_is_allowed(name, value, words):
    with pytest.raises(InvalidRequest, match=words) as caught:
        check_queue_settings({name: value})
    assert type(caught.value) is InvalidRequest
    assert name in str(caught.value)


def test_a_topic_has_some_of_the_settings():
    assert set(TOPIC_SETTINGS) == {
        "ttl",
        "message_bytes_max",
        "retention",
        "dedup_window",
        "dedup_count",
        "dedup_scope",
        "publish_limit",
    }
    with pytest.raises(UnknownOption, match="topics have no setting 'mode'"):
        check_topic_settings({"mode": "shared"})


def test_a_queue_is_not_its_own_dead_letter_queue():
    check_own_dead_letter("orders", {"dead_letter": "graveyard"})
    check_own_dead_letter("orders", {})
    with pytest.raises(InvalidRequest, match="names the queue itself: name another one"):
        check_own_dead_letter("orders", {"dead_letter": "orders"})


def test_what_was_declared_stands_before_a_policy_and_that_before_the_default():
    effective = effective_settings({"ttl": 5.0}, {"ttl": 9.0, "max_length": 3})
    assert (effective["ttl"], effective["max_length"], effective["mode"]) == (5.0, 3, "shared")
    assert effective_settings({}) == QUEUE_SETTINGS_DEFAULT


# --- what a declaration would do -----------------------------------------------------------------------------------


def test_a_new_queue_differs_from_the_defaults():
    plan = compare_settings(None, {"retry_delay": 1.0, "ttl": 5.0})
    assert plan == ("created", {"ttl": [None, 5.0]}, None)


def test_what_is_the_same_changes_nothing():
    assert compare_settings(QUEUE_SETTINGS_DEFAULT, {"ordering": "fifo"}, messages=5) == ("unchanged", {}, None)


def test_almost_everything_changes_while_the_queue_is_full():
    for name, setting in QUEUE_SETTINGS.items():
        plan = compare_settings({**QUEUE_SETTINGS_DEFAULT}, {name: "another"}, messages=5)
        assert plan.outcome == "changed"
        assert (plan.refusal is None) == setting.live == (name != "ordering")


def test_the_order_of_a_queue_with_messages_is_refused_with_what_to_do():
    wanted = {"ordering": "key", "ttl": 5.0}
    assert compare_settings(QUEUE_SETTINGS_DEFAULT, wanted, name="orders", messages=0).refusal is None
    plan = compare_settings(QUEUE_SETTINGS_DEFAULT, wanted, name="orders", messages=7)
    assert plan.changes == {"ordering": ["fifo", "key"], "ttl": [None, 5.0]}
    assert plan.refusal is not None
    assert "holds 7 messages, so ordering from 'fifo' to 'key' cannot be changed" in str(plan.refusal)
    assert plan.refusal.changes == {"ordering": ["fifo", "key"]}
    assert len(plan.refusal.plan) == 3
    assert all(step.startswith(("declare", "consume")) for step in plan.refusal.plan)
