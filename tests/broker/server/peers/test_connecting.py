"""Two brokers find each other: who dials, one connection at a time, and what becomes of it when one of them goes."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline.peer_messages import seal
from sluicemq.broker.replication import messages as core
from sluicemq.broker.replication.history import Entry, Position
from sluicemq.broker.server.peers import connection as connection_module
from sluicemq.broker.server.peers import mesh as mesh_module
from sluicemq.broker.server.peers.dialing import AnswersLate, NobodyListens
from tests.broker.server.peers.pair import Node, PlainBodies, brokers, commit, connected, kept_port, ping, vote

pytestmark = pytest.mark.trio


async def test_two_brokers_know_their_connection_by_the_same_number():
    async with brokers(1, 2) as (one, two):
        number = await connected(one, two)
        one.say(2, vote(number, 1), commit(number, 11), commit(number, 12))
        two.say(1, ping(number, 1))
        heard = await two.hears(3)
        assert [each for each in heard if isinstance(each, core.Commit)] == [commit(number, 11), commit(number, 12)]
        assert vote(number, 1) in heard
        assert await one.hears(1) == [ping(number, 1)]
        assert two.events.told == [("up", 1, number)]


async def test_both_dial_at_once_and_have_one_connection():
    for _ in range(20):
        async with brokers(1, 2) as (one, two):
            one.knows(two)
            two.knows(one)
            assert await one.up(2) == await two.up(1)
            one.say(2, commit(await one.up(2), 5))
            await two.hears(1)
            assert (one.events.count("up", 2), two.events.count("up", 1)) == (1, 1)


async def test_three_brokers_are_all_connected():
    async with brokers(1, 2, 3) as nodes:
        for node in nodes:
            node.knows(*nodes)
        for node in nodes:
            for other in nodes:
                if other is not node:
                    assert await node.up(other.node) == await other.up(node.node)


async def test_a_broker_that_is_not_there_is_told_as_refused_and_found_when_it_comes(mock_clock):
    async def until(condition):
        while not condition():
            mock_clock.jump(0.25)
            await trio.testing.wait_all_tasks_blocked(0.005)

    async with brokers(1) as (one,), trio.open_nursery() as nursery:
        with kept_port() as port:
            two = await Node(2, nursery).begin(port)
            await connected(one, two)
            two.die()
            await one.events.until(lambda: one.events.up_with(2) is None)
            await until(lambda: one.events.count("refused", 2) >= 3)
            again = await Node(2, nursery).begin(port)
            await until(lambda: one.events.up_with(2) is not None)
            assert await again.up(1) == await one.up(2)
        nursery.cancel_scope.cancel()


async def test_the_end_of_a_connection_is_told_once_and_its_number_never_returns():
    async with brokers(1, 2) as (one, two):
        numbers = [await connected(one, two)]
        for _ in range(3):
            connection = two.mesh.connection_to(1)
            assert connection is not None
            connection.data.close()
            await one.events.until(lambda: one.events.count("down", 2) == len(numbers))
            await two.events.until(lambda: two.events.count("down", 1) == len(numbers))
            numbers.append(await one.up(2))
        assert len(set(numbers)) == 4


async def test_what_names_a_connection_that_has_ended_is_dropped():
    async with brokers(1, 2) as (one, two):
        number = await connected(one, two)
        connection = two.mesh.connection_to(1)
        assert connection is not None
        connection.control.close()
        await one.events.until(lambda: one.events.count("up", 2) == 2)
        one.say(2, commit(number, 1), commit(await one.up(2), 2))
        one.say(3, commit(number, 1))
        assert [message.connection for message in await two.hears(1)] == [await one.up(2)]


async def test_pings_overtake_megabytes_of_proposals():
    async with brokers(1, 2) as (one, two):
        number = await connected(one, two)
        body = bytes(1 << 20)
        previous = Position(0, bytes(8))
        entries: list[Entry] = []
        for zxid in range(1, 33):
            entries.append(seal(zxid, previous, (1, b"", body), PlainBodies()))
            one.mesh.send(2, core.Propose(1, number, 5, previous, (entries[-1],), 0))
            previous = entries[-1].position
        one.say(2, ping(number, 1))
        heard = await two.hears(33)
        assert heard.index(ping(number, 1)) < 16
        proposals = [each.entries[0] for each in heard if isinstance(each, core.Propose)]
        assert proposals == entries


async def test_a_peer_that_does_not_read_is_cut_off(monkeypatch):
    monkeypatch.setattr(connection_module, "QUEUE_BYTES_MAX", 1 << 20)
    monkeypatch.setattr(connection_module, "FRAMES_MAX", 0)
    async with brokers(1, 2) as (one, two):
        number = await connected(one, two)
        previous = Position(0, bytes(8))
        entry = Entry(1, 0, bytes(8), 1 << 18, (1, b"", bytes(1 << 18)))
        sent = 0
        while one.events.up_with(2) == number and sent < 1000:
            # Within one turn of the event loop nobody reads.
            for _ in range(100):
                one.mesh.send(2, core.Propose(1, number, 5, previous, (entry,), 0))
            connection = one.mesh.connection_to(2)
            assert connection is None or connection.queued_bytes < 2 << 20
            sent += 100
            await trio.testing.wait_all_tasks_blocked()
        await one.events.until(lambda: one.events.count("down", 2) == 1)
        await two.events.until(lambda: two.events.count("down", 1) == 1)


async def test_an_entry_that_is_larger_than_what_may_wait_passes_all_the_same(monkeypatch):
    monkeypatch.setattr(connection_module, "QUEUE_BYTES_MAX", 1000)
    async with brokers(1, 2) as (one, two):
        number = await connected(one, two)
        entry = seal(1, Position(0, bytes(8)), (1, b"", bytes(100_000)), PlainBodies())
        one.say(2, core.Propose(1, number, 5, Position(0, bytes(8)), (entry,), 0))
        await two.hears(1)
        assert one.events.up_with(2) == number


async def test_who_answers_late_is_given_longer_and_longer(monkeypatch):
    patience: list[float] = []

    async def late(*arguments):
        patience.append(arguments[-1])
        await trio.lowlevel.checkpoint()
        if len(patience) == 6:
            raise NobodyListens("it is gone")
        raise AnswersLate("not yet")

    monkeypatch.setattr(mesh_module, "open_stream", late)
    async with brokers(1) as (one,):
        one.mesh.connect_to({2: "127.0.0.1:1"})
        await one.events.until(lambda: one.events.count("refused", 2) == 1)
        assert patience == [2.0, 4.0, 8.0, 16.0, 16.0, 16.0]


async def test_who_is_silent_is_given_up(mock_clock, monkeypatch):
    async with brokers(1, 2) as (one, two):
        await connected(one, two)
        # Beats go out each second while both live.
        for _ in range(40):
            mock_clock.jump(0.5)
            await trio.testing.wait_all_tasks_blocked(0.005)
        assert one.events.count("down", 2) == 0
        # Its loop runs no more, but its sockets stay open.
        monkeypatch.setattr(two.mesh.connection_to(1), "watch", lambda now, figures: None)
        for _ in range(12):
            mock_clock.jump(0.5)
            await trio.testing.wait_all_tasks_blocked(0.005)
        assert one.events.count("down", 2) == 1


async def test_each_knows_after_a_second_how_the_others_are(mock_clock):
    async with brokers(1, 2) as (one, two):
        await connected(one, two)
        assert (one.mesh.figures(), one.mesh.reachable()) == ({}, {2})
        for _ in range(6):
            mock_clock.jump(0.25)
            await trio.testing.wait_all_tasks_blocked(0.005)
        assert (one.mesh.figures(), two.mesh.figures()) == ({2: two.figures}, {1: one.figures})


async def test_a_broker_that_stood_still_itself_blames_nobody(mock_clock):
    async with brokers(1, 2) as (one, two):
        await connected(one, two)
        mock_clock.jump(60.0)
        for _ in range(20):
            await trio.testing.wait_all_tasks_blocked(0.005)
            mock_clock.jump(0.25)
        assert (one.events.count("down", 2), two.events.count("down", 1)) == (0, 0)


async def test_a_node_that_leaves_the_cluster_is_left_and_a_moved_one_is_found_again():
    async with brokers(1, 2, 3) as (one, two, three):
        await connected(one, two)
        one.knows(three)
        await one.events.until(lambda: one.events.count("down", 2) == 1)
        await one.up(3)
        one.knows(three, (2, "127.0.0.1:1"))
        await one.events.until(lambda: one.events.count("refused", 2))
        one.knows(three, two)
        await one.up(2)
        assert one.events.count("down", 3) == 0
