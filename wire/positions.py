"""Addresses of messages as users see them: opaque texts that sort by nothing and parse only here.

A message's address is (group, zxid, index in its batch) and never changes. Users get it as one short text, so that
a later version may add to it.
"""

from __future__ import annotations

import re

from sluicemq.wire.errors import InvalidRequest

GROUP_MAX = 0xFFFF_FFFF
ZXID_MAX = 0xFFFF_FFFF_FFFF_FFFF
INDEX_MAX = 0xFFFF_FFFF

# int() would also take signs, blanks, underscores and other scripts' digits: two texts for one address.
_POSITION = re.compile(r"(0|[1-9a-f][0-9a-f]{0,7})-(0|[1-9a-f][0-9a-f]{0,15})-(0|[1-9a-f][0-9a-f]{0,7})", re.ASCII)


def format_position(group: int, zxid: int, index: int) -> str:
    """Return the opaque text for message *index* of the entry *zxid* in *group*."""
    return f"{group:x}-{zxid:x}-{index:x}"


def parse_position(position: str) -> tuple[int, int, int]:
    """Return (group, zxid, index) of a text made by `format_position`.

    Raises:
        InvalidRequest: The text is none of ours.

    """
    match = _POSITION.fullmatch(position) if isinstance(position, str) else None
    if match is None:
        raise InvalidRequest(f"{position!r:.80} is no position; take it from a receipt or a message")
    group, zxid, index = (int(part, 16) for part in match.groups())
    return group, zxid, index
