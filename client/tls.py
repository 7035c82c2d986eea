"""TLS over any stream, without a task of its own: ciphertext in, plaintext out. Knows no frames."""

from __future__ import annotations

import ssl
from collections.abc import Callable

from sluicemq.client.runtime import READ_BYTES_LARGE, Stream


class TlsStream(Stream):
    """A stream whose bytes are encrypted on the stream below.

    Args:
        inner: The stream that carries the ciphertext.
        context: The user's SSLContext.
        host: Name to ask for and to check the certificate against.

    """

    def __init__(self, inner: Stream, context: ssl.SSLContext, host: str) -> None:
        self._inner = inner
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._ready = False
        # What was written before the handshake was through; a few frames of our own handshake.
        self._early: list[bytes] = []

    def write(self, data: bytes, tail: bytes | memoryview | None = None) -> None:
        """Encrypt and send."""
        if not self._ready:
            self._early.append(data if tail is None else data + bytes(tail))
            self._shake_hands()
            return
        self._tls.write(data)
        if tail is not None:
            self._tls.write(tail)
        self._send_ciphertext()

    def _shake_hands(self) -> None:
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._send_ciphertext()
            return
        except ssl.SSLError:
            self._send_ciphertext()  # the alert says to the peer why
            raise
        self._ready = True
        early, self._early = self._early, []
        for data in early:
            self._tls.write(data)
        self._send_ciphertext()

    def _send_ciphertext(self) -> None:
        if self._outgoing.pending:
            self._inner.write(self._outgoing.read())

    async def read_into(self, on_data: Callable[[bytes], None]) -> None:
        """Call *on_data* with the plaintext of all that arrives."""

        def on_ciphertext(data: bytes) -> None:
            self._incoming.write(data)
            if not self._ready:
                self._shake_hands()
            while self._ready:
                try:
                    plaintext = self._tls.read(READ_BYTES_LARGE)
                except ssl.SSLWantReadError:
                    break
                except ssl.SSLZeroReturnError:
                    break
                if not plaintext:
                    break
                on_data(plaintext)
            self._send_ciphertext()

        await self._inner.read_into(on_ciphertext)

    async def write_loop(self) -> None:
        """Send what `write` could not."""
        await self._inner.write_loop()

    def close(self) -> None:
        """Say goodbye and close the stream below."""
        if self._ready:
            try:
                self._tls.unwrap()
            except ssl.SSLError:  # the peer need not answer our goodbye
                pass
            self._send_ciphertext()
        self._inner.close()
