"""Figures of a consumer, as its user sees them. Must not know where they come from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ConsumerStatistics:
    """Figures of a consumer since it was entered.

    Attributes:
        delivered: Messages that the broker sent.
        handed_out: Messages that user code got.
        redelivered: Of those, how many had been delivered before.
        acked: Verdicts "ack".
        nacked: Verdicts "nack".
        released: Messages that were given back untouched.
        leases_lost: Handed-out messages whose lease ended without a committed verdict.
        buffered: Messages at hand now.
        in_hand: Messages with user code now.
        attached: Whether the consumer stands on a live connection.
        attachments: How often it was (re-)created.
        rejected: Verdicts "reject".
        dropped: Messages that user code let go of without a verdict; those that nobody settled after all are nacked.

    """

    delivered: int
    handed_out: int
    redelivered: int
    acked: int
    nacked: int
    released: int
    leases_lost: int
    buffered: int
    in_hand: int
    attached: bool
    attachments: int
    rejected: int = 0
    dropped: int = 0
