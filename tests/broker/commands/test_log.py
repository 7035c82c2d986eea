"""`sluicemq log`: what it says of whole, torn and damaged logs, and that it never changes a byte."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sluicemq.broker.commands.program import command
from sluicemq.broker.queues import entries as e
from sluicemq.broker.queues.entries_of_queues import Cancel
from sluicemq.broker.queues.entries_of_topics import Fill
from sluicemq.broker.queues.entry import Entry
from sluicemq.storage import LogOptions, RealDirectory, Record, SegmentLog
from sluicemq.wire.batch import encode_batch

PAGE_BYTES = 4096
SEGMENT_BYTES = 16 * PAGE_BYTES


def zxid(epoch: int, counter: int) -> int:
    return epoch << 32 | counter


def publish(queue: int, sequence: int, *bodies: bytes) -> e.Publish:
    batch = encode_batch(bodies)
    return e.Publish(
        1_700_000_000_000 + sequence, queue, zxid(1, 2), sequence, len(bodies), sum(map(len, bodies)), None, batch
    )


class Story:
    """A data directory, written as a broker would write it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.log = SegmentLog.open(
            RealDirectory(directory), options=LogOptions(segment_bytes=SEGMENT_BYTES, initial_bytes=SEGMENT_BYTES)
        )
        self.counter = -1

    def write(self, *entries: e.Entry) -> Story:
        for entry in entries:
            self.counter += 1
            record = Record(zxid(1, self.counter), entry.KIND, entry.VERSION, 0, entry.header(), bytes(entry.payload))
            self.log.append([record])
        self.log.sync()
        return self

    def close(self) -> Story:
        self.log.close()
        return self

    def digest(self) -> str:
        digest = hashlib.sha256()
        for path in sorted(path for path in self.directory.iterdir() if path.is_file()):
            digest.update(path.name.encode() + path.read_bytes())
        return digest.hexdigest()

    def segments(self) -> list[Path]:
        return sorted(self.directory.glob("segment-*"))


@pytest.fixture
def story(tmp_path: Path) -> Story:
    orders = zxid(1, 1)
    return Story(tmp_path / "data").write(
        e.Epoch(1_700_000_000_000, 1),
        e.Declare(1_700_000_000_001, "/", "queue", "orders", {"retry_delay": 2.0}),
        e.ProducerOpen(1_700_000_000_002, "/", "", ""),
        e.SessionOpen(1_700_000_000_003, "/", "", "test", b"token"),
        publish(orders, 1, b"a", b"bb", b"ccc"),
        e.Grant(1_700_000_000_004, orders, zxid(1, 3), 1, 1, [zxid(1, 4), 0, 3]),
        e.Settle(1_700_000_000_005, zxid(1, 3), 1, 1, [1, 2], 0, ""),
        e.Settle(1_700_000_000_006, zxid(1, 3), 1, 2, [3, 3], 0, "no stock"),
    )


