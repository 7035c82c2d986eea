"""How long do 200 tests take that have a broker each? `python -m tests.broker.testing.two_hundred [--tests 200]`.

Writes a file of tests as users have them and runs pytest on it: each connects, declares a queue, sends, takes and
acknowledges two messages, and moves the time on by three days in between. The promise: 200 within 20 s.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from tests.broker.testing.test_howto import run_pytest

SECONDS_MAX = 20.0
PROGRAM = """
import pytest
from sluicemq.client import connect

@pytest.mark.parametrize("number", range({tests}))
@pytest.mark.trio
async def test_an_order(sluicemq, number):
    async with connect(sluicemq.url) as client:
        await client.declare_queue("orders")
        await client.send("orders", b"now")
        await client.send("orders", b"later", delay=86_400)
        async with client.consumer("orders") as consumer:
            async with await anext(consumer) as message:
                assert message.body == b"now"
        await sluicemq.clock.advance("3 days")
        async with client.consumer("orders") as consumer:
            async with await anext(consumer) as message:
                assert message.body == b"later"
"""


def seconds_of(tests: int) -> float:
    """Return how long so many tests take, pytest's own start included."""
    with tempfile.TemporaryDirectory(prefix="two-hundred-") as folder:
        (Path(folder) / "test_orders.py").write_text(PROGRAM.format(tests=tests))
        started = time.perf_counter()
        finished = run_pytest(Path(folder))
        seconds = time.perf_counter() - started
    assert finished.returncode == 0, finished.stdout[-5_000:] + finished.stderr
    assert f"{tests} passed" in finished.stdout, finished.stdout
    return seconds


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tests", type=int, default=200)
    tests = parser.parse_args().tests
    seconds = seconds_of(tests)
    good = seconds <= SECONDS_MAX * tests / 200
    print(f"{tests} tests with a broker each: {seconds:.1f} s, {seconds / tests * 1e3:.0f} ms a test")
    print("within 20 s for 200" if good else "NOT within 20 s for 200")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
