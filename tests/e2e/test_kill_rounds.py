"""A broker that is killed under load keeps every promise; three short rounds here, thirty from the command line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.e2e.broker_process import BrokerFailed
from tests.e2e.kill_rounds import run_rounds
from tests.e2e.mutants import program_of

if TYPE_CHECKING:
    from pathlib import Path


OPTIONS = ("--segment-bytes", "1MiB", "--log-level", "warning")


def test_three_kills_under_load_lose_nothing_and_repeat_nothing_that_was_settled(tmp_path: Path) -> None:
    result = run_rounds(tmp_path, rounds=3, seed=1, options=OPTIONS)
    assert result.violations == []
    # A kill that hits an idle broker shows nothing.
    assert all(one.batches_in_flight for one in result.rounds), result.rounds
    assert result.counts["messages confirmed"] == result.counts["messages sent"] > 1000
    # Four clients connect at the start and after each kill, which may come between a connection and its session.
    assert result.counts["connected"] >= 4 * 3


def test_the_client_library_comes_through_kills_by_itself(tmp_path: Path) -> None:
    result = run_rounds(tmp_path, rounds=2, seed=2, client="library", options=OPTIONS)
    assert result.violations == []
    assert all(one.batches_in_flight for one in result.rounds), result.rounds
    assert result.counts["messages confirmed"] == result.counts["messages sent"] > 1000


def test_a_broker_that_confirms_before_it_writes_is_found_out(tmp_path: Path) -> None:
    program = program_of("confirm-before-write")
    try:
        found = run_rounds(tmp_path, rounds=2, seed=3, options=OPTIONS, program=program).violations
    except BrokerFailed as error:
        # Its memory of a producer's sequence is lost as well, so that the producer cannot go on.
        found = [str(error)]
    assert any("lost" in one or "a client process ended" in one for one in found), found


def test_graceful_stops_under_load_are_no_less_safe_than_kills(tmp_path: Path) -> None:
    result = run_rounds(tmp_path, rounds=2, seed=4, options=OPTIONS, graceful_share=1.0)
    assert result.violations == []
    assert result.counts["messages confirmed"] == result.counts["messages sent"] > 1000