def sluicemq(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def verify(story: Story) -> dict[str, Any]:
    before = story.digest()
    result = sluicemq("log", "verify", "--json", "--data", story.directory)
    assert story.digest() == before, "looking changed something"
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == (0 if found["ok"] else 1)
    return found


def filled(story: Story, segments: int) -> Story:
    """Go on publishing until the log has so many files."""
    sequence = 1
    while len(story.segments()) < segments:
        sequence += 1
        story.write(publish(zxid(1, 1), sequence, b"x" * 9000))
    return story


# --- verify --------------------------------------------------------------------------------------------------------


def test_a_whole_log_is_called_whole(story: Story) -> None:
    found = verify(filled(story, 3).close())
    assert found["ok"] is True
    assert found["segments"] == 3
    assert found["entries"] == story.counter + 1
    assert (found["first_zxid"], found["last_zxid"]) == ("1.0", f"1.{story.counter}")
    assert found["problems"] == []
    assert found["served_by_process"] is None
    result = sluicemq("log", "verify", "--data", story.directory)
    assert result.stdout.startswith("The log is whole: ")


def test_a_log_can_be_verified_while_a_broker_holds_it(story: Story) -> None:
    import os

    found = verify(story)
    assert found["ok"] is True
    assert found["served_by_process"] == os.getpid()
    story.close()


def test_a_flipped_bit_is_named_by_file_and_offset(story: Story) -> None:
    filled(story, 2).close()
    first = story.segments()[0]
    data = bytearray(first.read_bytes())
    place = data.index(b"orders")
    data[place] ^= 0x40
    first.write_bytes(data)
    found = verify(story)
    assert found["ok"] is False
    [problem] = found["problems"]
    assert problem["file"] == str(first)
    assert PAGE_BYTES < problem["offset"] <= place
    assert problem["last_good_zxid"] == "1.0"
    assert problem["reason"] == "header or payload do not match their digest; lost are entries 1.1 to 1.1"
    result = sluicemq("log", "verify", "--data", story.directory)
    assert result.exit_code == 1
    assert f"{first} at offset {problem['offset']}" in result.stdout
    assert "Nothing was changed" in result.stdout


def test_reading_goes_on_behind_a_damaged_file(story: Story) -> None:
    filled(story, 4).close()
    for path in story.segments()[1:3]:
        data = bytearray(path.read_bytes())
        data[data.index(b"xxxx")] ^= 1
        path.write_bytes(data)
    found = verify(story)
    assert [problem["file"] for problem in found["problems"]] == [str(path) for path in story.segments()[1:3]]
    assert found["last_zxid"] == f"1.{story.counter}"


@pytest.mark.parametrize("place", [0, 1, 2], ids=["the first", "one in the middle", "the last"])
def test_a_missing_file_is_named(story: Story, place: int) -> None:
    filled(story, 3).close()
    missing = story.segments()[place]
    missing.unlink()
    found = verify(story)
    assert {"file": str(missing), "offset": 0, "reason": "this segment is missing"}.items() <= found["problems"][
        0
    ].items()


def test_a_log_without_any_of_its_files_is_damaged(story: Story) -> None:
    story.close()
    only, *others = story.segments()
    assert not others
    only.unlink()
    (problem,) = verify(story)["problems"]
    assert problem["file"] == str(only)
    assert problem["reason"] == "this segment is missing"


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_damaged_header_page_is_one_damage_named_where_it_lies(story: Story, place: int) -> None:
    filled(story, 3).close()
    path = story.segments()[place]
    flip(path, 20)
    [problem] = verify(story)["problems"]

    assert (problem["file"], problem["offset"]) == (str(path), 0)
    assert problem["reason"].startswith("segment header: ")


def test_a_damaged_header_hides_no_damage_at_the_end_of_the_file_before(story: Story) -> None:
    filled(story, 3).close()
    before, path = story.segments()[:2]
    flip(before, before.read_bytes().rindex(b"x" * 9000) + 100)
    flip(path, 20)
    problems = verify(story)["problems"]

    assert [problem["file"] for problem in problems] == [str(before), str(path)]


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def test_a_torn_tail_is_no_damage(story: Story, tmp_path: Path) -> None:
    story.log.append([Record(zxid(1, story.counter + 1), 12, 1, 0, e.Purge(0, zxid(1, 1)).header(), b"")])
    # What a power cut leaves: the last write was not synced, and half of it is not there.
    story.directory = Path(shutil.copytree(story.directory, tmp_path / "after-the-cut"))
    story.close()
    last = story.segments()[-1]
    data = bytearray(last.read_bytes())
    data[len(data.rstrip(b"\0")) - 1] = 0
    last.write_bytes(data)
    found = verify(story)
    assert found["ok"] is True
    assert found["last_zxid"] == f"1.{story.counter}"
    assert any("never confirmed" in text for text in found["notes"])


def test_an_entry_that_makes_no_sense_is_named(story: Story) -> None:
    story.log.append([Record(zxid(1, story.counter + 1), 99, 1, 0, b"", b"")])
    story.log.sync()
    story.close()
    found = verify(story)
    assert "entry kind 99 is unknown" in found["problems"][0]["reason"]


def test_a_batch_that_is_not_what_its_entry_says_is_named(story: Story) -> None:
    lying = e.Publish(0, zxid(1, 1), zxid(1, 2), 2, 7, 3, None, encode_batch([b"abc"]))
    story.write(lying).close()
    found = verify(story)
    assert "names 7 messages, its batch holds 1" in found["problems"][0]["reason"]


def test_what_is_no_data_directory_is_refused(tmp_path: Path) -> None:
    result = sluicemq("log", "verify", "--data", tmp_path)
    assert result.exit_code == 1
    assert "this is no data directory" in result.stderr
    assert list(tmp_path.iterdir()) == []


# --- dump ----------------------------------------------------------------------------------------------------------


def dump(story: Story, *arguments: str) -> list[dict[str, object]]:
    result = sluicemq("log", "dump", "--json", "--data", story.directory, *arguments)
    assert result.exit_code == 0, result.stderr
    return [json.loads(line) for line in result.stdout.splitlines()]


def test_every_entry_is_a_line_that_reads_well(story: Story) -> None:
    story.close()
    lines = sluicemq("log", "dump", "--data", story.directory).stdout.splitlines()
    assert len(lines) == 8
    assert [line.split()[0] for line in lines] == [f"1.{counter}" for counter in range(8)]
    assert lines[0].split()[1:4] == ["2023-11-14T22:13:20.000Z", "epoch", "node_id=1"]
    assert "publish        queue=orders producer=1.2 sequence=1 count=3 body_bytes=6 id_base=0 (" in lines[4]
    assert "grant          queue=orders session=1.3 consumer=1 first_tag=1 runs=1.4[0..2] (" in lines[5]
    assert "settle         queue=orders session=1.3 consumer=1 verdict=ack tags=1..2 due_time_ms=0 (" in lines[6]
    assert "verdict=nack tags=3..3 due_time_ms=0 reason=no stock" in lines[7]
    assert "token" not in lines[3], "a resume token is a secret"


@pytest.mark.parametrize(
    ("entry", "shown"),
    [
        (e.GrantPlaced(0, zxid(1, 1), zxid(1, 3), 1, 4, [zxid(1, 9), zxid(1, 4), 0, 2]), "runs=1.4[0..1]"),
        (e.GrantIdentified(0, zxid(1, 1), zxid(1, 3), 1, 4, [1, zxid(1, 4), 1, 1], bytes(16)), "runs=1.4[1..1]"),
        (Cancel(0, zxid(1, 1), [1_700_000_000_000, zxid(1, 4), 2, 1]), "runs=1.4[2..2]"),
        (
            Fill(0, zxid(1, 1), zxid(1, 4), 0, [zxid(1, 4), 0, 2, 3, 6, 0, 0, 0, 0], zxid(1, 5), 0, True),
            "runs=1.4[0..1]",
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_messages_are_named_in_the_same_way_whatever_else_a_run_says(story: Story, entry: Entry, shown: str) -> None:
    story.write(entry).close()
    result = sluicemq("log", "dump", "--data", story.directory)
    assert result.exit_code == 0, result.stderr
    assert shown in result.stdout.splitlines()[-1]


def test_json_holds_the_same(story: Story) -> None:
    story.close()
    found = dump(story)[4]
    assert found["zxid"] == "1.4"
    assert found["kind"] == "publish"
    assert found["queue"] == "orders"
    assert found["time_ms"] == 1_700_000_000_001
    assert found["count"] == 3
    assert found["payload_bytes"] == len(encode_batch([b"a", b"bb", b"ccc"]))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--from", "1.6"], [6, 7]),
        (["--to", "1.1"], [0, 1]),
        (["--from", "1.2", "--to", "1.3"], [2, 3]),
        (["--kind", "settle", "--kind", "Epoch"], [0, 6, 7]),
        (["--queue", "orders"], [1, 4, 5, 6, 7]),
        (["--queue", "orders", "--kind", "grant"], [5]),
        (["--queue", "others"], []),
    ],
)
def test_filters(story: Story, arguments: list[str], expected: list[int]) -> None:
    story.close()
    assert [found["zxid"] for found in dump(story, *arguments)] == [f"1.{counter}" for counter in expected]


def test_a_dump_of_a_damaged_log_says_so_at_its_end(story: Story) -> None:
    filled(story, 2).close()
    first = story.segments()[0]
    data = bytearray(first.read_bytes())
    data[data.index(b"xxxx")] ^= 1
    first.write_bytes(data)
    result = sluicemq("log", "dump", "--data", story.directory)
    assert result.exit_code == 1
    assert "see `sluicemq log verify`" in result.stderr
