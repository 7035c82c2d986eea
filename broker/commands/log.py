"""`sluicemq log verify` and `sluicemq log dump`: look into the log of a data directory, without a broker.

This module owns what an operator sees of an entry. How the files are read stands in `log_files`.
"""

from __future__ import annotations

import dataclasses
import re
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sluicemq.broker.commands.log_repair import repair
from sluicemq.broker.commands.log_stats import stats
from sluicemq.broker.commands.manners import (
    Failure,
    ParameterType,
    data_option,
    json_option,
    note,
    on_terminal,
    print_json,
)

if TYPE_CHECKING:
    from sluicemq.broker.commands.log_files import Located, LogFiles
    from sluicemq.broker.commands.log_others import OtherFiles
    from sluicemq.broker.commands.log_snapshots import SnapshotChecks
    from sluicemq.broker.queues.entries import Entry
    from sluicemq.broker.queues.sparse import Ranges


@click.group(name="log")
def command() -> None:
    """Look into the log of a data directory, and repair it.

    Only `repair` changes anything, and only where no broker runs. The others work with the broker stopped, and while it
    runs: reading then ends where the log ended when it was read.
    """


# --- verify --------------------------------------------------------------------------------------------------------


@command.command(name="verify")
@data_option
@json_option
def verify(data: Path, as_json: bool) -> None:
    """Check every record, checksum, entry and the chain that ties them together, and every snapshot.

    A snapshot is compared with what replaying the log leads to, as far as the log reaches back. Old files and their
    indexes are checked too, and that each message that is alive lies in one of them (not while a broker serves).
    Sectors that the disk does not give back are gone round and named.

    Exit code 0: all is well. 1: damage, named by file and offset. A torn tail, which a power cut may leave behind a
    write that was never confirmed, is no damage: the next start of the broker removes it.
    """
    from sluicemq.broker.commands.log_files import LogFiles, ReadOnlyDirectory
    from sluicemq.broker.commands.log_others import OtherFiles
    from sluicemq.broker.commands.log_snapshots import SnapshotChecks

    files = LogFiles(ReadOnlyDirectory(data))
    snapshots = SnapshotChecks(files)
    snapshots.begin()
    with _progress(0 if as_json else files.size_bytes()) as advance:
        for located in files.entries():
            problem = _problem_of(located)
            if problem is not None:
                files.report(located, problem)
            snapshots.entry(located)
            advance(located.head.size)
    snapshots.end()
    others = OtherFiles(files, files.read_superblock())
    for located in others.live_entries():
        problem = _problem_of(located)
        if problem is not None:
            files.report(located, problem)
    others.check_missing(snapshots.state)
    others.check_all()
    own, of_files = others.superblock.known_as, others.superblock.cluster_id
    if own != of_files:
        files.notes.append(
            f"`sluicemq cluster force-new` was used here: the broker belongs to cluster {own.hex()}, "
            f"and its files bear the id of the one that they were made in, {of_files.hex()}"
        )
    if as_json:
        _print_verdict_json(files, snapshots, others)
    else:
        _print_verdict(files, snapshots, others)
    if files.problems:
        raise click.exceptions.Exit(1)


@contextmanager
def _progress(total_bytes: int) -> Iterator[Callable[[int], object]]:
    """Show a bar on a terminal; yield what moves it by so many bytes."""
    if not total_bytes or not on_terminal(sys.stderr):
        yield lambda _read_bytes: None
        return
    with click.progressbar(length=total_bytes, label="Reading", file=sys.stderr, update_min_steps=1 << 20) as bar:
        yield bar.update


def _problem_of(located: Located) -> str | None:
    """Return what is wrong with an entry whose record is whole."""
    from sluicemq.broker.queues.entries_with_batches import BatchEntry
    from sluicemq.wire.batch import batch_facts
    from sluicemq.wire.errors import SluiceError

    try:
        entry, ranges = _entry_of(located)
        if ranges is not None:
            held = batch_facts(entry.payload)[0]
            left = sum(count for _, count in ranges)
            return None if held == left else f"the entry names {left} messages that are left, its batch holds {held}"
        if isinstance(entry, BatchEntry) and entry.count:
            messages, _columns, body_bytes = batch_facts(entry.payload)
            if (messages, body_bytes) != (entry.count, entry.body_bytes):
                return f"the entry names {entry.count} messages, its batch holds {messages}"
    except SluiceError as error:
        return str(error)
    return None


def _entry_of(located: Located) -> tuple[Entry, Ranges | None]:
    """Return the entry of a record; of a rewritten one, the entry that it is left of, and which messages are left."""
    from sluicemq.broker.queues.entries import SPARSE, decode_entry
    from sluicemq.broker.queues.sparse import read_left_over

    head = located.head
    if head.kind == SPARSE:
        left = read_left_over(head.kind_version, located.header, located.payload)
        return left.publish, left.ranges
    return decode_entry(head.kind, head.kind_version, located.header, located.payload), None


