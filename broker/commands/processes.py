"""A broker in a process of its own, for commands that need one. Knows the ready line and signals, no protocol."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

from sluicemq.broker.commands.manners import Failure

_READY = re.compile(rb"sluicemq \d+ ready on (sluicemq://\S+)\s*")
START_SECONDS_MAX = 30.0
STOP_SECONDS_MAX = 30.0

SELF = (sys.executable, "-m", "sluicemq.broker.cli")
"""This very program; the installed script may not be on PATH."""


class OwnBroker:
    """A broker on a free port that ends with the `with` block.

    Args:
        data: Its data directory.
        options: More options of `sluicemq serve`.

    """

    def __init__(self, data: Path, options: tuple[str, ...] = ()) -> None:
        self.url = ""
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            [*SELF, "serve", "--data", str(data), "--listen", "127.0.0.1:0", "--log-level", "warning", *options],
            stdout=subprocess.PIPE,
            # Ctrl-C goes to every process of the terminal; the broker must outlive whoever still talks to it.
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        try:
            self.url = self._wait_until_ready()
        except BaseException:
            self._process.kill()
            self._end()
            raise
        return self

    def _wait_until_ready(self) -> str:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + START_SECONDS_MAX
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - time.monotonic()))
            piece = os.read(descriptor, 4096) if readable else b""
            if not piece:
                why = "did not start; it said why above" if readable else f"was not ready in {START_SECONDS_MAX:g} s"
                raise Failure(f"the broker {why}")
            line += piece
        match = _READY.fullmatch(line)
        if match is None:
            raise Failure(f"the broker said {line!r} instead of its ready line")
        return match[1].decode()

    def __exit__(self, *_error: object) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._end()

    def _end(self) -> None:
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()
