"""The one place that decides who may do what, and who a peer is.

Today every peer that reaches the port is `anonymous` and may do everything: bind the broker to loopback or a trusted
network. Users, permissions and TLS widen this module and no other.
"""

from __future__ import annotations

from sluicemq.wire.errors import AuthenticationFailed

MECHANISMS = ["ANONYMOUS"]


def authenticate(mechanism: str, response: bytes) -> str:
    """Return the identity that *response* proves by *mechanism*.

    Raises:
        AuthenticationFailed: The mechanism is not offered.

    """
    del response
    if mechanism not in MECHANISMS:
        raise AuthenticationFailed(
            f"mechanism {mechanism!r:.80} is not offered; this broker takes {', '.join(MECHANISMS)} "
            "(connect without user and password)",
            mechanism=mechanism,
        )
    return "anonymous"


def authorize(identity: str, action: str, resource: tuple[str, str, str]) -> None:
    """Return if *identity* may do *action* to *resource* (vhost, kind, name).

    Raises:
        NotAuthorized: It may not. Nobody is refused anything yet.

    """
    del identity, action, resource
