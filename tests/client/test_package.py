"""What the package promises from outside: light imports, one name, the guard."""

import subprocess
import sys
from pathlib import Path

import pytest

import sluicemq.client
from sluicemq.client import errors
from sluicemq.wire import errors as wire_errors

HEAVY = {"trio", "asyncio", "click", "rich", "sortedcontainers", "structlog", "sluicemq.broker", "sluicemq.storage"}


def test_importing_the_client_imports_no_event_loop_and_nothing_heavy():
    program = "import sys, sluicemq.client; print(*sys.modules, sep='\\n')"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    loaded = set(output.split())
    assert "sluicemq.client.consumer" in loaded
    # anyio itself may load asyncio; our own modules for either loop stay out.
    assert not loaded & (HEAVY - {"asyncio"})
    assert not loaded & {"sluicemq.client.runtime_trio", "sluicemq.client.runtime_asyncio"}


def test_the_folder_itself_cannot_be_imported_by_a_second_name():
    root = Path(sluicemq.client.__file__).resolve().parent.parent
    result = subprocess.run([sys.executable, "-c", "import client"], cwd=root, capture_output=True, text=True)
    assert result.returncode != 0
    assert "installed as 'sluicemq.client'" in result.stderr


@pytest.mark.parametrize("name", [name for name in wire_errors.__all__ if not name.startswith("error_")])
def test_every_error_of_the_wire_is_the_clients_too(name):
    assert getattr(errors, name) is getattr(wire_errors, name)


def test_another_error_is_equal_and_has_its_own_traceback():
    cause = ValueError("cause")
    error = errors.LimitReached("full", retry_after=2.0, limit="max_length")
    error.__cause__ = cause
    copy = errors.another(error)
    assert (type(copy), str(copy), copy.retry_after, copy.fields) == (errors.LimitReached, "full", 2.0, error.fields)
    assert copy is not error
    assert copy.__cause__ is cause
