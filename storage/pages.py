"""Sealed pages: 4 KiB with a magic, a format version and a checksum over all of it.

Why: every file but the spares begins with one (the superblock is two), and all need the same three answers before their
fields may be read: is this the kind of page I expect, is it whole, and is it of a version that I know? One layout for
all means that even a page of a later version can be told from a damaged one.

Layout: magic (8), format version (u32), crc32c of all but itself (u32), body, zeros.
"""

from __future__ import annotations

import struct

from google_crc32c import extend as crc32c_extend
from google_crc32c import value as crc32c

__all__ = ["PAGE_BYTES", "PageDamaged", "seal", "unseal"]

PAGE_BYTES = 4096

_FRONT = struct.Struct("<8sII")
_CHECKSUM_AT = 12


class PageDamaged(Exception):
    """The bytes are not a whole page of the expected kind; the text says why.

    Callers turn it into a typed error with a file.
    """


def seal(magic: bytes, version: int, body: bytes) -> bytes:
    """A page of PAGE_BYTES around this body."""
    page = (_FRONT.pack(magic, version, 0) + body).ljust(PAGE_BYTES, b"\0")
    if len(page) != PAGE_BYTES:
        raise ValueError(f"body of {len(body)} bytes does not fit a page")
    return _FRONT.pack(magic, version, _checksum(page)) + page[_FRONT.size :]


def unseal(page: bytes, magic: bytes) -> tuple[int, bytes]:
    """Format version and body (with trailing zeros) of a page. Raises PageDamaged."""
    if len(page) != PAGE_BYTES:
        raise PageDamaged(f"only {len(page)} of {PAGE_BYTES} bytes")
    found, version, checksum = _FRONT.unpack_from(page)
    if found != magic:
        raise PageDamaged(f"magic is {found!r}, expected {magic!r}")
    if checksum != _checksum(page):
        raise PageDamaged("checksum does not match")
    return version, page[_FRONT.size :]


def _checksum(page: bytes) -> int:
    checksum: int = crc32c_extend(crc32c(page[:_CHECKSUM_AT]), page[_FRONT.size :])
    return checksum
