"""The command line as a user calls it, beside a broker that serves."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.e2e.broker_process import BrokerProcess

COMMAND_SECONDS_MAX = 120

on_one_loop = pytest.mark.parametrize("anyio_backend", ["trio"], indirect=True)
"""For stories of the command line: it has a loop of its own, so it makes no difference on which loop the test runs."""


def sluicemq(broker: BrokerProcess, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `sluicemq` with these arguments and the broker's address."""
    return subprocess.run(
        [sys.executable, "-m", "sluicemq.broker.cli", *arguments, "--url", broker.url],
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS_MAX,
        env=os.environ,
        check=False,
    )
