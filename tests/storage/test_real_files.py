"""The log on the real file system: the same answers as on the simulated disk, and what only a system can show."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest

from sluicemq.storage import (
    DirectoryLocked,
    File,
    LiveKind,
    LogOptions,
    LogWriteFailed,
    RealDirectory,
    SegmentLog,
    ZxidNotFound,
)
from sluicemq.storage import files as files_module
from tests.storage.stories import SMALL, all_entries, entries, entry, zxid


@pytest.fixture
def directory(tmp_path) -> RealDirectory:
    return RealDirectory(tmp_path / "not" / "yet" / "there")


def open_files(directory: RealDirectory) -> list[str]:
    """Names of the directory's files that this process has open; nothing where the system does not tell."""
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        return []
    paths = [str(each.readlink()) for each in descriptors.iterdir() if each.is_symlink()]
    return [path for path in paths if path.startswith(str(directory.path))]


def open_log(directory: RealDirectory, options: LogOptions = SMALL) -> SegmentLog:
    return SegmentLog.open(directory, options=options)


def test_what_was_appended_is_there_after_a_restart(directory):
    log = open_log(directory)
    written = entries(zxid(1, 0), 100)
    log.append(written[:50])
    log.prepare_spare()
    log.append(written[50:])
    log.sync()
    chain, incarnation = log.last_chain, log.incarnation
    log.close()

    log = open_log(directory)

    assert all_entries(log) == written
    assert (log.last_chain, log.incarnation) == (chain, incarnation)
    assert log.recovery.cut is None
    assert not log.recovery.created
    log.truncate_after(zxid(1, 30))
    log.close()
    log = open_log(directory)
    assert all_entries(log) == written[:31]
    log.close()


def test_a_first_start_makes_the_default_files_and_little_else(directory):
    log = open_log(directory, LogOptions())

    sizes = {name: (directory.path / name).stat().st_size for name in directory.names()}
    assert set(sizes) == {"lock", "segment-0000000000000001", "superblock"}
    assert sizes["segment-0000000000000001"] == 1 << 20
    assert log.recovery.created
    log.close()


HOLDER = """
import sys
from sluicemq.storage import RealDirectory, SegmentLog
log = SegmentLog.open(RealDirectory(sys.argv[1]))
print("open", flush=True)
sys.stdin.read()
"""


def test_a_second_process_is_refused_and_told_who_holds_the_directory(directory):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(directory.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"

        with pytest.raises(DirectoryLocked) as refused:
            open_log(directory)

        assert refused.value.pid == holder.pid
        assert str(holder.pid) in str(refused.value)
        holder.kill()
    # The kernel gives the lock back, however the holder ended.
    open_log(directory, LogOptions()).close()


def test_a_log_of_a_process_killed_in_the_middle_keeps_what_was_written(directory):
    script = (
        "import os, sys\n"
        "from sluicemq.storage import RealDirectory, Record, SegmentLog\n"
        "log = SegmentLog.open(RealDirectory(sys.argv[1]))\n"
        "log.append([Record(1 << 32 | n, 1, 0, 0, b'', b'%d' % n) for n in range(1000)])\n"
        "log.sync()\n"
        "os.kill(os.getpid(), 9)\n"
    )
    assert subprocess.run([sys.executable, "-c", script, str(directory.path)], check=False).returncode == -9

    log = open_log(directory, LogOptions())

    assert [record.payload for record in all_entries(log)] == [b"%d" % n for n in range(1000)]
    log.close()


def test_a_group_of_more_buffers_than_one_call_takes_is_written_whole(directory):
    log = open_log(directory, replace(SMALL, segment_bytes=1 << 20, initial_bytes=1 << 20))
    written = entries(zxid(1, 0), 2000, 33)

    log.append(written)

    assert all_entries(log) == written
    log.close()


def test_a_short_write_is_continued(directory, monkeypatch):
    real = os.pwritev

    def short(descriptor, buffers, offset):
        return real(descriptor, [b"".join(buffers)[:100]], offset)

    log = open_log(directory)
    monkeypatch.setattr(files_module, "write_vector", short)
    log.append(entries(zxid(1, 0), 5))

    assert all_entries(log) == entries(zxid(1, 0), 5)
    log.close()


def test_a_system_without_vectored_writes_gets_one_buffer(directory, monkeypatch):
    monkeypatch.setattr(files_module, "write_vector", files_module._join_and_write)
    log = open_log(directory)

    log.append(entries(zxid(1, 0), 5))

    assert all_entries(log) == entries(zxid(1, 0), 5)
    log.close()


def test_a_write_without_progress_is_an_error_not_a_loop(directory, monkeypatch):
    log = open_log(directory)
    monkeypatch.setattr(files_module, "write_vector", lambda *_: 3)
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)

    with pytest.raises(LogWriteFailed) as failed:
        log.append(entries(zxid(1, 0), 5))

    assert failed.value.errno == errno.EIO
    log.close()


