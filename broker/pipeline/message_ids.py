"""The leader gives each batch the ids of its messages: rising for ever, whatever the clock does.

What the clock says is taken where it is ahead of all ids given so far; else the next ids are borrowed from the
milliseconds to come. A new leader begins a millisecond behind the highest id that the log knows, so that its own are
higher, and other than those that a predecessor gave to batches that were lost. Pure: what time it is, it is told.
"""

from __future__ import annotations

from sluicemq.wire.message_ids import COUNT_BITS, EPOCH_MS, TIME_MS_MAX, id_of


class MessageIds:
    """The ids that one leader gives in one epoch.

    Args:
        node_id: Number of this broker; the lowest ten bits of it are in each id.
        moment: The first moment that no id of the log has, `queues.machine.Machine.id_moment`.

    """

    __slots__ = ("_moment", "_node_id")

    def __init__(self, node_id: int, moment: int) -> None:
        self._node_id = node_id
        # Behind the millisecond in which the last one was given: its broker may have a higher number.
        self._moment = (moment + (1 << COUNT_BITS) - 1) >> COUNT_BITS << COUNT_BITS

    def take(self, count: int, now_ms: int) -> int:
        """Return the id of the first of *count* messages, published now (milliseconds since 1970)."""
        wanted = min(max(now_ms - EPOCH_MS, 0), TIME_MS_MAX) << COUNT_BITS
        moment = max(self._moment, wanted)
        self._moment = moment + count
        return id_of(moment, self._node_id)
