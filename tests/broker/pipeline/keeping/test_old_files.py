"""A start and the old files: one that held living messages is missed by name, one that held none is not."""

from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from sluicemq.broker.pipeline.keeping.liveness import Span
from sluicemq.broker.pipeline.keeping.old_files import (
    GAPS_NAMED_MAX,
    QUEUES_NAMED_MAX,
    check_old_files,
    find_missing,
)
from sluicemq.broker.pipeline.keeping.restart import Restart, apply_records, replay
from sluicemq.broker.pipeline.road import LoneRoad
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.machine import Machine
from sluicemq.broker.queues.queue import Queue
from sluicemq.broker.queues.runs import flat_runs
from sluicemq.storage import PageFile, RealDirectory, SegmentLog, SnapshotStore
from sluicemq.storage.errors import FileGap, MessageLost, OldFileMissing, PageCorrupt, ZxidNotFound
from sluicemq.wire.messages import VERDICT_ACK, VERDICT_NACK
from tests.broker.commands.test_log import Story, publish, sluicemq, story, zxid
from tests.broker.commands.test_log_repair import photograph
from tests.broker.pipeline.roads import Client, declare, open_producer, open_road
from tests.broker.pipeline.roads import publish as send
from tests.patience import WAIT_SECONDS

if TYPE_CHECKING:
    from pathlib import Path

    from sluicemq.broker.queues.chunks import Page

__all__ = ["story"]
ORDERS = zxid(1, 1)
LATER_MS = 1_800_000_000_000


def start(directory: Path) -> Machine:
    """Start a road as a broker does, up to where it would serve; its machine."""
    files = RealDirectory(directory)
    log = SegmentLog.open(files)
    try:
        pages = PageFile.open(files, cluster_id=log.cluster_id)
        try:
            snapshots = SnapshotStore(files, log.cluster_id)
            road = LoneRoad(
                log, node_id=1, cache_bytes_max=1, on_failure=lambda _: None, pages=pages, snapshots=snapshots
            )
            return road.machine
        finally:
            pages.close()
    finally:
        log.close()


def aged(story: Story, *, retention: dict[str, int] | None = None) -> list[Path]:
    """Let three old files hold what is ready, and the log proper begin behind them; the old files."""
    story.write(e.Declare(1_700_000_000_006, "/", "queue", "kept", {"retention": retention}))
    kept, sequence = zxid(1, story.counter), 1
    while len(story.segments()) < 4:
        sequence += 1
        story.write(publish(ORDERS if sequence % 2 else kept, sequence, b"x" * 9000))
    photograph(story)
    story.log.begin_at(story.log.last_zxid)
    return [story.directory / file.name for file in story.log.live_files()]


def settle_all(story: Story, verdict: int | None, *, due_ms: int = 0) -> None:
    """Somebody takes everything out of both queues, and says this of it, or nothing yet."""
    machine = Machine()
    replay_all(story, machine)
    session = story.counter + 1
    story.write(e.SessionOpen(1_700_000_000_900, "/", "", "somebody", b""))
    for consumer, queue in enumerate(machine.queues(), 1):
        runs = queue.peek(0, 1_000_000)
        tags = [1, sum(run.size for run in runs)]
        story.write(e.Grant(1_700_000_000_901, queue.id, zxid(1, session), consumer, 1, flat_runs(runs)))
        if verdict is not None:
            story.write(e.Settle(1_700_000_000_902, zxid(1, session), consumer, verdict, tags, due_ms, ""))


def replay_all(story: Story, machine: Machine) -> None:
    """Apply all that the story's files hold."""
    records = [record for file in story.log.live_files() for record in story.log.walk_live(file)]
    apply_records(machine, None, records)
    replay(story.log, machine, None, Restart())


def data_in(directory: Path) -> dict[str, bytes]:
    """Read all that no start may change before it is sure; derived files may be made anew."""
    names = ("segment-", "sparse-", "snapshot-", "superblock")
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name.startswith(names)}


def repair(directory: Path) -> dict[str, Any]:
    result = sluicemq("log", "repair", "--json", "--yes", "--data", directory)
    assert result.exit_code == 0, result.stderr
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def alive_in(story: Story, file: Path) -> Counter[str]:
    """Count what is ready and lies in a file, by queue."""
    machine = Machine()
    replay_all(story, machine)
    [live] = [each for each in story.log.live_files() if each.name == file.name]
    held = {record.zxid for record in story.log.walk_live(live)}
    found: Counter[str] = Counter()
    for queue in machine.queues():
        found[queue.name] += sum(run.size for run in queue.peek(0, 1_000_000) if run.zxid in held)
    return found


# --- real files ---------------------------------------------------------------------------------------------------


@pytest.mark.trio
async def test_a_start_with_all_old_files_goes_on(story: Story) -> None:
    aged(story)
    story.close()

    assert sum(queue.messages for queue in start(story.directory).queues()) == 20


@pytest.mark.trio
@pytest.mark.parametrize("missing", [0, 1, 2])
async def test_a_start_without_an_old_file_is_refused_and_names_the_gap_until_the_file_is_back(
    missing: int, story: Story, tmp_path: Path
) -> None:
    files = [*aged(story), story.segments()[-1]]
    expected = alive_in(story, files[missing])
    story.close()
    away = files[missing].rename(tmp_path / "away")
    before = data_in(story.directory)

    for _ in range(2):
        with pytest.raises(OldFileMissing) as refused:
            start(story.directory)

    [gap] = refused.value.gaps
    assert gap.after == (files[missing - 1].name if missing else "")
    assert gap.before == str(files[missing + 1])
    assert dict(gap.queues) == expected
    assert gap.messages == expected.total() > 0
    for part in (gap.before, "queue 'orders'", "queue 'kept'", "Bring the files back", "sluicemq log repair"):
        assert part in str(refused.value)
    assert data_in(story.directory) == before
    away.rename(files[missing])
    start(story.directory)