def _print_verdict_json(files: LogFiles, snapshots: SnapshotChecks, others: OtherFiles) -> None:
    print_json(
        {
            "ok": not files.problems,
            "directory": str(files.directory.path),
            "cluster_id": others.superblock.known_as,
            "segments": files.segments,
            "entries": files.records,
            "marks": files.marks,
            "log_bytes": files.read_bytes,
            "live_files": others.live_files,
            "live_entries": others.live_records,
            "indexes": others.indexes,
            "snapshots": snapshots.checked,
            "snapshots_compared": snapshots.compared,
            "first_zxid": _zxid(files.first_zxid),
            "last_zxid": _zxid(files.last_zxid),
            "served_by_process": files.served_by,
            "problems": [
                {**problem._asdict(), "last_good_zxid": _zxid(problem.last_good_zxid)} for problem in files.problems
            ],
            "notes": files.notes,
        }
    )


def _print_verdict(files: LogFiles, snapshots: SnapshotChecks, others: OtherFiles) -> None:
    for text in files.notes:
        note(f"note: {text}")
    range_read = f", {_zxid(files.first_zxid)} to {_zxid(files.last_zxid)}" if files.records else ""
    what = f"{files.records} entries in {files.segments} segments, {files.read_bytes} bytes{range_read}"
    if others.live_files:
        what += f"; {others.live_records} entries in {others.live_files} older files"
    if not files.problems:
        if snapshots.checked:
            what += f"; {snapshots.checked} snapshots, {snapshots.compared} of them compared with a replay"
        click.echo(f"The log is whole: {what}.")
        return
    for problem in files.problems:
        click.echo(
            f"{problem.file} at offset {problem.offset}: {problem.reason}; good up to {_zxid(problem.last_good_zxid)}"
        )
    click.echo(f"The log is damaged in {len(files.problems)} places; good are {what}. Nothing was changed.")


# --- dump ----------------------------------------------------------------------------------------------------------


class _ZxidType(ParameterType):
    """`EPOCH.COUNTER`, as all tools show a zxid."""

    name = "ZXID"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        match = re.fullmatch(r"([0-9]{1,10})\.([0-9]{1,10})", str(value))
        if match is None or int(match[1]) >> 32 or int(match[2]) >> 32:
            self.fail(f"{str(value)!r:.80} is no zxid; write EPOCH.COUNTER, for one 3.17", param, ctx)
        return int(match[1]) << 32 | int(match[2])


@command.command(name="dump")
@data_option
@click.option("--from", "first", type=_ZxidType(), default=0, help="First entry shown.")
@click.option("--to", "last", type=_ZxidType(), default=None, help="Last entry shown.")
@click.option(
    "--kind", "kinds", multiple=True, metavar="KIND", help="Only this kind, for one publish; may be repeated."
)
@click.option("--queue", metavar="NAME", help="Only entries of this queue.")
@json_option
def dump(data: Path, first: int, last: int | None, kinds: tuple[str, ...], queue: str | None, as_json: bool) -> None:
    """Print the entries, a line each: zxid, time, kind, fields, size on disk.

    Begins with what is left in old files, where `sparse` is what is left of a publish that was rewritten. Numbers of
    queues, sessions and producers are zxids, written EPOCH.COUNTER; queues appear by name where the log or the newest
    snapshot still knows them. Bodies are not shown.
    """
    from itertools import chain

    from sluicemq.broker.commands.log_files import LogFiles, ReadOnlyDirectory
    from sluicemq.broker.commands.log_others import OtherFiles

    wanted = _kind_numbers(kinds)
    files = LogFiles(ReadOnlyDirectory(data))
    others = OtherFiles(files, files.read_superblock())
    names = _Names()
    names.know(others.queue_names())
    show = _print_entry_json if as_json else _print_entry
    for located in chain(others.live_entries(), files.entries()):
        zxid = located.head.zxid
        if last is not None and zxid > last:
            break
        entry, ranges = _entry_of(located)
        names.learn(zxid, entry)
        if zxid < first or (wanted and located.head.kind not in wanted):
            continue
        of_queue = names.queue_of(entry)
        if queue is None or of_queue == queue:
            show(located, entry, of_queue, ranges)
    else:
        for text in files.notes:
            note(f"note: {text}")
        if files.problems:
            problem = files.problems[0]
            raise Failure(f"{problem.file} at offset {problem.offset}: {problem.reason}; see `sluicemq log verify`")


def _kind_numbers(kinds: tuple[str, ...]) -> set[int]:
    from sluicemq.broker.config import nearest
    from sluicemq.broker.queues.entries import ENTRIES, SPARSE

    numbers = {_kind_name(entry): number for number, entry in ENTRIES.items()} | {SPARSE_NAME: SPARSE}
    for kind in kinds:
        if kind.lower() not in numbers:
            hint = nearest(kind.lower(), numbers) or f"; known are: {', '.join(numbers)}"
            raise click.UsageError(f"there is no kind {kind!r}{hint}")
    return {numbers[kind.lower()] for kind in kinds}


def _kind_of(entry: Entry) -> str:
    from sluicemq.broker.queues.entries import ENTRIES

    return _kind_name(ENTRIES[entry.KIND])  # whatever version of it this is


