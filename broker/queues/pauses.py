"""What of a queue or a topic is paused, as bits, and the refusal that follows. Must not know who pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from sluicemq.wire.errors import QueuePaused

if TYPE_CHECKING:
    from collections.abc import Mapping

PAUSED_PUBLISH, PAUSED_DELIVER = 1, 2
"""What of a queue or topic is paused. The deliveries of a topic are those of its subscriptions."""
PAUSE_FLAGS: Mapping[str, int] = {"pause_publish": PAUSED_PUBLISH, "pause_deliver": PAUSED_DELIVER}
"""By the names that ALTER gives them."""
PAUSE_RETRY_SECONDS = 1.0


class Pausable(Protocol):
    """A queue or a topic."""

    KIND: str
    name: str
    paused: int


def refuse_paused(target: Pausable) -> QueuePaused | None:
    """Return why nothing is published to a queue or topic now, if that is so."""
    if not target.paused & PAUSED_PUBLISH:
        return None
    return QueuePaused(
        f"publishing to {target.KIND} {target.name!r:.300} is paused: try again later, or ask who paused it",
        retry_after=PAUSE_RETRY_SECONDS,
        queue=target.name,
    )


def paused_names(paused: int) -> list[str]:
    """Return what is paused, for people: "publish", "deliver"."""
    return [what for what, flag in (("publish", PAUSED_PUBLISH), ("deliver", PAUSED_DELIVER)) if paused & flag]
