"""Asking any broker how its cluster is: also one that does not lead, and while nobody does."""

from __future__ import annotations

import anyio

from sluicemq.client.asking_any import ASK_SECONDS, ask_any
from sluicemq.client.cluster import ClusterReport, report_of
from sluicemq.client.errors import SluiceError
from sluicemq.client.url import parse_url
from sluicemq.wire import messages as m

__all__ = ["probe_cluster", "wait_for_cluster"]

LOOK_SECONDS = 0.2
"""Between two questions of who waits. Brokers tell each other how they are about once a second."""
LAG_SECONDS_MAX = 1.0
"""A voter that is less behind has caught up: what it lacks is what clients publish at the moment."""


async def probe_cluster(url: str, *, name: str = "", seconds: float = ASK_SECONDS) -> ClusterReport:
    """Return how the cluster is, as the first broker of *url* knows it that answers.

    Args:
        url: `sluicemq://HOST:PORT[,HOST:PORT...]`.
        name: Shown by the broker's tools.
        seconds: How long each broker may take.

    Raises:
        InvalidRequest: The URL is none.
        ConnectionFailed: No broker answers; each stands in the text with its cause.
        SluiceError: The brokers refuse to answer.

    """
    told = await ask_any(parse_url(url), m.ClusterStatus(), name=name, seconds=seconds)
    return report_of(told.message)


async def wait_for_cluster(url: str, *, timeout_seconds: float, name: str = "") -> ClusterReport:
    """Return how the cluster is once it lacks nothing: somebody leads, and all who vote are reachable and caught up.

    For scripts that start brokers, and between the steps of a rolling restart.

    Args:
        url: `sluicemq://HOST:PORT[,HOST:PORT...]`.
        timeout_seconds: For how long to wait. Then the last report is returned, and its `lacks` says what it lacks.
        name: Shown by the brokers' tools.

    Raises:
        InvalidRequest: The URL is none.
        ConnectionFailed: No broker answered, to the end of that time.
        SluiceError: The brokers refuse to answer.

    """
    deadline = anyio.current_time() + timeout_seconds
    while True:
        over = anyio.current_time() >= deadline
        try:
            report = await probe_cluster(url, name=name)
        except SluiceError as error:
            if over or not error.retryable:
                raise
        else:
            if over or not report.lacks(lag_seconds_max=LAG_SECONDS_MAX):
                return report
        await anyio.sleep(min(LOOK_SECONDS, max(0.0, deadline - anyio.current_time())))
