"""What every test can lean on: the hypothesis profiles, how a test names a program that the machine may lack, and that
nothing runs beside a test that is marked `alone`.

It must not know any part of the product but the plugin that users have; other fixtures that start brokers live beside
the tests that use them.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.alone import Turns

INSIST_VARIABLE = "SLUICEMQ_TESTS_INSIST"

TURNS = pytest.StashKey[Turns]()

# `ci` gives the same verdict for the same code. `dev` looks at new examples in every run, and remembers failing ones.
# How long an example takes says more about who else uses the machine than about the code.
settings.register_profile("machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("machine"), derandomize=True, print_blob=True)
settings.register_profile("dev", settings.get_profile("machine"))
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci" if os.environ.get(INSIST_VARIABLE) else "dev"))


# A shell that starts tests in the background has SIGINT ignored, and so would have every program that they interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def needs(program: str, command: str) -> pytest.MarkDecorator:
    """Mark a test, class or module (`pytestmark = needs(...)`) that cannot run without `program` on PATH.

    Without it the test is skipped with `command`, the shell command that installs it, as part of the reason. Where
    SLUICEMQ_TESTS_INSIST is set, as in .ci/run, it fails: there, a skipped test would be a test that nobody ever runs.
    """
    return pytest.mark.needs(program, command)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, by name, every test whose programs are not there; put last what has to run alone."""
    for item in items:
        lacking = _lacking(item)
        if lacking and not os.environ.get(INSIST_VARIABLE):
            item.add_marker(pytest.mark.skip(reason=f"{item.name} {lacking}"))
    items.sort(key=_is_alone)  # stable: all others stay in their order


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    """Wait for the test's turn where others run at the same time; outside of its timeout, since others may be slow."""
    turns = item.config.stash.get(TURNS, None)
    if turns is None:
        return (yield)
    turns.begin(alone=_is_alone(item))
    try:
        return (yield)
    finally:
        turns.end(stay_alone=nextitem is not None and _is_alone(nextitem))


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Fail a test whose programs are not there, where that is no excuse."""
    lacking = _lacking(item)
    if lacking:
        pytest.fail(f"{lacking} ({INSIST_VARIABLE} is set, so this is a failure)", pytrace=False)


def _lacking(item: pytest.Item) -> str | None:
    """Return what the test needs and this machine has not, with the command that installs it."""
    for mark in item.iter_markers("needs"):
        program, command = mark.args
        if shutil.which(program) is None:
            return f"needs {program}, which this installs: {command}"
    return None


def pytest_configure(config: pytest.Config) -> None:
    """Have the fixture `sluicemq` also where the checkout was installed before it had an entry point for it."""
    if not config.pluginmanager.has_plugin("sluicemq"):
        config.pluginmanager.import_plugin("sluicemq.broker.testing.pytest_plugin")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Share turns with the processes that run the other tests, if there are any: pytest-xdist's workers."""
    config = session.config
    if hasattr(config, "workerinput"):
        turns = config.stash[TURNS] = Turns(Path(config.option.basetemp).parent)
        config.add_cleanup(turns.close)
