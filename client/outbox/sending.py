"""One claim's way to the broker: batches by destination, in the order of the rows, until each row has its outcome.

Batches of one destination follow each other, because a refused one must not be overtaken by its successor;
destinations go side by side. Where a batch is refused for what one row holds, its rows go one by one: so the poisoned
row is found, and nothing of its key passes it. It must not know the database.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import anyio

from sluicemq.client.errors import ClientClosed, SluiceError
from sluicemq.client.outbox.statements import Row, unpack_attributes
from sluicemq.client.outbox.verdicts import Verdict, verdict_on
from sluicemq.client.outgoing import Attributes, OutgoingBatch, Pending
from sluicemq.client.publisher import Publisher

if TYPE_CHECKING:
    from sluicemq.client.client import Client

log = logging.getLogger("sluicemq.client")

SEND_SECONDS = 15.0
"""How long one try of a send may take, reconnecting included; then the relay looks whether it still holds its rows."""
UNKNOWN_SECONDS_MAX = 3_600.0
"""How long to ask for the outcome of a send. Brokers may forget a silent producer after an hour, and nobody knows then:
the rows are sent anew under their message ids, for the window of the destination to judge."""
BATCH_BYTES_SHARE = 0.5
"""Part of the broker's limit up to which rows are put into a batch by the size of their bodies."""


class Outcomes:
    """What became of the rows of a claim; those that are nowhere stay as they are.

    Attributes:
        sent: Ids of rows that the broker has.
        refused: Rows that it will not take, with the error; parked.
        failed: Rows that failed for reasons unknown.
        held: Destinations that take nothing now, with the first row and the error.
        broker_error: Why the broker could not be asked, if it could not.

    """

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.refused: list[tuple[Row, BaseException]] = []
        self.failed: list[tuple[Row, BaseException]] = []
        self.held: dict[str, tuple[Row, BaseException]] = {}
        self.broker_error: BaseException | None = None


