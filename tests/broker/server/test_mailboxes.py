"""Replies at the port: passed on past the log, held for who is away for a moment, dropped when nobody wants them."""

from __future__ import annotations

import time
from typing import Any

import pytest
import trio

from sluicemq.broker.server import mailboxes
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import InvalidRequest, MessageTooLarge, RequestFailed, error_to_wire
from sluicemq.wire.frames import FRAME_BYTES_MIN
from tests.broker.server.talk import Peer, Refused, open_port

pytestmark = pytest.mark.trio

SECRET = bytes(range(m.MAILBOX_SECRET_BYTES))
MAILBOX = m.mailbox_of(SECRET)
FAILED = error_to_wire(RequestFailed("no such product"))


def soon() -> int:
    """A deadline that does not pass while a test runs."""
    return round(time.time() * 1000) + 600_000


async def answer(service: Peer, number: int, body: bytes = b"reply", **fields: Any) -> str:
    """Reply to a request; return what the broker says became of it."""
    fields = {"mailbox": MAILBOX, "number": number, "deadline_ms": soon(), **fields}
    tail = b"" if fields.get("error") else encode_batch([body])
    replied: m.Replied = await service.ask(m.Reply(**fields), tail)
    return replied.outcome


def arrived(peer: Peer) -> list[int]:
    """Numbers of the requests to which replies came."""
    return [message.number for message in peer.unasked if isinstance(message, m.ReplyArrived)]


async def test_a_reply_goes_straight_to_the_connection_that_has_the_mailbox():
    async with open_port() as port:
        asker, service = await port.connect(), await port.connect()
        await asker.ask(m.OpenMailbox(SECRET))
        entries = port.road.entries_total
        assert await answer(service, 7) == m.REPLY_DELIVERED
        assert await answer(service, 8, error=FAILED) == m.REPLY_DELIVERED
        await asker.ask(m.Statistics())
        assert arrived(asker) == [7, 8]
        assert [message.error for message in asker.unasked if isinstance(message, m.ReplyArrived)] == [None, FAILED]
        assert port.road.entries_total == entries, "the log knows nothing of replies"


async def test_what_is_replied_while_the_requester_is_away_comes_when_it_is_back():
    async with open_port() as port:
        asker, service = await port.connect(), await port.connect()
        await asker.ask(m.OpenMailbox(SECRET))
        await asker.stream.aclose()
        while len(port.server.mailboxes):
            await service.ask(m.Statistics())
        assert await answer(service, 1) == m.REPLY_HELD
        assert await answer(service, 2) == m.REPLY_HELD
        again = await port.connect()
        await again.ask(m.OpenMailbox(SECRET))
        await again.ask(m.Statistics())
        assert arrived(again) == [1, 2]
        assert port.server.mailboxes.held == 0


async def test_a_connection_that_is_not_known_to_be_dead_yet_loses_the_mailbox_to_the_next_one():
    async with open_port() as port:
        before, after, service = [await port.connect() for _ in range(3)]
        await before.ask(m.OpenMailbox(SECRET))
        await after.ask(m.OpenMailbox(SECRET))
        assert await answer(service, 1) == m.REPLY_DELIVERED
        await before.stream.aclose()
        assert await answer(service, 2) == m.REPLY_DELIVERED
        await after.ask(m.Statistics())
        assert arrived(after) == [1, 2]
        assert arrived(before) == []


async def test_a_late_reply_is_dropped_and_counted():
    async with open_port() as port:
        asker, service = await port.connect(), await port.connect()
        await asker.ask(m.OpenMailbox(SECRET))
        assert await answer(service, 1, deadline_ms=1) == m.REPLY_LATE
        figures = (await asker.ask(m.Statistics())).values
        assert (arrived(asker), figures["replies_late_total"], figures["replies_total"]) == ([], 1, 0)


async def test_who_has_read_a_request_can_reply_to_it_but_never_have_the_replies():
    async with open_port() as port:
        asker, thief, service = [await port.connect() for _ in range(3)]
        await asker.ask(m.OpenMailbox(SECRET))
        for guess in (MAILBOX + MAILBOX, MAILBOX.ljust(m.MAILBOX_SECRET_BYTES, b"\0")):
            await thief.ask(m.OpenMailbox(guess))
        assert await answer(service, 1) == m.REPLY_DELIVERED
        await asker.stream.aclose()
        while len(port.server.mailboxes) > 1:
            await service.ask(m.Statistics())
        assert await answer(service, 2) == m.REPLY_HELD, "also while its owner is away"
        await thief.ask(m.OpenMailbox(MAILBOX + MAILBOX))
        again = await port.connect()
        await again.ask(m.OpenMailbox(SECRET))
        await again.ask(m.Statistics())
        assert (arrived(asker), arrived(thief), arrived(again)) == ([1], [], [2])


