"""What becomes of requests whose replies could not come."""

from __future__ import annotations

import pytest

from sluicemq.client import connect
from sluicemq.client.errors import Conflict, RequestTimeout
from sluicemq.wire import messages as m
from tests.client.conftest import virtual_time

pytestmark = pytest.mark.anyio


async def test_requests_fail_with_the_reason_where_the_broker_refuses_the_mailbox(broker):
    broker.on[m.OpenMailbox] = lambda *_: Conflict("not for you")
    told = []
    async with connect(broker.url) as client:
        pending = await client.submit_request("orders", b"1", on_reply=lambda _reply, error: told.append(error))
        with pytest.raises(Conflict, match="not for you"):
            await pending
        with pytest.raises(Conflict, match="not for you"):
            await client.request("orders", b"2")
        statistics = client.request_statistics()
    assert [type(error) for error in told] == [Conflict]
    assert (statistics.pending, statistics.failed, statistics.timed_out) == (0, 2, 0)
    assert broker.count(m.OpenMailbox) == 2


@virtual_time
async def test_a_mailbox_that_was_refused_once_is_asked_for_again(broker):
    broker.on[m.OpenMailbox] = lambda *_: Conflict("not now")
    async with connect(broker.url) as client:
        with pytest.raises(Conflict):
            await client.request("orders", b"1")
        broker.on[m.OpenMailbox] = lambda *_: m.MailboxOpened()
        with pytest.raises(RequestTimeout):
            await client.request("orders", b"2", timeout=5.0)
        await broker.peer.cut()
        await broker.until(lambda: len(broker.peers) == 2 and broker.count(m.OpenMailbox) == 3)
