"""The blocking client has every name of the async one, with the same parameters, and nobody keeps it so by hand."""

import inspect
import os

import pytest

from sluicemq import client as asynchronous
from sluicemq.client import blocking
from tests.client.blocking.facade import FOLDER, modules

REWRITE = "SLUICEMQ_TESTS_REWRITE=1 python -m pytest tests/client/blocking/test_calls_are_up_to_date.py"


def test_the_calls_are_what_the_async_client_says():
    wanted = modules()
    if os.environ.get("SLUICEMQ_TESTS_REWRITE"):
        for path in FOLDER.glob("*.py"):
            path.unlink()
        for name, text in wanted.items():
            (FOLDER / name).write_text(text, encoding="utf-8")
    found = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.py")}
    stale = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
    assert not stale, f"the async client has changed; write client/blocking/calls anew with: {REWRITE}"


FACES = [
    (asynchronous.Client, blocking.Client),
    (asynchronous.Producer, blocking.Producer),
    (asynchronous.Consumer, blocking.Consumer),
    (asynchronous.Message, blocking.Message),
    (asynchronous.Batch, blocking.Batch),
    (asynchronous.Transaction, blocking.Transaction),
    (asynchronous.Half, blocking.Half),
    (asynchronous.Replay, blocking.Replay),
    (asynchronous.PendingReply, blocking.PendingReply),
]

FOR_THE_CLIENT_ITSELF = {
    *("attached", "delivered", "ended", "failed", "forked", "idle", "leave", "left", "leases_lost", "messages_dropped"),
    *(
        "finish",
        "publisher",
        "schedule_flush",
        "session_lost",
        "session_opened",
        "settled_counted",
        "step",
        "timeout",
        "timer",
    ),
    # What they are made of, not what they can do.
    *("lease_seconds", "auto_renew", "max_lease_seconds", "request_seconds", "cumulative"),
}


def public(kind):
    """The public names of *kind*, with the parameters of those that are methods."""
    found = {}
    for name, what in inspect.getmembers_static(kind):
        if not name.startswith("_") and name not in FOR_THE_CLIENT_ITSELF:
            function = inspect.unwrap(getattr(what, "__func__", what))
            found[name] = list(inspect.signature(function).parameters.values()) if callable(function) else None
    return found


@pytest.mark.parametrize(("original", "face"), FACES, ids=lambda kind: kind.__module__)
def test_both_faces_have_the_same_names_and_parameters(original, face):
    if os.environ.get("SLUICEMQ_TESTS_REWRITE"):
        pytest.skip("what was just written is imported by the next run")
    wanted, found = public(original), public(face)
    assert set(wanted) <= set(found)
    for name, parameters in wanted.items():
        if parameters is not None and found[name] is not None:
            shown = [(each.name, each.kind, each.default) for each in parameters]
            assert [(each.name, each.kind, each.default) for each in found[name]] == shown, name
