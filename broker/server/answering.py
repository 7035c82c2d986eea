"""How the outcome of an entry becomes the answer to the request that put it on the road.

This module must not know any request: who asks gives the shape of its answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from sluicemq.broker.queues.outcomes import Outcome
    from sluicemq.broker.server.client_session import ClientSession
    from sluicemq.wire.fields import Message


def reply_with(session: ClientSession, correlation: int, shape: Callable[[Any], Message]) -> Callable[[Outcome], None]:
    """Return what replies with *shape* of the outcome's value, or with its error."""

    def on_outcome(outcome: Outcome) -> None:
        if outcome.error is not None:
            session.refuse(correlation, outcome.error)
        else:
            session.reply(correlation, shape(outcome.value))

    return on_outcome
