"""What every group of calls needs: the I/O thread, and the async client that lives there."""

from __future__ import annotations

from sluicemq.client.blocking.io_thread import IoThread
from sluicemq.client.client import Client


class Base:
    """Base of every group of calls."""

    _io: IoThread
    _inner: Client
