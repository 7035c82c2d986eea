"""What a client process of the kill rounds writes down, and how the judge reads it back.

Why a file: the client is a process of its own, it may be killed too, and what it saw must outlive it. One JSON list a
line, written at once. This module knows the facts' shape and nothing of brokers.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from tests.e2e.total_queue import Ledger, Run

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from typing import TextIO


class Journal:
    """The writing end. Every line begins with its kind and the time (`time.monotonic`, the same for all processes)."""

    def __init__(self, path: Path) -> None:
        self._file: TextIO = path.open("w", encoding="ascii")

    def write(self, kind: str, *facts: Any) -> None:
        """Write one line."""
        self._file.write(json.dumps([kind, time.monotonic(), *facts], separators=(",", ":")) + "\n")
        self._file.flush()

    # --- producers --------------------------------------------------------------------------------------------

    def sends(self, producer: int, batch: int, first: int, count: int) -> None:
        """Before a batch is sent for the first time."""
        self.write("sends", producer, batch, first, count)

    def confirmed(self, producer: int, batch: int, zxid: int, duplicate: bool) -> None:
        """After its confirm came."""
        self.write("confirmed", producer, batch, zxid, duplicate)

    # --- consumers --------------------------------------------------------------------------------------------

    def delivered(self, consumer: int, delivery: int, session: int, epoch: int, runs: Iterable[Run]) -> None:
        """After a frame of messages came."""
        packed = [(run.producer, run.first, run.count, run.zxid, run.first_index, run.deliveries) for run in runs]
        self.write("delivered", consumer, delivery, session, epoch, packed)

    def stranger(self, body: bytes) -> None:
        """After a body came that no producer makes."""
        self.write("stranger", repr(body[:80]))

    def verdict(self, consumer: int, delivery: int, verdict: str) -> None:
        """Before a verdict is sent."""
        self.write("verdict", consumer, delivery, verdict)

    def settled(self, consumer: int, delivery: int, lost: list[int]) -> None:
        """After the verdict was confirmed; *lost* are places within the delivery whose leases were over."""
        self.write("settled", consumer, delivery, lost)

    # --- both -------------------------------------------------------------------------------------------------

    def connected(self, session: int) -> None:
        """After a session was opened."""
        self.write("connected", session)

    def trouble(self, text: str) -> None:
        """After something failed, for whoever reads the journal."""
        self.write("trouble", text)


def read_journals(paths: Iterable[Path]) -> tuple[Ledger, dict[str, int]]:
    """Return what the journals say, and how often each kind of line occurs (`resent_as_duplicate` among them)."""
    ledger = Ledger()
    counts: dict[str, int] = {"resent_as_duplicate": 0}
    for path in paths:
        for line in path.read_text(encoding="ascii").splitlines():
            kind, at, *facts = json.loads(line)
            counts[kind] = counts.get(kind, 0) + 1
            if kind == "sends":
                producer, batch, first, count = facts
                ledger.sent(producer, batch, first, count, at)
            elif kind == "confirmed":
                producer, batch, zxid, duplicate = facts
                counts["resent_as_duplicate"] += duplicate
                ledger.confirmed(producer, batch, zxid, at)
            elif kind == "delivered":
                consumer, delivery, session, epoch, runs = facts
                ledger.delivered(consumer, delivery, session, epoch, at, [Run(*run) for run in runs])
            elif kind == "stranger":
                ledger.stranger(*facts)
            elif kind == "verdict":
                ledger.verdict(*facts)
            elif kind == "settled":
                consumer, delivery, lost = facts
                ledger.settled(consumer, delivery, at, set(lost))
    return ledger, counts
