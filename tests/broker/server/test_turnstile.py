"""Herds of clients: however many come or go in the same moment, one turn of the event loop has to do with a few."""

from __future__ import annotations

import os

import pytest
import trio
import trio.testing

from sluicemq.broker.server.turnstile import PASSING_MAX
from sluicemq.wire import messages as m
from sluicemq.wire.connection import State
from sluicemq.wire.frames import PREFACE, pack_frame
from tests.broker.server.talk import open_port

HERD = 5 * PASSING_MAX
HELLO = m.Hello(m.PROTOCOL_VERSION_MIN, m.PROTOCOL_VERSION_MAX)


class Turns(trio.abc.Instrument):
    """Notes what *look* sees whenever the event loop has done with what was ready."""

    def __init__(self, look):
        self._look = look
        self.seen = [look()]

    def before_io_wait(self, timeout):
        self.seen.append(self._look())

    def largest_step(self):
        return max(abs(after - before) for before, after in zip(self.seen, self.seen[1:], strict=False))


@pytest.mark.trio
async def test_clients_that_come_at_once_and_go_at_once_are_served_a_few_at_a_time():
    async with open_port() as port:
        server = port.server
        streams = [await trio.open_tcp_stream(*port._address) for _ in range(HERD)]
        await trio.testing.wait_all_tasks_blocked()

        present = Turns(lambda: len(server.sessions))
        welcomed = Turns(lambda: sum(each.connection.state is State.WELCOMED for each in server.sessions))
        for turns in (present, welcomed):
            trio.lowlevel.add_instrument(turns)
        for stream in streams:
            # Not through trio, which would let the broker have a turn after each.
            os.write(stream.socket.fileno(), PREFACE + pack_frame(HELLO.TYPE, HELLO.encode(), correlation=1))
        for stream in streams:
            assert await stream.receive_some()
        assert present.seen[-1] == welcomed.seen[-1] == HERD
        for turns in (present, welcomed):
            trio.lowlevel.remove_instrument(turns)
            assert turns.largest_step() <= PASSING_MAX

        left = Turns(lambda: sum(each.left for each in server.sessions) + HERD - len(server.sessions))
        trio.lowlevel.add_instrument(left)
        for stream in streams:
            stream.socket.close()
        while server.sessions:
            await trio.testing.wait_all_tasks_blocked()
        trio.lowlevel.remove_instrument(left)
        assert left.largest_step() <= PASSING_MAX
