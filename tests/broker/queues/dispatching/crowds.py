"""Consumers for tests of what chooses among them."""

from __future__ import annotations

from sluicemq.broker.queues.dispatching.consumers import Consumer

PLENTY = 10**9


def crowd(*weights: int) -> list[Consumer]:
    """Return a consumer for each weight, numbered from 1 in the order of their arrival."""
    consumers = []
    for number, weight in enumerate(weights, 1):
        consumer = Consumer(session=7, number=number, credit_messages=PLENTY, credit_bytes=PLENTY, weight=weight)
        consumer.arrival = number
        consumers.append(consumer)
    return consumers
