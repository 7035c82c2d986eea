"""What Ctrl-C does to a command: it ends at once until there is something to end in good order.

Imports take most of a short command's life, and a KeyboardInterrupt within one becomes a traceback, or worse, half a
module. So the program begins with a handler of its own that ends the process, silently, with exit code 130. A command
that starts processes, connects or serves calls `clean_up_on_interrupt` first: from there on Ctrl-C is Python's usual
KeyboardInterrupt, which Trio also insists on. This module imports nothing that takes time.
"""

from __future__ import annotations

import os
import signal

EXIT_INTERRUPTED = 130


def _end(_signal: int, _frame: object) -> None:
    os._exit(EXIT_INTERRUPTED)


def end_at_once() -> None:
    """Let Ctrl-C end the process from now on; whoever started us with Ctrl-C ignored is respected."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _end)


def clean_up_on_interrupt() -> None:
    """Let Ctrl-C raise KeyboardInterrupt from now on. Does nothing outside the program `sluicemq`."""
    if signal.getsignal(signal.SIGINT) is _end:
        signal.signal(signal.SIGINT, signal.default_int_handler)
