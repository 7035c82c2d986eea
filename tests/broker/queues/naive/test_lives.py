"""A thousand lives of the queue machine beside the world of dicts and lists, shared out among the processors.

Hypothesis chooses their steps, and shrinks one that goes wrong. Some more, whose steps a seed chooses, have messages on
pages. `python -m tests.broker.queues.naive` has a hundred thousand of those.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest
from hypothesis import settings

from tests.broker.queues.naive.machine import live_so
from tests.broker.queues.naive.running import chosen, live
from tests.broker.queues.naive.steps import BEGINNINGS

LIVES = 1_000
SHARES = 4
"""So many tests, so that none comes near the time that one may take, however busy the machine."""
LIVES_ON_PAGES = 60


@pytest.mark.parametrize("mortal", [True, False])
@pytest.mark.parametrize("share", range(SHARES))
def test_a_thousand_lives(share: int, mortal: bool) -> None:
    begins = range(len(BEGINNINGS.options))
    live_some = partial(live_so, mortal, lives=LIVES // len(begins) // 2, derandomize=settings.default.derandomize)
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as processes:
        for _ in processes.map(live_some, begins[share::SHARES]):
            pass


def test_lives_of_which_a_part_lies_on_pages() -> None:
    for seed in range(0, 3 * LIVES_ON_PAGES, 3):
        live(seed, chosen(seed))
