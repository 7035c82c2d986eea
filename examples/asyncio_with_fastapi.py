"""asyncio and FastAPI: the client lives as long as the application, and each request sends through it.

`hypercorn examples.asyncio_with_fastapi:app` serves it, from the checkout; run as a program it calls itself once and
prints the answer. `pip install '.[test]'` brings FastAPI, hypercorn, and the client httpx2.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse

from sluicemq.client import Client, Consumer, connect
from sluicemq.client.errors import SluiceError

URL = os.environ.get("SLUICEMQ_URL", "sluicemq://127.0.0.1:7650")


async def make_thumbnails(consumer: Consumer, made: asyncio.Event) -> None:
    """Work beside the requests, in the same event loop."""
    async for message in consumer:
        async with message:
            print("thumbnail of", message.body.decode())
        made.set()


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Connect once; leave in good order."""
    async with connect(URL) as client:
        await client.declare_queue("thumbnails")
        app.state.client, app.state.made = client, asyncio.Event()
        async with client.consumer("thumbnails") as consumer, asyncio.TaskGroup() as tasks:
            tasks.create_task(make_thumbnails(consumer, app.state.made))
            yield
            await consumer.drain()  # finish what is in hand; the loop above ends


app = FastAPI(lifespan=lifespan)


@app.post("/pictures/{name}", status_code=202)
async def upload(name: str, request: Request) -> dict[str, str]:
    """Answer when the work is stored, not when it is done."""
    client: Client = request.app.state.client
    receipt = await client.send("thumbnails", name.encode())
    return {"accepted": name, "position": receipt.position}


@app.exception_handler(SluiceError)
def not_now(_request: Request, error: Exception) -> JSONResponse:
    """Say what is temporary, so that the caller tries again."""
    if isinstance(error, SluiceError) and error.retryable:
        return JSONResponse({"error": str(error)}, status_code=503)
    raise HTTPException(500) from error


async def main() -> None:
    """Call the application without a web server."""
    async with lifespan(app):
        transport = httpx2.ASGITransport(app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://shop") as web:
            answer = await web.post("/pictures/cat.jpg")
            print(answer.status_code, answer.json()["accepted"])
        await app.state.made.wait()


if __name__ == "__main__":
    asyncio.run(main())
