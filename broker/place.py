"""Where a broker is about to live: its data directory and its address, judged before anything is changed.

A wrong `--data` or a port in use must cost nothing: no file of somebody else is touched, and no epoch is raised for a
broker that cannot serve. This module knows which names our own files have; it must not know what is in them, nor trio.
"""

from __future__ import annotations

import errno
import socket
from pathlib import Path

from sluicemq.storage.files import LOCK_NAME
from sluicemq.storage.names import is_data
from sluicemq.storage.superblock import SUPERBLOCK_NAME, SUPERBLOCK_NEW_NAME
from sluicemq.wire.errors import InvalidRequest

NAMED_MAX = 5
"""Most names of strange files that a refusal lists."""
LOCK_BYTES_MAX = 32
"""Our lock file holds a process id; a longer file of that name is somebody else's."""


def check_data_directory(path: Path) -> None:
    """Return if a broker may use *path*: it holds our superblock or our data, is empty, or does not exist.

    `lost+found`, names that begin with a dot, and what a start leaves behind that was interrupted at its very
    beginning, do not count.

    Raises:
        InvalidRequest: It is no directory, or holds files of somebody else; the text names some of them.
        OSError: It cannot be read.

    """
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except FileNotFoundError:
        return
    except NotADirectoryError:
        what = next(part for part in (*reversed(path.parents), path) if part.exists() and not part.is_dir())
        raise InvalidRequest(
            f"setting data: {what} is a file; name a directory, which is made when it does not exist",
            setting="data",
            value=str(path),
        ) from None
    # Data without a superblock are the business of the log, whatever lies beside them: it names the way on.
    if SUPERBLOCK_NAME in names or any(map(is_data, names)):
        return
    strange = [name for name in names if not _may_lie_here(path / name)]
    if strange:
        shown = ", ".join(f"{name!r:.80}" for name in strange[:NAMED_MAX])
        more = f" and {len(strange) - NAMED_MAX} more" if len(strange) > NAMED_MAX else ""
        raise InvalidRequest(
            f"setting data: {path} is no data directory of a broker, and not empty: it holds {shown}{more}; "
            "name an empty directory, or one that does not exist",
            setting="data",
            value=str(path),
        )


def _may_lie_here(path: Path) -> bool:
    """Whether a file may lie in a directory that has no superblock yet."""
    name = path.name
    if name == LOCK_NAME:
        return path.is_file() and path.stat().st_size <= LOCK_BYTES_MAX and path.read_bytes().strip().isdigit()
    return name in (SUPERBLOCK_NEW_NAME, "lost+found") or name.startswith(".")


def bind(host: str, port: int) -> list[socket.socket]:
    """Return one socket for each address of *host*, bound to *port* (0: free ones) but not listening yet.

    So nobody connects before the broker can answer, and a port in use is found before anything is changed.

    Raises:
        OSError: The host is unknown, or the port cannot be had; the text names both.

    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise cannot_listen(host, port, error) from error
    sockets: list[socket.socket] = []
    unsupported: OSError | None = None
    try:
        for family, kind, protocol, _name, address in found:
            try:
                bound = socket.socket(family, kind, protocol)
            except OSError as error:
                # A name may have addresses of a family that this machine does not speak.
                if error.errno != errno.EAFNOSUPPORT:
                    raise
                unsupported = error
                continue
            sockets.append(bound)
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            bound.bind(address)
        if not sockets:
            raise unsupported or OSError(errno.EADDRNOTAVAIL, "the host has no address")
    except OSError as error:
        close(sockets)
        raise cannot_listen(host, port, error) from error
    return sockets


def close(sockets: list[socket.socket]) -> None:
    """Close all *sockets*."""
    for one in sockets:
        one.close()


def cannot_listen(host: str, port: int, error: OSError) -> OSError:
    """Return *error* with the address: the system's own words do not say which one it means."""
    return OSError(error.errno or errno.EADDRNOTAVAIL, f"cannot listen on {host}:{port}: {error.strerror or error}")
