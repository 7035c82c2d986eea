"""Two places that must say the same version."""

from __future__ import annotations

import tomllib
from pathlib import Path

from sluicemq.wire.version import VERSION

ROOT = Path(__file__).parent.parent.parent


def test_what_is_told_is_what_is_packaged() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == VERSION
