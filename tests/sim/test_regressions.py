"""Seeds that once broke an invariant, each with what was wrong.

What a seed does changes with the simulator, so each story is told again, shorter and for ever, by the tests of the part
that was wrong.
"""

from __future__ import annotations

import pytest

from tests.sim.report import describe
from tests.sim.simulation import Choice, run

SEEDS = [
    pytest.param(
        4, Choice(profile="time", batches=140, features=False), id="a deposed leader was kept awake by introductions"
    ),
    pytest.param(6, Choice(profile="time", batches=140, features=False), id="the same with a renewed epoch"),
    pytest.param(10031, Choice(features=False), id="a snapshot came before the word for it"),
    pytest.param(29, Choice(profile="disk", batches=140, features=False), id="the same after a crash"),
    pytest.param(
        0,
        Choice(profile="crash", batches=120, busy_seconds=10.0, features=False),
        id="a leader served before its epoch",
    ),
    pytest.param(
        23, Choice(profile="membership", batches=140, features=False), id="voters changed while a disk was lost"
    ),
    pytest.param(10426, Choice(features=False), id="a disk was lost between acknowledgement and commit"),
    pytest.param(
        100172, Choice(features=False), id="the sync of a mark failed in an orderly stop, and a start wrote behind it"
    ),
    pytest.param(
        37, Choice(profile="rot", features=False), id="a damaged node that knew of nobody ended itself again and again"
    ),
    pytest.param(102467, Choice(features=False), id="the power went off while a snapshot was looked for"),
    pytest.param(
        2001717, Choice(features=False), id="a file whose length only the kernel knew became a spare, then a segment"
    ),
    pytest.param(3006995, Choice(features=False), id="the power went off while an operator salvaged a log"),
    pytest.param(
        5000237,
        Choice(features=True, once=False),
        id="producers sent all batches behind a lost one again and again, and keys went one message at a time",
    ),
    pytest.param(
        6002442, Choice(features=True), id="an id that came before its queue had a window was looked for in the window"
    ),
    pytest.param(
        6003282, Choice(features=False), id="a disk was lost while a node that was down knew of a change of voters"
    ),
    pytest.param(6003604, Choice(features=True), id="the rest of a batch whose head was dropped fell behind the next"),
    pytest.param(6003924, Choice(features=True), id="the same where what is too much becomes a dead letter"),
    pytest.param(
        9001957, Choice(features=True), id="fewer of a key were allowed to be out while more were on their way already"
    ),
    pytest.param(
        9004663, Choice(features=True), id="two subscriptions gave the same message to one grave and it came back"
    ),
]


@pytest.mark.parametrize(("seed", "choice"), SEEDS)
def test_what_broke_once_holds(seed: int, choice: Choice) -> None:
    result = run(seed, choice)
    assert result.violation is None, describe(result)
