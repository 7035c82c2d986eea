"""No event loop at all: the blocking client, shared by threads; a pool of workers as in any threaded program."""

import os
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from sluicemq.client.blocking import Client, Consumer, connect

URL = os.environ.get("SLUICEMQ_URL", "sluicemq://127.0.0.1:7650")
JOBS = 2_000
WORKERS = 4


def produce(client: Client, first: int) -> None:
    """Send a quarter of the jobs; each thread has a producer of its own."""
    with client.producer("jobs") as producer:
        producer.send_many([str(number).encode() for number in range(first, JOBS, WORKERS)])


def work(consumer: Consumer, done: set[int], lock: Lock) -> None:
    """Take jobs until all are done; consumers may be shared too, each message goes to one thread."""
    while len(done) < JOBS:
        batch = consumer.receive(max_messages=100, max_wait=0.2)
        with lock:
            done.update(int(message.body) for message in batch)
        batch.ack()


def main() -> None:
    """Four threads that send, then four that work."""
    with connect(URL) as client, ThreadPoolExecutor(WORKERS) as pool:
        client.declare_queue("jobs")
        list(pool.map(produce, [client] * WORKERS, range(WORKERS)))
        print("sent", client.queue_info("jobs")["ready"])
        done: set[int] = set()
        lock = Lock()
        with client.consumer("jobs") as consumer:
            list(pool.map(work, [consumer] * WORKERS, [done] * WORKERS, [lock] * WORKERS))
        print("done", len(done))


if __name__ == "__main__":
    main()
