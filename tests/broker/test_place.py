"""Where a broker may live: what it refuses before it has changed anything."""

from __future__ import annotations

import contextlib
import errno
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from sluicemq.broker import node, place
from sluicemq.broker.config import BrokerConfig
from sluicemq.storage import LogOptions, RealDirectory, SegmentLog, SuperblockMissing
from sluicemq.wire.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Iterator


def contents(path: Path) -> dict[str, bytes]:
    return {str(one.relative_to(path)): one.read_bytes() for one in sorted(path.rglob("*")) if one.is_file()}


@contextlib.contextmanager
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        yield taken.getsockname()[1]


# --- the data directory --------------------------------------------------------------------------------------------


def test_a_directory_that_does_not_exist_or_is_empty_may_be_taken(tmp_path: Path) -> None:
    place.check_data_directory(tmp_path / "new" / "er")
    place.check_data_directory(tmp_path)


def test_what_file_systems_and_people_hide_in_a_directory_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / ".snapshot").mkdir()
    (tmp_path / ".DS_Store").write_bytes(b"x")
    place.check_data_directory(tmp_path)


def test_files_of_somebody_else_are_named_and_left_alone(tmp_path: Path) -> None:
    for name in ("photo.jpg", "a", "b", "c", "d", "e", "f"):
        (tmp_path / name).write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(InvalidRequest, match=r"not empty: it holds 'a', 'b', 'c', 'd', 'e' and 2 more; name an empty"):
        node.serve(BrokerConfig(data=tmp_path, port=0))

    assert contents(tmp_path) == before


def test_a_lock_file_of_somebody_else_is_not_ours_to_write_to(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text("held by backup")
    with pytest.raises(InvalidRequest, match="it holds 'lock'"):
        place.check_data_directory(tmp_path)


def test_a_file_instead_of_a_directory_is_refused_in_clear_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "data"):
        with pytest.raises(InvalidRequest, match=rf"setting data: {tmp_path}/file is a file; name a directory"):
            node.serve(BrokerConfig(data=path, port=0))


def test_our_own_directory_may_be_taken_whatever_else_lies_there(tmp_path: Path) -> None:
    SegmentLog.open(RealDirectory(tmp_path), options=LogOptions()).close()
    (tmp_path / "README.txt").write_text("the broker's data")
    place.check_data_directory(tmp_path)


def test_a_directory_that_lost_its_superblock_is_refused_by_the_log_that_names_the_way_on(tmp_path: Path) -> None:
    SegmentLog.open(RealDirectory(tmp_path), options=LogOptions()).close()
    (tmp_path / "superblock").unlink()
    (tmp_path / "pages").write_bytes(b"derived data, like indexes and spares")
    before = contents(tmp_path)
    with pytest.raises(SuperblockMissing, match=r"superblock is missing, yet .* `sluicemq log repair --dry-run` shows"):
        node.serve(BrokerConfig(data=tmp_path, port=0))

    assert contents(tmp_path) == before


def test_a_start_that_was_interrupted_at_its_very_beginning_may_be_tried_again(tmp_path: Path) -> None:
    RealDirectory(tmp_path).lock().release()
    (tmp_path / "superblock.new").write_bytes(b"half")
    place.check_data_directory(tmp_path)
    SegmentLog.open(RealDirectory(tmp_path), options=LogOptions()).close()


# --- the address ---------------------------------------------------------------------------------------------------


def test_a_port_in_use_makes_no_directory(tmp_path: Path) -> None:
    with taken_port() as port, pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: ") as caught:
        node.serve(BrokerConfig(data=tmp_path / "data", port=port))

    assert caught.value.errno == errno.EADDRINUSE
    assert not (tmp_path / "data").exists()


def test_a_port_in_use_changes_no_byte_of_the_data(tmp_path: Path) -> None:
    SegmentLog.open(RealDirectory(tmp_path), options=LogOptions()).close()
    before = contents(tmp_path)
    with taken_port() as port, pytest.raises(OSError, match="cannot listen"):
        node.serve(BrokerConfig(data=tmp_path, port=port))

    assert contents(tmp_path) == before, "no epoch was raised"


def test_an_unknown_host_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot listen on host\.invalid:7650: ") as caught:
        node.serve(BrokerConfig(data=tmp_path, host="host.invalid"))

    assert caught.value.errno


def test_nobody_can_connect_to_a_bound_socket_before_the_broker_serves() -> None:
    sockets = place.bind("127.0.0.1", 0)
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(sockets[0].getsockname())
    finally:
        place.close(sockets)


@pytest.mark.trio
async def test_who_was_first_to_listen_has_the_port_and_the_other_is_told() -> None:
    first = place.bind("127.0.0.1", 0)
    port = first[0].getsockname()[1]
    second = place.bind("127.0.0.1", port)
    config = BrokerConfig(port=port)
    try:
        listeners = node._listen(first, config)
        assert [type(listener) for listener in listeners] == [trio.SocketListener]
        with pytest.raises(OSError, match=f"cannot listen on 127.0.0.1:{port}: "):
            node._listen(second, config)
    finally:
        place.close(first)
        place.close(second)
