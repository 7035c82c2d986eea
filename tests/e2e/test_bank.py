"""Money moves once while everybody is killed; 15 seconds on each database here, minutes from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.e2e.bank import run_bank
from tests.postgres import start_cluster

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = 15.0


def bank_in(directory: Path, address: str, seed: int) -> None:
    result = run_bank(directory, seconds=SECONDS, seed=seed, address=address)
    assert result.violations == []
    # A run in which little happened shows little.
    assert result.transfers > 30
    assert result.kills.total() > 3


@pytest.mark.timeout(600)
def test_the_bank_on_sqlite(tmp_path: Path) -> None:
    bank_in(tmp_path, f"sqlite:///{tmp_path}/bank.db", seed=1)


@pytest.mark.timeout(600)
def test_the_bank_on_postgresql(tmp_path: Path) -> None:
    cluster = start_cluster()
    try:
        bank_in(tmp_path, cluster.address, seed=2)
    finally:
        cluster.stop()
