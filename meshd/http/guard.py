"""Who may ask for what: Host, Origin and tokens. Pure.

A web page of any site can make a browser on this machine send requests to a loopback port, and can give a
name of its own that port's address (DNS rebinding). The first shows in Origin or Sec-Fetch-Site, the second
in Host. Neither can reach a Unix socket; there Host may be anything, as a proxy in front of it may serve any name.
"""

import ipaddress
import re
from collections.abc import Callable, Mapping
from urllib.parse import urlsplit

import attrs

from meshd.errors import MeshdError

READER = "tcp"
"""The principal of whoever comes over TCP without a token."""

_HOST = re.compile(r"(?:\[([0-9A-Fa-f:.]+)]|([A-Za-z0-9.-]+))(?::([0-9]{1,5}))?")
_SAME_SITE = frozenset(("same-origin", "none"))
_SCHEME_PORTS = {"http": 80, "https": 443}


@attrs.frozen
class Caller:
    """The other end of a connection.

    Args:
        principal: who the kernel says it is, ``uid:1000``; None over TCP, where it can't tell.
    """

    principal: str | None


def admit(caller: Caller, headers: Mapping[str, str], *, safe: bool, name_of: Callable[[str], str | None]) -> str:
    """The principal that a request acts as.

    Args:
        headers: lower-case names.
        safe: it only looks.
        name_of: whose token that is; None for nobody's.

    Raises MeshdError: E_ORIGIN for a request of another site or to a foreign name; E_TOKEN when the
    token is wrong, or there is none and it takes one.
    """
    host = headers.get("host", "")
    if caller.principal is None and not is_loopback(host):
        raise MeshdError("E_ORIGIN", f"{host[:80]!r} is no name of this device.")
    site = headers.get("sec-fetch-site")
    if site is not None and site not in _SAME_SITE:
        raise MeshdError("E_ORIGIN", f"A {site[:20]} page asked.")
    origin = headers.get("origin")
    if origin is not None and not _is_same(origin, host):
        raise MeshdError("E_ORIGIN", f"A page of {origin[:80]!r} asked.")
    if caller.principal is not None:
        return caller.principal
    authorization = headers.get("authorization")
    if authorization is None:
        if safe:
            return READER
        raise MeshdError("E_TOKEN", "Over TCP this takes a token.")
    scheme, _, token = authorization.partition(" ")
    name = name_of(token.strip()) if scheme.lower() == "bearer" else None
    if name is None:  # a token that was revoked must show, also where none is needed
        raise MeshdError("E_TOKEN", "The token is not known here, or was revoked.")
    return f"token:{name}"


def is_loopback(host: str) -> bool:
    """Whether a Host header names this machine by ``localhost`` or a loopback address, with any port."""
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    if match[2] is not None and match[2].lower().rstrip(".") == "localhost":
        return True
    try:
        return ipaddress.ip_address(match[1] or match[2]).is_loopback
    except ValueError:
        return False


def _is_same(origin: str, host: str) -> bool:
    """Whether a page of ``origin`` was itself served under this Host."""
    try:
        parts = urlsplit(origin)
        default = _SCHEME_PORTS.get(parts.scheme)
        port = parts.port or default
        asked = urlsplit(f"{parts.scheme}://{host}")
        return default is not None and (parts.hostname, port) == (asked.hostname, asked.port or default)
    except ValueError:
        return False
