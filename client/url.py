"""What a URL of ours says: `sluicemq://[user:password@]host:port[,host:port...][/vhost]`. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import unquote

from sluicemq.client.errors import InvalidRequest
from sluicemq.wire.messages import NAME_BYTES_MAX

SCHEME = "sluicemq://"
PORT_DEFAULT = 7650
ADDRESSES_MAX = 100

Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """Where to connect, as whom, and to which virtual host.

    Attributes:
        addresses: (host, port) pairs in the order in which they are tried, beside each other.
        user: Name for mechanism PLAIN, or None for ANONYMOUS.
        password: Its password; never shown by repr.
        vhost: Virtual host; "/" by default.

    """

    addresses: tuple[Address, ...]
    user: str | None = None
    password: str = field(default="", repr=False)
    vhost: str = "/"


def parse_url(url: str) -> BrokerUrl:
    """Return what *url* says.

    Percent signs escape in user, password and vhost. A host without port gets 7650; IPv6 hosts stand in brackets.

    Raises:
        InvalidRequest: It is no URL of ours; the text says what is wrong, without the password.

    """
    if not isinstance(url, str):
        raise TypeError(f"a URL must be str, not {type(url).__name__}")
    if not url.startswith(SCHEME):
        raise InvalidRequest(f"a URL must begin with {SCHEME}, for example sluicemq://127.0.0.1:{PORT_DEFAULT}")
    rest = url[len(SCHEME) :]
    authority, slash, path = rest.partition("/")
    if "?" in path or "#" in path or "?" in authority or "#" in authority:
        raise InvalidRequest("a URL takes no query and no fragment: pass options to connect()")
    vhost = _unescaped(path, "virtual host") if slash and path else "/"
    if len(vhost.encode()) > NAME_BYTES_MAX:
        raise InvalidRequest(f"the virtual host has more than {NAME_BYTES_MAX} bytes")
    credentials, at, hosts = authority.rpartition("@")
    user, password = None, ""
    if at:
        raw_user, _, raw_password = credentials.partition(":")
        user, password = _unescaped(raw_user, "user"), _unescaped(raw_password, "password")
        if not user or "\0" in user or "\0" in password:
            raise InvalidRequest("the URL's user is empty, or user or password holds a zero character")
    addresses = tuple(dict.fromkeys(parse_address(part) for part in hosts.split(",")))
    if len(addresses) > ADDRESSES_MAX:
        raise InvalidRequest(f"the URL names {len(addresses)} addresses; allowed are {ADDRESSES_MAX}")
    return BrokerUrl(addresses, user, password, vhost)


def show_address(address: Address) -> str:
    """Return HOST:PORT, with brackets around an IPv6 host."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def parse_address(part: str) -> Address:
    """Return the HOST[:PORT] or [IPV6][:PORT] that *part* is.

    Raises:
        InvalidRequest: It is none.

    """
    if part.startswith("["):
        host, bracket, rest = part[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")):
            raise InvalidRequest(f"{part!r:.80} in the URL is no address: write [IPV6]:PORT")
        port_text = rest[1:] if rest else ""
        has_port = bool(rest)
    else:
        host, colon, port_text = part.partition(":")
        has_port = bool(colon)
    if not host or any(character.isspace() for character in host):
        raise InvalidRequest(f"the URL has an empty or broken host in {part!r:.80}: write HOST:PORT[,HOST:PORT...]")
    if not has_port:
        return host, PORT_DEFAULT
    if not (port_text.isascii() and port_text.isdigit() and len(port_text) <= 5) or not 0 < int(port_text) < 65536:
        raise InvalidRequest(f"{port_text!r:.20} is no port; in the URL's address {part!r:.80}")
    return host, int(port_text)


def _unescaped(text: str, what: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise InvalidRequest(f"the {what} in the URL is no valid UTF-8 behind its percent signs") from None
