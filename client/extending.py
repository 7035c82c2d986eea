"""Asking for longer leases in as many frames as it takes, and waiting for an answer, though not for ever.

Apart from `attachment`, which says whose leases they are. This module must not know sessions.
"""

from __future__ import annotations

from collections.abc import Callable

import anyio

from sluicemq.client.errors import OutcomeUnknown, SluiceError
from sluicemq.client.runtime import Holder, Runtime, Slot
from sluicemq.client.settlement import in_frames
from sluicemq.client.tag_ranges import FlatRanges

OnAnswer = Callable[[FlatRanges, SluiceError | None], None]
"""Called once with the tags whose leases are over, and the error if there was one."""


async def in_time(runtime: Runtime, holder: Holder, seconds: float, what: str) -> None:
    """Wait for *holder*, so many seconds at most; *what* is awaited, in words.

    Raises:
        OutcomeUnknown: The time is over.

    """
    with anyio.move_on_after(seconds) as patience:
        await runtime.park(holder)
    if patience.cancelled_caught:
        raise OutcomeUnknown(f"{what} was not answered within {seconds:g} seconds; the message may come again")


async def ask_in_frames(
    runtime: Runtime, request: Callable[[FlatRanges, OnAnswer], None], held: FlatRanges, patience_seconds: float
) -> tuple[FlatRanges, SluiceError | None]:
    """Send *held* with *request*, a piece for each frame; return which tags were lost, and the first error.

    Raises:
        OutcomeUnknown: Not every frame was answered in time.

    """
    slot = Slot()
    frames = in_frames(held)
    gone: FlatRanges = []
    errors: list[SluiceError] = []
    awaited = len(frames)

    def on_answer(lost: FlatRanges, error: SluiceError | None) -> None:
        nonlocal awaited
        awaited -= 1
        gone.extend(lost)
        if error is not None:
            errors.append(error)
        if not awaited:
            runtime.wake(slot)

    for part in frames:
        request(part, on_answer)
    if awaited:
        await in_time(runtime, slot, patience_seconds, "the extension of a lease")
    return gone, errors[0] if errors else None
