"""What an error of the broker means for the rows that were sent. Pure, a table.

It must not know rows, databases or loops.
"""

from __future__ import annotations

from enum import Enum

from sluicemq.client.errors import (
    AuthenticationFailed,
    BrokerStopping,
    ClientClosed,
    Conflict,
    ConnectionFailed,
    InvalidRequest,
    NotAuthorized,
    NotFound,
    NotLeader,
    OutcomeUnknown,
    ProducerFenced,
    ProducerNotFound,
    RequestTimeout,
    SequenceGap,
    StaleEpoch,
    Unavailable,
    VersionMismatch,
)


class Verdict(Enum):
    """What to do about rows after an error."""

    AGAIN = "again"
    """Nothing is wrong with them: send them again as soon as there is a broker."""
    ASK = "ask"
    """They may be stored: find out, under the identity that they had."""
    HOLD = "hold"
    """Their destination takes nothing now: leave it alone for a while, others go on."""
    ROW = "row"
    """This very row will never be taken: park it, for somebody to look at."""
    RETRY = "retry"
    """Nobody knows: try the row a few times, then park it."""
    END = "end"
    """Nothing can be sent any more by this client."""


_TABLE: tuple[tuple[tuple[type[BaseException], ...], Verdict], ...] = (
    ((ClientClosed, AuthenticationFailed, VersionMismatch), Verdict.END),
    ((OutcomeUnknown,), Verdict.ASK),
    ((NotLeader, StaleEpoch, BrokerStopping, ConnectionFailed), Verdict.AGAIN),
    # About our numbers, not about the rows; a new producer has others.
    ((ProducerFenced, ProducerNotFound, SequenceGap), Verdict.AGAIN),
    # Connected, and not taken in time: the broker holds this destination back.
    ((RequestTimeout,), Verdict.HOLD),
    # Also what an operator has to mend: a queue that is missing, a right that was not given.
    ((Unavailable, NotFound, NotAuthorized, Conflict), Verdict.HOLD),
    ((InvalidRequest, TypeError, ValueError), Verdict.ROW),
)


def verdict_on(error: BaseException) -> Verdict:
    """Return what *error*, with which a send ended, means for its rows."""
    for classes, verdict in _TABLE:
        if isinstance(error, classes):
            return verdict
    return Verdict.RETRY
