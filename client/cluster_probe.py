"""Asking any broker how its cluster is: also one that does not lead, and while nobody does."""

from __future__ import annotations

from sluicemq.client.asking_any import ASK_SECONDS, ask_any
from sluicemq.client.cluster import ClusterReport, report_of
from sluicemq.client.url import parse_url
from sluicemq.wire import messages as m

__all__ = ["probe_cluster"]


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
    return report_of(await ask_any(parse_url(url), m.ClusterStatus(), name=name, seconds=seconds))
