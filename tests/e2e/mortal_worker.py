"""A worker that never comes to an end: `python -m tests.e2e.mortal_worker URL QUEUE`.

Takes one message, says "working" on a line of its own, and works on until its standard input ends, or it is killed.
"""

from __future__ import annotations

import sys

from sluicemq.client.blocking import connect


def main() -> None:
    url, queue = sys.argv[1:]
    with connect(url) as client, client.consumer(queue, credit=1) as consumer:
        consumer.receive(max_messages=1)
        print("working", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
