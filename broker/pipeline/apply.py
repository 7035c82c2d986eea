"""Stage 5, apply: the machine judges each committed entry; the leader performs the effects.

Every broker applies. Effects are the leader's (sending, waking, telling): without a road nobody performs them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sluicemq.broker.queues.outcomes import (
    FillsUp,
    GivenUp,
    LeasesGone,
    MayExpire,
    Published,
    QueueGone,
    Ready,
    Retained,
)
from sluicemq.broker.queues.window import KNOWN_NUMBERS

if TYPE_CHECKING:
    from sluicemq.broker.pipeline.ground import Ground
    from sluicemq.broker.pipeline.road import Road
    from sluicemq.broker.queues.outcomes import Effect


HASH_MASK = 0xFFF
"""Brokers compare their states after entries whose counter has none of these bits."""


class ApplyStage:
    """Feeds committed entries to the machine, in order."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground

    def run(self, deadline: float) -> bool:
        """Apply what is committed until *deadline* (`time.perf_counter`); return whether some is left."""
        ground = self._ground
        commit, machine, pool, road = ground.commit, ground.machine, ground.machine.pool, ground.road
        note = ground.index.note
        while (proposed := commit.next_committed()) is not None:
            if pool is not None and pool.absent and (missing := machine.prefetch(proposed.entry)):
                # Nothing is left to do until they are there: all that follows in the log stands behind this entry.
                commit.put_back(proposed)
                ground.want(missing)
                return False
            outcome = machine.apply(proposed.zxid, proposed.entry)
            note(proposed.zxid, proposed.entry)
            if not proposed.zxid & HASH_MASK and self._differs(proposed.zxid):
                return False  # nobody is told what follows from it
            if road is not None:
                value = outcome.value
                if type(value) is Published and not value.duplicate:
                    road.produce.published_messages_total += value.count - sum(value.known[1::KNOWN_NUMBERS])
                if outcome.effects:
                    # Performed first: when a queue goes, only the dispatcher knows who consumed it.
                    for effect in outcome.effects:
                        _perform(road, effect)
                    road.dispatch.dispatcher.on_effects(outcome.effects)
                if proposed.on_applied is not None:
                    proposed.on_applied(outcome)
            if time.perf_counter() >= deadline:
                return True
        return False

    def _differs(self, zxid: int) -> bool:
        """Say that the entry *zxid* was applied; return whether the state is not that of others: this broker ends."""
        if self._ground.on_hash_due is not None:
            self._ground.on_hash_due(zxid)
        return self._ground.failed


def _perform(road: Road, effect: Effect) -> None:
    """Do what an effect asks of the leader beyond its dispatcher, which follows it afterwards."""
    if type(effect) is Ready:
        road.metering.touch(effect.queue_id)
        return
    if isinstance(effect, Retained):
        road.replay.changed(effect.queue_id)
    elif isinstance(effect, LeasesGone):
        road.settle.leases_gone(effect.session, effect.consumer, effect.tags, effect.reason)
    elif isinstance(effect, MayExpire):
        road.unused.watch(effect.queue_id)
    elif isinstance(effect, FillsUp):
        road.fillings.want(effect.queue_id)
    elif isinstance(effect, GivenUp):
        road.given_up.note(effect)
    elif isinstance(effect, QueueGone):
        road.dispatch.queue_gone(effect.queue_id, effect.name)
        road.replay.changed(effect.queue_id)
