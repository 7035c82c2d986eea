"""How messages get from the loop to the threads of a blocking consumer: a few at a time, before they are asked for.

Each that crosses saves its thread a switch to the loop and back. What has crossed and was not taken counts as not
handed out: it is given back like what lies in the buffer, and a lease that ends takes it out of the way. Everything
here runs on the loop, but for the queue and the two attributes that say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from sluicemq.client.blocking.io_thread import io_thread
from sluicemq.client.blocking.message import Message
from sluicemq.client.consumer import Consumer
from sluicemq.client.consumer_statistics import ConsumerStatistics
from sluicemq.client.delivery_buffer import Slice
from sluicemq.client.errors import ClientClosed, SluiceError, another
from sluicemq.client.message import Batch

if TYPE_CHECKING:
    from sluicemq.client.attachment import Attachment
    from sluicemq.client.options import Duration
    from sluicemq.client.session import Session
    from sluicemq.wire import messages as m

CROSS_MESSAGES_MAX = 128
"""Most messages that have crossed and were not taken yet: enough to make a switch of threads cheap."""
CROSS_MESSAGES_LOW = CROSS_MESSAGES_MAX // 4
"""With so few left more are asked for, so that they come in time."""


class CrossingConsumer(Consumer):
    """A consumer whose messages cross to other threads.

    Attributes:
        crossed: What has crossed; the threads take from it.
        taken: What user code took last: attachment and tag; written by the threads.
        taken_count: How many messages the threads took; likewise.

    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.io = io_thread()
        # None is the end. Messages, not what they are made of: one that Ctrl-C loses on its way says so when it goes.
        self.crossed: SimpleQueue[Message | None] = SimpleQueue()
        self.taken: tuple[Attachment | None, int] = (None, 0)
        self.taken_count = 0
        self._wanted = False

    # --- there ----------------------------------------------------------------------------------------------------

    def want(self) -> None:
        """Let messages cross, now or as soon as there are any."""
        self._wanted = True
        self._cross()

    def _cross(self) -> None:
        if not self._wanted:
            return
        if self._over:
            self._wanted = False
            self.crossed.put(None)
            return
        attachment = self._attachment
        if attachment is None or not attachment.buffer.count:
            return
        now = self._now()
        if now >= attachment.book.safe_until:
            attachment.expire(now)
        slices = attachment.buffer.take(max(1, CROSS_MESSAGES_MAX - self.crossed.qsize()))
        put, io = self.crossed.put, self.io
        for run, start, stop in slices:
            for offset in range(start, stop):
                put(Message(io, run, offset))
        self._wanted = not slices

    def delivered(self, attachment: Attachment, message: m.Deliver, tail: memoryview) -> None:
        """Take in a DELIVER frame."""
        super().delivered(attachment, message, tail)
        self._cross()

    def _wake_waiting(self) -> None:
        super()._wake_waiting()
        if self._over:
            self.want()
        else:
            self._cross()

    def _attached(self, session: Session, consuming: m.Consuming) -> None:
        super()._attached(session, consuming)
        if self._attachment is not None:
            self._attachment.crossing = self

    # --- and back -------------------------------------------------------------------------------------------------

    def in_hand_below(self, attachment: Attachment) -> int:
        """Return the tag below which user code got everything that it will get."""
        if self.crossed.empty():
            return attachment.buffer.next_tag
        owner, tag = self.taken
        return tag + 1 if owner is attachment else 1

    def take_back(self, attachment: Attachment) -> list[int]:
        """Take what has crossed; return the tags of those that are the attachment's."""
        return [message.tag for message in self._uncrossed() if message.attachment is attachment]

    def _uncrossed(self) -> Iterator[Message]:
        crossed = self.crossed
        while True:
            try:
                item = crossed.get_nowait()
            except Empty:
                return
            if item is None:
                crossed.put(None)
                return
            item.give_up()
            yield item

    # --- with a thread that waits ---------------------------------------------------------------------------------

    def hand_over(self, message: Message) -> bool:
        """Say whether a thread may have the message, after the broker was told if that is due."""
        attachment, tag, run = message.attachment, message.tag, message.run
        now = self._now()
        if now >= attachment.book.safe_until:
            attachment.expire(now)
        if attachment.over or tag not in attachment.book:
            return False
        if run.deliveries > 1:
            self._redelivered += 1
        attachment.report_hand_over([_slice_of(message)])
        return True

    @property
    def is_open(self) -> bool:
        """Whether messages may come."""
        return self._entered and not self._over

    def end(self) -> SluiceError | None:
        """Return why no message comes (any more); None where it was drained."""
        if self._error is not None and not self._draining:
            return another(self._error)
        if not self._entered:
            return ClientClosed(f"enter the consumer of {self.queue!r} with 'with' before receiving")
        return None

    async def receive_detached(
        self, max_messages: int, max_wait: Duration | None
    ) -> tuple[Attachment | None, list[Slice]]:
        """Do as `receive` does; return whose messages these are, and which."""
        return (await self.receive(max_messages, max_wait)).detach()

    def _take(self, messages_max: int) -> Batch | None:
        attachment = self._attachment
        slices: list[Slice] = []
        if not self.crossed.empty() and attachment is not None:
            for message in self._uncrossed():
                if message.attachment is attachment and self.hand_over(message):
                    slices.append(_slice_of(message))
                    self.taken = (attachment, message.tag)
                if len(slices) >= messages_max:
                    break
            if slices:
                self.taken_count += len(slices)
                return Batch(attachment, slices)
        return super()._take(messages_max)

    def statistics(self) -> ConsumerStatistics:
        """Return the consumer's figures."""
        figures = super().statistics()
        waiting = self.crossed.qsize()
        return replace(
            figures,
            handed_out=figures.handed_out + self.taken_count,
            buffered=figures.buffered + waiting,
            in_hand=max(0, figures.in_hand - waiting),
        )


def _slice_of(message: Message) -> Slice:
    offset = message.tag - message.run.first_tag
    return Slice(message.run, offset, offset + 1)
