"""Tells clients that their process was forked: the child has their memory, but neither their loop nor their socket.

Both processes would write into one connection, and calls of the child would wait for a loop that runs elsewhere. So the
child's copy of every open client is disabled before any code of the child runs; that costs the parent nothing. It must
not know what a client is made of.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet


class Forkable(Protocol):
    """Something open that a fork makes useless in the child."""

    def forked(self) -> None:
        """Refuse every further call. Runs in the child, in whichever thread has forked: touch no loop and no socket."""


_open: WeakSet[Forkable] = WeakSet()


def watch(what: Forkable) -> None:
    """Tell *what* in every child that is forked from now on."""
    _open.add(what)


def unwatch(what: Forkable) -> None:
    """Tell it nothing any more."""
    _open.discard(what)


def _tell_child() -> None:
    for what in list(_open):
        what.forked()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_tell_child)
