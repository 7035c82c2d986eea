"""What a handler may raise to say what becomes of its message, and what is known of earlier attempts.

`async with message:` understands both exceptions, from any depth of the handler, and does not let them out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sluicemq.client.options import Duration, seconds_of

REASON_CHARACTERS_MAX = 200
"""A reason is cut after so many characters."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Retry(Exception):
    """Raised by a handler: the attempt failed, and the message comes again.

    Args:
        delay: Seconds or timedelta until then; None: the queue's retry policy.
        reason: Why; the next attempt finds it as `message.last_error`.

    """

    def __init__(self, reason: str = "", *, delay: Duration | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.delay_seconds = None if delay is None else seconds_of(delay, "delay")


class Reject(Exception):
    """Raised by a handler: no attempt will ever succeed, so the message becomes a dead letter at once.

    Args:
        reason: Why; it stands beside the dead letter.

    """

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


def reason_of(text: str) -> str:
    """Return *text* as it may travel as a reason.

    Raises:
        TypeError: It is no text.

    """
    if not isinstance(text, str):
        raise TypeError(f"reason must be str, not {type(text).__name__}")
    # What is no valid Unicode is shown, not refused: it is mostly part of somebody else's error.
    return text[:REASON_CHARACTERS_MAX].encode("utf-8", "backslashreplace").decode()[:REASON_CHARACTERS_MAX]


def error_text(error: BaseException) -> str:
    """Return type and text of what a handler raised, bounded."""
    name = type(error).__name__
    try:
        text = str(error)
    except Exception:  # noqa: BLE001 - an error that cannot say what it is must not hide the verdict
        text = "its text cannot be had"
    return reason_of(f"{name}: {text}" if text else name)


@dataclass(frozen=True, slots=True)
class DeathNote:
    """Why a message became a dead letter.

    Attributes:
        origin: Name of the queue in which it did.
        reason: `rejected`, `max_deliveries`, `ttl` or `overflow`.
        error: What the handler said last; "" where it said nothing.
        attempts: How many attempts were made there.
        died_at: When, by the broker's clock.

    """

    origin: str
    reason: str
    error: str
    attempts: int
    died_at: datetime


def death_note(note: Mapping[str, Any], queue: str, attempts: int = 0) -> DeathNote:
    """Return what a note on the wire says of a dead letter that died in *queue*, unless the note names another."""
    return DeathNote(
        str(note.get("origin") or queue),
        str(note.get("kind", "")),
        str(note.get("text", "")),
        int(note.get("attempts") or attempts),
        _EPOCH + timedelta(milliseconds=int(note.get("at_ms", 0))),
    )