class Holding:
    """Mailboxes whose owners are all away, and what became of the replies to them."""

    def __init__(self) -> None:
        self.boxes = mailboxes.Mailboxes()
        self.now_ms = 1_000_000

    def reply(self, owner: str, *, ms: int = 30_000, body: bytes = b"x", error: dict[str, Any] | None = None) -> str:
        return self.boxes.reply(("/", owner.encode()), 1, self.now_ms + ms, error, b"" if error else body, self.now_ms)

    def fill(self, owner: str, **what: Any) -> int:
        """Reply until nothing more is held; return how many are."""
        before = self.boxes.held
        while self.reply(owner, **what) == m.REPLY_HELD:
            pass
        return self.boxes.held - before


async def test_no_requester_that_has_died_takes_all_the_room_for_held_replies(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mailboxes, "HELD_REPLIES_MAX", 120)
    holding = Holding()
    assert holding.fill("dead") == 60, "half of the room"
    assert holding.fill("dead too") == 30, "half of what was left"
    assert holding.reply("lives") == m.REPLY_HELD
    assert holding.boxes.dropped_total == 2


@pytest.mark.parametrize("what", [{"body": b"x" * 10_000}, {"error": {**FAILED, "anything": "x" * 10_000}}])
async def test_the_bytes_of_what_one_requester_is_held_for_are_bounded_too(
    what: dict[str, Any], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(mailboxes, "HELD_BYTES_MAX", 1_000_000)
    holding = Holding()
    assert 40 <= holding.fill("dead", **what) <= 50
    assert holding.reply("lives", **what) == m.REPLY_HELD


async def test_old_replies_make_room(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(mailboxes, "HELD_REPLIES_MAX", 4)
    holding = Holding()
    assert holding.reply("a", ms=200) == m.REPLY_HELD
    assert holding.reply("a", ms=400) == m.REPLY_HELD
    assert holding.reply("a") == m.REPLY_DROPPED
    holding.now_ms += 200
    assert holding.reply("a") == m.REPLY_HELD
    assert (holding.boxes.held, holding.boxes.dropped_total) == (2, 2)
    holding.now_ms += 60_000
    holding.fill("b")
    assert (holding.boxes.held, holding.boxes.dropped_total) == (2, 5), "what was there is older than a minute"


async def test_a_requester_that_does_not_read_gets_its_replies_when_it_does():
    body = b"x" * 1_000_000
    async with open_port(send_bytes=8_192) as port:
        asker, service = await port.connect(receive_bytes=8_192), await port.connect()
        await asker.ask(m.OpenMailbox(SECRET))
        asker.reading = trio.Event()
        outcomes = [await answer(service, number, body) for number in range(10)]
        assert outcomes[0] == m.REPLY_DELIVERED
        assert outcomes[-1] == m.REPLY_HELD
        asker.reading.set()
        await asker.until(lambda: len(arrived(asker)) == len(outcomes))
        assert arrived(asker) == list(range(10)), "in order"


async def test_a_reply_that_fits_no_frame_of_the_requester_is_refused_to_who_replies():
    async with open_port() as port:
        asker, service = await port.connect(frame_bytes_max=FRAME_BYTES_MIN), await port.connect()
        await asker.ask(m.OpenMailbox(SECRET))
        with pytest.raises(MessageTooLarge):
            await answer(service, 1, b"x" * FRAME_BYTES_MIN)
        await asker.ask(m.Statistics())


@pytest.mark.parametrize(
    ("fields", "tail", "problem"),
    [
        ({"mailbox": b"short"}, encode_batch([b"x"]), "16 bytes"),
        ({}, encode_batch([b"x", b"y"]), "one message"),
        ({}, b"", "either a body or an error"),
        ({"error": FAILED}, encode_batch([b"x"]), "either a body or an error"),
    ],
)
async def test_a_reply_that_makes_no_sense_is_refused(fields: dict[str, Any], tail: bytes, problem: str):
    async with open_port() as port:
        service = await port.connect()
        with pytest.raises(InvalidRequest, match=problem):
            await service.ask(m.Reply(**{"mailbox": MAILBOX, "number": 1, "deadline_ms": soon(), **fields}), tail)


async def test_bytes_that_are_no_batch_end_the_connection_of_who_sent_them_only():
    async with open_port() as port:
        asker, service = await port.connect(), await port.connect()
        await asker.ask(m.OpenMailbox(SECRET))
        with pytest.raises(Refused):
            await service.ask(m.Reply(MAILBOX, 1, soon()), b"no batch")
        await asker.ask(m.Statistics())
        assert arrived(asker) == []
