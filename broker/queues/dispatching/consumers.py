"""A consumer as the dispatcher sees it: its credit, what it holds, and its place in the policy of its queue.

This module must not know queues, nor how a policy chooses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.tags import Span, TagLedger, range_pairs

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sluicemq.broker.queues.dispatching.line import Line

SPAN_MESSAGES_MAX = 4_096
"""Most messages of a span that small picks share; bytes inside a span are a mean."""


class Consumer:
    """A consumer's credit, and what it holds.

    Args:
        session: Number of the session.
        number: Number of the consumer within it.
        credit_messages: Most messages that it may hold.
        credit_bytes: Most bytes that it may hold, about.
        weight: Its share where shares differ; at least 1.

    Attributes:
        identity: Session and number.
        line: Where it stands; set by the line that it joins.
        arrival: How many came to the line before it.
        eligible: Whether the mode of the queue lets it take part.
        gone: Whether it left.
        planned: Messages of its picks whose GRANT is not applied.
        listed: Whether its policy may choose it. This and the next ones belong to the policy.
        current: What a weighted policy owes it.
        place: Where it stands in the policy's list.
        turn: When it was listed.

    """

    __slots__ = (
        "arrival",
        "credit_bytes",
        "credit_messages",
        "current",
        "eligible",
        "gone",
        "held",
        "held_bytes",
        "held_messages",
        "identity",
        "line",
        "listed",
        "next_tag",
        "number",
        "place",
        "planned",
        "session",
        "turn",
        "weight",
    )

    line: Line

    def __init__(self, session: int, number: int, credit_messages: int, credit_bytes: int, weight: int = 1) -> None:
        self.session = session
        self.number = number
        self.identity = (session, number)
        self.credit_messages = credit_messages
        self.credit_bytes = credit_bytes
        self.weight = weight
        self.held = TagLedger()
        self.held_messages = 0
        self.held_bytes = 0
        self.next_tag = 1
        self.planned = 0
        self.arrival = 0
        self.eligible = True
        self.gone = False
        self.listed = False
        self.current = 0
        self.place = 0
        self.turn = 0

    @property
    def able(self) -> bool:
        """Whether it may get another message: one that holds nothing gets one however many bytes it has."""
        return self.held_messages < self.credit_messages and (
            self.held_bytes < self.credit_bytes or not self.held_messages
        )

    def hold(self, messages: int, bytes_: int) -> int:
        """Note a pick; return its first tag."""
        self.held_messages += messages
        self.held_bytes += bytes_
        return self.tag(messages, bytes_)

    def hold_again(self, span: Span) -> None:
        """Note messages that it got from another leader; their tags are above all others."""
        self.held.append(Span(span.first, span.last, span.bytes))
        self.held_messages += len(span)
        self.held_bytes += span.bytes
        self.next_tag = span.last + 1

    def tag(self, messages: int, bytes_: int) -> int:
        """Give tags to messages that it holds already; return the first one."""
        first = self.next_tag
        self.next_tag += messages
        self.planned += messages
        last = self.held.last
        if last is not None and last.last + 1 == first and len(last) < SPAN_MESSAGES_MAX:
            # Small picks share a span, so that the ledger stays short; bytes inside a span are a mean anyway.
            last.last += messages
            last.bytes += bytes_
        else:
            self.held.append(Span(first, first + messages - 1, bytes_))
        return first

    def let_go(self, tags: Sequence[int]) -> None:
        """Restore the credit of these tags; those that it does not hold are passed over."""
        for first, last in range_pairs(tags):
            for span in self.held.cut(first, last)[0]:
                self.held_messages -= len(span)
                self.held_bytes -= span.bytes