@pytest.mark.parametrize("problem", [0, errno.EINVAL, errno.EOPNOTSUPP])
@pytest.mark.parametrize("start", [0, 100])
def test_zeros_are_written_past_the_memory_or_through_it_where_the_system_refuses(
    directory, monkeypatch, problem: int, start: int
):
    file = directory.open("blank", create=True)
    file.pwritev([b"x" * 20_000], 0)
    real, flags = os.pwrite, []

    def pwrite(descriptor, data, offset):
        direct = fcntl.fcntl(descriptor, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0)
        flags.append(bool(direct))
        if direct and problem:
            raise OSError(problem, "not here")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", pwrite)
    file.write_zeros(start, 8192)
    file.write_zeros(12288, 16384)
    file.pwritev([b"y"], 20_000)

    assert file.pread(30_000, 0) == b"x" * start + bytes(8192 - start) + b"x" * 4096 + bytes(4096) + b"x" * 3616 + b"y"
    if hasattr(os, "O_DIRECT"):
        # Refused once, it is not tried again; and it is never tried where a range does not fit.
        assert flags == ([False] if start else []) + ([True, False] if problem else [True]) + (
            [] if start else [not problem]
        )
    file.close()


def test_others_read_the_file_while_zeros_are_written(directory, monkeypatch):
    file = directory.open("blank", create=True)
    file.pwritev([b"x" * 20_000], 0)
    real_write, real_read, flags = os.pwrite, os.pread, []

    def pread(descriptor, length, offset):
        # Not every file system refuses a direct read that begins anywhere.
        flags.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & getattr(os, "O_DIRECT", 0))
        return real_read(descriptor, length, offset)

    def pwrite(descriptor, data, offset):
        assert file.pread(7, 8195) == b"x" * 7
        return real_write(descriptor, data, offset)

    monkeypatch.setattr(os, "pread", pread)

    monkeypatch.setattr(os, "pwrite", pwrite)
    file.write_zeros(0, 8192)
    assert flags == [0]
    file.close()


def test_a_disk_without_room_for_zeros_says_so(directory, monkeypatch):
    file = directory.open("blank", create=True)

    def full(*_):
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(OSError, match="full"):
        file.write_zeros(0, 4096)
    monkeypatch.setattr(os, "pwrite", lambda *_: 0)
    with pytest.raises(OSError, match="no progress"):
        file.write_zeros(0, 4096)
    file.close()


