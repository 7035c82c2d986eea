"""A short run of `three_times`: every publish three times, over kills and reconnects, and each message there once."""

from __future__ import annotations

from pathlib import Path

from tests.e2e import three_times


def test_what_is_published_three_times_is_delivered_once(tmp_path: Path) -> None:
    three_times.run(20_000, kills=2, seed=3, folder=tmp_path)
