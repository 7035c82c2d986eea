"""What an attachment needs of the consumer that it is one connection of, and of what stands between them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from sluicemq.client.attachment import Attachment
    from sluicemq.client.replying import Replying


class AttachmentHost(Protocol):
    """What an attachment needs of its consumer."""

    lease_seconds: float
    auto_renew: bool
    max_lease_seconds: float
    request_seconds: float
    """How long an answer is waited for."""
    queue: str
    cumulative: bool
    """Whether messages may be acknowledged that nobody has in hand."""
    replying: Replying
    """By what messages are replied to."""

    async def step(self) -> None:
        """Let others run now and then."""

    def leases_lost(self, messages: int, reason: str, *, handed: bool) -> None:
        """Leases ended without a verdict; *handed*: user code had the messages."""

    def settled_counted(self, code: int, messages: int) -> None:
        """Verdicts were given."""

    def messages_dropped(self, messages: int) -> None:
        """User code let go of messages without a verdict."""

    def idle(self, attachment: Attachment) -> None:
        """Everything that was delivered so far is settled, and every verdict is answered."""

    def schedule_flush(self) -> None:
        """Send verdicts at the next turn of the loop."""


class Crossing(Protocol):
    """The way of messages from an attachment's loop to other threads."""

    def in_hand_below(self, attachment: Attachment) -> int:
        """Return the tag below which user code got everything that it will get."""

    def take_back(self, attachment: Attachment) -> Iterable[int]:
        """Take what is on the way back; return the tags of those that are the attachment's."""
