"""A run may be made in parts: what is measured already is not measured again, and no part goes on beyond its time."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import pytest

from bench.run import as_text
from bench.scenarios import FULL, OutOfTime, Scenarios
from bench.session import Session
from bench.systems import BY_NAME, System


def scenarios(folder: Path, records: list[dict[str, Any]], deadline: float = math.inf) -> Scenarios:
    return Scenarios(Session([], folder), FULL, lambda _records: None, records, deadline)


def measured(of: Scenarios, systems: list[str], rounds: int) -> list[tuple[str, int]]:
    asked: list[str] = []

    def measure(system: System) -> dict[str, Any]:
        asked.append(system.name)
        return {"figure": 1.0}

    of._each("rates", measure, [BY_NAME[name] for name in systems], rounds, size=100)
    return [(name, asked.count(name)) for name in systems]


def test_only_what_is_missing_is_measured(tmp_path: Path) -> None:
    known = [
        {"scenario": "rates", "system": "nats", "round": 0, "size": 100, "figure": 2.0},
        {"scenario": "rates", "system": "nats", "round": 1, "size": 1024, "figure": 2.0},
    ]
    run = scenarios(tmp_path, known)
    assert measured(run, ["nats", "sluicemq"], 2) == [("nats", 1), ("sluicemq", 2)]
    assert run.records[:2] == known
    assert len(run.records) == 5
    assert measured(run, ["nats", "sluicemq"], 2) == [("nats", 0), ("sluicemq", 0)]


def test_no_measurement_begins_after_its_time(tmp_path: Path) -> None:
    run = scenarios(tmp_path, [], deadline=time.monotonic() - 1)
    with pytest.raises(OutOfTime):
        measured(run, ["nats"], 1)
    assert run.records == []


def test_results_have_a_line_a_record_and_stay_json(tmp_path: Path) -> None:
    import json

    content = {"facts": {"commit": "abc"}, "quick": False, "records": [{"system": "nats", "errors": {}}, {"a": 1}]}
    text = as_text(content)
    assert json.loads(text) == content
    assert ' {"a": 1}' in text.splitlines()
