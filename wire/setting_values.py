"""What the values of settings may be: one function a shape, each returning how to check and normalize a value.

A check returns the value as plain data in one form, because equal settings must be equal bytes, or raises
`InvalidRequest` that names the setting, the value and what is allowed. This module must not know which settings exist.
Every range given to these functions is frozen by the log's format: brokers judge declarations again whenever they
read their log. To change one needs a new version of the DECLARE entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from sluicemq.wire.errors import InvalidRequest
from sluicemq.wire.messages import NAME_BYTES_MAX

ValueCheck = Callable[[str, Any], Any]
"""Takes the setting's name and a value; returns the value to keep."""

RETRY_DELAY_SECONDS_MAX = 366 * 86_400.0
"""Longest retry delay. Frozen, as are all limits here."""
RETRY_STEPS_MAX = 32
"""Most delays in a retry policy that lists them."""
RETRY_SECONDS_MIN = 0.001
RETRY_FACTOR_MAX = 100.0
RETENTION_SECONDS_MIN = 1.0
RETENTION_SECONDS_MAX = 10 * 366 * 86_400.0
RETENTION_BYTES_MAX = 1 << 60

_RETRY_DEFAULT: dict[str, float] = {"factor": 2.0, "max": 3600.0, "jitter": 0.0}

OUTER_BLANKS = frozenset(
    "\u0020\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
)
"""Blanks with which no name may begin or end. Frozen, see `check_name`."""
_CONTROL = re.compile("[\u0000-\u001f\u007f-\u009f\u2028\u2029]")


def _is_number(value: Any, minimum: float, maximum: float) -> bool:
    # NaN and infinity fail the comparison too.
    return type(value) in (int, float) and minimum <= value <= maximum


def seconds(minimum: float, maximum: float, *, or_none: bool = False) -> ValueCheck:
    """Seconds from *minimum* to *maximum*; kept as float."""

    def checked(name: str, value: Any) -> float | None:
        if or_none and value is None:
            return None
        if not _is_number(value, minimum, maximum):
            none = "None, or " if or_none else ""
            raise InvalidRequest(f"{name} is {value!r:.40}; it must be {none}{minimum:g} to {maximum:.0f} seconds")
        return float(value) + 0.0  # no negative zero: equal settings are equal bytes

    return checked


def seconds_or_off(minimum: float, maximum: float) -> ValueCheck:
    """Seconds from *minimum* to *maximum*, or 0 for never; kept as float."""

    def checked(name: str, value: Any) -> float:
        if not _is_number(value, minimum, maximum) and not _is_number(value, 0, 0):
            raise InvalidRequest(
                f"{name} is {value!r:.40}; it must be 0, which turns it off, or {minimum:g} to {maximum:.0f} seconds"
            )
        return float(value) + 0.0  # no negative zero

    return checked


def integer(minimum: int, maximum: int, *, or_none: bool = False) -> ValueCheck:
    """An integer from *minimum* to *maximum*."""

    def checked(name: str, value: Any) -> int | None:
        if or_none and value is None:
            return None
        if type(value) is not int or not minimum <= value <= maximum:
            none = "None, or " if or_none else ""
            raise InvalidRequest(f"{name} is {value!r:.40}; it must be {none}an integer from {minimum} to {maximum}")
        return value

    return checked


def one_of(*choices: str) -> ValueCheck:
    """One of these words."""

    def checked(name: str, value: Any) -> str:
        if type(value) is not str or value not in choices:
            raise InvalidRequest(f"{name} is {value!r:.40}; it must be one of: {', '.join(choices)}")
        return value

    return checked


def queue_name(name: str, value: Any) -> str | None:
    """None, or the name of a queue, which need not exist."""
    if value is None:
        return None
    try:
        return check_name(value)
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}: {error}; it must be None or the name of a queue") from None


def retention(name: str, value: Any) -> dict[str, Any] | None:
    """None, or limits by age, by bytes or both, in one order."""
    if value is None:
        return None
    if not isinstance(value, dict) or not value or not set(value) <= {"seconds", "bytes"}:
        raise InvalidRequest(
            f"{name} is {value!r:.80}; it must be None or name seconds, bytes or both: "
            '{"seconds": 86400, "bytes": 10737418240}'
        )
    checked: dict[str, Any] = {}
    if "seconds" in value:
        if not _is_number(value["seconds"], RETENTION_SECONDS_MIN, RETENTION_SECONDS_MAX):
            raise InvalidRequest(
                f"{name} names {value['seconds']!r:.40} seconds; it must be {RETENTION_SECONDS_MIN:.0f} to "
                f"{RETENTION_SECONDS_MAX:.0f}"
            )
        checked["seconds"] = float(value["seconds"])
    if "bytes" in value:
        bytes_ = value["bytes"]
        if type(bytes_) is not int or not 1 <= bytes_ <= RETENTION_BYTES_MAX:
            raise InvalidRequest(
                f"{name} names {bytes_!r:.40} bytes; it must be an integer from 1 to {RETENTION_BYTES_MAX}"
            )
        checked["bytes"] = bytes_
    return checked


def retry(name: str, value: Any) -> list[float] | dict[str, float] | None:
    """None, a list of delays of which the last one repeats, or what makes delays that grow; complete, in one order."""
    if value is None:
        return None
    if isinstance(value, (list, tuple)):
        if not 1 <= len(value) <= RETRY_STEPS_MAX:
            raise InvalidRequest(f"{name} lists {len(value)} delays; it must be 1 to {RETRY_STEPS_MAX}, in seconds")
        for delay in value:
            if not _is_number(delay, 0, RETRY_DELAY_SECONDS_MAX):
                raise InvalidRequest(
                    f"{name} lists {delay!r:.40}; a delay must be 0 to {RETRY_DELAY_SECONDS_MAX:.0f} seconds"
                )
        return [float(delay) + 0.0 for delay in value]
    return _growing(name, value)


def _growing(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, dict) or "initial" not in value or not set(value) <= {"initial", *_RETRY_DEFAULT}:
        raise InvalidRequest(
            f"{name} is {value!r:.80}; it must be None, a list of seconds such as [1, 10, 60], or "
            '{"initial": 1, "factor": 2, "max": 3600, "jitter": 0.2}, of which initial is needed'
        )
    limits = {
        "initial": (RETRY_SECONDS_MIN, RETRY_DELAY_SECONDS_MAX),
        "factor": (1.0, RETRY_FACTOR_MAX),
        "max": (RETRY_SECONDS_MIN, RETRY_DELAY_SECONDS_MAX),
        "jitter": (0.0, 1.0),
    }
    checked: dict[str, float] = {}
    for part, (minimum, maximum) in limits.items():
        given: Any = value.get(part, _RETRY_DEFAULT.get(part))
        if part == "max" and "max" not in value:
            given = max(_RETRY_DEFAULT["max"], checked["initial"])
        if not _is_number(given, minimum, maximum):
            raise InvalidRequest(f"{name}: {part} is {given!r:.40}; it must be {minimum:g} to {maximum:.0f}")
        checked[part] = float(given) + 0.0
    if checked["max"] < checked["initial"]:
        raise InvalidRequest(f"{name}: max is {checked['max']:g}, below initial, which is {checked['initial']:g}")
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
