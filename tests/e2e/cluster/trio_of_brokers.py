"""Three brokers in processes of their own, on directories of their own, that know each other by `--peers`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from tests.e2e.broker_process import BrokerProcess, unused_port
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Brokers:
    """So many brokers; all are ended by `end`.

    Args:
        folder: Where their data goes.
        count: How many.
        options: More options of `sluicemq serve`.

    """

    def __init__(self, folder: Path, count: int = 3, options: tuple[str, ...] = ()) -> None:
        ports = {number: unused_port() for number in range(1, count + 1)}
        peers = ",".join(f"{number}=127.0.0.1:{port}" for number, port in ports.items())
        self.nodes = {
            number: BrokerProcess(
                folder / f"node-{number}",
                port=port,
                options=("--node-id", str(number), "--peers", peers, *options),
            )
            for number, port in ports.items()
        }

    @property
    def url(self) -> str:
        """Where clients connect: every broker."""
        return "sluicemq://" + ",".join(f"127.0.0.1:{node.port}" for node in self.nodes.values())

    def start(self) -> None:
        """Start all of them at once."""
        for node in self.nodes.values():
            node.spawn()
        for node in self.nodes.values():
            node.wait_ready()

    def end(self) -> None:
        """Leave nothing behind."""
        for node in self.nodes.values():
            node.kill()

    def leader(self) -> int:
        """Return who leads, by what the brokers say: the last of those that run whose log of events says so."""
        return wait_for(lambda: next(self._leaders(), None))

    def _leaders(self) -> Iterator[int]:
        for number, node in self.nodes.items():
            if node.runs:
                said = [
                    line for line in node.stderr.splitlines() if " in epoch " in line and "sluicemq.ensemble" in line
                ]
                if said and "leading, broadcast in epoch" in said[-1]:
                    yield number


def wait_for(look: Callable[[], int | None]) -> int:
    """Return what *look* finds, as soon as it finds anything."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        found = look()
        if found is not None:
            return found
        time.sleep(0.02)
    raise AssertionError("nothing was found in time")
