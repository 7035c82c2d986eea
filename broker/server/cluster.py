"""Requests about the cluster: its status, from any broker; and who joins, votes, leads and leaves, from the leader.

What a change means and whether it may be is the replication core's business; here is only who asked and what is
answered. CLUSTER_STATUS may come before a session is open: it is wanted most when nobody leads.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import trio

from sluicemq.broker.config import is_wildcard, parse_address
from sluicemq.broker.pipeline.ensemble.cluster import rows_of
from sluicemq.broker.server.authorization import authorize
from sluicemq.wire import messages as m
from sluicemq.wire.errors import Conflict, InvalidRequest, LimitReached

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sluicemq.broker.pipeline.ensemble.cluster import ClusterControl
    from sluicemq.broker.server.client_session import ClientSession
    from sluicemq.wire.fields import Message

ANSWERING_MAX = 16
"""Most of these requests of one connection that wait for their answers."""


def cluster_status(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """CLUSTER_STATUS: what this broker knows of all of them."""
    del tail
    authorize(session.identity, "status", ("", "cluster", ""))
    _meanwhile(session, message, correlation, partial(_status, session, correlation))


async def _status(session: ClientSession, correlation: int) -> None:
    control = _control(session)
    behind: dict[int, int | None] = {}
    acknowledged = control.acknowledged
    for node, heard in dict(control.heard).items():
        zxid = max(heard.last_zxid, acknowledged.get(node, 0))
        behind[node] = await trio.to_thread.run_sync(control.bytes_behind, zxid)
    figures = control.figures
    configuration = control.configuration
    session.reply(
        correlation,
        m.ClusterState(
            node=control.identity.node,
            leader=figures.leader,
            cluster_id=control.identity.cluster_id.hex(),
            nodes=rows_of(control, behind),
            changing=configuration is not None and configuration.next_voters is not None,
        ),
    )


def add_node(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """ADD_NODE."""
    del tail
    assert isinstance(message, m.AddNode)
    _check_node(message.node)
    host, port = parse_address(message.address)
    if not port:
        raise InvalidRequest(f"{message.address!r:.80} has port 0; name the port that node {message.node} listens on")
    if is_wildcard(host):
        raise InvalidRequest(
            f"{message.address!r:.80} is no host that others can reach; name one of node {message.node}"
        )
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    _change(session, message, correlation, lambda control: control.add_node(message.node, address))


def remove_node(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """REMOVE_NODE."""
    del tail
    assert isinstance(message, m.RemoveNode)
    _check_node(message.node)
    _change(session, message, correlation, lambda control: control.remove_node(message.node))


def promote_node(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """PROMOTE_NODE."""
    del tail
    assert isinstance(message, m.PromoteNode)
    _check_node(message.node)
    _change(session, message, correlation, lambda control: control.promote_node(message.node))


def transfer_lead(session: ClientSession, message: Message, correlation: int, tail: memoryview) -> None:
    """TRANSFER_LEAD."""
    del tail
    assert isinstance(message, m.TransferLead)
    _check_node(message.node)
    authorize(session.identity, "administer", ("", "cluster", ""))

    async def answer() -> None:
        control = _control(session)
        if control.figures.leader == message.node == control.identity.node:
            session.reply(correlation, m.ClusterChanged("unchanged"))
        else:
            await control.transfer_lead(message.node, lambda: session.reply(correlation, m.ClusterChanged("changed")))

    _meanwhile(session, message, correlation, answer)


def _change(
    session: ClientSession, message: Message, correlation: int, change: Callable[[ClusterControl], Awaitable[bool]]
) -> None:
    authorize(session.identity, "administer", ("", "cluster", ""))

    async def answer() -> None:
        changed = await change(_control(session))
        session.reply(correlation, m.ClusterChanged("changed" if changed else "unchanged"))

    _meanwhile(session, message, correlation, answer)


def _meanwhile(
    session: ClientSession, message: Message, correlation: int, answer: Callable[[], Awaitable[None]]
) -> None:
    """Let others of the client's requests pass: a change takes seconds where a broker does not answer."""
    if session.answering >= ANSWERING_MAX:
        raise LimitReached(
            f"{ANSWERING_MAX} requests of this connection wait for their answers: ask again when some are there",
            limit="session_answering_max",
            value=ANSWERING_MAX,
        )
    _control(session)
    session.answer_meanwhile(answer, message, correlation)


def _control(session: ClientSession) -> ClusterControl:
    control = session.server.cluster
    if control is None:
        raise Conflict("this broker runs on its own; a cluster is formed by brokers that are started with --peers")
    return control


def _check_node(node: int) -> None:
    if not node:
        raise InvalidRequest("node 0 is none; nodes are numbered from 1")
