"""How the limits of a queue are written: rates with time windows, limits of publishing, the adaptive mode.

One readable form each, which broker and client read alike: `"50/s from 9 to 18 on mon-fri; 500/s; in Europe/Berlin"`,
`"token_bucket 1000/s burst 5000"`. What is kept is the same text in one spelling, because equal settings must be equal
bytes. What is allowed here is frozen by the log's format, as in `setting_values`: so a time zone is a name here, and
whether this machine knows it is not asked. This module must not know clocks, nor what a limit does.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, NamedTuple

from sluicemq.wire.errors import InvalidRequest

RATE_MIN = 1e-5
"""Slowest rate, in messages a second: about one a day."""
RATE_MAX = 1e7
BYTES_RATE_MIN, BYTES_RATE_MAX = 1.0, 1e12
LIMIT_COUNT_MAX = 1_000_000_000
"""Most messages of a burst, or of one window."""
PERIOD_SECONDS_MAX = 7 * 86_400
TEXT_CHARACTERS_MAX = 500
WINDOWS_MAX = 24
LATENCY_SECONDS_MIN, LATENCY_SECONDS_MAX = 0.001, 86_400.0
FAILURES_MIN = 0.001

MINUTES_A_DAY = 24 * 60
EVERY_DAY = 0b1111111
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

ALGORITHMS = ("fixed_window", "sliding_window", "leaky_bucket", "token_bucket")
ADAPTIVE_DEFAULT: dict[str, float | None] = {"min": 1.0, "max": 1e6, "latency": None, "failures": 0.02}

_BLANKS = re.compile("[ \t]+")
_UNIT_SECONDS = {"s": 1, "min": 60, "h": 3_600, "d": 86_400}
_RATE = r"([0-9]{1,10}(?:\.[0-9]{1,6})?) ?/ ?([0-9]{1,6})? ?(s|min|h|d)"
_TIME = r"([0-9]{1,2})(?::([0-9]{2}))?"
_CLAUSE = re.compile(rf"(?:{_RATE}|(unlimited))(?: from {_TIME} to {_TIME})?(?: on ([a-z, -]+))?")
_ZONE = re.compile(r"in ([A-Za-z0-9_+/-]{1,64})")
_LIMIT = re.compile(rf"([a-z_]+) {_RATE}(?: burst ([0-9]{{1,10}}))?")


class RateWindow(NamedTuple):
    """A rate, and when it holds.

    Attributes:
        rate: Messages a second; infinity: as many as there are.
        begin: Minute of the day from which on it holds.
        end: Minute of the day at which it ends, on the next day where that is not behind *begin*.
        days: Bits of the days on which it begins, 1 for Monday.

    """

    rate: float
    begin: int = 0
    end: int = MINUTES_A_DAY
    days: int = EVERY_DAY


class RatePlan(NamedTuple):
    """Rates by the time of the week: the first window that holds counts, and where none does there is no limit.

    Attributes:
        windows: The windows.
        zone: Name of the time zone in which they are meant.

    """

    windows: tuple[RateWindow, ...]
    zone: str = "UTC"

    @property
    def is_steady(self) -> bool:
        """Whether the rate is the same at all times."""
        return len(self.windows) == 1 and self.windows[0] == RateWindow(self.windows[0].rate)

    def rate_at(self, day: int, minute: int) -> float:
        """Return the rate on a day of the week, 0 for Monday, at a minute of that day."""
        yesterday = (day - 1) % 7
        for rate, begin, end, days in self.windows:
            if begin < end:
                holds = days >> day & 1 and begin <= minute < end
            else:
                holds = (days >> day & 1 and minute >= begin) or (days >> yesterday & 1 and minute < end)
            if holds:
                return rate
        return math.inf


class PublishLimit(NamedTuple):
    """A limit of publishing.

    Attributes:
        algorithm: One of `ALGORITHMS`.
        messages: So many messages
        seconds: in so many seconds.
        burst: Most messages at once; for windows their count.

    """

    algorithm: str
    messages: float
    seconds: float
    burst: int


@lru_cache(maxsize=1_000)
def rate_plan(value: float | str) -> RatePlan:
    """Return what a checked `delivery_rate` means."""
    if isinstance(value, str):
        plan = _parsed_plan("delivery_rate", value)[1]
        assert plan is not None, "the value was checked"
        return plan
    return RatePlan((RateWindow(float(value)),))


@lru_cache(maxsize=1_000)
def publish_limit_of(value: str) -> PublishLimit:
    """Return what a checked `publish_limit` means."""
    return _parsed_limit("publish_limit", value)[1]


def delivery_rate(name: str, value: Any) -> float | str | None:
    """None, messages a second, or a text such as "50/s from 9 to 18"; a rate that always holds is kept as a number."""
    if value is None:
        return None
    if type(value) is str:
        text, plan = _parsed_plan(name, value)
        return plan.windows[0].rate if plan.is_steady else text
    return rate(name, value, RATE_MIN, RATE_MAX, "messages a second")


def bytes_rate(name: str, value: Any) -> float | None:
    """None, or bytes a second."""
    return None if value is None else rate(name, value, BYTES_RATE_MIN, BYTES_RATE_MAX, "bytes a second")


def rate(name: str, value: Any, minimum: float, maximum: float, unit: str) -> float:
    """A number of something a second; kept as float."""
    if type(value) not in (int, float) or not minimum <= value <= maximum:
        raise InvalidRequest(f"{name} is {value!r:.80}; it must be None or {minimum:g} to {maximum:g} {unit}")
    return float(value)


def publish_limit(name: str, value: Any) -> str | None:
    """None, or a text such as "token_bucket 1000/s burst 5000"."""
    if value is None:
        return None
    if type(value) is not str:
        raise InvalidRequest(f"{name} is {value!r:.80}; {_LIMIT_ADVICE}")
    return _parsed_limit(name, value)[0]


def adaptive(name: str, value: Any) -> dict[str, float | None] | None:
    """None, or the bounds and targets of the adaptive mode; complete, in one order."""
    if value is None:
        return None
    if not isinstance(value, dict) or not set(value) <= set(ADAPTIVE_DEFAULT):
        raise InvalidRequest(
            f'{name} is {value!r:.80}; it must be None or {{"min": 1, "max": 1000000, "latency": 0.5, '
            '"failures": 0.02}, of which each may be left out'
        )
    given = {**ADAPTIVE_DEFAULT, **value}
    limits = {
        "min": (RATE_MIN, RATE_MAX, "messages a second"),
        "max": (RATE_MIN, RATE_MAX, "messages a second"),
        "latency": (LATENCY_SECONDS_MIN, LATENCY_SECONDS_MAX, "seconds"),
        "failures": (FAILURES_MIN, 1.0, "of all deliveries"),
    }
    checked: dict[str, float | None] = {}
    for part, (minimum, maximum, unit) in limits.items():
        found = given[part]
        if part == "latency" and found is None:
            checked[part] = None
            continue
        if type(found) not in (int, float) or not minimum <= found <= maximum:
            raise InvalidRequest(f"{name}: {part} is {found!r:.40}; it must be {minimum:g} to {maximum:g} {unit}")
        checked[part] = float(found)
    lowest, highest = checked["min"], checked["max"]
    assert lowest is not None, "a bound is a number"
    assert highest is not None, "a bound is a number"
    if highest < lowest:
        raise InvalidRequest(f"{name}: max is {highest:g}, below min, which is {lowest:g}")
    return checked


_RATE_ADVICE = (
    'write a number of messages a second, or windows such as "50/s from 9 to 18 on mon-fri; 500/s; in Europe/Berlin"'
)
_LIMIT_ADVICE = (
    'write "token_bucket 1000/s burst 5000", "leaky_bucket 50/s", "fixed_window 1000/min" or "sliding_window 100/10s"'
)


def _parsed_plan(name: str, text: str) -> tuple[str, RatePlan]:
    _check_length(name, text)
    clauses = [_squeezed(clause) for clause in text.split(";")]
    zone = "UTC"
    found = _ZONE.fullmatch(clauses[-1])
    if found is not None and len(clauses) > 1:
        zone = found[1]
        clauses.pop()
    if len(clauses) > WINDOWS_MAX:
        raise InvalidRequest(f"{name} has {len(clauses)} windows; allowed are {WINDOWS_MAX}")
    spelled: list[str] = []
    windows: list[RateWindow] = []
    for clause in clauses:
        said, window = _parsed_window(name, clause)
        spelled.append(said)
        windows.append(window)
    plan = RatePlan(tuple(windows), zone)
    if plan.is_steady and not RATE_MIN <= plan.windows[0].rate <= RATE_MAX:
        raise InvalidRequest(
            f"{name} is {text!r:.80}, which would hold at all times: it must be {RATE_MIN:g} to {RATE_MAX:g} messages "
            "a second; pause the queue to deliver nothing, and set None to deliver without a limit"
        )
    if zone != "UTC":
        spelled.append(f"in {zone}")
    return "; ".join(spelled), plan


def _parsed_window(name: str, clause: str) -> tuple[str, RateWindow]:
    found = _CLAUSE.fullmatch(clause)
    if found is None:
        raise InvalidRequest(f"{name}: {clause!r:.80} is no rate with its time: {_RATE_ADVICE}")
    count, many, unit, unlimited, hour, minute, end_hour, end_minute, days = found.groups()
    per_second = math.inf
    said = "unlimited"
    if not unlimited:
        seconds = _period(name, clause, many, unit)
        per_second = float(count) / seconds
        if per_second and not RATE_MIN <= per_second <= RATE_MAX:
            raise InvalidRequest(
                f"{name}: {clause!r:.80} is {per_second:g} messages a second; it must be 0, or {RATE_MIN:g} to "
                f"{RATE_MAX:g}"
            )
        said = f"{count}/{many or ''}{unit}"
    window = RateWindow(per_second)
    if hour is not None:
        begin = _minute(name, clause, hour, minute)
        end = _minute(name, clause, end_hour, end_minute)
        if begin in (end, MINUTES_A_DAY):
            raise InvalidRequest(f"{name}: {clause!r:.80} holds for no time at all: {_RATE_ADVICE}")
        window = window._replace(begin=begin, end=end)
        said += f" from {_clock(begin)} to {_clock(end)}"
    if days is not None:
        bits = _days(name, clause, days)
        window = window._replace(days=bits)
        if bits != EVERY_DAY:
            said += " on " + ",".join(day for place, day in enumerate(DAYS) if bits >> place & 1)
    return said, window


def _period(name: str, text: str, many: str | None, unit: str) -> float:
    seconds = int(many or 1) * _UNIT_SECONDS[unit]
    if not 1 <= seconds <= PERIOD_SECONDS_MAX:
        raise InvalidRequest(
            f"{name}: {text!r:.80} counts within {seconds} seconds; it must be 1 to {PERIOD_SECONDS_MAX}"
        )
    return float(seconds)


def _minute(name: str, clause: str, hour: str, minute: str | None) -> int:
    found = int(hour) * 60 + int(minute or 0)
    if found > MINUTES_A_DAY or int(minute or 0) > 59:
        raise InvalidRequest(f"{name}: {clause!r:.80} names no time of the day: hours go from 0 to 24")
    return found


def _clock(minute: int) -> str:
    return f"{minute // 60}:{minute % 60:02}" if minute % 60 else str(minute // 60)


def _days(name: str, clause: str, text: str) -> int:
    bits = 0
    for part in filter(None, text.replace(",", " ").split(" ")):
        first, dash, last = part.partition("-")
        if first not in DAYS or (dash and last not in DAYS):
            raise InvalidRequest(
                f"{name}: {clause!r:.80} names {part!r:.20}, which is no day: write {', '.join(DAYS)}, or mon-fri"
            )
        begin = DAYS.index(first)
        count = (DAYS.index(last) - begin) % 7 + 1 if dash else 1
        for offset in range(count):
            bits |= 1 << (begin + offset) % 7
    if not bits:
        raise InvalidRequest(f"{name}: {clause!r:.80} names no day")
    return bits


def _parsed_limit(name: str, text: str) -> tuple[str, PublishLimit]:
    _check_length(name, text)
    found = _LIMIT.fullmatch(_squeezed(text))
    if found is None or found[1] not in ALGORITHMS:
        raise InvalidRequest(f"{name} is {text!r:.80}; {_LIMIT_ADVICE}")
    algorithm, count, many, unit, burst = found.groups()
    seconds = _period(name, text, many, unit)
    number = float(count)
    is_window = algorithm.endswith("window")
    if is_window and (burst is not None or number != int(number)):
        raise InvalidRequest(f"{name} is {text!r:.80}: a window takes a whole number of messages, and no burst")
    if not (1 if is_window else RATE_MIN * seconds) <= number <= min(LIMIT_COUNT_MAX, RATE_MAX * seconds):
        raise InvalidRequest(f"{name} is {text!r:.80}: {count} messages in {seconds:g} seconds is out of range")
    most = int(number) if is_window else 1 if algorithm == "leaky_bucket" else max(1, int(number))
    if burst is not None:
        most = int(burst)
        if not 1 <= most <= LIMIT_COUNT_MAX:
            raise InvalidRequest(f"{name} is {text!r:.80}: a burst is 1 to {LIMIT_COUNT_MAX} messages")
    said = f"{algorithm} {count}/{many or ''}{unit}" + (f" burst {most}" if burst is not None else "")
    return said, PublishLimit(algorithm, number, seconds, most)


def _squeezed(text: str) -> str:
    """Return *text* with single blanks; spelled out, as Python's own idea of blanks follows Unicode's tables."""
    return _BLANKS.sub(" ", text).strip(" ")


def _check_length(name: str, text: str) -> None:
    if len(text) > TEXT_CHARACTERS_MAX:
        raise InvalidRequest(f"{name} has {len(text)} characters; allowed are {TEXT_CHARACTERS_MAX}")
