"""A run that was killed leaves nothing that the next one would suffer from; a run that goes on is left alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from bench.leftovers import OWNER, make_folder, remove_leftovers
from bench.servers import PORTS, Server, ServerFailed, free_port
from bench.session import Session


class Sleeper(Server):
    """A process that does nothing."""

    program = "sleeper"

    def command(self) -> list[str]:
        return [sys.executable, "-c", "import time; time.sleep(600)"]


def test_servers_of_a_run_that_is_gone_are_ended_and_their_data_removed(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    (folder / OWNER).write_text("1 0.00")
    server = Sleeper(folder / "sleeper")
    server.spawn()
    said = remove_leftovers(tmp_path)
    assert str(server.pid) in said[0]
    assert not folder.exists()
    server.reap()


def test_a_run_that_goes_on_keeps_what_it_has(tmp_path: Path) -> None:
    folder = make_folder(tmp_path)
    assert remove_leftovers(tmp_path) == []
    assert folder.exists()


def test_strangers_in_other_folders_are_left_alone(tmp_path: Path) -> None:
    with Session([], tmp_path):
        stranger = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, cwd=tmp_path)
        remove_leftovers(tmp_path)
        assert psutil.Process(stranger.pid).status() != psutil.STATUS_ZOMBIE
        stranger.communicate(b"\n")


def test_no_port_is_given_twice_nor_one_that_connections_use() -> None:
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert set(ports) <= set(PORTS)


def test_a_server_that_ends_at_once_is_said(tmp_path: Path) -> None:
    class Broken(Sleeper):
        def command(self) -> list[str]:
            return [sys.executable, "-c", "raise SystemExit('no room')"]

    with pytest.raises(ServerFailed, match="no room"):
        Broken(tmp_path).start()
