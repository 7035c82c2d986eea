"""What is known of one key: who has messages of it, and which wait.

This module must not know consumers, nor which key may go on.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sluicemq.broker.queues.runs import Run


class KeyState:
    """A key that is out, or whose messages wait.

    Attributes:
        key: The key.
        in_flight: Messages that are out.
        holder: Session and number of the consumer that has them; None when none are out.
        returned: Runs that wait and are not where the cursor left them, by place; they come before those passed over.
        listed: Whether it stands in the list of keys that may go on.

    """

    __slots__ = ("_head", "_passed", "holder", "in_flight", "key", "listed", "returned")

    def __init__(self, key: int) -> None:
        self.key = key
        self.in_flight = 0
        self.holder: tuple[int, int] | None = None
        self.returned: list[Run] = []
        self.listed = False
        # Ordinals of runs passed over: first and behind the last of each range, in turn; from `_head` on.
        self._passed: array[int] | None = None
        self._head = 0

    @property
    def waits(self) -> bool:
        """Whether messages of it wait."""
        return bool(self.returned) or self._passed is not None

    def first_passed(self) -> int | None:
        """Return the ordinal of the first run passed over."""
        return None if self._passed is None else self._passed[self._head]

    def pass_over(self, ordinal: int) -> int:
        """Remember a run behind all others; return how many ranges more there are."""
        passed = self._passed
        if passed is None:
            passed = self._passed = array("q")
            self._head = 0
        elif passed[-1] == ordinal:
            passed[-1] = ordinal + 1
            return 0
        passed.append(ordinal)
        passed.append(ordinal + 1)
        return 1

    def drop_passed(self) -> int:
        """Forget the first run passed over; return how many ranges fewer there are."""
        passed = self._passed
        assert passed is not None, "a run was passed over"
        head = self._head
        passed[head] += 1
        if passed[head] < passed[head + 1]:
            return 0
        head += 2
        if head == len(passed):
            self._passed = None
        elif 2 * head > len(passed):
            del passed[:head]
            self._head = 0
        else:
            self._head = head
        return 1

    def forget_waiting(self) -> None:
        """Forget what waits."""
        self.returned = []
        self._passed = None
