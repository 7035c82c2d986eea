"""`sluicemq log verify` looks at snapshots: their bytes, their pages, and what the log makes of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from sluicemq.broker.commands import log_others
from sluicemq.broker.commands.log import command
from sluicemq.broker.queues.chunks import Chunk, ChunkPool
from sluicemq.storage.files import RealDirectory
from sluicemq.storage.snapshots import SnapshotStore
from sluicemq.storage.superblock import SuperblockStore
from tests.broker.pipeline.keeping.test_snapshots import consume_some, names_of, open_road, publish_singly
from tests.broker.pipeline.roads import declare

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any


async def run_broker(data: Path, *, snapshots: int = 2, messages: int = 1500) -> None:
    """Leave a data directory with a queue of several chunks, and snapshots."""
    async with open_road(RealDirectory(data), in_order=False) as road:
        await declare(road)
        for _ in range(snapshots):
            await publish_singly(road, messages)
            await consume_some(road, 20)
            await road.snapshots.take()


def verify(data: Path) -> tuple[int, dict[str, Any]]:
    """Return the exit code and what was said as JSON."""
    result = CliRunner().invoke(command, ["verify", "--data", str(data), "--json"])
    return result.exit_code, json.loads(result.stdout)


@pytest.mark.trio
@pytest.mark.parametrize("snapshots", [1, 2, 3])
async def test_whole_snapshots_are_compared_with_a_replay(tmp_path, snapshots):
    await run_broker(tmp_path, snapshots=snapshots)

    code, verdict = verify(tmp_path)

    assert (code, verdict["problems"]) == (0, [])
    assert verdict["snapshots"] == verdict["snapshots_compared"] == min(snapshots, 2)


@pytest.mark.trio
async def test_a_damaged_snapshot_is_named_with_its_offset(tmp_path):
    await run_broker(tmp_path)
    newest = tmp_path / names_of(RealDirectory(tmp_path))[-1]
    damage(newest, 5000)

    code, verdict = verify(tmp_path)

    assert code == 1
    (problem,) = verdict["problems"]
    assert problem["file"] == str(newest)
    assert problem["offset"] > 0
    assert "checksum" in problem["reason"]


@pytest.mark.trio
async def test_a_damaged_page_is_named_by_every_snapshot_that_needs_it(tmp_path):
    await run_broker(tmp_path)
    for name in ("pages", "pages-copy"):
        damage(tmp_path / name, 4096 + 1000)

    code, verdict = verify(tmp_path)

    assert code == 1
    assert all("PageCorrupt" in problem["reason"] for problem in verdict["problems"])
    assert {problem["file"] for problem in verdict["problems"]} == {
        str(tmp_path / name) for name in names_of(RealDirectory(tmp_path))
    }


@pytest.mark.trio
@pytest.mark.parametrize("name", ["pages", "pages-copy"])
async def test_a_page_that_one_of_its_files_still_has_is_noted_and_no_damage(tmp_path, name, caplog):
    await run_broker(tmp_path)
    caplog.clear()
    damage(tmp_path / name, 4096 + 1000)

    code, verdict = verify(tmp_path)

    assert (code, verdict["problems"]) == (0, [])
    [note] = verdict["notes"]
    assert f"page 0 in {tmp_path / name} at offset 4096" in note
    assert "a broker mends" in note
    assert caplog.text == "", "it is said once"


@pytest.mark.trio
async def test_a_snapshot_of_another_state_is_found_by_the_replay(tmp_path):
    directory = RealDirectory(tmp_path)
    async with open_road(directory, in_order=False) as road:
        await declare(road)
        await road.snapshots.take()
        await publish_singly(road, 30)
        await road.wait_idle()
        zxid, cluster_id = road.machine.applied_zxid, road.log.cluster_id
        chain = road.log.chain_at(zxid)
    store = SnapshotStore(directory, cluster_id)
    with store.newest_good() as old:
        writer = store.begin(zxid, chain, old.generation + 1)
        for kind, data in old.sections():  # whole by every checksum, but what was published is not in it
            writer.add(kind, data)
        writer.finish()

    code, verdict = verify(tmp_path)

    assert code == 1
    (problem,) = verdict["problems"]
    assert "not what the entries of the log lead to" in problem["reason"]


@pytest.mark.trio
async def test_a_snapshot_of_another_log_is_found(tmp_path):
    await run_broker(tmp_path, snapshots=1, messages=30)
    directory = RealDirectory(tmp_path)
    superblock = SuperblockStore.load(directory)
    superblock.close()
    store = SnapshotStore(directory, superblock.current.cluster_id)
    writer = store.begin((1 << 32) + 5, b"8 others", 9)
    writer.add(1, b"no image")
    writer.finish()

    code, verdict = verify(tmp_path)

    assert code == 1
    assert any("belongs to another log" in problem["reason"] for problem in verdict["problems"])


def damage(path: Path, offset: int) -> None:
    """Flip a bit."""
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)
        file.seek(offset)
        file.write(bytes([byte[0] ^ 1]))


@pytest.mark.trio
async def test_what_a_replay_reads_back_is_dropped_again(tmp_path, monkeypatch):
    """A tool never has the whole index of a long queue in memory."""
    await run_broker(tmp_path)
    monkeypatch.setattr(log_others, "FILLED_BYTES_MAX", 0)
    dropped: list[Chunk] = []
    drop = ChunkPool.drop

    def counted(pool: ChunkPool, chunk: Chunk) -> None:
        dropped.append(chunk)
        drop(pool, chunk)

    monkeypatch.setattr(ChunkPool, "drop", counted)

    code, verdict = verify(tmp_path)

    assert (code, verdict["problems"]) == (0, [])
    assert verdict["snapshots_compared"] == 2
    assert dropped