def test_a_group_that_enters_a_page_writes_all_of_it(directory):
    log = open_log(directory, replace(SMALL, segment_bytes=65_536, initial_bytes=65_536))
    written: list[tuple[int, int]] = []
    real = log._active.file
    log._active.file = Watched(real, written)
    log.append(entries(zxid(1, 0), 1))
    for counter in range(1, 100):
        log.append([entry(zxid(1, counter))])
    log._active.file = real
    pages = {start // 4096 for start, _end in written}
    for page in sorted(pages)[1:]:
        first = next((start, end) for start, end in written if start // 4096 == page or end - 1 >= page * 4096)
        assert first[1] % 4096 == 0, "nothing of it has to be read"
    assert len(pages) > 1
    assert len(all_entries(log)) == 100
    log.close()


class Watched:
    """A file that notes which ranges are written."""

    def __init__(self, file: File, written: list[tuple[int, int]]) -> None:
        self._file = file
        self._written = written

    def __getattr__(self, name):
        return getattr(self._file, name)

    def pwritev(self, buffers, offset):
        self._written.append((offset, offset + sum(map(len, buffers))))
        self._file.pwritev(buffers, offset)


class BrokenFile:
    """A real file whose syncs fail from now on."""

    def __init__(self, file: File) -> None:
        self._file = file
        self.calls = 0

    def __getattr__(self, name):
        return getattr(self._file, name)

    def sync(self):
        self.calls += 1
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def test_an_input_output_error_on_sync_ends_the_log(directory):
    log = open_log(directory)
    log.append(entries(zxid(1, 0), 1))
    broken = log._active.file = BrokenFile(log._active.file)

    for _ in range(3):
        with pytest.raises(LogWriteFailed) as failed:
            log.sync()

    assert broken.calls == 1
    assert failed.value.file == str(directory.path / "segment-0000000000000001")
    assert "exit" in str(failed.value)
    log.close()


def test_a_file_that_is_closed_under_a_reader_is_not_read(directory):
    file = directory.open("f", create=True)
    file.pwritev([b"data"], 0)
    assert file.pread(10, 2) == b"ta"
    file.close()
    file.close()

    with pytest.raises(OSError, match="closed") as refused:
        file.pread(1, 0)
    assert refused.value.errno == errno.EBADF


def test_truncate_cuts_and_extends(directory):
    file = directory.open("f", create=True)
    file.pwritev([b"data"], 0)
    file.truncate(2)
    file.truncate(4)
    file.sync()

    assert file.pread(10, 0) == b"da\0\0"
    file.close()


def test_readers_in_other_threads_see_only_whole_entries_while_the_log_changes(directory):
    """Appends, rolls, truncations and recycling under four readers: an entry is right, or is not there."""
    log = open_log(directory, replace(SMALL, segment_bytes=64 * 1024))
    stop = threading.Event()
    failures: list[BaseException] = []
    reads = [0] * 4

    def read(number: int) -> None:
        position = log.start_zxid
        try:
            while not stop.is_set():
                try:
                    records = log.read_after(position, 5000)
                    for record in records:
                        assert record.payload.startswith(b"%d " % record.zxid)
                    reads[number] += len(records)
                    position = records[-1].zxid if records else log.start_zxid
                    assert not records or log.read(position).zxid == position
                except ZxidNotFound:
                    position = log.start_zxid
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=read, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    following = zxid(1, 0)
    for round_number in count():
        if round_number >= 150 and (all(reads) or failures):  # each has had its turn, however busy the machine is
            break
        group = entries(following, 20, 300)
        log.append(group)
        log.sync()
        following = group[-1].zxid + 1
        if round_number % 5 == 4:
            log.truncate_after(group[7].zxid)
            following = zxid((following >> 32) + 1, 0)
        if round_number % 7 == 6:
            log.prepare_spare()
            log.begin_at(group[0].zxid)
            for file in log.live_files():
                log.reclaim(file.first_sequence)
    stop.set()
    for thread in threads:
        thread.join()

    assert failures == []
    assert min(reads) > 0
    log.close()


def test_readers_are_not_disturbed_while_the_live_store_is_rewritten(directory):
    """One thread appends, one removes and rewrites, three read: what is alive is always found, few files are open."""
    log = open_log(directory, replace(SMALL, segment_bytes=32 * 1024, live_open_max=2))
    first = zxid(1, 0)
    alive = first + 3  # every 7th entry from here lives for ever
    stop = threading.Event()
    failures: list[BaseException] = []
    reads = [0] * 3
    written = [first - 1]

    def reporting(work, *arguments) -> None:
        try:
            work(*arguments)
        except BaseException as failure:
            failures.append(failure)
            stop.set()

    def read(number: int) -> None:
        chosen = random.Random(number)
        while not stop.is_set():
            if written[0] > alive:
                wanted = chosen.randrange(alive, written[0] + 1, 7)
                records = log.read_along(wanted, chosen.choice((1, 3000)))
                assert records[0].zxid == wanted
                assert all(record.payload.startswith(b"%d " % record.zxid) for record in records)
                assert log.read(wanted) == records[0]
                reads[number] += 1

    def rewrite() -> None:
        chosen = random.Random(9)
        while not stop.is_set():
            files = log.live_files()
            if len(files) > 1:
                place = chosen.randrange(len(files))
                some = files[place : place + chosen.randint(1, 3)]
                kept = (r for file in some for r in log.walk_live(file) if (r.zxid - alive) % 7 == 0)
                log.install_sparse(some[0].first_sequence, some[-1].last_sequence, kept)

    threads = [threading.Thread(target=reporting, args=(read, number)) for number in range(3)]
    threads.append(threading.Thread(target=reporting, args=(rewrite,)))
    for thread in threads:
        thread.start()
    for _ in range(250):
        if stop.is_set():
            break
        log.append(entries(written[0] + 1, 20, 300))
        log.sync()
        written[0] += 20
        log.begin_at(written[0])
    stop.set()
    for thread in threads:
        thread.join()

    assert failures == []
    assert min(reads) > 0
    assert any(file.kind is LiveKind.SPARSE for file in log.live_files())
    for wanted in range(alive, written[0] + 1, 7):
        assert log.read(wanted).zxid == wanted
    statistics = log.statistics()
    assert len(open_files(directory)) <= 2 + statistics.segments + statistics.spares + 2  # superblock, lock; two live
    log.close()
    assert open_files(directory) == []


def test_a_spare_is_prepared_in_another_thread_while_the_log_goes_on(directory):
    log = open_log(directory, replace(SMALL, segment_bytes=1 << 20, zero_piece_bytes=64 * 1024))
    thread = threading.Thread(target=log.prepare_spare)
    thread.start()
    following = zxid(1, 0)
    while thread.is_alive() or following < zxid(1, 300):
        log.append([entry(following, b"x" * 1000)])
        log.sync()
        following += 1
    thread.join()

    assert len(all_entries(log)) == following - zxid(1, 0)
    assert log.statistics().spares + log.statistics().rolls > 0
    log.close()


def test_closing_stops_a_preparation_after_its_current_piece(directory, monkeypatch):
    log = open_log(directory, replace(SMALL, segment_bytes=1 << 20, zero_piece_bytes=4096))
    begun, close_called = threading.Event(), threading.Event()
    real = files_module.RealFile.sync

    def sync(file):
        if threading.current_thread() is thread:
            begun.set()
            close_called.wait()
        real(file)

    outcomes: list[bool] = []
    thread = threading.Thread(target=lambda: outcomes.append(log.prepare_spare()))
    monkeypatch.setattr(files_module.RealFile, "sync", sync)
    thread.start()
    begun.wait()
    log._pool._closing = True
    close_called.set()
    log.close()
    thread.join()

    assert outcomes == [False]
    assert not [name for name in directory.names() if name.startswith(("zeroing-", "spare-"))]


def test_free_bytes_are_those_of_the_file_system(directory):
    log = open_log(directory)

    assert 0 < log.free_bytes <= os.statvfs(directory.path).f_blocks * os.statvfs(directory.path).f_frsize
    log.close()


def test_the_package_refuses_to_be_imported_without_its_prefix():
    checkout = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", "import storage"], cwd=checkout, check=False, capture_output=True, text=True
    )

    assert done.returncode != 0
    assert "sluicemq.storage" in done.stderr
    assert "pip install" in done.stderr
