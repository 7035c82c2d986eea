r"""Reads a trace of the broker's system calls and proves that no confirm left before its fdatasync.

Why: a broker that syncs too late passes every test that does not cut the power. The system calls of the real process
cannot lie: for each PUBLISHED frame that it wrote to a socket, the trace must show the bytes of that batch written to a
file of the log, then an fdatasync of that file which **began after that write had returned**, and which **returned
before the reply's write began**.

The trace comes from `strace -f -y -xx` (arguments in `STRACE`): every string in hexadecimal, every descriptor with its
path. strace reports entry and exit of calls in the order in which it let them happen, so the order of lines is proof: a
call whose exit it has not seen yet has not returned to its thread. This module parses and judges; it must not start
anything.
"""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sluicemq.wire import messages as m
from sluicemq.wire.frames import FRAME_BYTES_DEFAULT, PREFACE, Frame, FrameReader

if TYPE_CHECKING:
    from collections.abc import Iterable

STRING_BYTES_MAX = 1 << 18
CALLS = "pwrite64,pwritev,pwritev2,write,writev,sendto,sendmsg,recvfrom,recvmsg,read,fdatasync,fsync"
STRACE = (
    *("strace", "-D", "-f", "-qq", "-y", "-xx", "-s", str(STRING_BYTES_MAX)),
    *("-e", "trace=" + ",".join("?" + call for call in CALLS.split(","))),
)
"""Command in front of the broker's; `-o FILE` is to be added. With -D the broker stays the direct child."""

_LINE = re.compile(r"^(\d+) +(.*)$")
_START = re.compile(r"^(\w+)\((\d+)<([^>]*)>(.*)$")
_RESUMED = re.compile(r"^<\.\.\. (\w+) resumed>(.*)$")
_RESULT = re.compile(r"\) += (-?\d+)[^\"]*$")
_STRING = re.compile(r'"((?:\\x[0-9a-f]{2})*)"(\.\.\.)?')

WRITES = frozenset({"pwrite64", "pwritev", "pwritev2", "write", "writev", "sendto", "sendmsg"})
READS = frozenset({"recvfrom", "recvmsg", "read"})
SYNCS = frozenset({"fdatasync", "fsync"})


class TraceUnreadable(AssertionError):
    """The trace cannot prove anything: a line that should be understood is not, or bytes are missing."""


@dataclass(frozen=True)
class Call:
    """One system call.

    Attributes:
        name: Its name.
        path: What strace says of its descriptor: a path or `socket:[number]`.
        began: Line on which it began.
        ended: Line on which it had returned.
        result: What it returned.
        data: Bytes that it wrote or read.

    """

    name: str
    path: str
    began: int
    ended: int
    result: int
    data: bytes


def parse_trace(lines: Iterable[str]) -> list[Call]:
    """Return the finished calls with a descriptor, in the order in which they began."""
    calls: list[Call] = []
    pending: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        match = _LINE.match(line)
        if match is None:
            continue
        thread, text = match[1], match[2]
        began = number
        resumed = _RESUMED.match(text)
        if resumed is not None:
            if thread not in pending:
                continue
            began, start = pending.pop(thread)
            text = start + resumed[2]
        elif text.endswith("<unfinished ...>"):
            pending[thread] = (number, text.removesuffix("<unfinished ...>").rstrip())
            continue
        call = _parse_call(text, began, number)
        if call is not None:
            calls.append(call)
    calls.sort(key=lambda call: call.began)
    return calls


def _parse_call(text: str, began: int, ended: int) -> Call | None:
    start = _START.match(text)
    if start is None:
        return None
    name, path, rest = start[1], _unescape(start[3]), start[4]
    result = _RESULT.search(text)
    if result is None:
        return None
    count = int(result[1])
    if count < 0 or name in SYNCS:
        return Call(name, path, began, ended, count, b"")
    pieces = []
    for piece, cut in _STRING.findall(rest):
        pieces.append(_bytes(piece))
        # A call may announce more than it moved: only bytes that were moved must be there.
        if cut and sum(map(len, pieces)) < count and path.startswith("socket:"):
            raise TraceUnreadable(f"a {name} of {count} bytes on {path} was cut; raise STRING_BYTES_MAX")
    return Call(name, path, began, ended, count, b"".join(pieces)[:count])


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace("\\x", ""))


