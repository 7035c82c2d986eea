"""How a group of calls asks the broker: what the parts of `Client` have in common.

Each group of calls (topics, dead letters, delays, policies, schedules) is a class of its own that `Client` has among
its bases. They share this one, so that none needs to know `Client`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

from sluicemq.client.reconnect import Link
from sluicemq.wire.fields import Message as WireMessage


class Asking(ABC):
    """Base of every group of calls."""

    _request_seconds: float

    @abstractmethod
    def _link(self) -> Link:
        """Return the link to the broker.

        Raises:
            ClientClosed: The client has ended, or was never entered.

        """

    async def _ask(self, message: WireMessage, *, repeatable: bool = True) -> WireMessage:
        """Send a request and return its answer; raises what the broker answers, or that it answers nothing in time."""
        answer = await self._link().request(message, timeout=self._request_seconds, repeatable=repeatable)
        return answer.message
