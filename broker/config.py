"""The settings of a broker: names, types, defaults, limits and the texts that explain them.

This module owns what can be set and which values make sense. It must not know flags (`commands/settings.py` adds them,
and the order of precedence) nor what the broker does with a value. It imports nothing slow, because `sluicemq serve`
waits for it.

A setting has one name everywhere: `segment_bytes` in Python and in the TOML file, `SLUICEMQ_SEGMENT_BYTES` in the
environment, `--segment-bytes` as a flag. The unit stands last in the name.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from sluicemq.wire.batch import (
    BATCH_BYTES_DEFAULT,
    BATCH_BYTES_MAX,
    BATCH_MESSAGES_MAX,
    MESSAGE_BYTES_MAX,
    MESSAGE_ROOM_BYTES,
)
from sluicemq.wire.errors import InvalidRequest, UnknownOption
from sluicemq.wire.frames import FRAME_BYTES_DEFAULT, FRAME_BYTES_MIN

__all__ = [
    "ENVIRONMENT_PREFIX",
    "HOST_DEFAULT",
    "PORT_DEFAULT",
    "SETTINGS",
    "BrokerConfig",
    "Setting",
    "check_environment",
    "format_setting",
    "is_wildcard",
    "parse_address",
    "parse_bytes",
    "read_settings_file",
]

KIB = 1024
MIB = 1024 * KIB

HOST_DEFAULT = "127.0.0.1"
PORT_DEFAULT = 7650
ENVIRONMENT_PREFIX = "SLUICEMQ_"
ENTRY_HEAD_BYTES_MAX = 64 * KIB
"""Room beside a batch in its log entry and in its frame: record head, entry header, frame head."""
SEGMENT_BYTES_MIN = 256 * KIB
SEGMENT_BYTES_MAX = 1024 * MIB
SEGMENT_BYTES_STEP = 4096
NODE_ID_MAX = 65_535
HISTORY_SECONDS_MAX = 100_000_000.0

LOG_LEVELS = ("debug", "info", "warning", "error")
LOG_FORMATS = ("text", "json")


@dataclass(frozen=True, slots=True)
class BrokerConfig:
    """All settings of one broker, checked. Raises `InvalidRequest` naming setting, value and what would be right.

    Where 0 stands for as much as other settings allow, the object holds the outcome.
    """

    data: Path = Path("sluicemq-data")
    """Directory of the log; made when it does not exist."""

    host: str = HOST_DEFAULT
    """Address to listen on, for clients and for other brokers."""

    port: int = PORT_DEFAULT
    """Port to listen on; 0 takes a free one, which the ready line names."""

    node_id: int = 1
    """Number of this broker within its cluster."""

    peers: Mapping[int, str] = field(default_factory=dict)
    """Listen address `HOST:PORT` of every voter by its node id; empty: a broker on its own, or what the log says. On
    empty directories they form a cluster; afterwards they only tell where to find it."""

    advertise: str = ""
    """`HOST:PORT` where the other brokers and clients reach this one, if it does not listen there: behind a network
    address translation, or in a container. Empty: what `peers` says of it, or else the listen address."""

    segment_bytes: int = 64 * MIB
    """Size of one file of the log. An entry takes half of it at most."""

    spares_max: int = 2
    """How many files of the log are kept ready in advance."""

    disk_free_bytes_min: int = 0
    """Publishing is refused while less of the disk is free; settlements, deletes and purges go on.
    0: two segments or 256 MiB, whichever is more, but at most a tenth of the disk."""

    cache_bytes_max: int = 64 * MIB
    """Recent entries kept in memory, so that delivering them reads no file."""

    index_memory_bytes_max: int = 64 * MIB
    """Memory for the indexes of long queues; the rest of them lies in the file `pages`."""

    snapshot_every_bytes: int = 64 * MIB
    """The state is written down after so many bytes of log, and a start reads no more of the log than about that; later
    where a snapshot is large: the log grows by four times its size first."""

    snapshot_every_entries: int = 250_000
    """Or after so many entries of the log."""

    reclaim_bytes_per_second_max: int = 256 * MIB
    """So many bytes a second are read and written at most, about, to give back what is dead in old files of the log;
    half of it while one segment waits. More than is published, or the disk fills."""

    history_retention_seconds: float = 0.0
    """What is settled is kept so long in the log, so that `explain` can tell of it: 86400 for a day. It takes as much
    disk as was published since, and is the first thing that goes when the disk fills. 0: no matter how old, where
    `history_bytes_max` is set; else nothing is kept but what the last two snapshots need."""

    history_bytes_max: int = 0
    """At most so many bytes of settled log are kept, in whole files. 0: any number, within that time."""

    scrub_bytes_per_second: int = MIB
    """So many bytes a second are read at most to find what rots on the disk before it is needed: pages, snapshots, the
    log and what is left of it. One pass every six hours, or as long as it takes. 0: never."""

    connections_max: int = 10_000
    """Most connections at once."""

    frame_bytes_max: int = FRAME_BYTES_DEFAULT
    """Largest frame that a client may send or ask for."""

    batch_bytes_max: int = 0
    """Largest batch, 16 MiB at most; beyond the default, one batch may keep all clients waiting for over 20 ms.
    0: 4 MiB, or what fits into half a segment where that is less."""

    message_bytes_max: int = 0
    """Largest body of one message, 8 MiB at most. 0: 64 KiB less than `batch_bytes_max`, which is room for key and
    headers (a sixteenth less where that is less still)."""

    batch_messages_max: int = BATCH_MESSAGES_MAX
    """Most messages in one batch."""

    heartbeat_seconds: float = 10.0
    """A connection that was silent for so long is asked for a sign of life, and closed after twice that time."""

    session_grace_seconds: float = 10.0
    """How long a session is kept, with the leases of its consumers, when its connection is lost: also after a restart
    and when another broker leads. Where the client's end closed the connection, as a killed process's does, 2 seconds
    at most. 0: not at all."""

    drain_seconds: float = 10.0
    """How long a stopping broker goes on confirming what it has accepted."""

    switch_interval_seconds: float = 0.0005
    """How long Python lets one thread run while another waits; smaller confirms sooner, larger wastes less."""

    log_level: str = "info"
    """Least level of what is logged: debug, info, warning or error."""

    log_format: str = "text"
    """How a line of the log looks: text or json."""

    def __post_init__(self) -> None:
        """Settle what depends on other settings, then check every value."""
        room = self.segment_bytes // 2 - ENTRY_HEAD_BYTES_MAX
        # 0 stands for "as much as the others allow", so that small segments need no second setting.
        if self.batch_bytes_max == 0:
            object.__setattr__(self, "batch_bytes_max", max(1, min(BATCH_BYTES_DEFAULT, room)))
        if self.message_bytes_max == 0:
            largest = self.batch_bytes_max - min(MESSAGE_ROOM_BYTES, self.batch_bytes_max // 16)
            object.__setattr__(self, "message_bytes_max", min(MESSAGE_BYTES_MAX, largest))
        object.__setattr__(self, "data", Path(self.data))
        self._check_place()
        self._check_sizes(room)
        for name, minimum, maximum in (
            ("history_retention_seconds", 0.0, HISTORY_SECONDS_MAX),
            ("heartbeat_seconds", 0.1, 3600.0),
            ("session_grace_seconds", 0.0, 3600.0),
            ("drain_seconds", 0.0, 3600.0),
            ("switch_interval_seconds", 0.00001, 1.0),
        ):
            value = getattr(self, name)
            if not math.isfinite(value) or not minimum <= value <= maximum:
                raise _invalid(name, value, f"must be {minimum:g} to {maximum:g} seconds")
        for name, choices in (("log_level", LOG_LEVELS), ("log_format", LOG_FORMATS)):
            if getattr(self, name) not in choices:
                raise _invalid(name, getattr(self, name), f"must be one of {', '.join(choices)}")

    def _check_place(self) -> None:
        if not self.host:
            raise _invalid("listen", self.host, "must name a host; 0.0.0.0 listens on every address")
        if not 0 <= self.port <= 65_535:
            raise _invalid("listen", self.port, "must have a port from 0 (any free one) to 65535")
        if not 1 <= self.node_id <= NODE_ID_MAX:
            raise _invalid("node_id", self.node_id, f"must be 1 to {NODE_ID_MAX}")
        self._check_peers()

    def _check_peers(self) -> None:
        at: dict[tuple[str, int], int] = {}
        for number, address in self.peers.items():
            if not 1 <= number <= NODE_ID_MAX:
                raise _invalid("peers", number, f"must hold node ids from 1 to {NODE_ID_MAX}")
            place = parse_address(address)
            if place[1] == 0:
                raise _invalid("peers", address, "must name real ports, not 0")
            if is_wildcard(place[0]):
                raise _invalid("peers", address, "must name hosts that others can reach; only listen may be a wildcard")
            if (other := at.setdefault(place, number)) != number:
                raise _invalid("peers", f"{other}={address},{number}={address}", "must give each node its own address")
        if self.peers and self.node_id not in self.peers:
            known = ", ".join(map(str, sorted(self.peers)))
            raise _invalid("peers", known, f"must hold this broker too, whose node_id is {self.node_id}")
        if self.advertise:
            host, port = parse_address(self.advertise)
            if not port or is_wildcard(host):
                raise _invalid("advertise", self.advertise, "must name a host and a port that others can reach")
        if self.peers:
            self._check_own_address(self.peers[self.node_id])

    @property
    def address(self) -> str:
        """`HOST:PORT` where others reach this broker; with the port 0 where that is known once it listens."""
        own = self.peers.get(self.node_id, "")
        return self.advertise or own or str(format_setting("listen", (self.host, self.port)))

    def _check_own_address(self, own: str) -> None:
        """Refuse a listen address that is not what the peers are told. A name and a number may mean the same host."""
        host, port = parse_address(own)
        if self.advertise:
            if (host, port) != parse_address(self.advertise):
                raise _invalid(
                    "peers",
                    f"{self.node_id}={own}",
                    f"must name this broker as it advertises, which is {self.advertise}",
                )
            return
        hosts_differ = host != self.host and not is_wildcard(self.host) and _is_literal(host) and _is_literal(self.host)
        if port != self.port or hosts_differ:
            listen = format_setting("listen", (self.host, self.port))
            raise _invalid("peers", f"{self.node_id}={own}", f"must name this broker as it listens, which is {listen}")

    def _check_sizes(self, room: int) -> None:
        if not SEGMENT_BYTES_MIN <= self.segment_bytes <= SEGMENT_BYTES_MAX or self.segment_bytes % SEGMENT_BYTES_STEP:
            raise _invalid("segment_bytes", self.segment_bytes, "must be 256 KiB to 1 GiB, a multiple of 4 KiB")
        for name, value, minimum, maximum in (
            ("spares_max", self.spares_max, 0, 64),
            ("disk_free_bytes_min", self.disk_free_bytes_min, 0, 1 << 50),
            ("cache_bytes_max", self.cache_bytes_max, MIB, 1 << 40),
            ("index_memory_bytes_max", self.index_memory_bytes_max, 4 * MIB, 1 << 40),
            ("snapshot_every_bytes", self.snapshot_every_bytes, KIB, 1 << 40),
            ("snapshot_every_entries", self.snapshot_every_entries, 1, 1 << 40),
            ("reclaim_bytes_per_second_max", self.reclaim_bytes_per_second_max, 64 * KIB, 1 << 40),
            ("history_bytes_max", self.history_bytes_max, 0, 1 << 50),
            ("scrub_bytes_per_second", self.scrub_bytes_per_second, 0, 1 << 40),
            ("connections_max", self.connections_max, 1, 1_000_000),
            ("batch_bytes_max", self.batch_bytes_max, 1024, min(BATCH_BYTES_MAX, room)),
            ("message_bytes_max", self.message_bytes_max, 1, min(MESSAGE_BYTES_MAX, self.batch_bytes_max)),
            ("batch_messages_max", self.batch_messages_max, 1, BATCH_MESSAGES_MAX),
            ("frame_bytes_max", self.frame_bytes_max, FRAME_BYTES_MIN, 1 << 30),
        ):
            if not minimum <= value <= maximum:
                raise _invalid(name, value, f"must be {minimum} to {maximum}, the other settings being as they are")
        if self.frame_bytes_max < self.batch_bytes_max + ENTRY_HEAD_BYTES_MAX:
            least = self.batch_bytes_max + ENTRY_HEAD_BYTES_MAX
            raise _invalid("frame_bytes_max", self.frame_bytes_max, f"must be {least} or more to hold batch_bytes_max")

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> BrokerConfig:
        """Return the configuration for *settings* by name (`listen` instead of host and port); the rest are defaults.

        Values may be parsed already or as they stand in a file or the environment.

        Raises:
            UnknownOption: No setting has that name; the text names the nearest one.
            InvalidRequest: A value is wrong.

        """
        check_names(settings)
        values = {name: parse_setting(name, value) for name, value in settings.items()}
        if "listen" in values:
            values["host"], values["port"] = values.pop("listen")
        return cls(**values)

    def settings(self) -> dict[str, Any]:
        """Return every setting by name, in the order of `SETTINGS`; the inverse of `from_settings`."""
        return {
            setting.name: (self.host, self.port) if setting.name == "listen" else getattr(self, setting.name)
            for setting in SETTINGS
        }


def _invalid(name: str, value: object, requirement: str) -> InvalidRequest:
    return InvalidRequest(f"setting {name} is {str(value)!r:.80}; it {requirement}", setting=name)


# --- how a value is read -------------------------------------------------------------------------------------------


def parse_address(text: str) -> tuple[str, int]:
    """Return (host, port) of `HOST:PORT`, `HOST` (port 7650) or `[IPV6]:PORT`.

    Raises:
        InvalidRequest: It is none of these.

    """
    match = re.fullmatch(
        r"(?:\[(?P<six>[0-9A-Fa-f:.%\w]+)\]|(?P<host>[^\[\]:\s]+))(?::(?P<port>[0-9]{1,5}))?", str(text)
    )
    if match is None or int(match["port"] or 0) > 65_535:
        raise InvalidRequest(f"{str(text)!r:.80} is no address; write HOST:PORT, for one {HOST_DEFAULT}:{PORT_DEFAULT}")
    return match["six"] or match["host"], PORT_DEFAULT if match["port"] is None else int(match["port"])


def _is_literal(host: str) -> bool:
    """Whether *host* is a number, not a name."""
    return ":" in host or re.fullmatch(r"[0-9.]+", host) is not None


def is_wildcard(host: str) -> bool:
    """Whether *host* stands for every address of a machine: one may listen there, and nobody can reach it."""
    return host in {"0.0.0.0", "::"}  # noqa: S104 - recognised, not chosen


_UNITS = {"": 1, "B": 1, "KIB": KIB, "MIB": MIB, "GIB": 1024 * MIB, "KB": 1000, "MB": 1000**2, "GB": 1000**3}


def parse_bytes(value: object) -> int:
    """Return a number of bytes from an integer or a text such as `65536`, `64KiB`, `1.5 MiB` or `10 MB`.

    Raises:
        InvalidRequest: It is neither.

    """
    if type(value) is int:
        return value
    match = re.fullmatch(r"([0-9]{1,19}(?:\.[0-9]{1,19})?)\s*([A-Za-z]*)", str(value).strip())
    if match is None or match[2].upper() not in _UNITS:
        raise InvalidRequest(f"{str(value)!r:.80} is no size; write 65536, 64KiB or 10MB")
    unit = _UNITS[match[2].upper()]
    return int(float(match[1]) * unit) if "." in match[1] else int(match[1]) * unit


def _parse_integer(value: object) -> int:
    if type(value) is int:
        return value
    # Not what int() takes: that reads the digits of every script, and underscores.
    if not re.fullmatch(r"[+-]?[0-9]{1,19}", str(value).strip()):
        raise InvalidRequest(f"{str(value)!r:.80} is no whole number; write it with the digits 0 to 9")
    return int(str(value))


def _parse_seconds(value: object) -> float:
    try:
        if not str(value).isascii() or "_" in str(value):
            raise ValueError
        seconds = float(str(value))
    except ValueError:
        raise InvalidRequest(f"{str(value)!r:.80} is no number of seconds") from None
    if isinstance(value, str) and not math.isfinite(seconds):
        # Said here, in the words that were given: "1e400" is an infinity by now.
        raise InvalidRequest(f"{value!r:.80} is no number of seconds")
    return seconds


def _parse_text(value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    raise InvalidRequest(f"{str(value)!r:.80} is no text")


def _parse_path(value: object) -> Path:
    if isinstance(value, (str, Path)) and str(value).strip():
        return Path(value).expanduser()
    raise InvalidRequest(f"{str(value)!r:.80} is no path")


def _parse_listen(value: object) -> tuple[str, int]:
    if isinstance(value, tuple):
        return value
    return parse_address(_parse_text(value))


def _parse_address_text(value: object) -> str:
    """Read an address that may be empty, and write it in full."""
    text = _parse_text(value)
    return str(format_setting("listen", parse_address(text))) if text else ""


def _parse_peers(value: object) -> dict[int, str]:
    """Read `1=HOST:PORT,2=HOST:PORT`, or a table of node id and address."""
    if isinstance(value, str):
        pairs = [tuple(part.strip().partition("=")[::2]) for part in value.split(",") if part.strip()]
    elif isinstance(value, Mapping):
        pairs = [(str(number), str(address)) for number, address in value.items()]
    else:
        raise InvalidRequest(f"{str(value)!r:.80} names no peers; write 1=HOST:PORT,2=HOST:PORT")
    if not pairs and isinstance(value, str):
        # Whoever means a broker on its own leaves the setting out; this is a variable that was not filled in.
        raise InvalidRequest(f"{value!r:.80} names no peers; write 1=HOST:PORT,2=HOST:PORT, or leave it out")
    peers: dict[int, str] = {}
    for number, address in pairs:
        if not re.fullmatch(r"[0-9]{1,9}", number) or not address:
            raise InvalidRequest(f"{number + '=' + address!r:.80} names no peer; write 1=HOST:PORT,2=HOST:PORT")
        if int(number) in peers:
            raise InvalidRequest(f"peer {number} is named twice")
        parse_address(address)
        peers[int(number)] = address
    return peers


class Setting(NamedTuple):
    """One thing that can be set.

    Attributes:
        name: Name in Python and in the file.
        parse: Turns what stands in a file, a variable or a flag into the value; raises `InvalidRequest`.
        shape: What the help shows in the place of the value.
        help: One sentence.

    """

    name: str
    parse: Callable[[object], Any]
    shape: str
    help: str

    @property
    def variable(self) -> str:
        """Name in the environment."""
        return ENVIRONMENT_PREFIX + self.name.upper()

    @property
    def flag(self) -> str:
        """Name on the command line."""
        return "--" + self.name.replace("_", "-")


SETTINGS = (
    Setting("data", _parse_path, "DIR", "Directory of the log; made when it does not exist."),
    Setting("listen", _parse_listen, "HOST:PORT", "Where to listen; port 0 takes a free one."),
    Setting("node_id", _parse_integer, "N", "Number of this broker within its cluster."),
    Setting(
        "peers",
        _parse_peers,
        "N=HOST:PORT,...",
        "Listen address of every broker that forms the cluster, this one among them.",
    ),
    Setting("advertise", _parse_address_text, "HOST:PORT", "Where others reach this broker, if not where it listens."),
    Setting("segment_bytes", parse_bytes, "SIZE", "Size of one file of the log."),
    Setting("spares_max", _parse_integer, "N", "How many files of the log are kept ready in advance."),
    Setting("disk_free_bytes_min", parse_bytes, "SIZE", "Publishing is refused while less of the disk is free."),
    Setting("cache_bytes_max", parse_bytes, "SIZE", "Recent entries kept in memory for delivery."),
    Setting("index_memory_bytes_max", parse_bytes, "SIZE", "Memory for the indexes of long queues."),
    Setting("snapshot_every_bytes", parse_bytes, "SIZE", "Bytes of log between two snapshots of the state."),
    Setting("snapshot_every_entries", _parse_integer, "N", "Or entries of the log, whichever comes first."),
    Setting("reclaim_bytes_per_second_max", parse_bytes, "SIZE", "Bytes a second to give dead parts of the disk back."),
    Setting("history_retention_seconds", _parse_seconds, "S", "How long settled entries are kept for `explain`."),
    Setting("history_bytes_max", parse_bytes, "SIZE", "Most bytes of them. 0: any number within that time."),
    Setting("scrub_bytes_per_second", parse_bytes, "SIZE", "Bytes a second read to find what rots. 0: never."),
    Setting("connections_max", _parse_integer, "N", "Most connections at once."),
    Setting("frame_bytes_max", parse_bytes, "SIZE", "Largest frame on a connection."),
    Setting("batch_bytes_max", parse_bytes, "SIZE", "Largest batch; at most half a segment, and 16 MiB."),
    Setting("message_bytes_max", parse_bytes, "SIZE", "Largest body of one message; at most 8 MiB."),
    Setting("batch_messages_max", _parse_integer, "N", "Most messages in one batch."),
    Setting("heartbeat_seconds", _parse_seconds, "S", "Silence after which a peer is asked for a sign of life."),
    Setting("session_grace_seconds", _parse_seconds, "S", "How long a client that lost its connection may come back."),
    Setting("drain_seconds", _parse_seconds, "S", "How long a stopping broker finishes what it has accepted."),
    Setting("switch_interval_seconds", _parse_seconds, "S", "How long one thread runs while another waits."),
    Setting("log_level", _parse_text, "LEVEL", "Least level that is logged: debug, info, warning, error."),
    Setting("log_format", _parse_text, "FORMAT", "How a line of the log looks: text or json."),
)
"""Every setting, in the order in which help and `sluicemq config` show them."""

_SETTING_BY_NAME = {setting.name: setting for setting in SETTINGS}


def parse_setting(name: str, value: object) -> Any:
    """Return *value* as setting *name* wants it; raises `InvalidRequest`."""
    if isinstance(value, bool):
        raise _invalid(name, value, "must not be true or false")
    try:
        return _SETTING_BY_NAME[name].parse(value)
    except InvalidRequest as error:
        raise InvalidRequest(f"setting {name}: {error}", setting=name) from None


def format_setting(name: str, value: Any) -> str:
    """Return *value* as a reader writes it; `parse_setting` reads it back."""
    if name == "listen":
        host, port = value
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    if name == "peers":
        return ",".join(f"{number}={address}" for number, address in sorted(value.items()))
    if "_bytes" in name:
        for unit, size in (("GiB", 1024 * MIB), ("MiB", MIB), ("KiB", KIB)):
            if value >= size and value % size == 0:
                return f"{value // size} {unit}"
        return str(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


# --- where values come from ----------------------------------------------------------------------------------------


def nearest(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean X?" for the known name that looks most like *name*, or nothing."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def check_names(names: Iterable[str], where: str = "") -> None:
    """Refuse names that no setting has.

    Raises:
        UnknownOption: With the nearest right name.

    """
    for name in names:
        if name not in _SETTING_BY_NAME:
            hint = nearest(str(name), _SETTING_BY_NAME)
            if not hint:
                hint = f"; known are: {', '.join(_SETTING_BY_NAME)}"
            raise UnknownOption(f"{where}there is no setting {str(name)!r:.80}{hint}", setting=str(name)[:80])


def read_settings_file(path: Path) -> dict[str, Any]:
    """Return the settings of a TOML file, parsed and checked one by one.

    Raises:
        InvalidRequest: The file cannot be read, is no TOML, or holds a wrong value.
        UnknownOption: It holds a setting that does not exist.

    """
    # Imported here: 12 ms that a broker without a file need not spend.
    import tomllib

    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise InvalidRequest(f"settings file {path}: {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"settings file {path} is no TOML: {error}") from None
    check_names(found, f"settings file {path}: ")
    try:
        return {name: parse_setting(name, value) for name, value in found.items()}
    except InvalidRequest as error:
        raise InvalidRequest(f"settings file {path}: {error}", **error.fields) from None


# Kubernetes sets the first four for every pod beside a service called "sluicemq", unasked; the last are for our tests.
_FOREIGN = re.compile(r"SLUICEMQ_(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_(TCP|UDP)\w*|TESTS_\w+)")
_OTHER_VARIABLES = ("SLUICEMQ_CONFIG", "SLUICEMQ_URL")


def check_environment(environment: Iterable[str]) -> None:
    """Refuse variables that look like settings but are none.

    Args:
        environment: Names of all variables.

    Raises:
        UnknownOption: With the nearest right name.

    """
    known = [setting.variable for setting in SETTINGS] + list(_OTHER_VARIABLES)
    for name in sorted(environment):
        if name.startswith(ENVIRONMENT_PREFIX) and name not in known and not _FOREIGN.fullmatch(name):
            hint = nearest(name, known)
            raise UnknownOption(f"the environment holds {name}, but there is no such setting{hint}", variable=name)
