"""Inbox and outbox through SQLAlchemy where `greenlet` is not installed, as after `pip install sqlalchemy`.

Only SQLAlchemy's asynchronous half needs it. The developers' environment has it, so another process goes without.
"""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
sys.modules["greenlet"] = None  # as if it were not installed
import sqlalchemy, sqlalchemy.orm
from sluicemq.client import Inbox, Outbox

try:
    import sqlalchemy.ext.asyncio
except ImportError:
    sys.modules.pop("sqlalchemy.ext.asyncio", None)

engine = sqlalchemy.create_engine("sqlite:///" + sys.argv[1])
with engine.connect() as connection, connection.begin():
    Inbox("billing").create_table_blocking(connection)
    Outbox(engine).create_tables_blocking(connection)
    Outbox(engine).add(connection, "orders", b"two lamps")
with sqlalchemy.orm.scoped_session(sqlalchemy.orm.sessionmaker(engine))() as session:
    with Inbox("billing").once("order-1", session) as fresh:
        print(fresh)
    session.commit()
try:
    Inbox("billing").create_table_blocking("no connection")
except TypeError as error:
    print(error)
"""


def test_a_blocking_connection_of_sqlalchemy_is_enough(tmp_path):
    pytest.importorskip("sqlalchemy")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path / "books.db")], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == "True"
    assert "connection must be" in done.stdout.splitlines()[1]
