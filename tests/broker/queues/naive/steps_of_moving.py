"""Steps of operators who move, copy and drop what they chose."""

from __future__ import annotations

import dataclasses

from sluicemq.broker.queues.entries_of_moving import DEAD, READY, Move
from tests.broker.queues.naive.choices import One, step
from tests.broker.queues.naive.steps import BUSY, WHICH, flat_of
from tests.broker.queues.naive.steps_of_transactions import StepsOfTransactions


class StepsOfMoving(StepsOfTransactions):
    """Of ready messages whole runs are chosen: what is left of a run that was cut lies in front, which is no matter."""

    @step(
        3,
        which=BUSY,
        start=WHICH,
        count=One(1, 2, 5),
        to=One("", "orders", "mail", "mail", "some", "grave"),
        keep=One(False, False, True),
        state=One(READY, READY, DEAD),
        again=WHICH,
    )
    def move(self, which: int, start: int, count: int, to: str, keep: bool, state: int, again: int) -> None:
        """Now and then twice, or what was chosen is not there any more."""
        queue = self.a_queue_with(which, "ready") if state == READY else self.a_queue_with_letters(which)
        found = self.machine.existing_queue(queue["id"])
        runs = self.peek(found) if state == READY else found.dead.runs()
        chosen = runs[start % 3 :][:count]
        target = self.world.queue_named(to)
        number = target["id"] if target is not None else 0
        flat = flat_of(chosen, 0 if state == READY else start) + ([7, 7, 0, 1] if again == 8 else [])
        sequence = len(self.world.producers[self.producer]) + 1
        entry = Move(self.now, self.producer, sequence, queue["id"], number, keep, state, flat)
        self.run(entry)
        if again > 7:
            self.run(dataclasses.replace(entry, log_time_ms=self.now))
