"""How much work something is: seconds on the processor, which are the same on a busy machine and on an idle one.

Other threads of the process do not count, and the garbage collector has its turn before and after: a full collection
takes as long as all objects of all tests make it take, and comes when it comes.
"""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Result = TypeVar("Result")


def effort_of(deed: Callable[[], Result]) -> tuple[Result, float]:
    """Do it once; return what it returned, and the seconds that it took on the processor."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        began = time.thread_time()
        result = deed()
        return result, time.thread_time() - began
    finally:
        if was_enabled:
            gc.enable()
