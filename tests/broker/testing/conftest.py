"""What every test of a broker within a test leans on: patience, since the machine may stand still for a while."""

from __future__ import annotations

import pytest

from sluicemq.broker.testing import advancing
from tests.patience import WAIT_SECONDS


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """While time is moved on, clients are waited for as long as it takes: those of these tests answer at once."""
    for name in ("BUSY_SECONDS_MAX", "ANSWER_SECONDS_MAX", "CLIENTS_SECONDS_MAX"):
        monkeypatch.setattr(advancing, name, WAIT_SECONDS)
