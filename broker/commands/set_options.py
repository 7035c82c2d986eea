"""`--set NAME=VALUE`: settings of queues and topics on the command line."""

from __future__ import annotations

from typing import Any

import click


def settings_of(pairs: tuple[str, ...], kind: str) -> dict[str, Any]:
    """Read NAME=VALUE; a value that is JSON (a number, true, a list) is taken as such, anything else as text.

    Args:
        pairs: As given.
        kind: "queue" or "topic".

    """
    import json

    from sluicemq.broker.config import nearest
    from sluicemq.wire import settings as known

    table = known.QUEUE_SETTINGS if kind == known.QUEUE else known.TOPIC_SETTINGS
    settings: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise click.UsageError(f"--set {pair!r}: write NAME=VALUE")
        if name not in table:
            hint = nearest(name, table) or f"; known are: {', '.join(sorted(table))}"
            raise click.UsageError(f"{kind}s have no setting {name!r}{hint}")
        try:
            settings[name] = json.loads(value)
        except (ValueError, RecursionError):  # thousands of digits, or of brackets, among them
            settings[name] = value
    check = known.check_queue_settings if kind == known.QUEUE else known.check_topic_settings
    return check(settings)