def _kind_name(cls: type[Entry]) -> str:
    """`ProducerOpen` -> `producer-open`."""
    return "".join(f"-{letter.lower()}" if letter.isupper() else letter for letter in cls.__name__).lstrip("-")


class _Names:
    """Which queue an entry is about, as far as the log read so far tells."""

    def __init__(self) -> None:
        self._queue_names: dict[int, str] = {}
        self._consumer_queues: dict[tuple[int, int], str] = {}

    def know(self, names: dict[int, str]) -> None:
        """Take names over from elsewhere: declarations leave the log, snapshots keep them."""
        self._queue_names.update(names)

    def learn(self, zxid: int, entry: Entry) -> None:
        from sluicemq.broker.queues.entries import Declare, Grant, SessionClose

        if isinstance(entry, Declare):
            self._queue_names[zxid] = entry.name
        elif isinstance(entry, Grant):
            self._consumer_queues[entry.session, entry.consumer] = self._name(entry.queue)
        elif isinstance(entry, SessionClose):
            gone = [key for key in self._consumer_queues if key[0] == entry.session]
            for key in gone:
                del self._consumer_queues[key]

    def _name(self, queue: int) -> str:
        return self._queue_names.get(queue, _zxid(queue))

    def queue_of(self, entry: Entry) -> str | None:
        from sluicemq.broker.queues.entries import Declare, Delete, Settle

        if isinstance(entry, Declare | Delete):
            return entry.name
        if isinstance(entry, Settle):
            return self._consumer_queues.get((entry.session, entry.consumer))
        queue = getattr(entry, "queue", getattr(entry, "target", None))
        return None if queue is None else self._name(queue)


def _zxid(zxid: int) -> str:
    from sluicemq.storage.errors import format_zxid

    return format_zxid(zxid)


_ZXID_FIELDS = ("session", "producer", "target", "half")
_HIDDEN_FIELDS = ("log_time_ms", "payload", "queue", "resume_token")


def _fields(entry: Entry) -> dict[str, Any]:
    """Return the fields of an entry as a reader wants them."""
    from sluicemq.broker.queues.entries import Grant
    from sluicemq.broker.queues.entries_of_topics import FILL_NUMBERS, Fill

    fields: dict[str, Any] = {}
    for one in dataclasses.fields(entry):
        value = getattr(entry, one.name)
        if one.name in _HIDDEN_FIELDS or value in ("", None):
            continue
        if one.name in _ZXID_FIELDS:
            value = _zxid(value)
        elif one.name == "runs":
            # Of most kinds a run begins with its place in the queue, or the time at which it is due.
            first, width = {Grant: (0, 3), Fill: (0, FILL_NUMBERS)}.get(type(entry), (1, 4))
            columns = (value[column::width] for column in range(first, first + 3))
            value = [
                f"{_zxid(zxid)}[{index}..{index + count - 1}]" for zxid, index, count in zip(*columns, strict=True)
            ]
        elif one.name == "tags":
            value = [f"{first}..{last}" for first, last in zip(value[::2], value[1::2], strict=True)]
        elif one.name == "verdict":
            value = _VERDICTS.get(value, value)
        fields[one.name] = value
    return fields


SPARSE_NAME = "sparse"
_VERDICTS = {1: "ack", 2: "nack", 3: "release", 4: "handed-over", 16: "expired", 17: "abandoned"}


def _print_entry_json(located: Located, entry: Entry, queue: str | None, ranges: Ranges | None) -> None:
    head = located.head
    print_json(
        {
            "zxid": _zxid(head.zxid),
            "time_ms": entry.log_time_ms,
            "kind": _kind_of(entry) if ranges is None else SPARSE_NAME,
            "kind_version": head.kind_version,
            "queue": queue,
            **_fields(entry),
            **({} if ranges is None else {"left": [list(each) for each in ranges]}),
            "payload_bytes": head.payload_bytes,
            "record_bytes": head.size,
            "file": located.file,
            "offset": located.offset,
        }
    )


def _print_entry(located: Located, entry: Entry, queue: str | None, ranges: Ranges | None) -> None:
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(entry.log_time_ms // 1000))
    fields = _fields(entry)
    fields.pop("name", None) if queue is not None else None
    shown = [f"queue={queue}"] if queue is not None else []
    shown += [f"{name}={_text(value)}" for name, value in fields.items()]
    if ranges is not None:
        shown.append(f"left={_text([f'{first}..{first + count - 1}' for first, count in ranges])}")
    kind = _kind_of(entry) if ranges is None else SPARSE_NAME
    click.echo(
        f"{_zxid(located.head.zxid):<10} {moment}.{entry.log_time_ms % 1000:03d}Z {kind:<14} "
        f"{' '.join(shown)} ({located.head.size} bytes)"
    )


def _text(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, value)) if len(value) <= 8 else f"{','.join(map(str, value[:8]))},...({len(value)})"
    return value.hex() if isinstance(value, bytes) else str(value)


command.add_command(repair)
command.add_command(stats)
