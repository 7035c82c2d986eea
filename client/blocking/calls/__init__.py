"""Every call of the blocking client that is not written by hand.

Made by a test from `client`, see `tests/client/blocking/facade.py`; do not edit.
"""

from sluicemq.client.blocking.calls.client import QueueCalls
from sluicemq.client.blocking.calls.cluster import ClusterCalls
from sluicemq.client.blocking.calls.dead_letters import DeadLetterCalls
from sluicemq.client.blocking.calls.delays import DelayCalls
from sluicemq.client.blocking.calls.explaining import ExplainCalls
from sluicemq.client.blocking.calls.operators import OperatorCalls
from sluicemq.client.blocking.calls.policies import PolicyCalls
from sluicemq.client.blocking.calls.request_calls import RequestCalls
from sluicemq.client.blocking.calls.schedules import ScheduleCalls
from sluicemq.client.blocking.calls.topics import TopicCalls
from sluicemq.client.blocking.calls.transaction_calls import TransactionCalls


class Calls(
    QueueCalls,
    TopicCalls,
    DeadLetterCalls,
    DelayCalls,
    PolicyCalls,
    ScheduleCalls,
    ClusterCalls,
    TransactionCalls,
    RequestCalls,
    OperatorCalls,
    ExplainCalls,
):
    """All of them."""
