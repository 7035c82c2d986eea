"""What the name of a file in a data directory says about it.

Why: recovery, `log verify` and `log repair` must agree on which files are whose, and which are nobody's. This module
knows names only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sluicemq.storage.decisions_files import Purpose
from sluicemq.storage.files import LOCK_NAME
from sluicemq.storage.incoming import INCOMING_PREFIX
from sluicemq.storage.pagefile import COPY_NAME, PAGES_NAME
from sluicemq.storage.segment import segment_sequence
from sluicemq.storage.segment_index import index_sequence
from sluicemq.storage.snapshot_file import REJECTED_PREFIX, snapshot_zxid
from sluicemq.storage.spares import READY_PREFIX, UNFINISHED_PREFIX
from sluicemq.storage.sparse import sparse_range
from sluicemq.storage.superblock import SUPERBLOCK_NAME

if TYPE_CHECKING:
    from collections.abc import Collection

__all__ = ["SET_ASIDE_PREFIX", "is_data", "purpose_of"]

SET_ASIDE_PREFIX = "set-aside-"
"""Names of a damaged log whose broker learns everything anew from the others begin so."""

_FIXED = (SUPERBLOCK_NAME, LOCK_NAME, PAGES_NAME, COPY_NAME)
_UNFINISHED_SUFFIX = ".new"


def is_data(name: str) -> bool:
    """Whether a file of this name holds what was published: without a superblock, the directory is not empty."""
    return segment_sequence(name) is not None or sparse_range(name) is not None or snapshot_zxid(name) is not None


def purpose_of(name: str, indexed: Collection[int]) -> Purpose:
    """What a file of this name is for; `indexed` are the segments that may have an index."""
    index = index_sequence(name)
    if index is not None:
        return Purpose.IN_USE if index in indexed else Purpose.ORPHAN_INDEX
    if name.startswith(INCOMING_PREFIX):
        return Purpose.INCOMING
    if is_data(name) or name in _FIXED or name.startswith(READY_PREFIX):
        return Purpose.IN_USE
    if name.endswith(_UNFINISHED_SUFFIX) or name.startswith(UNFINISHED_PREFIX):
        return Purpose.UNFINISHED
    return Purpose.SET_ASIDE if name.startswith((REJECTED_PREFIX, SET_ASIDE_PREFIX)) else Purpose.STRANGE
