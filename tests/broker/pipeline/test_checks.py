"""Members of a group are asked about half messages: each question leaves at once."""

from __future__ import annotations

from collections import deque
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from sluicemq.broker.pipeline.checks import CheckStage
from sluicemq.broker.pipeline.due import DueTimer


class FakeRoad:
    """A leadership with one half message, and what happened on it in order."""

    def __init__(self) -> None:
        half = SimpleNamespace(number=7, vhost="/", group="orders", destination="orders", batch_bytes=4)
        self.events: list[str] = []
        self.timer = DueTimer
        self.machine = SimpleNamespace(
            halves=SimpleNamespace(get={7: half}.get, undecided=lambda *_: 1, first_due=lambda *_: None)
        )
        self.bodies = SimpleNamespace(reading=nullcontext, load_to_show=self._load)

    async def _load(self, numbers: list[int]) -> dict[int, Any]:
        return {number: SimpleNamespace(batch=SimpleNamespace(data=b"body")) for number in numbers}

    def after_answers(self) -> None:
        self.events.append("what was said leaves")


class FakeMember:
    """A client that may be asked."""

    def __init__(self, road: FakeRoad) -> None:
        self._road = road

    def takes_more(self) -> bool:
        return True

    def ask(self, half: Any, data: bytes | memoryview) -> None:
        self._road.events.append(f"asked about {half.number}: {bytes(data).decode()}")


@pytest.mark.trio
async def test_a_question_leaves_at_once_though_it_is_asked_after_a_read_and_outside_of_every_turn():
    road: Any = FakeRoad()
    stage = CheckStage(road)
    stage.register("/", "orders", FakeMember(road))
    stage._to_ask = deque([7])
    await stage._ask_some()
    assert road.events == ["asked about 7: body", "what was said leaves"]
