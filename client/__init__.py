"""The client library of SluiceMQ: `async with connect(url) as client`, on trio and asyncio alike.

The way in for a reader: `client` (what users call), `producer` and `consumer` (their faces), `publisher` with
`sending_window` (how sends become batches and survive a reconnect), `attachment` with `delivery_buffer`, `leases` and
`settlement` (a consumer on one connection), `session` (one connection), `reconnect` (a session after the other),
`runtime` (what differs between trio and asyncio), `inbox` and `outbox` with `sql` (the user's own database). What is
pure says so in its first lines.
"""

if __name__ != "sluicemq.client":
    raise ImportError(
        "the folder 'client' is installed as 'sluicemq.client': run `make dev` (or `pip install .`) and import that "
        "name; importing it from the checkout would make every class twice"
    )

from sluicemq.client.app import App as App
from sluicemq.client.app import Depends as Depends
from sluicemq.client.checkers import Checker as Checker
from sluicemq.client.checkers import Decision as Decision
from sluicemq.client.checkers import Undecided as Undecided
from sluicemq.client.client import Client as Client
from sluicemq.client.client import connect as connect
from sluicemq.client.cluster import ClusterReport as ClusterReport
from sluicemq.client.cluster_probe import probe_cluster as probe_cluster
from sluicemq.client.cluster_probe import wait_for_cluster as wait_for_cluster
from sluicemq.client.consumer import Consumer as Consumer
from sluicemq.client.consumer_statistics import ConsumerStatistics as ConsumerStatistics
from sluicemq.client.dead_letters import DeadLetter as DeadLetter
from sluicemq.client.delays import DelayedMessage as DelayedMessage
from sluicemq.client.explaining import Explanation as Explanation
from sluicemq.client.explaining import LifeEvent as LifeEvent
from sluicemq.client.half import Half as Half
from sluicemq.client.handling import DeathNote as DeathNote
from sluicemq.client.handling import Reject as Reject
from sluicemq.client.handling import Retry as Retry
from sluicemq.client.inbox import Inbox as Inbox
from sluicemq.client.message import Batch as Batch
from sluicemq.client.message import Message as Message
from sluicemq.client.operators import FoundMessage as FoundMessage
from sluicemq.client.outbox.face import Outbox as Outbox
from sluicemq.client.outbox.face import OutboxStatus as OutboxStatus
from sluicemq.client.outbox.face import TroubledMessage as TroubledMessage
from sluicemq.client.outbox.relay import Relay as Relay
from sluicemq.client.outbox.relay import RelayStatistics as RelayStatistics
from sluicemq.client.peeked import PeekedMessage as PeekedMessage
from sluicemq.client.producer import NewMessage as NewMessage
from sluicemq.client.producer import Producer as Producer
from sluicemq.client.producer import Submitted as Submitted
from sluicemq.client.receipts import Receipt as Receipt
from sluicemq.client.receipts import Receipts as Receipts
from sluicemq.client.replay import Replay as Replay
from sluicemq.client.requesting import PendingReply as PendingReply
from sluicemq.client.requesting import ReplyMessage as ReplyMessage
from sluicemq.client.requesting import RequestStatistics as RequestStatistics
from sluicemq.client.schedules import Schedule as Schedule
from sluicemq.client.stale_reads import StalePeek as StalePeek
from sluicemq.client.stale_reads import StaleReads as StaleReads
from sluicemq.client.topics import Declaration as Declaration
from sluicemq.client.topics import Subscription as Subscription
from sluicemq.client.transactions import Transaction as Transaction
from sluicemq.wire.settings import AdaptiveRate as AdaptiveRate
from sluicemq.wire.settings import GrowingDelay as GrowingDelay
from sluicemq.wire.settings import QueueSettings as QueueSettings
from sluicemq.wire.settings import Retention as Retention
from sluicemq.wire.settings import TopicSettings as TopicSettings
