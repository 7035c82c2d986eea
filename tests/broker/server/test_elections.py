"""Clients that come in the middle of an election: they wait for its end as long as that is likely to be near."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from sluicemq.wire.errors import NotLeader
from tests.broker.server.talk import Peer, Port, Refused, open_port
from tests.patience import WAIT_SECONDS


class Election:
    """What the server is told of who leads."""

    def __init__(self, port: Port) -> None:
        self.port = port
        self.until = math.inf
        self.leader = 0
        port.server.road = None
        port.server.undecided_until = lambda: self.until
        port.server.not_leader = lambda: NotLeader("not here", leader=self.leader)

    def won(self) -> None:
        self.until = -math.inf
        self.port.server.lead(self.port.road)

    def lost(self, leader: int) -> None:
        self.until, self.leader = -math.inf, leader
        self.port.server.leader_changed()


async def knock(port: Port, nursery: trio.Nursery) -> Peer:
    """Let a client shake hands; return it once it waits."""
    peer = await port.dial()

    async def shake_hands() -> None:
        try:
            await peer.shake_hands()
        except Refused:
            return

    nursery.start_soon(shake_hands)
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert peer.error is None, "nobody was sent away"
    return peer


@pytest.mark.trio
async def test_who_comes_in_the_middle_of_an_election_is_served_by_its_winner() -> None:
    async with open_port() as port, trio.open_nursery() as nursery:
        election = Election(port)
        peer = await knock(port, nursery)
        assert not any(session.session for session in port.server.sessions)
        election.won()
        with trio.fail_after(WAIT_SECONDS):
            await peer.until(lambda: peer.opened is not None)


@pytest.mark.trio
async def test_who_waited_for_another_leader_is_told_which_one_it_is() -> None:
    async with open_port() as port, trio.open_nursery() as nursery:
        election = Election(port)
        peer = await knock(port, nursery)
        election.lost(3)
        with trio.fail_after(WAIT_SECONDS):
            await peer.closed.wait()
        assert isinstance(peer.error, NotLeader)
        assert peer.error.fields["leader"] == 3


@pytest.mark.trio
async def test_an_election_without_an_end_keeps_nobody_for_long() -> None:
    async with open_port() as port, trio.open_nursery() as nursery:
        election = Election(port)
        peer = await knock(port, nursery)
        election.until = trio.current_time() + 0.05
        port.server.leader_changed()  # still nobody leads: it is looked at again
        with trio.fail_after(WAIT_SECONDS):
            await peer.closed.wait()
        assert isinstance(peer.error, NotLeader)
