"""The client for programs without an event loop: the names of `sluicemq.client` without `await`, for any thread.

The way in for a reader: `io_thread` (one thread does the I/O of all clients), `client` (what users call), `calls` (made
from the async client by a test), `producer`, `crossing` and `consumer` (how messages change threads), `message`.
"""

from sluicemq.client.blocking.client import Client as Client
from sluicemq.client.blocking.client import connect as connect
from sluicemq.client.blocking.consumer import Consumer as Consumer
from sluicemq.client.blocking.io_thread import call as call
from sluicemq.client.blocking.message import Batch as Batch
from sluicemq.client.blocking.message import Message as Message
from sluicemq.client.blocking.producer import Producer as Producer
from sluicemq.client.blocking.producer import Submitted as Submitted
from sluicemq.client.blocking.reading import Replay as Replay
from sluicemq.client.blocking.relay import Relay as Relay
from sluicemq.client.blocking.requesting import PendingReply as PendingReply
from sluicemq.client.blocking.transaction import Half as Half
from sluicemq.client.blocking.transaction import Transaction as Transaction
from sluicemq.client.producer import NewMessage as NewMessage
