"""What happened to messages, as clients saw it: one JSON object a line, and what the checkers read.

A message is (producer, number). Times are `time.monotonic` of the one process in which all clients live.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

SENT = "sent"
"""About to be sent for the first time."""
CONFIRMED = "confirmed"
"""The broker said that it is stored."""
REFUSED = "refused"
"""The broker said that it is not stored; or it was part of something that was rolled back."""
UNKNOWN = "unknown"
"""Nobody knows whether the acknowledgement holds."""
DECIDED = "decided"
"""The sender's own database says that a prepared message is to come."""
HANDED = "handed"
"""A worker has it in hand."""
SETTLES = "settles"
"""A worker is about to acknowledge it."""
SETTLED = "settled"
"""The broker said that the acknowledgement holds."""
AGAIN = "again"
"""Sent once more on purpose, and the broker said where its original is."""
GIVEN_BACK = "given back"
"""A worker wants it to come again."""
LOST = "lost"
"""A worker was told that its lease was over."""
FAULT = "fault"
"""Something was broken, or mended; `text` says what."""
ERROR = "error"
"""User code met an error that it should not have; `text` says which."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line.

    Attributes:
        at: When.
        kind: One of the above.
        producer: Number of who sends; with `number` it names the message.
        number: Counter of its messages to one destination, from 1.
        queue: Where it was sent to, or handed out from.
        worker: Who consumes.
        position: Where the broker keeps it.
        delivery: How often it was granted, this time included.
        key: Its key.
        delay: Seconds that it shall wait.
        transaction: Name of the transaction that this is part of.
        text: Anything else.

    """

    at: float
    kind: str
    producer: int = 0
    number: int = 0
    queue: str = ""
    worker: str = ""
    position: str = ""
    delivery: int = 0
    key: str = ""
    delay: float = 0.0
    transaction: str = ""
    text: str = ""

    @property
    def message(self) -> tuple[str, int, int]:
        """What names the message: destinations count their own."""
        return (self.key, self.producer, self.number)


class History:
    """Collects events, and writes each down at once."""

    def __init__(self, path: Path | None = None) -> None:
        self.events: list[Event] = []
        self._file = None if path is None else path.open("w", encoding="utf-8")

    def add(self, kind: str, **facts: object) -> None:
        """Note that something happens now."""
        event = Event(time.monotonic(), kind, **facts)  # type: ignore[arg-type]
        self.events.append(event)
        if self._file is not None:
            plain = {name: value for name, value in asdict(event).items() if value}
            self._file.write(json.dumps(plain) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def read(lines: Iterable[str]) -> Iterator[Event]:
    """Return the events of a file."""
    for line in lines:
        yield Event(**json.loads(line))
