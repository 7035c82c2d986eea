"""Whoever calls and should not: each is told why, costs nothing, and touches no connection that there is."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing

from sluicemq.broker.pipeline.peer_messages import pack_peer_message
from sluicemq.broker.replication.history import Entry, Position
from sluicemq.broker.replication.messages import Propose
from sluicemq.broker.server.peers import handshake, mesh
from sluicemq.broker.server.peers.stream import PeerStream
from sluicemq.wire import peers as wire
from sluicemq.wire.errors import (
    ClusterMismatch,
    Conflict,
    ConnectionFailed,
    NodeMismatch,
    ProtocolError,
    SluiceError,
    VersionMismatch,
    error_from_wire,
)
from sluicemq.wire.fields import Message
from sluicemq.wire.frames import PEER_PREFACE
from sluicemq.wire.peers_of_links import Beat, PeerRefusal, StreamWanted
from tests.broker.server.peers.pair import (
    OTHER_CLUSTER,
    Node,
    PlainBodies,
    brokers,
    call,
    commit,
    connected,
    ping,
    vote,
)
from tests.patience import WAIT_SECONDS

pytestmark = pytest.mark.trio


def hello_to(to: Node, sender: int = 9, **said: Any) -> wire.PeerHello:
    """Return what a good broker of node *sender* says on a control stream, but for what is *said*."""
    identity = replace(to.identity, node=sender, incarnation=b"%016d" % sender)
    return replace(handshake.hello(identity, to.node, 77, wire.STREAM_CONTROL, "test"), **said)


async def say(node: Node, message: Message) -> tuple[PeerStream, Message]:
    """Call *node*, say one message, and return the stream and the answer."""
    stream = await call(node)
    stream.put(message)
    stream.outbound.flush()
    with trio.fail_after(WAIT_SECONDS):
        answer, _tail = await stream.receive_message()
    return stream, answer


async def refusal_of(node: Node, message: Message) -> SluiceError:
    """Call *node*, say one message, and return what it is refused with."""
    stream, answer = await say(node, message)
    assert isinstance(answer, PeerRefusal)
    with trio.fail_after(WAIT_SECONDS), pytest.raises(ConnectionFailed):
        await stream.receive()
    stream.close()
    return error_from_wire(answer.error)


@pytest.mark.parametrize(
    ("said", "error", "text"),
    [
        ({"cluster_id": OTHER_CLUSTER}, ClusterMismatch, OTHER_CLUSTER.hex()),
        ({"group_id": 4}, ClusterMismatch, "group 4"),
        ({"addressed_node": 5}, NodeMismatch, "node 5 was called, but this address is that of node 1"),
        ({"node": 1}, NodeMismatch, "two brokers have the node id 1"),
        ({"node": 1, "incarnation": b"%016d" % 1}, NodeMismatch, "has reached itself"),
        ({"version_min": 3, "version_max": 9}, VersionMismatch, "versions 3 to 9"),
        ({"cluster_id": b"short"}, ProtocolError, "cluster id of 5"),
        ({"incarnation": b""}, ProtocolError, "incarnation of 0"),
        ({"node": 0}, ProtocolError, "node is 0"),
        ({"stream": 9}, ProtocolError, "stream is 9"),
        ({"connection": 0}, Conflict, "number 0"),
        ({"stream": wire.STREAM_DATA}, Conflict, "not being opened"),
        ({"stream": wire.STREAM_SNAPSHOT}, Conflict, "no connection 77"),
    ],
)
async def test_who_may_not_talk_to_us_is_told_why(said, error, text):
    async with brokers(1) as (one,):
        found = await refusal_of(one, hello_to(one, **said))
        assert type(found) is error
        assert text in str(found)
        assert one.events.told == []
        assert one.mesh.addresses() == {}


async def test_who_belongs_to_no_cluster_yet_may_talk_to_everybody():
    async with brokers(1) as (one,):
        stream, answer = await say(one, hello_to(one, cluster_id=OTHER_CLUSTER, founded=False))
        assert isinstance(answer, wire.PeerHello)
        assert (answer.node, answer.connection, answer.founded) == (1, 77, True)
        stream.close()


@pytest.mark.parametrize(
    "words",
    [b"\x8fSlPeer\x02", b"\x8fSlPeer\x01" + b"\xff" * 16, b"\x8fSlPeer\x01GET / HTTP/1.1\r\n\r\n", b"\x8fSl"],
    ids=["another generation", "a huge frame", "http", "nothing more"],
)
async def test_garbage_ends_its_own_stream_and_nothing_else(words):
    async with brokers(1, 2) as (one, two):
        number = await connected(one, two)
        host, _, port = one.address.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(words)
            await stream.send_eof()
            with trio.fail_after(WAIT_SECONDS):
                while await stream.receive_some():
                    pass
        one.say(2, commit(number, 3))
        assert await two.hears(1) == [commit(number, 3)]


async def test_who_is_refused_again_and_again_is_told_of_once(caplog):
    caplog.set_level("INFO")
    async with brokers(1) as (one,):
        for _ in range(3):
            await refusal_of(one, hello_to(one, node=1))
        await refusal_of(one, hello_to(one, group_id=4))
    refused = [record.message for record in caplog.records if "is refused" in record.message]
    assert ["two brokers have the node id 1" in refused[0], "group 4" in refused[1], len(refused)] == [True, True, 2]


async def test_another_message_than_a_hello_is_refused():
    async with brokers(1) as (one,):
        assert "begins with Commit" in str(await refusal_of(one, wire.Commit(1, 2, 3, 4)))


async def test_who_says_no_hello_is_left(mock_clock):
    async with brokers(1) as (one,):
        stream = await call(one)
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(mesh.HELLO_SECONDS + 1)
        with pytest.raises(ConnectionFailed):
            await stream.receive()


@pytest.mark.parametrize("said", [1, 4, 7])
async def test_who_stops_within_its_preface_is_left(said, mock_clock):
    async with brokers(1) as (one,):
        host, _, port = one.address.rpartition(":")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(PEER_PREFACE[:said])
            await trio.testing.wait_all_tasks_blocked(0.01)
            mock_clock.jump(mesh.HELLO_SECONDS + 1)
            with trio.fail_after(WAIT_SECONDS):
                assert await stream.receive_some() == b""


async def test_half_a_call_touches_no_connection_and_ends_in_time(mock_clock):
    async with brokers(1, 2) as (one, two):
        number = await connected(one, two)
        stream, answer = await say(one, hello_to(one, sender=2, incarnation=two.identity.incarnation))
        assert isinstance(answer, wire.PeerHello)
        one.say(2, commit(number, 3))
        await two.hears(1)
        await trio.testing.wait_all_tasks_blocked(0.01)
        for _ in range(2 * int(mesh.HELLO_SECONDS + 1)):
            mock_clock.jump(0.5)
            await trio.testing.wait_all_tasks_blocked(0.005)
        with pytest.raises(ConnectionFailed):
            await stream.receive()
        assert one.events.count("down", 2) == 0


async def test_a_second_broker_with_the_number_of_one_that_is_connected_is_refused():
    async with brokers(1, 2) as (one, two):
        await connected(one, two)
        error = await refusal_of(one, hello_to(one, sender=2, incarnation=b"another disk's 2"))
        assert isinstance(error, NodeMismatch)
        assert "another disk" in str(error)
        assert one.events.count("down", 2) == 0


async def test_a_number_that_was_used_before_is_refused():
    async with brokers(1, 2) as (one, two):
        number = await connected(one, two)
        two.die()
        await one.events.until(lambda: one.events.count("down", 2))
        error = await refusal_of(one, hello_to(one, sender=2, connection=number, incarnation=two.identity.incarnation))
        assert f"{number} was used before" in str(error)


async def test_a_new_connection_of_the_same_broker_takes_the_place_of_a_half_open_one():
    """Its process was killed and has started again, and its host never said so."""
    async with brokers(1, 2) as (one, two):
        number = await connected(one, two)
        same: dict[str, Any] = {"sender": 2, "connection": 555, "incarnation": two.identity.incarnation}
        control, answer = await say(one, hello_to(one, **same))
        assert isinstance(answer, wire.PeerHello)
        data, answer = await say(one, hello_to(one, stream=wire.STREAM_DATA, **same))
        assert isinstance(answer, wire.PeerHello)
        assert one.events.told[:3] == [("up", 2, number), ("down", 2, number), ("up", 2, 555)]
        assert not control.ended.is_set()
        data.close()
        control.close()


async def _as_peer(one: Node, number: int = 77):
    control, _ = await say(one, hello_to(one, connection=number))
    data, _ = await say(one, hello_to(one, stream=wire.STREAM_DATA, connection=number))
    await one.up(9)
    return control, data


@pytest.mark.parametrize(
    ("on_data", "message"),
    [
        (True, wire.Commit(1, 78, 3, 4)),
        (True, wire.Ping(1, 77, 3, 4, 5)),
        (False, wire.Commit(1, 77, 3, 4)),
        (True, wire.PeerHello(1, 1, bytes(16), 0, 9, bytes(16), 1, 77, 1)),
        (True, StreamWanted(wire.STREAM_SNAPSHOT_WANTED)),
        (False, StreamWanted(wire.STREAM_SNAPSHOT_WANTED)),
        (True, wire.SnapshotEnd(4)),
        (True, PeerRefusal({"code": "conflict"})),
    ],
    ids=[
        "an old connection",
        "a ping among proposals",
        "a commit among pings",
        "a hello again",
        "a stream wanted among proposals",
        "a stream wanted of who did not open the connection",
        "an end of a snapshot",
        "no error",
    ],
)
async def test_what_makes_no_sense_ends_the_connection(on_data, message):
    async with brokers(1) as (one,):
        control, data = await _as_peer(one)
        stream = data if on_data else control
        stream.put(message)
        stream.outbound.flush()
        await one.events.until(lambda: one.events.count("down", 9))
        assert one.events.heard == []
        for each in (control, data):
            with pytest.raises(ConnectionFailed):
                await each.receive()


async def test_a_frame_beyond_the_limit_ends_the_connection_before_it_is_held():
    async with brokers(1) as (one,):
        _control, data = await _as_peer(one)
        data.outbound.put(struct.pack(">IBBHII", 1 << 30, wire.Propose.TYPE, 0, 0, 0, 100))
        data.outbound.flush()
        await one.events.until(lambda: one.events.count("down", 9))


async def test_a_stranger_that_never_reads_is_cut_off_and_its_memory_given_back(mock_clock):
    async with brokers(1) as (one,):
        _control, data = await _as_peer(one)
        number = 77
        # More than the system's buffers hold, so something stays with us.
        entry = Entry(1, 0, bytes(8), 1 << 20, (1, b"", bytes(1 << 20)))
        for _ in range(16):
            one.mesh.send(9, Propose(1, number, 5, Position(0, bytes(8)), (entry,), 0))
        one.mesh.flush()
        for _ in range(12):
            mock_clock.jump(0.5)
            data.beat(trio.current_time(), 0.0)
            _control.beat(trio.current_time(), 0.0)
            data.outbound.flush()
            _control.outbound.flush()
            await trio.testing.wait_all_tasks_blocked(0.005)
        assert one.events.count("down", 9) == 1
        assert one.mesh.connection_to(9) is None


async def test_everybody_may_call_but_only_so_many_are_remembered(monkeypatch):
    monkeypatch.setattr(mesh, "CALLERS_MAX", 3)
    async with brokers(1) as (one,):
        streams = [(await say(one, hello_to(one, sender=sender, connection=sender)))[0] for sender in (11, 12, 13)]
        assert "3 nodes that nobody has told of" in str(await refusal_of(one, hello_to(one, sender=14)))
        one.knows(*((node, "127.0.0.1:1") for node in (14, 15, 16, 17)))
        stream, answer = await say(one, hello_to(one, sender=14))
        assert isinstance(answer, wire.PeerHello)
        streams.append(stream)
        streams[0].close()
        await trio.testing.wait_all_tasks_blocked(0.01)
        for stream in streams:
            stream.close()


async def test_beats_reach_nobody():
    async with brokers(1) as (one,):
        control, _data = await _as_peer(one)
        control.put(Beat())
        control.put(wire.Ping(1, 77, 3, 4, 5))
        control.outbound.flush()
        await one.events.until(lambda: one.events.heard)
        assert len(one.events.heard) == 1


# --- whom we call -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("other", "text"),
    [
        ({"cluster_id": OTHER_CLUSTER}, "belongs to cluster"),
        ({"node": 3}, "node 2 was called, but this address is that of node 3"),
    ],
    ids=["another cluster", "another node"],
)
async def test_whom_we_call_by_mistake_is_never_connected_nor_told_as_refused(other, text, caplog):
    caplog.set_level("INFO")
    async with brokers(1) as (one,), trio.open_nursery() as nursery:
        wrong = await Node(2, nursery, **other).begin()
        one.knows((2, wrong.address))
        with trio.fail_after(WAIT_SECONDS):
            while text not in caplog.text:
                await trio.testing.wait_all_tasks_blocked(0.005)
        assert one.events.told == []
        assert wrong.events.told == []
        wrong.die()


async def test_cluster_ids_that_become_known_are_told_before_what_follows_from_them():
    async with brokers(1, 2, founded=False) as (one, two):
        number = await connected(one, two)
        one.events.identity = replace(one.events.identity, cluster_id=OTHER_CLUSTER, founded=True)
        one.mesh.identity_changed()
        one.say(2, commit(number, 1))
        await two.hears(1)
        assert two.events.told == [("up", 1, number), ("named", 1, OTHER_CLUSTER)]


async def test_two_that_turn_out_to_be_of_different_clusters_part():
    async with brokers(1, 2, founded=False) as (one, two):
        await connected(one, two)
        two.events.identity = replace(two.events.identity, founded=True)
        one.events.identity = replace(one.events.identity, cluster_id=OTHER_CLUSTER, founded=True)
        one.mesh.identity_changed()
        one.mesh.flush()
        await two.events.until(lambda: two.events.count("down", 1))
        await one.events.until(lambda: one.events.count("down", 2))
        assert two.events.heard == []


async def test_votes_and_pings_of_a_stranger_are_for_the_core_to_judge():
    async with brokers(1) as (one,):
        control, _data = await _as_peer(one)
        for message in (vote(77, 3), ping(77, 4)):
            control.outbound.put(pack_peer_message(message, PlainBodies()).head)
        control.outbound.flush()
        await one.events.until(lambda: len(one.events.heard) == 2)
        assert [node for node, _ in one.events.heard] == [9, 9]
