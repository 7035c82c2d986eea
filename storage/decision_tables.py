"""All tables of a start's decisions, in the order in which recovery asks them: for documents, tools and tests.

Pure data; see `decisions`.
"""

from __future__ import annotations

from sluicemq.storage.decisions_files import DERIVED, FIRST_PAGES, HELD, NAMES, ORDER, REPLACED
from sluicemq.storage.decisions_log import CHOICE, END, JOINT, PRESENCE
from sluicemq.storage.decisions_superblock import BEGINNING, INSTALLATION, INTENT, OWNER

__all__ = ["TABLES"]

TABLES = (
    OWNER,
    INSTALLATION,
    BEGINNING,
    INTENT,
    REPLACED,
    NAMES,
    PRESENCE,
    FIRST_PAGES,
    JOINT,
    END,
    ORDER,
    DERIVED,
    CHOICE,
    HELD,
)
"""Each is about one thing; the first that refuses ends the start."""
