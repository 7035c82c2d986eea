"""What one benchmark is: its mode and its numbers. Pure; crosses to the worker processes as JSON."""

from __future__ import annotations

import dataclasses
import json
from typing import Self

MODES = {
    "publish": "send_many",
    "send": "send one by one, many tasks",
    "consume": "receive and one ack a batch",
    "each": "async for with an ack each",
    "through": "producers and consumers at once",
    "latency": "send, one in flight",
}
"""Mode -> what it does, in the words of the client."""


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """One measurement.

    Attributes:
        mode: One of `MODES`.
        url: The broker.
        queue: Its queue, made for this measurement.
        backend: `trio` or `asyncio`, for the clients.
        size: Bytes of a body.
        batch: Messages a `send_many` or `receive`.
        producers: Producer processes.
        consumers: Consumer processes.
        in_flight: Sends at once, in each producer process.
        seconds: How long the measured part lasts, unless `messages` says otherwise.
        messages: How many messages are measured, over all processes; 0: as many as fit into `seconds`.
        warm_up_seconds: Work before the measured part.

    """

    mode: str
    url: str
    queue: str
    backend: str = "trio"
    size: int = 100
    batch: int = 1000
    producers: int = 1
    consumers: int = 1
    in_flight: int = 4
    seconds: float = 10.0
    messages: int = 0
    warm_up_seconds: float = 1.0

    def to_json(self) -> str:
        """Return the text for a worker's command line."""
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Return the plan in *text*."""
        return cls(**json.loads(text))

    def share(self, workers: int) -> int:
        """Return how many messages each of *workers* processes measures; 0: by time."""
        return -(-self.messages // workers)
