"""Thousands of clients gone wrong against one live broker: `python -m tests.e2e.malformed --count 10000 --seed 1`.

The streams come from `tests.wire.mutations`. A few connections at a time throw them at the broker, each through a real
handshake as far as it is unspoiled, while a healthy client works in a process of its own. Each stream is also fed to a
`Connection` of our own, which knows whether the bytes break the protocol: then the broker must say so with a typed
CLOSE before it ends the connection. What was seen is a `Report`; `problems` of it must be empty.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sluicemq.wire import messages as m
from sluicemq.wire.connection import Connection, Role, State
from sluicemq.wire.errors import ProtocolError, SluiceError, error_from_wire
from sluicemq.wire.frames import FRAME_BYTES_DEFAULT, PREFACE, Frame, FrameReader
from tests.e2e.broker_process import BrokerProcess
from tests.e2e.healthy_client import HealthyClient
from tests.e2e.wire_client import WireClient
from tests.wire.mutations import mutations, opening_of

if TYPE_CHECKING:
    from collections.abc import Iterator

THROWERS = 4
ANSWER_SECONDS_MAX = 30.0
"""How long the broker may take to end a connection that went wrong."""
WARM_UP_SHARE = 0.1
RESIDENT_GROWTH_BYTES_MAX = 24 * 1024 * 1024
"""Growth after the warm-up. Each stream opens a producer, which the broker remembers on purpose (0.4 KB, bounded in
number), and some make it gather frames of several hundred KB."""
OPTIONS = ("--cache-bytes-max", "1MiB", "--log-level", "warning")
"""A small cache of bodies, or its filling up would hide a leak."""
EXAMPLES_MAX = 10


@dataclass
class Outcome:
    """How one stream ended.

    Attributes:
        ended: `close` (the broker sent CLOSE), `eof`, `reset`, `stranger` (answered in another protocol), `silence`.
        code: Code of the error in CLOSE, or empty.
        errors: Codes of ERROR frames.

    """

    ended: str
    code: str = ""
    errors: set[str] = field(default_factory=set)


@dataclass
class Report:
    """What a whole run showed."""

    outcomes: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    resident_warm_bytes: int = 0
    resident_end_bytes: int = 0
    seconds: float = 0.0
    healthy: dict[str, float] = field(default_factory=dict)

    @property
    def streams(self) -> int:
        """How many streams were thrown."""
        return self.outcomes.total()


def throw(port: int, stream: bytes) -> Outcome:
    """Send one stream through a connection of its own and watch how it ends."""
    outcome = Outcome("silence")
    reader = FrameReader(FRAME_BYTES_DEFAULT)
    with socket.create_connection(("127.0.0.1", port), timeout=ANSWER_SECONDS_MAX) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        steps, rest = opening_of(stream)
        ended = False
        for step in steps:
            ended = ended or not _send(connection, step) or not _read_one(connection, reader, outcome)
        if not ended:
            sender = threading.Thread(target=_send_all, args=(connection, rest))
            sender.start()
            _read_to_the_end(connection, reader, outcome)
            # Whoever still writes is woken by the end of the socket.
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            sender.join()
    return outcome


def _send(connection: socket.socket, data: bytes) -> bool:
    try:
        connection.sendall(data)
    except OSError:
        return False
    return True


def _send_all(connection: socket.socket, data: bytes) -> None:
    if _send(connection, data):
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)


def _read_one(connection: socket.socket, reader: FrameReader, outcome: Outcome) -> bool:
    """Read until one frame came; False where the connection ends instead."""
    while True:
        data = _receive(connection, outcome)
        if not data:
            return False
        frames = reader.feed(data)
        for frame in frames:
            _note(frame, outcome)
        if frames:
            return outcome.ended != "close"


def _read_to_the_end(connection: socket.socket, reader: FrameReader, outcome: Outcome) -> None:
    native: bool | None = None
    while True:
        data = _receive(connection, outcome)
        if not data:
            return
        if native is None:
            native = not data.startswith((b"HTTP", b"\x15", b"AMQP"))
        if not native:
            outcome.ended = "stranger"
            continue
        for frame in reader.feed(data):
            _note(frame, outcome)


def _receive(connection: socket.socket, outcome: Outcome) -> bytes:
    """Return what came; empty at the end, whose kind is noted unless something better is known already."""
    try:
        data = connection.recv(1 << 18)
    except TimeoutError:
        outcome.ended = "silence"
        return b""
    except OSError:
        if outcome.ended == "silence":
            outcome.ended = "reset"
        return b""
    if not data and outcome.ended == "silence":
        outcome.ended = "eof"
    return data


def _note(frame: Frame, outcome: Outcome) -> None:
    if frame.type == m.Close.TYPE:
        close = m.Close.decode(frame.head)
        assert isinstance(close, m.Close)
        outcome.ended = "close"
        outcome.code = "" if close.error is None else error_from_wire(close.error).code
    elif frame.type == m.Error.TYPE:
        error = m.Error.decode(frame.head)
        assert isinstance(error, m.Error)
        outcome.errors.add(error_from_wire(error.error).code)


def breaks_the_protocol(stream: bytes) -> bool:
    """Whether a `Connection` that answers the handshake as a broker does refuses the bytes.

    What comes behind the client's own CLOSE does not count: nobody listens to an answer any more.
    """
    connection = Connection(Role.BROKER)
    steps, rest = opening_of(stream)
    answers = {
        State.GREETED: m.Welcome(1, FRAME_BYTES_DEFAULT, 1.0, ["ANONYMOUS"], bytes(16)),
        State.AUTHENTICATING: m.Authenticated("anonymous"),
        State.OPENING: m.Opened(1, 1, 1, 1, 1),
    }
    try:
        for part in (*steps, rest):
            connection.receive(part)
            if connection.state in answers:
                connection.send(answers[connection.state])
    except ProtocolError:
        return connection.state is not State.CLOSED
    except SluiceError:
        return False
    return False


def judge(name: str, stream: bytes, outcome: Outcome) -> list[str]:
    """Return what was wrong with how the broker took a stream."""
    problems = []
    if outcome.ended == "silence":
        problems.append(f"{name}: the broker did not end the connection within {ANSWER_SECONDS_MAX:.0f} s")
    if outcome.code == "internal" or "internal" in outcome.errors:
        problems.append(f"{name}: the broker blames itself ({outcome})")
    if stream.startswith(PREFACE) and breaks_the_protocol(stream) and not (outcome.ended == "close" and outcome.code):
        problems.append(f"{name}: the bytes break the protocol, but no typed CLOSE came ({outcome})")
    return problems


def run(broker: BrokerProcess, *, count: int, seed: int) -> Report:
    """Throw *count* streams at a running broker."""
    report = Report()
    numbered: Iterator[tuple[int, tuple[str, bytes]]] = enumerate(mutations(seed, count))
    lock = threading.Lock()
    warm_at = int(count * WARM_UP_SHARE)

    def thrower() -> None:
        while True:
            with lock:
                number, (name, stream) = next(numbered, (0, ("", b"")))
                if number == warm_at:
                    report.resident_warm_bytes = broker.usage().resident_bytes
            if not name:
                return
            try:
                outcome = throw(broker.port, stream)
                problems = judge(name, stream, outcome)
            except Exception as error:
                outcome, problems = Outcome("silence"), [f"{name}: {error!r}"]
            with lock:
                report.outcomes[name.partition(" ")[0], outcome.ended, outcome.code] += 1
                report.problems += problems

    started = time.monotonic()
    with HealthyClient(broker.url) as healthy:
        throwers = [threading.Thread(target=thrower) for _ in range(THROWERS)]
        for one in throwers:
            one.start()
        for one in throwers:
            one.join()
    report.seconds = time.monotonic() - started
    report.healthy = healthy.figures
    report.resident_end_bytes = broker.usage().resident_bytes
    _check_the_end(broker, report)
    return report


def _check_the_end(broker: BrokerProcess, report: Report) -> None:
    """The broker serves, has forgotten the others, and has nothing to complain about."""
    deadline = time.monotonic() + ANSWER_SECONDS_MAX
    with WireClient(broker.url) as client:
        while (figures := client.statistics())["connections"] > 1 or figures["sessions"] > 1:
            if time.monotonic() > deadline:
                report.problems.append(
                    f"{figures['connections']} connections and {figures['sessions']} sessions are left over"
                )
                break
    if "Traceback" in broker.stderr:
        report.problems.append(f"a traceback on standard error:\n{broker.stderr[:4000]}")
    growth = report.resident_end_bytes - report.resident_warm_bytes
    if growth > RESIDENT_GROWTH_BYTES_MAX:
        report.problems.append(f"resident memory grew by {growth:,} bytes after the warm-up")


def main(arguments: list[str] | None = None) -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory(prefix="sluicemq-malformed-") as temporary,
        BrokerProcess(Path(temporary) / "data", options=OPTIONS) as broker,
    ):
        report = run(broker, count=chosen.count, seed=chosen.seed)
        broker.stop()
    ends: Counter[str] = Counter()
    for (kind, ended, code), number in sorted(report.outcomes.items()):
        print(f"{kind:28} {ended:9} {code:24} {number:6}")
        ends[ended] += number
    print(f"{report.streams:,} streams in {report.seconds:.0f} s, seed {chosen.seed}: {dict(ends)}")
    growth = report.resident_end_bytes - report.resident_warm_bytes
    print(
        f"resident memory: {report.resident_warm_bytes / 1e6:.1f} MB after {WARM_UP_SHARE:.0%}, "
        f"{report.resident_end_bytes / 1e6:.1f} MB at the end ({growth / 1e6:+.1f} MB)"
    )
    print(
        f"the healthy client: {report.healthy['rounds']:,} rounds of publish, deliver and acknowledge, median "
        f"{report.healthy['median'] * 1000:.1f} ms, longest {report.healthy['longest'] * 1000:.0f} ms"
    )
    for problem in report.problems[:EXAMPLES_MAX]:
        print(f"PROBLEM {problem}")
    print(f"{len(report.problems)} problems" if report.problems else "every connection ended as it should")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
