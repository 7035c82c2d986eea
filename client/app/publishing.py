"""What an app publishes: values, through a codec; and what handlers return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar, Unpack

from sluicemq.client.codecs import VALUE, Codec
from sluicemq.client.options import Delivery
from sluicemq.client.receipts import Receipt
from sluicemq.wire.settings import check_name

if TYPE_CHECKING:
    from sluicemq.client.client import Client

Decorated = TypeVar("Decorated", bound=Callable[..., Any])


class Publisher:
    """Publishes values to one destination; made by `App.publisher`.

    As a decorator of a handler it publishes what the handler returns: in one transaction with the acknowledgement of
    the message, so that neither holds without the other. None is not published.
    """

    def __init__(
        self,
        destination: str,
        codec: Codec | None,
        client: Callable[[], Client],
        remember: Callable[[Callable[..., Any], Publisher], None],
    ) -> None:
        self.destination = check_name(destination, "destination")
        self.codec = codec
        self._client = client
        self._remember = remember

    async def send(
        self,
        value: Any,
        key: str | None = None,
        subject: str | None = None,
        headers: Mapping[str, Any] | None = None,
        message_id: str | None = None,
        **delivery: Unpack[Delivery],
    ) -> Receipt:
        """Publish a value and wait until it is durable; arguments and errors as for `Client.send`.

        Args:
            value: What the codec takes; without a codec bytes, str, or what JSON, a dataclass or pydantic can say.
            key: As for `Client.send`, and so are the others.
            subject: Likewise.
            headers: Likewise.
            message_id: Likewise.
            delivery: Likewise.

        Raises:
            ClientClosed: The app does not run.

        """
        body = (self.codec or VALUE).encode(value)
        return await self._client().send(self.destination, body, key, subject, headers, message_id, **delivery)

    def __call__(self, function: Decorated) -> Decorated:
        """Publish what *function* returns when it handles a message; returns the function itself."""
        self._remember(function, self)
        return function

    def __repr__(self) -> str:
        return f"<Publisher to {self.destination!r}>"
