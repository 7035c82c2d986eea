"""Lives at close quarters keep the order of keys, and would show each known fault."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.broker.queues.dispatching.lives import caught, small_limits
from tests.broker.queues.dispatching.mutants import MUTANTS, Mutant

if TYPE_CHECKING:
    from collections.abc import Iterator

LIVES = 300
LIVES_OF_A_MUTANT_MAX = 300


@pytest.fixture
def limits() -> Iterator[pytest.MonkeyPatch]:
    with small_limits() as monkeypatch:
        yield monkeypatch


@pytest.mark.usefixtures("limits")
def test_nobody_overtakes_nothing_is_in_two_hands_and_nothing_stalls() -> None:
    assert caught(range(LIVES)) is None


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_each_known_fault_is_caught(mutant: Mutant, limits: pytest.MonkeyPatch) -> None:
    mutant.apply(limits)
    assert caught(range(LIVES_OF_A_MUTANT_MAX)) is not None