def _unescape(path: str) -> str:
    return _bytes(path).decode() if path.startswith("\\x") else path


@dataclass(frozen=True)
class Proof:
    """One confirm and what came before it."""

    connection: str
    correlation: int
    written: Call
    synced: Call
    replied: Call


def prove(calls: list[Call], log_directory: str) -> tuple[list[Proof], list[str]]:
    """Return a proof for each PUBLISHED, and a sentence for each one that has none."""
    batches, replies = _batches_and_replies(calls)
    log_writes = [call for call in calls if call.name in WRITES and call.path.startswith(log_directory + "/")]
    syncs: dict[str, list[Call]] = defaultdict(list)
    for call in calls:
        if call.name in SYNCS and call.result == 0:
            syncs[call.path].append(call)
    proofs: list[Proof] = []
    failures: list[str] = []
    for (connection, correlation), reply in replies.items():
        what = f"PUBLISHED {correlation} on {connection} (line {reply.began + 1})"
        batch = batches.get((connection, correlation))
        if batch is None:
            failures.append(f"{what} answers a request that the trace does not show")
            continue
        written = [call for call in log_writes if batch in call.data]
        if not written:
            failures.append(f"{what}: its batch was never written to the log")
            continue
        proof = next(
            (
                Proof(connection, correlation, write, sync, reply)
                for write in written
                for sync in syncs[write.path]
                if write.ended < sync.began and sync.ended < reply.began
            ),
            None,
        )
        if proof is None:
            failures.append(f"{what}: no fdatasync began after its batch was written and returned before the reply")
        else:
            proofs.append(proof)
    return proofs, failures


def _batches_and_replies(
    calls: list[Call],
) -> tuple[dict[tuple[str, int], bytes], dict[tuple[str, int], Call]]:
    """Return the batch of each PUBLISH read, and the call that began to write each PUBLISHED."""
    batches: dict[tuple[str, int], bytes] = {}
    replies: dict[tuple[str, int], Call] = {}
    incoming: dict[str, _Stream] = defaultdict(lambda: _Stream(PREFACE))
    outgoing: dict[str, _Stream] = defaultdict(lambda: _Stream(b""))
    moved = [call for call in calls if call.path.startswith("socket:") and call.data]
    # The event loop wakes itself through a socket of its own, which speaks no protocol.
    native = {call.path for call in moved if call.name in READS and call.data.startswith(PREFACE)}
    for call in moved:
        if call.path not in native:
            continue
        if call.name in READS:
            for frame, _first in incoming[call.path].feed(call):
                if frame.type == m.Publish.TYPE:
                    batches[call.path, frame.correlation] = bytes(frame.tail)
        elif call.name in WRITES:
            for frame, first in outgoing[call.path].feed(call):
                if frame.type == m.Published.TYPE:
                    replies[call.path, frame.correlation] = first
    return batches, replies


class _Stream:
    """One direction of one connection, cut into frames; tells which call carried the first byte of each."""

    def __init__(self, preface: bytes) -> None:
        self._preface = preface
        self._reader = FrameReader(FRAME_BYTES_DEFAULT)
        self._began: Call | None = None

    def feed(self, call: Call) -> list[tuple[Frame, Call]]:
        data = call.data
        if self._preface:
            data, self._preface = data.removeprefix(self._preface), b""
        found: list[tuple[Frame, Call]] = []
        for frame in self._reader.feed(data):
            found.append((frame, self._began or call))
            self._began = None
        if self._reader.buffered_bytes and self._began is None:
            self._began = call
        elif not self._reader.buffered_bytes:
            self._began = None
        return found
