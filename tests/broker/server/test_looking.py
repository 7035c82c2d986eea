"""What clients may ask about messages at the port, and what they may not hear."""

from __future__ import annotations

import pytest

from sluicemq.wire import messages as m
from sluicemq.wire.errors import MessageNotFound
from tests.broker.server.talk import open_port

pytestmark = pytest.mark.trio


async def test_who_names_a_queue_hears_only_of_what_was_published_to_it():
    # The permission is asked for the queue that is named, so no other queue's message may be told by its name.
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare("orders")
        await peer.declare("salaries")
        producer = await peer.open_producer()
        published = await peer.publish(producer, 1, [b"a lot", b"more"], "salaries")
        for name in ("salaries", ""):
            told = await peer.ask(m.Explain(zxid=published.zxid, index=1, name=name))
            assert told.status == "ready in salaries"
        with pytest.raises(MessageNotFound, match="was not published to 'orders'"):
            await peer.ask(m.Explain(zxid=published.zxid, index=1, name="orders"))
        given = told.facts["message_id"]
        with pytest.raises(MessageNotFound):
            await peer.ask(m.Explain(message_id=given, name="orders"))
