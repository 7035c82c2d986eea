"""Lives whose steps a seed chooses, and the shortest part of one that still goes wrong."""

from __future__ import annotations

import random
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from sluicemq.broker.queues import window, window_index
from tests.broker.paged import WhimsicalPager, make_chunks_small
from tests.broker.queues.naive.choices import STEPS
from tests.broker.queues.naive.steps import BEGINNINGS
from tests.broker.queues.naive.steps_of_windows import AllSteps

if TYPE_CHECKING:
    from collections.abc import Iterator

STEPS_A_LIFE = 50
Chosen = list[tuple[str, dict[str, Any]]]


def chosen(seed: int, count: int = STEPS_A_LIFE) -> Chosen:
    """The steps of a life: some kinds of them are left out, others are frequent."""
    rng = random.Random(seed)
    weights = [step.weight * rng.choice((0, 1, 1, 3) if step.weight < 9 else (1, 2)) for step in STEPS.values()]
    names = rng.choices(list(STEPS), weights, k=count)
    return [(name, {key: choice.random(rng) for key, choice in STEPS[name].choices.items()}) for name in names]


@contextmanager
def chunks_of(runs: int | None) -> Iterator[None]:
    """Let chunks of indexes be small; None: leave them as they are."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        if runs is not None:
            make_chunks_small(monkeypatch, runs)
            for module in (window, window_index):
                monkeypatch.setattr(module, "LEAF_MAX", 4)
            monkeypatch.setattr(window_index, "LEAF_FILL", 3)
            monkeypatch.setattr(window, "LEAVES_SWEPT", 1)
        yield


def live(seed: int, steps: Chosen) -> None:
    """Live these steps; every third life pages by chance.

    Raises:
        AssertionError: Something went wrong.

    """
    pages = seed % 3 == 0
    with chunks_of(1 + seed // 3 % 3 if pages else None):
        life = AllSteps(WhimsicalPager(random.Random(seed)) if pages else None)
        life.begin(seed % 2 == 0, *(BEGINNINGS.random(random.Random(seed + extra)) for extra in (1, 2)))
        life.check()
        for name, arguments in steps:
            STEPS[name].take(life, **arguments)
            life.check()
        life.end()


def problem(seed: int, steps: Chosen) -> str | None:
    """What goes wrong in a life; None: nothing does."""
    try:
        live(seed, steps)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def shortest(seed: int, steps: Chosen) -> Chosen:
    """Return a part of *steps* of which none can be left out without all going well."""
    size = len(steps)
    while size:
        start = 0
        while start < len(steps):
            fewer = steps[:start] + steps[start + size :]
            if problem(seed, fewer) is not None:
                steps = fewer
            else:
                start += size
        size //= 2
    return steps
