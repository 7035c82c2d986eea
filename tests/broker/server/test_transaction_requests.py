"""What a client may send about transactions, and what a hostile one gets for it: a typed refusal, nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sluicemq.broker.pipeline.transactions import Wanted
from sluicemq.broker.server.transactions import _wanted
from sluicemq.wire import messages as m
from sluicemq.wire.batch import encode_batch
from sluicemq.wire.errors import (
    BatchTooLarge,
    InvalidRequest,
    LeaseLost,
    LimitReached,
    ProducerNotFound,
    PublishLimited,
    QueueNotFound,
    SequenceGap,
    SluiceError,
    TransactionNotFound,
)
from tests.broker.server.talk import Peer, open_port

if TYPE_CHECKING:
    from sluicemq.wire.fields import Message

BATCH = encode_batch([b"one", b"two", b"three"])


def test_settlements_are_flat_numbers() -> None:
    flat = [7, m.VERDICT_ACK, 0, 1, 3, 5, 7, m.VERDICT_NACK, 1_501, 2, 8, 8, 10, 11]
    assert _wanted(flat, ["", "because"]) == [
        Wanted(7, m.VERDICT_ACK, None, [3, 5], ""),
        Wanted(7, m.VERDICT_NACK, 1.5, [8, 8, 10, 11], "because"),
    ]
    assert _wanted([], []) == []


@given(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 5), max_size=12), st.lists(st.just(""), max_size=3))
def test_numbers_that_are_no_settlements_are_refused(flat: list[int], reasons: list[str]) -> None:
    try:
        found = _wanted(flat, reasons)
    except InvalidRequest:
        return
    again: list[int] = []
    for each in found:
        delay = 0 if each.delay_seconds is None else round(each.delay_seconds * 1000) + 1
        again += (each.consumer, each.verdict, delay, len(each.tags) // 2, *each.tags)
    assert (again, len(found)) == (flat, len(reasons))


async def refused(peer: Peer, message: Message, tail: bytes = b"") -> type[SluiceError]:
    with pytest.raises(SluiceError) as caught:
        await peer.ask(message, tail)
    return caught.type


@pytest.mark.trio
async def test_a_hostile_transaction_is_refused_and_changes_nothing() -> None:
    async with open_port() as port:
        peer = await port.connect()
        await peer.ask(m.DeclareQueue(name="orders"))
        opened = await peer.ask(m.OpenProducer())
        assert isinstance(opened, m.ProducerOpened)
        session = 0 if peer.opened is None else peer.opened.session

        def transaction(**given: object) -> m.Transaction:
            fields = {"producer": opened.producer, "sequence": 1, "destinations": ["orders"], "counts": [3]}
            return m.Transaction(**{**fields, **given})  # type: ignore[arg-type]

        assert await refused(peer, transaction(counts=[2]), BATCH) is InvalidRequest
        assert await refused(peer, transaction(counts=[3, 0]), BATCH) is InvalidRequest
        assert (
            await refused(peer, transaction(destinations=["orders", "orders"], counts=[3, 0]), BATCH) is InvalidRequest
        )
        assert await refused(peer, transaction(destinations=["nowhere"]), BATCH) is QueueNotFound
        assert await refused(peer, transaction(producer=77), BATCH) is ProducerNotFound
        assert await refused(peer, transaction(sequence=3), BATCH) is SequenceGap
        assert await refused(peer, transaction(destinations=[], counts=[])) is InvalidRequest
        lease = {"settlements": [1, m.VERDICT_ACK, 0, 1, 1, 1], "reasons": [""], "session": session}
        assert await refused(peer, transaction(**lease), BATCH) is LeaseLost
        assert await refused(peer, transaction(**{**lease, "session": session + 1}), BATCH) is LeaseLost
        assert await refused(peer, transaction(**{**lease, "reasons": []}), BATCH) is InvalidRequest
        many = [1, m.VERDICT_ACK, 0, 1, 1, m.TRANSACTION_SETTLED_MAX + 1]
        assert await refused(peer, transaction(**{**lease, "settlements": many}), BATCH) is BatchTooLarge
        release = [1, m.VERDICT_RELEASE, 0, 1, 1, 1]
        assert await refused(peer, transaction(**{**lease, "settlements": release}), BATCH) is InvalidRequest
        state = await peer.ask(m.QueueInfo(name="orders"))
        assert isinstance(state, m.Queues)
        assert state.queues[0]["published_total"] == 0
        done = await peer.ask(transaction(), BATCH)
        assert isinstance(done, m.Transacted)
        assert await peer.ask(transaction(), BATCH) == m.Transacted(done.zxid, duplicate=True, id_base=done.id_base)


@pytest.mark.trio
async def test_half_messages_of_nobody_and_groups_without_end_are_refused() -> None:
    async with open_port() as port:
        peer = await port.connect()
        for message in (m.Resolve(transaction=7, commit=True), m.ShowTransaction(transaction=7)):
            assert await refused(peer, message) is TransactionNotFound
        for number in range(1_000):
            assert isinstance(await peer.ask(m.RegisterChecker(group=f"g{number}")), m.CheckerRegistered)
        assert await refused(peer, m.RegisterChecker(group="one too many")) is LimitReached
        assert await refused(peer, m.RegisterChecker(group="")) is InvalidRequest


@pytest.mark.trio
@pytest.mark.parametrize("window", [0, 3_600])
async def test_a_transaction_that_is_sent_again_is_not_counted_again(window: int) -> None:
    async with open_port() as port:
        peer = await port.connect()
        await peer.declare(publish_limit="token_bucket 3/d burst 3", dedup_window=window)
        producer = await peer.open_producer()

        def transaction(sequence: int) -> m.Transaction:
            return m.Transaction(producer=producer, sequence=sequence, destinations=["orders"], counts=[3])

        done = await peer.ask(transaction(1), BATCH)
        again = await peer.ask(transaction(1), BATCH)
        assert (again.duplicate, again.zxid) == (True, done.zxid)
        assert await refused(peer, transaction(2), BATCH) is PublishLimited
