"""Replies to requests: who gets them, without the log, and what is held for who is away for a moment.

A requester opens a mailbox on its connection; that it may is known here. A reply is passed to that connection; where it
is gone, or does not read, the reply is held in memory, bounded in number, bytes and time, until the mailbox is opened
again: the client does so when it is back, here or at the next leader. No mailbox has more than is left free for all
others: so one requester that has died takes half of the room, and the next one half of what is left; there is always
some for those who live. What nobody waits for any more is dropped and counted. Must not know what a reply says.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from sluicemq.wire.errors import MessageTooLarge, error_to_wire
from sluicemq.wire.messages import REPLY_DELIVERED, REPLY_DROPPED, REPLY_HELD, REPLY_LATE, ReplyArrived

if TYPE_CHECKING:
    from sluicemq.broker.server.client_session import ClientSession
    from sluicemq.wire.errors import SluiceError
    from sluicemq.wire.messages import ReplyAddress

HELD_REPLIES_MAX = 20_000
"""Most replies that are held for requesters that are away: one of them may have no more than are left free."""
HELD_BYTES_MAX = 32 * 1024 * 1024
"""Most bytes of them, likewise."""
HELD_MS_MAX = 60_000
"""None is held for longer, however late its deadline."""
LOOK_MS_MIN = 100
"""Old replies are looked for no more often than this."""
FRAME_ROOM_BYTES = 4 * 1024
"""Room in a frame beside the body of a reply."""
REPLY_OVERHEAD_BYTES = 512
"""Memory that a held reply takes beside what it says."""

Box = tuple[str, bytes]
"""A mailbox: its vhost and its name."""


class _Held(NamedTuple):
    until_ms: int
    arrived: ReplyArrived
    data: bytes
    bytes: int


class _Box:
    """What is held for one mailbox."""

    __slots__ = ("bytes", "replies")

    def __init__(self) -> None:
        self.replies: deque[_Held] = deque()
        self.bytes = 0


class Mailboxes:
    """The mailboxes of all who are connected to this broker, and what is held for who is not.

    Attributes:
        passed_total: Replies that were sent on to who waits for them.
        late_total: Replies that were dropped because their deadline had passed.
        dropped_total: Replies that were dropped because too many were held, there or in all, or nobody came for them in
            time.

    """

    def __init__(self) -> None:
        self.passed_total = self.late_total = self.dropped_total = 0
        self._sessions: dict[Box, ClientSession] = {}
        self._held: dict[Box, _Box] = {}
        self._held_count = self._held_bytes = 0
        self._first_until_ms = 0

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def held(self) -> int:
        """How many replies wait for requesters that are away."""
        return self._held_count

    def open(self, session: ClientSession, name: bytes, now_ms: int) -> None:
        """Let *session*, which has shown that it may, have the mailbox *name*, also if an earlier connection has it."""
        before = self._sessions.get((session.vhost, name))
        if before is not None and before is not session:
            before.mailbox = b""
        self.close(session)
        session.mailbox = name
        self._sessions[session.vhost, name] = session
        self.pass_held(session, now_ms)

    def close(self, session: ClientSession) -> None:
        """*session* has no mailbox any more."""
        if session.mailbox:
            self._sessions.pop((session.vhost, session.mailbox), None)
            session.mailbox = b""

    def pass_held(self, session: ClientSession, now_ms: int) -> None:
        """Send what is held for the mailbox of *session*, as far as it takes that now."""
        box = session.vhost, session.mailbox
        held = self._held.get(box)
        while held is not None and session.takes_more():
            reply = held.replies.popleft()
            self._let_go(box, held, reply)
            if reply.until_ms <= now_ms or not _fits(session, reply.data):
                self.dropped_total += 1
            else:
                self._send(session, reply.arrived, reply.data)
            held = self._held.get(box)

    def reply(
        self,
        box: Box,
        number: int,
        deadline_ms: int,
        error: dict[str, Any] | None,
        data: bytes | memoryview,
        now_ms: int,
    ) -> str:
        """Pass a reply on; return what became of it, one of the wire's `REPLY_*`.

        Raises:
            MessageTooLarge: Who waits for it takes no frame as large as this.

        """
        if deadline_ms <= now_ms:
            self.late_total += 1
            return REPLY_LATE
        arrived = ReplyArrived(number, error)
        session = self._sessions.get(box)
        if session is not None and not _fits(session, data):
            raise MessageTooLarge(
                f"a reply of {len(data)} bytes; whoever asked takes {session.connection.frame_bytes_max} in one frame",
                message_bytes=len(data),
                message_bytes_max=session.connection.frame_bytes_max - FRAME_ROOM_BYTES,
            )
        if session is not None and session.takes_more() and box not in self._held:
            self._send(session, arrived, data)
            return REPLY_DELIVERED
        size = REPLY_OVERHEAD_BYTES + len(data) + (len(msgpack.packb(error)) if error else 0)
        if self._is_full(box, size):
            self._drop_old(now_ms)
        if self._is_full(box, size):
            self.dropped_total += 1
            return REPLY_DROPPED
        until_ms = min(deadline_ms, now_ms + HELD_MS_MAX)
        held = self._held.setdefault(box, _Box())
        held.replies.append(_Held(until_ms, arrived, bytes(data), size))
        held.bytes += size
        self._first_until_ms = min(self._first_until_ms, until_ms)
        self._held_count += 1
        self._held_bytes += size
        return REPLY_HELD

    def fail(self, vhost: str, address: ReplyAddress, error: SluiceError, now_ms: int) -> None:
        """Tell whoever waits at *address* that no reply will come, and why; see `given_up.Requesters`."""
        self.reply((vhost, address.mailbox), address.number, address.deadline_ms, error_to_wire(error), b"", now_ms)

    def _is_full(self, box: Box, bytes_: int) -> bool:
        """Whether one more reply of so many bytes would give *box* more than is left free for others."""
        held = self._held.get(box)
        count, size = (len(held.replies), held.bytes) if held is not None else (0, 0)
        return count >= HELD_REPLIES_MAX - self._held_count or size + bytes_ > HELD_BYTES_MAX - self._held_bytes

    def _drop_old(self, now_ms: int) -> None:
        """Drop what nobody came for in time; looked at only when room is needed, and when there may be any."""
        if now_ms < self._first_until_ms:
            return
        first_until_ms = now_ms + HELD_MS_MAX
        for box, held in list(self._held.items()):
            replies, held.replies = held.replies, deque(reply for reply in held.replies if reply.until_ms > now_ms)
            for reply in replies:
                if reply.until_ms <= now_ms:
                    self._let_go(box, held, reply)
                    self.dropped_total += 1
            first_until_ms = min([first_until_ms, *(reply.until_ms for reply in held.replies)])
        self._first_until_ms = max(first_until_ms, now_ms + LOOK_MS_MIN)

    def _let_go(self, box: Box, held: _Box, reply: _Held) -> None:
        """*reply* is not among those of *held* any more."""
        held.bytes -= reply.bytes
        self._held_count -= 1
        self._held_bytes -= reply.bytes
        if not held.replies:
            self._held.pop(box, None)

    def _send(self, session: ClientSession, arrived: ReplyArrived, data: bytes | memoryview) -> None:
        self.passed_total += 1
        session.pass_reply(arrived, data)


def _fits(session: ClientSession, data: bytes | memoryview) -> bool:
    return len(data) <= session.connection.frame_bytes_max - FRAME_ROOM_BYTES
