"""What every entry of the log has: a kind, a version, a time, and how its header becomes bytes.

The kinds stand in `entries` and in the modules that it gathers. This module must not know any of them.
"""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar, Self

import msgpack

from sluicemq.wire.errors import SluiceError
from sluicemq.wire.fields import Check, text, unsigned
from sluicemq.wire.messages import NAME_BYTES_MAX

GROUP_NUMBERS = 6
"""Integers a group of `entries.PublishGrouped`."""
number = unsigned(64)
"""A zxid, a time in milliseconds, a tag."""
name = text(NAME_BYTES_MAX)
"""A name of something."""


class EntryUnknown(SluiceError):
    """The log holds an entry that this version cannot read: a newer broker wrote it, or it is damaged.

    The broker must stop: an entry is never skipped. Install the version that wrote it.
    """

    code = "entry_unknown"


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """Base of all entries.

    Attributes:
        log_time_ms: The leader's log time; the machine's time is the largest it has seen.

    """

    KIND: ClassVar[int]
    VERSION: ClassVar[int] = 1
    CHECKS: ClassVar[tuple[Check, ...]]

    log_time_ms: int

    @property
    def payload(self) -> bytes | memoryview:
        """The bytes that follow the header in the log; empty for all kinds but PUBLISH."""
        return b""

    def header(self) -> bytes:
        """Return the header's bytes."""
        # Each kind has its own. An abstract method would make the class an ABC, whose isinstance takes several times as
        # long, and apply asks it of every entry.
        raise NotImplementedError

    @classmethod
    def from_fields(cls, fields: list[Any], payload: bytes | memoryview) -> Self:
        """Return the entry with these checked *fields*; used by `decode_entry`."""
        del payload
        return cls(*fields)


def pack(*fields: Any) -> bytes:
    """Return *fields* as the array that a header is."""
    packed: bytes = msgpack.packb(fields)
    return packed
