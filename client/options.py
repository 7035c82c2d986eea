"""Checks of what users pass: durations, bodies, texts. Knows neither sockets nor frames."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypedDict

from sluicemq.client.errors import InvalidRequest
from sluicemq.wire.batch import DUE_MS_MAX, KEY_BYTES_MAX, MESSAGE_ID_BYTES_MAX, PRIORITY_MAX, SUBJECT_BYTES_MAX
from sluicemq.wire.messages import SECONDS_MAX

Body = bytes | bytearray | memoryview
Duration = float | timedelta


class Delivery(TypedDict, total=False):
    """When, for how long and how soon a message is to be delivered; see `Producer.send`."""

    delay: Duration | None
    at: datetime | None
    ttl: Duration | None
    priority: int


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
SHOWN_CHARACTERS_MAX = 80
"""A wrong value is shown to its caller up to this length."""


def seconds_of(value: Duration, name: str, *, minimum: float = 0.0, maximum: float = SECONDS_MAX) -> float:
    """Return the duration *value* in seconds.

    Args:
        value: Seconds, or a timedelta.
        name: How the caller calls it; stands in the error.
        minimum: Least seconds that are allowed.
        maximum: Most seconds that are allowed; default: ten years.

    Raises:
        TypeError: Neither a number nor a timedelta.
        InvalidRequest: NaN, negative, below *minimum* or beyond *maximum*.

    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    elif isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{name} must be seconds or a timedelta, not {type(value).__name__}")
    # Written so that NaN fails it, and an integer beyond all floats is never made one.
    if not minimum <= value <= maximum:
        raise InvalidRequest(f"{name} is {_shown(value)}; it must be {minimum:g} to {maximum:.0f} seconds")
    return float(value)


def count_of(value: int, name: str, *, minimum: int = 1, maximum: int = 0xFFFF_FFFF) -> int:
    """Return *value* if it is an integer from *minimum* to *maximum*.

    Raises:
        TypeError: No integer.
        InvalidRequest: Out of range.

    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {type(value).__name__}")
    if not minimum <= value <= maximum:
        raise InvalidRequest(f"{name} is {_shown(value)}; it must be {minimum} to {maximum}")
    return value


def _shown(value: float) -> str:
    """Return *value* for an error text; Python refuses to write very long integers."""
    try:
        text = str(value)
    except ValueError:
        return "an integer of thousands of digits"
    return text if len(text) <= SHOWN_CHARACTERS_MAX else f"{text[:SHOWN_CHARACTERS_MAX]}… ({len(text)} digits)"


def owned_body(body: Body) -> bytes:
    """Return *body* as bytes that nobody else can change.

    Raises:
        TypeError: No bytes, bytearray or memoryview.

    """
    if type(body) is bytes:
        return body
    if isinstance(body, (bytes, bytearray, memoryview)):
        return bytes(body)
    if isinstance(body, str):
        raise TypeError("a body must be bytes, not str: call .encode() on it")
    raise TypeError(f"a body must be bytes, bytearray or memoryview, not {type(body).__name__}")


def check_attributes(
    key: str | None, subject: str | None, headers: Mapping[str, Any] | None, message_id: str | None
) -> None:
    """Check what may accompany a body.

    Raises:
        TypeError: A value of the wrong type.
        InvalidRequest: A text that is too long, or an empty message id.

    """
    for name, value, bytes_max in (
        ("key", key, KEY_BYTES_MAX),
        ("subject", subject, SUBJECT_BYTES_MAX),
        ("message_id", message_id, MESSAGE_ID_BYTES_MAX),
    ):
        if value is None:
            continue
        if not isinstance(value, str):
            raise TypeError(f"{name} must be str, not {type(value).__name__}")
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise InvalidRequest(f"{name} is no valid Unicode text: {value!r:.80}") from None
        if size > bytes_max:
            raise InvalidRequest(f"{name} has {size} bytes; allowed are {bytes_max}")
        if not size and name == "message_id":
            raise InvalidRequest("message_id is empty: leave it out, and the message gets an id of its own")
    if headers is not None:
        _check_headers(headers)


def delivery_of(
    delay: Duration | None, at: datetime | None, ttl: Duration | None, priority: int
) -> tuple[int | None, int | None, int | None]:
    """Return when, for how long and how soon a message is to be delivered, as it travels.

    Args:
        delay: How long it waits from when the broker has it.
        at: Until when it waits instead.
        ttl: How long it may be delivered, from the end of that wait.
        priority: 0 to 9.

    Returns:
        Milliseconds since 1970, or negative ones of delay; milliseconds of lifetime; priority. None where it says
        nothing.

    Raises:
        TypeError: A value of the wrong type, or both *delay* and *at*.
        InvalidRequest: A value out of range, or a time without a time zone.

    """
    if delay is not None and at is not None:
        raise TypeError("give either delay or at, not both: each says when the message is due")
    due: int | None = None
    if delay is not None:
        due = -round(seconds_of(delay, "delay") * 1000) or None
    elif at is not None:
        due = _time_ms(at)
    lifetime = None if ttl is None else round(seconds_of(ttl, "ttl", minimum=0.001) * 1000)
    return due, lifetime, count_of(priority, "priority", minimum=0, maximum=PRIORITY_MAX) or None


def _time_ms(at: datetime) -> int:
    if not isinstance(at, datetime):
        raise TypeError(f"at must be a datetime, not {type(at).__name__}")
    if at.utcoffset() is None:
        raise InvalidRequest(
            f"at is {at.isoformat()} without a time zone; say which, as in datetime.now(timezone.utc) or .astimezone()"
        )
    # Not `timestamp()`: its float cannot hold every millisecond of far years, and rounds to even.
    due = (at - _EPOCH) // timedelta(milliseconds=1)
    if due > DUE_MS_MAX:
        raise InvalidRequest(f"at is {at.isoformat()}; the last time allowed is the end of the year 9999 in UTC")
    return max(due, 0)


def _check_headers(headers: Mapping[str, Any]) -> None:
    if not isinstance(headers, Mapping):
        raise TypeError(f"headers must be a mapping, not {type(headers).__name__}")
    for header in headers:
        if not isinstance(header, str):
            raise TypeError(f"the name of a header must be str, not {type(header).__name__}")
