"""The demonstration, for real: a broker, four services, two kills, and nothing lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sluicemq.examples.common.figures import percentile
from sluicemq.examples.first_look.common import handle_once, open_database
from sluicemq.examples.first_look.demo import Demo, DemoFailed
from tests.examples.programs import run_python


def test_two_kills_lose_no_accepted_order(tmp_path: Path) -> None:
    arguments = ("-m", "sluicemq.broker.cli", "demo", "--data", tmp_path, "--orders", "60", "--json")
    done = run_python(*arguments)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["accepted"] == 60
    assert found["handled"] == {"stock": 60, "billing": 60, "notification": 60}
    assert found["lost"] == 0
    assert found["log_is_whole"] is True
    assert [kill.split()[0] for kill in found["kills"]] == ["billing", "broker"]
    assert "Traceback" not in done.stderr


def test_an_effect_takes_place_once(tmp_path: Path) -> None:
    database = open_database(tmp_path / "stock.sqlite")
    assert handle_once(database, "o-1", "reserved") is True
    assert handle_once(database, "o-1", "reserved") is False
    assert handle_once(database, "o-2", "reserved") is True
    assert database.execute("SELECT order_id, repeats FROM handled ORDER BY order_id").fetchall() == [
        ("o-1", 1),
        ("o-2", 0),
    ]
    database.close()


def test_the_demonstration_deletes_no_directory_of_yours(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("the only copy")
    with pytest.raises(DemoFailed, match="choose another with --data"):
        Demo(tmp_path, 10).run()
    assert (tmp_path / "thesis.txt").read_text() == "the only copy"


def test_percentiles_of_a_handful() -> None:
    assert percentile([], 50) == 0
    assert percentile([7.0], 99) == 7.0
    assert percentile([float(number) for number in range(101)], 50) == 50.0
