"""Runs one measurement: starts the workers, gives the signal, and reads what broker and workers say.

This module owns the order of things. It must not know the timed loops (`worker`) nor what the user sees (`report`).
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from sluicemq.broker.commands.asking import with_client
from sluicemq.broker.commands.benchmark.figures import WorkerResult, figures_of
from sluicemq.broker.commands.benchmark.plan import Plan
from sluicemq.broker.commands.manners import Failure
from sluicemq.broker.commands.processes import SELF

WORKER_SECONDS_MAX = 120.0
"""Patience with a worker beyond the time that it measures."""
PREFILL_FACTORS = {"consume": 1.6, "each": 0.4}
"""Seconds of publishing for each second of consuming, so that the queue does not run empty before the time is up."""


class _Worker:
    """One worker process, seen from outside."""

    def __init__(self, plan: Plan, role: str) -> None:
        self._patience = plan.seconds + plan.warm_up_seconds + WORKER_SECONDS_MAX + plan.messages / 1000
        self._process = subprocess.Popen(  # noqa: S603 - our own command line
            [*SELF, "bench", "worker", role, plan.to_json()], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def read_line(self) -> bytes:
        """Wait for the next line; raises `Failure` when the worker ends instead or says nothing for too long."""
        assert self._process.stdout is not None
        line = b""
        while not line.endswith(b"\n"):
            readable, _, _ = select.select([self._process.stdout], [], [], self._patience)
            piece = os.read(self._process.stdout.fileno(), 1 << 20) if readable else b""
            if not piece:
                raise Failure("a worker process " + ("failed; it said why above" if readable else "hangs"))
            line += piece
        return line

    def go(self) -> None:
        """Give the signal."""
        assert self._process.stdin is not None
        self._process.stdin.write(b"go\n")
        self._process.stdin.flush()

    def end(self) -> None:
        """Make sure that the process is over."""
        if self._process.poll() is None:
            try:
                self._process.wait(0.1)
            except subprocess.TimeoutExpired:
                self._process.terminate()
                try:
                    self._process.wait(5)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def statistics_of(url: str) -> dict[str, Any]:
    """Return the broker's own figures."""
    return with_client(url, lambda client: client.statistics())


@contextmanager
def _queue(plan: Plan) -> Iterator[None]:
    with_client(plan.url, lambda client: client.declare_queue(plan.queue))
    try:
        yield
    finally:
        with_client(plan.url, lambda client: client.delete_queue(plan.queue))


def run(plan: Plan) -> dict[str, Any]:
    """Carry out *plan* and return its figures.

    Raises:
        Failure: A worker failed.
        SluiceError: The broker could not be reached, or refused.

    """
    with _queue(plan):
        if plan.mode in PREFILL_FACTORS:
            _prefill(plan)
        roles = []
        if plan.mode not in PREFILL_FACTORS:
            roles += ["producer"] * plan.producers
        if plan.mode in (*PREFILL_FACTORS, "through"):
            roles += ["consumer"] * plan.consumers
        results, before, after = _run_workers(plan, roles)
    figures = figures_of(results, plan.size, before, after)
    figures["ran_empty"] = (
        plan.mode in PREFILL_FACTORS and not plan.messages and figures["seconds"] < plan.seconds * 0.98
    )
    return figures


def _prefill(plan: Plan) -> None:
    seconds = (plan.seconds + plan.warm_up_seconds) * PREFILL_FACTORS[plan.mode]
    messages = 0
    if plan.messages:
        # What is warmed up with comes on top.
        messages = math.ceil(plan.messages * 1.5) + 2_000_000
    _run_workers(
        dataclasses.replace(
            plan,
            mode="publish",
            producers=1,
            in_flight=4,
            batch=min(1000, max(1, 4_000_000 // max(1, plan.size))),
            seconds=seconds,
            messages=messages,
            warm_up_seconds=0.0,
        ),
        ["producer"],
    )


def _run_workers(plan: Plan, roles: list[str]) -> tuple[list[WorkerResult], dict[str, Any], dict[str, Any]]:
    with ExitStack() as stack:
        workers: list[_Worker] = []
        # Consumers start when the producers have warmed up, and begin with what these have left.
        for role in ("producer", "consumer"):
            started = [_Worker(plan, role) for _ in range(roles.count(role))]
            for worker in started:
                stack.callback(worker.end)
            for worker in started:
                if worker.read_line() != b"ready\n":
                    raise Failure("a worker process said something else than that it is ready")
            workers += started
        before = statistics_of(plan.url)
        for worker in workers:
            worker.go()
        results = [WorkerResult.from_plain(json.loads(worker.read_line())) for worker in workers]
        after = statistics_of(plan.url)
    return results, before, after


def platform_facts() -> dict[str, Any]:
    """Return what a figure means nothing without."""
    return {"processors": os.cpu_count(), "python": ".".join(map(str, sys.version_info[:3]))}
