"""A module of these tests that works beside a scenario in a process of its own and says at its end what it measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Self


class SideProcess:
    """Runs a module as long as the block lasts; `figures` holds what it measured afterwards.

    The module says *ready* on a line of its own once it works, ends when its standard input does, and then prints its
    figures as one JSON object.
    """

    def __init__(self, module: str, ready: str, *arguments: str) -> None:
        self._module = module
        self._ready = ready
        self._arguments = arguments
        self.figures: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            [sys.executable, "-m", self._module, *self._arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=Path(__file__).resolve().parents[2],
            env=dict(os.environ),
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == f"{self._ready}\n".encode()
        return self

    def __exit__(self, *exception: object) -> None:
        try:
            output, _ = self._process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()
            raise
        if exception[0] is None:
            assert self._process.returncode == 0, f"{self._module} failed; its traceback stands above"
            self.figures = json.loads(output)
