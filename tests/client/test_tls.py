"""The same client over an encrypted stream, with real certificates."""

import ssl
import subprocess
from contextlib import asynccontextmanager

import anyio
import pytest
from anyio.streams.tls import TLSListener

from sluicemq.client import connect
from sluicemq.client.errors import ConnectionFailed
from tests.client.scripted_broker import ScriptedBroker
from tests.conftest import needs

HANDSHAKES_SECONDS = 3.0
"""A client asks a broker whose certificate it refuses again and again; the first time must be over by then."""

pytestmark = [
    pytest.mark.anyio,
    needs("openssl", "apt-get install openssl"),
]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A certificate for localhost that signs itself: (certificate file, key file)."""
    folder = tmp_path_factory.mktemp("certificate")
    files = folder / "certificate.pem", folder / "key.pem"
    command = [
        "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
        "-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-out", files[0], "-keyout", files[1],
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)
    return files


@asynccontextmanager
async def encrypted_broker(certificate):
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    broker = ScriptedBroker()
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    broker.port = listener.extra(anyio.abc.SocketAttribute.local_port)
    encrypted = TLSListener(listener, context, standard_compatible=False)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(encrypted.serve, broker.serve_peer)
        yield broker
        tasks.cancel_scope.cancel()
    await encrypted.aclose()


async def test_messages_travel_encrypted(certificate):
    async with encrypted_broker(certificate) as broker:
        context = ssl.create_default_context(cafile=certificate[0])
        large = bytes(range(256)) * 3_000
        async with connect(f"sluicemq://localhost:{broker.port}", tls=context) as client:
            async with client.producer("orders") as producer:
                await producer.send_many([b"x", large])
                await producer.send(b"y")
            async with client.consumer("orders") as consumer:
                await broker.peer.deliver(1, [large, b"z"])
                batch = await consumer.receive()
                assert batch.bodies == [large, b"z"]
                await batch.ack(confirm=True)
        assert broker.bodies == [b"x", large, b"y"]


async def test_a_certificate_that_nobody_vouches_for_is_refused(certificate):
    async with encrypted_broker(certificate) as broker:
        with pytest.raises(ConnectionFailed, match="CERTIFICATE_VERIFY_FAILED"):
            async with connect(
                f"sluicemq://localhost:{broker.port}",
                tls=ssl.create_default_context(),
                connect_timeout=HANDSHAKES_SECONDS,
            ):
                pytest.fail("must not open")