class Sender:
    """Sends the rows of one claim at a time.

    Args:
        client: Whose connection it uses.
        still_mine: Whether the rows that are being sent are still held; asked before each batch.

    """

    def __init__(self, client: Client, still_mine: Callable[[], bool]) -> None:
        self._client = client
        self._still_mine = still_mine
        self._publisher: Publisher | None = None

    async def send(self, rows: list[Row], outcomes: Outcomes) -> None:
        """Send *rows* and note what becomes of each in *outcomes*; returns when nothing of them is under way.

        Raises:
            SluiceError: The client is of no use any more.

        """
        by_destination: dict[str, list[Row]] = {}
        for row in rows:
            by_destination.setdefault(row.destination, []).append(row)
        ends: list[BaseException] = []
        async with anyio.create_task_group() as tasks:
            for destination, mine in by_destination.items():
                tasks.start_soon(self._send_to, destination, mine, outcomes, ends)
        for end in ends:
            raise end

    async def _send_to(self, destination: str, rows: list[Row], outcomes: Outcomes, ends: list[BaseException]) -> None:
        try:
            for batch in self._batches(rows):
                if not self._still_mine() or not await self._send_batch(destination, batch, outcomes):
                    return
        except Exception as error:  # noqa: BLE001 - raised by `send`, and not inside a group
            ends.append(error)

    def _batches(self, rows: list[Row]) -> Iterable[list[Row]]:
        messages_max, bytes_max = self._open_publisher().batch_limits()
        batch: list[Row] = []
        size = 0
        for row in rows:
            if batch and (len(batch) >= messages_max or size + len(row.body) > bytes_max * BATCH_BYTES_SHARE):
                yield batch
                batch, size = [], 0
            batch.append(row)
            size += len(row.body)
        if batch:
            yield batch

    async def _send_batch(self, destination: str, rows: list[Row], outcomes: Outcomes) -> bool:
        """Send one batch; return whether later ones of the destination may go."""
        error = await self._try(destination, rows)
        if error is None:
            outcomes.sent.extend(row.id for row in rows)
            return True
        verdict = verdict_on(error)
        if verdict in (Verdict.ROW, Verdict.RETRY):
            if len(rows) > 1:
                return await self._send_singly(destination, rows, outcomes)
            self._blame(rows[0], error, verdict, outcomes)
            return True
        return self._stop(rows[0], error, verdict, outcomes)

    async def _send_singly(self, destination: str, rows: list[Row], outcomes: Outcomes) -> bool:
        """Send each row by itself, leaving out the keys of those that fail."""
        failed_keys: set[str] = set()
        for row in rows:
            if row.key in failed_keys:
                continue
            if not self._still_mine():
                return False
            error = await self._try(destination, [row])
            if error is None:
                outcomes.sent.append(row.id)
                continue
            verdict = verdict_on(error)
            if verdict not in (Verdict.ROW, Verdict.RETRY):
                return self._stop(row, error, verdict, outcomes)
            self._blame(row, error, verdict, outcomes)
            if row.key is not None:
                failed_keys.add(row.key)
        # What stands in later batches under these keys is held back by the rows in the table.
        return not failed_keys

    @staticmethod
    def _blame(row: Row, error: BaseException, verdict: Verdict, outcomes: Outcomes) -> None:
        (outcomes.refused if verdict is Verdict.ROW else outcomes.failed).append((row, error))

    @staticmethod
    def _stop(row: Row, error: BaseException, verdict: Verdict, outcomes: Outcomes) -> bool:
        if verdict is Verdict.END:
            raise error
        if verdict is Verdict.HOLD:
            outcomes.held[row.destination] = (row, error)
        else:
            outcomes.broker_error = error
        return False

    async def _try(self, destination: str, rows: list[Row]) -> BaseException | None:
        """Send *rows* as one batch, and ask until it is known what became of them; return why they are not stored."""
        publisher = self._open_publisher()
        pending = Pending(publisher.now() + SEND_SECONDS)
        try:
            batch = _batch(publisher, destination, rows, pending)
            await publisher.ready()
            publisher.enter_whole(pending, batch)
            await publisher.wait(pending)
        except Exception as error:  # noqa: BLE001 - judged by the caller
            if verdict_on(error) is Verdict.ASK and isinstance(error, SluiceError):
                return await self._ask(error)
            return error
        return None

    async def _ask(self, error: SluiceError) -> BaseException | None:
        """Find out what became of a send, as long as the rows are held; return why it is not stored."""
        begun = self._open_publisher().now()
        while self._still_mine() and self._open_publisher().now() - begun < UNKNOWN_SECONDS_MAX:
            try:
                await self._client.resend(error, timeout=SEND_SECONDS)
            except Exception as answer:  # noqa: BLE001 - judged here
                if verdict_on(answer) is not Verdict.ASK or not isinstance(answer, SluiceError):
                    return answer
                error = answer
            else:
                return None
        log.warning("nobody could say what became of messages; they are sent again under their ids: %s", error)
        return error

    def _open_publisher(self) -> Publisher:
        publisher = self._publisher
        if publisher is None or publisher.error is not None:
            if publisher is not None:
                self._leave(publisher)
            parts = self._client._alive()
            publisher = self._publisher = Publisher(parts.runtime, parts.timers, parts.link)
            publisher.join()
            parts.publishers[publisher] = None
        return publisher

    def _leave(self, publisher: Publisher) -> None:
        parts = self._client._parts
        if parts is not None:
            parts.publishers.pop(publisher, None)
        publisher.close(ClientClosed("the relay has ended"))

    def close(self) -> None:
        """Give the producer number back."""
        publisher, self._publisher = self._publisher, None
        if publisher is not None:
            self._leave(publisher)

    async def connected(self) -> None:
        """Wait until there is a broker to send to.

        Raises:
            SluiceError: There will never be one again: the client is closed, or has failed for good.

        """
        await self._client._alive().link.connected()


def _batch(publisher: Publisher, destination: str, rows: list[Row], pending: Pending) -> OutgoingBatch:
    """Return the rows as one batch.

    Raises:
        ValueError: What lies beside a body is damaged.
        MessageTooLarge: A body is larger than the broker takes.

    """
    bodies = [row.body for row in rows]
    attributes: list[Attributes] = [unpack_attributes(row) for row in rows]
    batch = OutgoingBatch(destination, whole=True)
    batch.fill(bodies, attributes, pending)
    publisher.check_sizes(bodies, batch.size_bytes)
    return batch
