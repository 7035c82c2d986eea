"""A broker that is killed between append and confirm, and the user who asks what became of the message."""

# ruff: noqa: PT012, SIM117 (what a block does before it fails is the story)

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import anyio.abc
import pytest

from sluicemq.client import connect
from sluicemq.client.errors import OutcomeUnknown
from tests.e2e.broker_process import unused_port

if TYPE_CHECKING:
    from tests.e2e.conftest import StartBroker

pytestmark = pytest.mark.anyio

TEST_SECONDS_MAX = 180.0


class Line:
    """A line between client and broker of which either direction can be cut off; what is cut off is swallowed."""

    def __init__(self, port: int) -> None:
        self.port = 0
        self._broker_port = port
        self.to_broker = self.to_client = True
        self.swallowed = anyio.Event()

    async def serve(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        async with await anyio.create_tcp_listener(local_host="127.0.0.1") as listener:
            self.port = listener.extra(anyio.abc.SocketAttribute.local_port)
            task_status.started()
            await listener.serve(self._join)

    async def _join(self, client: anyio.abc.SocketStream) -> None:
        try:
            broker = await anyio.connect_tcp("127.0.0.1", self._broker_port)
        except OSError:
            await client.aclose()
            return
        async with client, broker, anyio.create_task_group() as tasks:
            tasks.start_soon(self._carry, client, broker, "to_broker")
            tasks.start_soon(self._carry, broker, client, "to_client")

    async def _carry(self, source: anyio.abc.SocketStream, target: anyio.abc.SocketStream, way: str) -> None:
        try:
            while True:
                data = await source.receive()
                if getattr(self, way):
                    await target.send(data)
                else:
                    self.swallowed.set()
        except (anyio.EndOfStream, anyio.BrokenResourceError, anyio.ClosedResourceError):
            await target.aclose()


@pytest.mark.parametrize("appended", [True, False], ids=["killed after the append", "killed before the append"])
async def test_a_broker_killed_before_its_confirm_answers_a_resend_with_one_position(
    start_broker: StartBroker, appended: bool
) -> None:
    broker = start_broker(port=unused_port())
    line = Line(broker.port)
    with anyio.fail_after(TEST_SECONDS_MAX):
        async with anyio.create_task_group() as tasks:
            await tasks.start(line.serve)
            async with connect(broker.url) as observer:
                await observer.declare_queue("orders")
            with pytest.raises(OutcomeUnknown) as caught:
                async with connect(f"sluicemq://127.0.0.1:{line.port}") as client:
                    async with client.producer("orders") as producer:
                        if appended:
                            line.to_client = False
                        else:
                            line.to_broker = False
                        submitted = await producer.submit(b"once", timeout=1.0)
                        await line.swallowed.wait()  # with `appended`, that was the confirm
                        broker.kill()
                        await submitted
            tasks.cancel_scope.cancel()
        broker.start()
        async with connect(broker.url) as client:
            (receipt,) = await client.resend(caught.value)
            assert receipt.duplicate is appended
            (again,) = await client.resend(caught.value)
            assert again == receipt
            assert (await client.queue_info("orders"))["ready"] == 1
            (stored,) = await client.peek("orders")
            assert (stored.body, stored.position, stored.message_id) == (b"once", receipt.position, receipt.message_id)
