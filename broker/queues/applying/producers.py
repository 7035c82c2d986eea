"""Producers: they are opened, within limits or as old logs had it, and closed. What they publish is `publishing`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.broker.queues.outcomes import Outcome, ProducerClosed, ProducerOpened

if TYPE_CHECKING:
    from sluicemq.broker.queues import entries as e
    from sluicemq.broker.queues.machine import Machine


def producer_open(machine: Machine, zxid: int, entry: e.ProducerOpen) -> Outcome:
    """Begin a producer, unless there are too many."""
    refusal = machine.producers.make_room(entry.vhost, entry.name, entry.identity, machine.log_time_ms)
    if refusal is not None:
        return Outcome(None, refusal)
    return producer_open_unlimited(machine, zxid, entry)


def producer_open_unlimited(machine: Machine, zxid: int, entry: e.ProducerOpen) -> Outcome:
    """Begin a producer as version 1 of the entry did: whoever was silent longest makes room."""
    machine.producers.open(zxid, entry.vhost, entry.name, entry.identity, machine.log_time_ms)
    return Outcome(ProducerOpened(zxid))


def producer_close(machine: Machine, zxid: int, entry: e.ProducerClose) -> Outcome:
    """Forget a producer."""
    del zxid
    return Outcome(ProducerClosed(machine.producers.close(entry.producer)))
