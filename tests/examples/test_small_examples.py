"""Each small example runs as a reader would run it, and prints what its first lines promise."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.broker_process import BrokerProcess
from tests.e2e.running import broker as broker
from tests.examples.programs import run_python

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"

PRINTED = {
    "hello_queue": ["received hello", "received queue", "received world"],
    "topics": [
        "alarms: weather.coast.storm wind 10",
        "archive: weather.coast.sun 21 degrees",
        "archive: weather.coast.storm wind 10",
    ],
    "retry_and_dead_letter": [
        "sent to ann at attempt 1",
        "attempt 3 failed: bob's mail server is down",
        "dead: nonsense - rejected - no address in it",
        "dead: to bob - max_deliveries - ConnectionError: bob's mail server is down",
        "redriven: 1",
        "sent to bob at attempt 1",
    ],
    "delay_and_cancel": [
        "seat 7 was paid; taken back: 1",
        "the hall is wanted now; put forward: 1",
        "due: release seat 8 unless paid",
        "due: release the hall",
    ],
    "order_by_key": [f"account-{number} open deposit withdraw close" for number in range(5)],
    "transactions": ["rolled back: the machine stumbled", "invoices: 1 ready", "parcels: 1 ready"],
    "half_message": ["asked about o-2", "ship o-1", "ship o-2"],
    "outbox_with_sqlalchemy": ["placed: o-1", "placed: o-3"],
    "inbox": ["booked", "known already", "sum: 42"],
    "request_reply": ["apples cost 1.20", "plums: no such product"],
    "blocking_in_threads": ["sent 2000", "done 2000"],
    "asyncio_with_fastapi": ["202 cat.jpg", "thumbnail of cat.jpg"],
    "three_brokers": ["killed the leader", "sent 300 orders, the longest wait was", "received 300 of 300"],
}
"""By example, what lines it must print, or parts of lines; in whatever order where several tasks print.

How long a wait was depends on who else uses the machine; `tests/e2e` measures that where nobody does.
"""


@pytest.mark.parametrize("name", PRINTED)
def test_an_example_prints_what_it_promises(name: str, broker: BrokerProcess, tmp_path: Path) -> None:
    outcome = run_python(EXAMPLES / f"{name}.py", folder=tmp_path, url=broker.url)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    for expected in PRINTED[name]:
        assert any(expected in line for line in outcome.stdout.splitlines()), (expected, outcome.stdout)
    assert "Traceback" not in outcome.stderr


def test_every_small_example_is_run() -> None:
    assert {path.stem for path in EXAMPLES.glob("*.py")} - {"__init__"} == set(PRINTED)


def test_the_tests_of_a_user_pass() -> None:
    arguments = ("-m", "pytest", "-q", "-p", "no:cacheprovider", EXAMPLES / "your_tests")
    outcome = run_python(*arguments, folder=EXAMPLES.parent)
    assert "2 passed" in outcome.stdout, outcome.stdout + outcome.stderr
