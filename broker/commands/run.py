"""`sluicemq run`: runs an App of the user's, and starts it anew when its source changes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from sluicemq.broker.commands.manners import Failure, note

if TYPE_CHECKING:
    from sluicemq.client import App

STOP_SECONDS = 35.0
"""How long an app that is started anew may take to drain: its `shutdown_timeout` is 30 s unless it says otherwise."""
LOOK_MILLISECONDS = 500
"""How often to look whether the app still runs."""


@click.command(name="run")
@click.argument("target", metavar="MODULE:APP")
@click.option(
    "--backend",
    type=click.Choice(["asyncio", "trio"]),
    default="asyncio",
    show_default=True,
    help="The event loop.",
)
@click.option("--reload", is_flag=True, help="Start it anew when a Python file changes; for development.")
@click.option(
    "--reload-dir",
    "directories",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    multiple=True,
    help="With --reload: watch this directory instead of the current one; may be repeated.",
)
def command(target: str, backend: Literal["asyncio", "trio"], reload: bool, directories: tuple[Path, ...]) -> None:
    """Run the App that is called APP in MODULE, which is looked for in the current directory first.

    An app that names no broker is connected to SLUICEMQ_URL. SIGTERM or Ctrl-C lets it drain: it takes nothing more,
    finishes what it has in hand, and gives the rest back. A second one ends it at once.
    """
    if directories and not reload:
        raise click.UsageError("--reload-dir says what --reload watches: give both")
    if reload:
        _run_again_and_again(target, backend, directories or (Path(),))
    else:
        import logging

        app = load(target)
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        app.run(backend=backend)


def load(target: str) -> App:
    """Import what *target* names.

    Raises:
        click.UsageError: It names nothing, or something else than an App.

    """
    from importlib import import_module

    from sluicemq.client import App

    module_name, colon, names = target.partition(":")
    if not module_name or not colon or not names:
        raise click.UsageError(f"{target!r} does not say which app to run: write MODULE:APP, as in service:app")
    if "" not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found: object = import_module(module_name)
    except ModuleNotFoundError as error:
        # A module that the user's own imports in vain deserves its traceback.
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise
        raise click.UsageError(f"there is no module {error.name!r} in {Path.cwd()} or where Python looks") from None
    for name in names.split("."):
        if not hasattr(found, name):
            raise click.UsageError(f"{module_name!r} has no {names!r}")
        found = getattr(found, name)
    if not isinstance(found, App):
        raise click.UsageError(f"{target} is no App but of the type {type(found).__name__}")
    return found


def _run_again_and_again(target: str, backend: str, directories: tuple[Path, ...]) -> None:
    import threading

    try:
        import watchfiles
    except ImportError:
        raise Failure("--reload needs watchfiles, which this installs: pip install 'sluicemq[reload]'") from None
    ending = threading.Event()
    app = _start(target, backend)
    told = False

    def on_signal(number: int, _frame: object) -> None:
        ending.set()
        if app.poll() is None:
            app.send_signal(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, on_signal)
    for changes in watchfiles.watch(
        *directories,
        watch_filter=watchfiles.PythonFilter(),
        stop_event=ending,
        rust_timeout=LOOK_MILLISECONDS,
        yield_on_timeout=True,
        raise_interrupt=False,
    ):
        if ending.is_set():
            break
        if changes:
            note(f"changed: {', '.join(sorted({os.path.relpath(path) for _, path in changes}))}; starting anew")
            _stop(app)
            app, told = _start(target, backend), False
        elif app.poll() is not None and not told:
            note(f"the app ended with {app.returncode}; it is started anew when a file changes")
            told = True
    sys.exit(max(0, app.wait()))


def _start(target: str, backend: str) -> subprocess.Popen[bytes]:
    # In a session of its own: Ctrl-C at the terminal reaches us alone, and through us the app once.
    return subprocess.Popen(  # noqa: S603 - our own command line
        [sys.executable, "-m", "sluicemq.broker.cli", "run", target, "--backend", backend], start_new_session=True
    )


def _stop(app: subprocess.Popen[bytes]) -> None:
    if app.poll() is None:
        app.terminate()
        try:
            app.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            app.kill()
            app.wait()
