"""Lives that once went wrong, cut down to the steps that mattered."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sluicemq.wire.messages import VERDICT_NACK
from tests.broker.paged import WhimsicalPager
from tests.broker.queues.naive.choices import STEPS
from tests.broker.queues.naive.running import chunks_of
from tests.broker.queues.naive.steps_of_windows import AllSteps

Step = tuple[str, dict[str, Any]]

ONE = [(1, 0, 0, 0, "")]
FAILED_AND_WAITS: list[Step] = [
    ("publish", {"which": 0, "groups": [(1, 0, 900, 0, "")]}),
    ("deliver", {"most": 1}),
    ("settle", {"which": 0, "verdict": VERDICT_NACK, "start": 0, "count": 0, "due": 1, "reason": ""}),
]
CATCHES_UP_AND_IS_HELD_BACK: list[Step] = [
    ("subscribe", {"topic": "news", "pattern": "#", "name": "some", "settings": {}, "start": 1, "at": 0}),
    ("publish_to_topic", {"which": 0, "groups": [(1, 0, 0, 2, "a")]}),
]

LIVES: dict[str, list[Step]] = {
    "a half message with a priority is delivered though its queue is ordered by key meanwhile": [
        ("prepare", {"which": 0, "to_topic": False, "groups": [(1, 0, 0, 2, "")]}),
        ("declare", {"name": "orders", "settings": {"ordering": "key"}}),
        ("resolve", {"which": 0, "commit": True}),
    ],
    "a transaction all of whose messages came before is confirmed though their topic is paused": [
        ("declare_windows_of_a_topic", {"name": "news", "settings": {"dedup_window": 30.0}}),
        ("publish_with_ids", {"which": 0, "to_topic": True, "groups": ONE, "ids": ["a"], "other": 0, "again": 0}),
        ("pause_topic", {"name": "news", "what": "pause_publish", "on": True}),
        ("publish_with_ids", {"which": 0, "to_topic": True, "groups": ONE, "ids": ["a"], "other": 0, "again": 0}),
        (
            "transact",
            {"parts": [(0, True, *ONE[0])], "which": 0, "verdict": 1, "count": 0, "again": 0, "ids": ["a"]},
        ),
    ],
    "what failed and comes earlier than it should is not older for that": [
        *FAILED_AND_WAITS,
        ("reschedule", {"which": 0, "start": 0, "count": 1, "delay": 0}),
        ("time_passes", {"ms": 500}),
    ],
    "what failed and comes later does not live longer for that": [
        *FAILED_AND_WAITS,
        ("reschedule", {"which": 0, "start": 0, "count": 1, "delay": 3_000}),
        ("time_passes", {"ms": 5_000}),
    ],
    "the order of a subscription stays while messages are held back that have it": [
        *CATCHES_UP_AND_IS_HELD_BACK,
        ("declare", {"name": "some", "settings": {"ordering": "key"}}),
        (
            "subscribe",
            {"topic": "news", "pattern": "#", "name": "some", "settings": {"ordering": "key"}, "start": 1, "at": 0},
        ),
        ("fill", {"which": 0, "most": 100, "chance": 0}),
    ],
    "no policy changes the order of what is held back either": [
        *CATCHES_UP_AND_IS_HELD_BACK,
        ("set_policy", {"name": "first", "pattern": "#", "order": 0, "settings": {"ordering": "key"}}),
        ("fill", {"which": 0, "most": 100, "chance": 0}),
    ],
}


def live(
    steps: list[Step],
    pager: WhimsicalPager | None = None,
    orders: dict[str, Any] | None = None,
    news: dict[str, Any] | None = None,
) -> None:
    life = AllSteps(pager)
    life.begin(mortal=False, orders=orders or {}, news=news or {})
    for name, arguments in steps:
        STEPS[name].take(life, **arguments)
        life.check()
    life.end()


def test_the_oldest_makes_room_in_a_queue_ordered_by_key_and_not_what_is_left_of_a_younger_run() -> None:
    live(
        [
            ("publish", {"which": 0, "groups": [(4, 0, 0, 9, ""), (1, 0, 0, 0, ""), (1, 0, 0, 9, "")]}),
            ("publish", {"which": 0, "groups": [(4, 0, 0, 0, "")]}),
            ("deliver", {"most": 1}),
            ("declare", {"name": "orders", "settings": {"max_length": 10, "overflow": "drop_head"}}),
            ("publish", {"which": 0, "groups": [(1, 2_500, 0, 0, "")]}),
        ],
        orders={"ordering": "key"},
    )


def test_of_those_of_a_key_that_became_ready_together_any_may_be_first() -> None:
    live(
        [
            ("publish_to_topic", {"which": 0, "groups": [(6, 2_500, 0, 2, ""), (1, 700, 0, 2, "")]}),
            ("time_passes", {"ms": 5_000}),
            ("deliver", {"most": 2}),
        ],
        news={"ordering": "key", "key_in_flight_max": 2},
    )


@pytest.mark.parametrize("how", ["declared", "subscribed"])
def test_messages_of_a_key_go_as_soon_as_several_may_be_out(how: str) -> None:
    settings = {"key_in_flight_max": 3}
    said = {"topic": "news", "pattern": "#", "name": "all", "settings": settings, "start": 0, "at": 0}
    changed: Step = ("declare", {"name": "all", "settings": settings}) if how == "declared" else ("subscribe", said)
    published: Step = ("publish_to_topic", {"which": 0, "groups": [(2, 0, 0, 2, "a")]})
    live([published, ("deliver", {"most": 5}), changed, ("deliver", {"most": 5})], news={"ordering": "key"})


@pytest.mark.parametrize("name", LIVES)
def test_it_goes_well_now(name: str) -> None:
    live(LIVES[name])


@pytest.mark.parametrize("seed", range(8))
def test_a_subscription_begins_to_count_bytes_of_which_some_lie_on_pages(seed: int) -> None:
    with chunks_of(1):
        live(
            [
                ("publish_to_topic", {"which": 0, "groups": [(1, 0, 0, key, "") for key in (1, 1, 2, 1, 2)]}),
                ("deliver", {"most": 1}),
                (
                    "subscribe",
                    {
                        "topic": "news",
                        "pattern": "#",
                        "name": "all",
                        "settings": {"max_bytes": 60},
                        "start": 0,
                        "at": 0,
                    },
                ),
            ],
            WhimsicalPager(random.Random(seed)),
            news={"ordering": "key"},
        )
