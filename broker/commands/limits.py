"""Flags for the limits of a queue, which are settings like others: `--delivery-rate 50` is `--set delivery_rate=50`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

Function = TypeVar("Function", bound=Callable[..., Any])

_FLAGS = (
    ("delivery_rate", "RATE", 'Most messages delivered a second, or when: "50/s from 9 to 18; 500/s".'),
    ("delivery_burst", "COUNT", "Most messages at once after a quiet time."),
    ("delivery_bytes_rate", "BYTES", "Most bytes delivered a second."),
    ("max_concurrency", "COUNT", "Most messages that all consumers together may hold."),
    ("delivery_adaptive", "JSON", 'Find the rate: {"latency": 0.5, "max": 1000}.'),
    ("publish_limit", "LIMIT", 'What may be published: "token_bucket 1000/s burst 5000".'),
)
NONE = "none"


def limit_options(function: Function) -> Function:
    """Add one flag for each limit."""
    for name, metavar, help_text in reversed(_FLAGS):
        flag = "--" + name.replace("_", "-")
        function = click.option(flag, name, metavar=metavar, help=f'{help_text} "{NONE}": no limit.')(function)
    return function


def limit_pairs(limits: dict[str, str | None]) -> tuple[str, ...]:
    """Return what the flags say as `--set` would have said it."""
    return tuple(f"{name}={'null' if value == NONE else value}" for name, value in limits.items() if value is not None)
