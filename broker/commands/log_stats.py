"""`sluicemq log stats`: what the data directory holds, by file and by queue: alive, dead, and pinned by what is alive.

Why computed anew: a running broker counts nothing of this while messages pass. The figures come from the newest
snapshot and a replay of the log behind it. This module owns what the operator sees of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click

from sluicemq.broker.commands.manners import data_option, json_option, note, print_json, print_table

if TYPE_CHECKING:
    from sluicemq.broker.commands.log_others import OtherFiles


class FileUse(NamedTuple):
    """One file: *dead_bytes* are *pinned* where something else in the file is alive; the log itself is never freed."""

    file: str
    kind: str
    first_zxid: str
    last_zxid: str
    bytes: int
    live_messages: int
    live_bytes: int
    dead_bytes: int
    pinned_bytes: int


class QueueUse(NamedTuple):
    """One queue: *pinned_bytes* are dead bytes of the old files in which something of it is alive."""

    queue: str
    live_messages: int
    live_bytes: int
    oldest_zxid: str
    files: int
    pinned_bytes: int


@click.command(name="stats")
@data_option
@json_option
def stats(data: Path, as_json: bool) -> None:
    """Show what is alive, dead and pinned on disk, by file and by queue.

    Dead bytes of an old file are pinned as long as something else in the file is alive and it is not worth rewriting.
    Bytes of messages are those of their batches, shared out evenly. Changes nothing; while a broker serves, it may have
    to be tried again.
    """
    from sluicemq.broker.commands.log_files import LogFiles, ReadOnlyDirectory
    from sluicemq.broker.commands.log_others import OtherFiles

    log = LogFiles(ReadOnlyDirectory(data))
    files, queues = _use(OtherFiles(log, log.read_superblock()))
    if as_json:
        print_json({"files": [each._asdict() for each in files], "queues": [each._asdict() for each in queues]})
        return
    print_table(FileUse._fields, files, title="Files")
    print_table(QueueUse._fields, queues, title="Queues")
    if not queues:
        note("no message is alive")


def _use(others: OtherFiles) -> tuple[list[FileUse], list[QueueUse]]:
    from sluicemq.broker.commands.log_others import live_parts
    from sluicemq.broker.pipeline.keeping.liveness import Liveness
    from sluicemq.storage.errors import format_zxid

    found = others.spans()
    spans = [span for _, _, span, _ in found]
    machine = others.newest()
    by_queue: dict[int, Liveness] = {}
    for part in live_parts(machine):
        liveness = by_queue.get(part.queue)
        if liveness is None:
            liveness = by_queue[part.queue] = Liveness(spans, others.read_page, 0)
        liveness.add(part)
    files: list[FileUse] = []
    for number, (name, kind, span, size) in enumerate(found):
        live_bytes = min(size, sum(each.bytes[number] for each in by_queue.values()))
        messages = sum(each.messages[number] for each in by_queue.values())
        dead = size - live_bytes
        pinned = dead if kind != "log" and messages else 0
        first, last = format_zxid(span.first_zxid), format_zxid(span.last_zxid)
        files.append(FileUse(name, kind, first, last, size, messages, live_bytes, dead, pinned))
    queues = []
    for queue_id, each in by_queue.items():
        owner = machine.queue(queue_id) or machine.sources.get(queue_id)
        name = format_zxid(queue_id) if owner is None else owner.name
        held = [number for number, runs in enumerate(each.runs) if runs]
        pinned = sum(files[number].pinned_bytes for number in held)
        oldest = format_zxid(each.oldest.get(queue_id, 0))
        queues.append(QueueUse(name, sum(each.messages), sum(each.bytes), oldest, len(held), pinned))
    return files, sorted(queues, key=lambda each: each.queue)
