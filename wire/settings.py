"""The settings of a queue: names, types, defaults and limits, shared so that a typo fails on both sides alike.

This module owns the names. What a setting does stands in the broker's queue machine.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, TypedDict

from sluicemq.wire.errors import InvalidRequest, UnknownOption
from sluicemq.wire.messages import NAME_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Mapping


class Retention(TypedDict, total=False):
    """How long messages can be replayed; at least one of the two.

    Attributes:
        seconds: So long after it was published, about a second more; 1 to ten years.
        bytes: Until what was published since takes more than so many bytes, as batches.

    """

    seconds: float
    bytes: int


class QueueSettings(TypedDict, total=False):
    """Settings of a queue, all optional.

    Attributes:
        retry_delay: Seconds that a message waits after a nack that names no delay; default 1.0.
        retention: Keep every message that is published from now on for replay, also when it is settled or purged;
            default None: what is settled goes at once.

    """

    retry_delay: float
    retention: Retention | None


QUEUE_SETTINGS_DEFAULT: dict[str, Any] = {"retry_delay": 1.0, "retention": None}
"""Every setting with its default. Defaults are frozen by the log's format, like `RETRY_DELAY_SECONDS_MAX`."""
RETRY_DELAY_SECONDS_MAX = 366 * 86_400.0
"""Longest retry delay.

Frozen by the log's format: brokers judge declarations again whenever they read their log, so another value changes
verdicts that clients were given long ago. To change it needs a new version of the DECLARE entry.
"""
RETENTION_SECONDS_MIN = 1.0
RETENTION_SECONDS_MAX = 10 * 366 * 86_400.0
"""Longest retention. Frozen likewise, as is the shortest one."""
RETENTION_BYTES_MAX = 1 << 60
"""Largest retention in bytes. Frozen likewise."""


OUTER_BLANKS = frozenset(
    "\u0020\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
"""Blanks with which no name may begin or end. Frozen, see `check_name`."""
_CONTROL = re.compile("[\u0000-\u001f\u007f-\u009f\u2028\u2029]")


def check_queue_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return *settings* as plain values, checked one by one; missing ones are not filled in.

    Raises:
        UnknownOption: A name that no queue has.
        InvalidRequest: A value of the wrong type or out of range.

    """
    checked: dict[str, Any] = {}
    for name, value in settings.items():
        if name not in QUEUE_SETTINGS_DEFAULT:
            known = ", ".join(sorted(QUEUE_SETTINGS_DEFAULT))
            raise UnknownOption(f"queues have no setting {name!r:.80}; known are: {known}", option=str(name)[:80])
        if name == "retry_delay":
            # NaN and infinity fail the comparison too.
            if type(value) not in (int, float) or not 0 <= value <= RETRY_DELAY_SECONDS_MAX:
                raise InvalidRequest(
                    f"retry_delay is {value!r:.40}; it must be 0 to {RETRY_DELAY_SECONDS_MAX:.0f} seconds"
                )
            checked[name] = float(value) + 0.0  # no negative zero: equal settings are equal bytes
        else:
            checked[name] = _checked_retention(value)
    return checked


def _checked_retention(value: object) -> dict[str, Any] | None:
    """Return the setting `retention` with its limits in one order: equal settings are equal bytes."""
    if value is None:
        return None
    if not isinstance(value, dict) or not value or not set(value) <= {"seconds", "bytes"}:
        raise InvalidRequest(
            f"retention is {value!r:.80}; it must be None or name seconds, bytes or both: "
            '{"seconds": 86400, "bytes": 10737418240}'
        )
    checked: dict[str, Any] = {}
    if "seconds" in value:
        seconds = value["seconds"]
        if type(seconds) not in (int, float) or not RETENTION_SECONDS_MIN <= seconds <= RETENTION_SECONDS_MAX:
            raise InvalidRequest(
                f"retention names {seconds!r:.40} seconds; it must be {RETENTION_SECONDS_MIN:.0f} to "
                f"{RETENTION_SECONDS_MAX:.0f}"
            )
        checked["seconds"] = float(seconds)
    if "bytes" in value:
        bytes_ = value["bytes"]
        if type(bytes_) is not int or not 1 <= bytes_ <= RETENTION_BYTES_MAX:
            raise InvalidRequest(
                f"retention names {bytes_!r:.40} bytes; it must be an integer from 1 to {RETENTION_BYTES_MAX}"
            )
        checked["bytes"] = bytes_
    return checked


def check_name(name: str, what: str = "queue") -> str:
    """Return *name* if it may name a *what*: 1 to 255 bytes of UTF-8 without control characters and wildcard signs.

    Control characters are U+0000 to U+001F, U+007F to U+009F, U+2028 and U+2029; `OUTER_BLANKS` may stand within a name
    but not at its ends. The rule is spelled out because brokers judge by it when they read their log again: Python's
    own `isprintable` and `strip` follow Unicode's tables, which differ between its versions. It is frozen.

    Raises:
        InvalidRequest: It may not; the text says why.

    """
    if type(name) is not str:
        raise InvalidRequest(f"the name of a {what} must be text, not {type(name).__name__}")
    try:
        size = len(name.encode("utf-8"))
    except UnicodeEncodeError:
        raise InvalidRequest(f"the name of a {what} is no valid Unicode text: {name!r:.80}") from None
    if not 1 <= size <= NAME_BYTES_MAX:
        raise InvalidRequest(f"the name of a {what} has {size} bytes; allowed are 1 to {NAME_BYTES_MAX}")
    if _CONTROL.search(name) or name[0] in OUTER_BLANKS or name[-1] in OUTER_BLANKS:
        raise InvalidRequest(f"the name of a {what} holds control characters or outer blanks: {name!r:.80}")
    if "*" in name or "#" in name:
        raise InvalidRequest(f"the name of a {what} must not hold the wildcard signs * and #: {name!r:.80}")
    return name