@pytest.mark.trio
async def test_an_old_file_whose_messages_are_settled_is_not_missed(story: Story) -> None:
    files = aged(story)
    settle_all(story, VERDICT_ACK)
    story.close()
    files[1].unlink()

    start(story.directory)


@pytest.mark.trio
@pytest.mark.parametrize("missing", [0, 1, 2])
@pytest.mark.parametrize("state", ["ready", "leased", "delayed", "retained"])
async def test_what_was_alive_in_whatever_way_is_missed_and_a_repair_that_gives_it_up_lets_the_start_go_on(
    state: str, missing: int, story: Story
) -> None:
    files = aged(story, retention={"seconds": 10**8} if state == "retained" else None)
    if state == "retained":
        settle_all(story, VERDICT_ACK)
    elif state == "delayed":
        settle_all(story, VERDICT_NACK, due_ms=LATER_MS)
    elif state == "leased":
        settle_all(story, None)
    story.close()
    files[missing].unlink()
    with pytest.raises(OldFileMissing):
        start(story.directory)

    repair(story.directory)

    start(story.directory)


# --- the rest -----------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(1, 60), min_size=1, max_size=12, unique=True),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 70)), max_size=30),
)
@settings(max_examples=200)
def test_exactly_what_lies_in_no_file_is_found(borders: list[int], published: list[tuple[int, int]]) -> None:
    spans = [Span(first, last - 1) for first, last in list(pairwise(sorted(borders)))[::2]]
    queues = {number: Queue(number, "/", f"queue {number}", {}, 1) for number in (1, 2, 3)}
    for number, entry in sorted(published, key=lambda pair: pair[1]):
        queues[number].publish(entry, 2, 100, 1)
    machine = Machine()
    machine.restore(100, 1, queues, {})

    found = find_missing(machine, spans, 60, _no_page)

    lost = [
        (q, z) for q, z in published if z <= 60 and not any(span.first_zxid <= z <= span.last_zxid for span in spans)
    ]
    total: Counter[int] = Counter()
    for each in found:
        total += each.messages
        assert any(each.first_zxid == z for _, z in lost)
        assert any(each.last_zxid == z for _, z in lost)
        assert not any(each.first_zxid <= span.first_zxid <= each.last_zxid for span in spans)
    assert total == Counter(q for q, _ in lost for _ in range(2))
    assert [each.first_zxid for each in found] == sorted(each.first_zxid for each in found)


def test_a_long_index_is_looked_at_where_it_reaches_over_a_gap_and_only_behind_what_is_consumed() -> None:
    queue = Queue(1, "/", "orders", {}, 1)
    for entry in range(1, 3_001):
        queue.publish(entry, 2, 100, 1)
    machine = Machine()
    machine.restore(3_000, 1, {1: queue}, {})
    files = [Span(1, 10), Span(12, 2_000), Span(2_003, 2_990)]

    assert find_missing(machine, files, 2_990, _no_page) == [(11, 11, {1: 2}), (2_001, 2_002, {1: 4})]

    queue.take([number for entry in range(1, 12) for number in (entry, 0, 2)])
    assert find_missing(machine, files, 2_990, _no_page) == [(2_001, 2_002, {1: 4})]


def _no_page(page: Page) -> bytes:
    raise PageCorrupt("pages", 0, page.slot, "nothing lies on pages here")


def test_an_error_names_no_more_than_a_reader_bears() -> None:
    assert (GAPS_NAMED_MAX, QUEUES_NAMED_MAX) == (5, 10)
    gap = FileGap("", "segment-2", 1, 2, 9, (("orders", 5),), 3)
    assert "and others of 2 more queues" in str(gap)
    assert "and 7 more gaps" in str(OldFileMissing((gap,), 8))


def test_a_log_that_reaches_back_to_its_first_entry_is_not_looked_at(story: Story) -> None:
    queue = Queue(ORDERS, "/", "orders", {}, 1)
    queue.publish(3, 1, 1, 1)  # older than the log: it would be missed
    machine = Machine()
    machine.restore(3, 1, {ORDERS: queue}, {})
    check_old_files(story.log, machine, None)
    story.close()


@pytest.mark.trio
async def test_a_living_message_that_no_file_holds_ends_the_broker_with_queue_entry_and_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures: list[BaseException] = []
    failed = trio.Event()
    async with open_road(cache_bytes_max=1, expect_failure=True) as road:

        def fail(error: BaseException) -> None:
            failures.append(error)
            failed.set()

        monkeypatch.setattr(road.ground, "on_failure", fail)
        queue = await declare(road)
        producer = await open_producer(road)
        first = await send(road, producer, 1, [b"evicted"])
        await send(road, producer, 2, [b"kept"])

        def gone(_log: SegmentLog, zxid: int, *_bytes_max: int) -> None:
            raise ZxidNotFound(zxid, 0, 1)

        monkeypatch.setattr(SegmentLog, "read", gone)
        monkeypatch.setattr(SegmentLog, "read_along", gone)
        client = await Client(road).open()
        client.consume(queue)
        with trio.fail_after(WAIT_SECONDS):
            await failed.wait()

    [error] = failures
    assert isinstance(error, MessageLost)
    assert (error.queue, error.zxid) == ("orders", first.value.zxid)
    assert "log repair" in str(error)
