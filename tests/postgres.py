"""A PostgreSQL of the tests' own: a cluster in a temporary directory, run by a user without rights, gone afterwards.

It listens on a Unix socket in its directory, so that it is in nobody's way. It must not know what the tests do with it.
"""

from __future__ import annotations

import atexit
import importlib
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any, Self
from urllib.parse import quote

import pytest

from tests.conftest import INSIST_VARIABLE

CHECKOUT = Path(__file__).resolve().parent.parent
START_SECONDS_MAX = 60.0
STOP_SECONDS_MAX = 20.0
USERS = ("postgres", "nobody")
"""Who runs it where the tests are root, which the server refuses to be; the first one that there is."""
SETTINGS = ("fsync=off", "shared_buffers=16MB", "max_connections=60", "listen_addresses=", "autovacuum=off")
"""Only processes die in the tests, never the machine: so nothing need be synced."""


def lacking(reason: str) -> None:
    """Skip the test that runs; fail where that is no excuse."""
    if os.environ.get(INSIST_VARIABLE):
        pytest.fail(f"{reason} ({INSIST_VARIABLE} is set, so this is a failure)", pytrace=False)
    pytest.skip(reason)


def library(name: str) -> Any:
    """Return the module, or skip the test that runs."""
    try:
        return importlib.import_module(name)
    except ImportError:
        lacking(f"needs {name.partition('.')[0]}, which this installs: make dev")
    return ModuleType(name)


class Cluster:
    """A running server; `conninfo` reaches it."""

    def __init__(self, programs: Path, settings: tuple[str, ...] = ()) -> None:
        self._programs = programs
        self._settings = (*SETTINGS, *settings)
        self._directory = Path(tempfile.mkdtemp(prefix="sluicemq-pg-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._user: dict[str, Any] = {}
        if os.geteuid() == 0:
            entry = next(pwd.getpwnam(name) for name in USERS if _is_user(name))
            os.chown(self._directory, entry.pw_uid, entry.pw_gid)
            self._user = {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    @property
    def conninfo(self) -> str:
        """How libpq reaches it."""
        return f"host={self._directory} user=sluicemq dbname=postgres"

    @property
    def address(self) -> str:
        """The same as a URL."""
        return f"postgresql://sluicemq@/postgres?host={quote(str(self._directory), safe='')}"

    def start(self) -> Self:
        """Make the cluster and return when it serves."""
        atexit.register(self.stop)
        data = self._directory / "data"
        log = (self._directory / "log").open("wb")
        environment = {**os.environ, "LC_ALL": "C"}
        with log:
            subprocess.run(
                [self._programs / "initdb", "-D", data, "-U", "sluicemq", "-A", "trust", "-E", "UTF8", "--no-sync"],
                cwd=self._directory,
                env=environment,
                stdout=log,
                stderr=log,
                check=True,
                **self._user,
            )
            options = [part for setting in self._settings for part in ("-c", setting)]
            self._process = subprocess.Popen(
                [self._programs / "postgres", "-D", data, "-k", self._directory, *options],
                cwd=self._directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for the tests: they stop it
                **self._user,
            )
        self._wait_until_it_serves()
        return self

    def _wait_until_it_serves(self) -> None:
        psycopg = library("psycopg")
        deadline = time.monotonic() + START_SECONDS_MAX
        while True:
            try:
                psycopg.connect(self.conninfo).close()
            except psycopg.OperationalError:
                assert self._process is not None
                assert self._process.poll() is None, (self._directory / "log").read_text()
                assert time.monotonic() < deadline, (self._directory / "log").read_text()
                threading.Event().wait(0.02)
            else:
                return

    def stop(self) -> None:
        """End it and remove everything."""
        atexit.unregister(self.stop)
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)  # "fast": it does not wait for clients
            try:
                process.wait(STOP_SECONDS_MAX)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


def start_cluster() -> Cluster:
    """Return a new running server, or skip the test that runs."""
    library("psycopg")
    found = subprocess.run([CHECKOUT / "tools" / "postgres-programs"], capture_output=True, text=True, check=False)
    if found.returncode:
        lacking(found.stderr.strip())
    return Cluster(Path(found.stdout.strip())).start()


def _is_user(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True
