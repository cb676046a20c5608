"""The kinds of values that the configuration has: what a person has to write, and how it is read. Pure."""

import ipaddress
import re
from collections.abc import Callable
from typing import Generic, TypeVar, cast

import attrs

from meshd.components import LOG_COMPONENTS, LOG_LEVELS, is_log_component
from meshd.ids import NodeId, parse_node_id

DEFAULT_PORT = 7843
RELAY_PORT = 443

_T = TypeVar("_T")

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(k|M|G|Ki|Mi|Gi|Ti)?B", re.ASCII)
_SIZE_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(ms|s|m|h|d|w)", re.ASCII)
_DURATION_UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_PLACE = re.compile(r"(?:\[([^][]+)]|([^][:]+))(?::([0-9]{1,5}))?", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})", re.ASCII)
_RELAY_URL = re.compile(r"(wss|quic)://([^/?#@\s]+)/?", re.ASCII)
_WEBHOOK_URL = re.compile(r"(?:https?://[^/?#@\s]+(?:[/?][^#\s]*)?)?", re.ASCII)
_LOOPBACK = re.compile(r"(?:127(?:\.[0-9]+){3}|\[::1]):[0-9]+", re.ASCII)
_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)


@attrs.frozen
class Endpoint:
    """An IP literal and a port to listen on; port 0 is any free one."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@attrs.frozen
class StaticPeer:
    """A place where a device can be found. ``node`` is None when the entry does not say which device."""

    host: str
    port: int
    node: NodeId | None = None


@attrs.frozen
class Kind(Generic[_T]):
    """A kind of value.

    Args:
        expected: what a person has to write, as the end of "expected ...".
        read: from the TOML value to the typed one. Raises ValueError.
        from_text: from an environment variable to the TOML value. Raises ValueError or KeyError.
        is_secret: never shown, not even when it is wrong.
    """

    expected: str
    read: Callable[[object], _T]
    from_text: Callable[[str], object] = str
    is_secret: bool = False

    def read_text(self, text: str) -> _T:
        """The typed value of an environment variable. Raises ValueError or KeyError."""
        return self.read(self.from_text(text))


def parse_size(value: object) -> int:
    """Bytes of ``"512MiB"``, ``"1GB"``, ``"100B"``. Raises ValueError."""
    match = _SIZE.fullmatch(_only(str, value))
    if match is None:
        raise ValueError("not a size")
    return int(float(match[1]) * _SIZE_UNITS[match[2] or ""])


def parse_duration(value: object) -> float:
    """Seconds of ``"250ms"``, ``"10m"``, ``"7d"``. Raises ValueError on anything else, zero too."""
    match = _DURATION.fullmatch(_only(str, value))
    if match is None or not float(match[1]):
        raise ValueError("not a duration")
    return float(match[1]) * _DURATION_UNITS[match[2]]


def parse_endpoint(value: object) -> Endpoint:
    """Read ``"[::]:7843"`` or ``"192.168.1.2:0"``. Raises ValueError."""
    host, port = _split_port(value, None)
    ipaddress.ip_address(host)
    return Endpoint(host, port)


def parse_static_peer(value: object) -> StaticPeer:
    """Read ``"[ID@]HOST[:PORT]"``; an IPv6 literal stands in brackets. Raises ValueError."""
    node, at, place = _only(str, value).rpartition("@")
    host, port = _split_port(place, DEFAULT_PORT)
    if port == 0:
        raise ValueError("port 0 can't be dialed")
    if ":" in host:
        ipaddress.IPv6Address(host)
    elif _HOST_NAME.fullmatch(host) is None:
        raise ValueError("not a host")
    return StaticPeer(host, port, parse_node_id(node) if at else None)


def parse_relay_url(value: object) -> str:
    """Check ``"wss://host[:port]"`` or ``"quic://host[:port]"``. Raises ValueError."""
    url = _only(str, value)
    relay_place(url)
    return url


def relay_place(url: str) -> tuple[str, str, int]:
    """Transport, host and port of a relay's URL. Raises ValueError."""
    match = _RELAY_URL.fullmatch(url)
    if match is None:
        raise ValueError("not a relay's URL")
    host, port = _split_port(match[2], RELAY_PORT)
    if port == 0:
        raise ValueError("port 0 can't be dialed")
    if ":" in host:
        ipaddress.IPv6Address(host)
    elif _HOST_NAME.fullmatch(host) is None:
        raise ValueError("not a host")
    return {"wss": "websocket", "quic": "quic"}[match[1]], host, port


def _split_port(value: object, default: int | None) -> tuple[str, int]:
    match = _PLACE.fullmatch(_only(str, value))
    if match is None or (match[3] is None and default is None):
        raise ValueError("not host and port")
    port = cast(int, default) if match[3] is None else int(match[3])
    if port > 65_535 or (match[1] is not None and ":" not in match[1]):
        raise ValueError("not host and port")
    return match[1] or match[2], port


def _only(kind: type[_T], value: object) -> _T:
    if type(value) is not kind:
        raise ValueError(f"not {kind.__name__}")
    return value


def _at_least(least: int, value: int) -> int:
    if value < least:
        raise ValueError("too little")
    return value


def _matching(pattern: re.Pattern[str]) -> Callable[[object], str]:
    def read(value: object) -> str:
        if pattern.fullmatch(text := _only(str, value)) is None:
            raise ValueError(f"not {pattern.pattern}")
        return text

    return read


BOOLEAN: Kind[bool] = Kind(
    "true or false", lambda value: _only(bool, value), lambda text: {"true": True, "false": False}[text]
)
TEXT: Kind[str] = Kind("one line of text", _matching(re.compile(r"[^\x00-\x1f]*")))
SIZE: Kind[int] = Kind('a size such as "512MiB" or "1GiB"', parse_size)
QUOTA: Kind[int] = Kind(f"{SIZE.expected}, at least 1MiB", lambda value: _at_least(2**20, parse_size(value)))
"""Room for mail. One message of the largest kind takes a mebibyte."""
DURATION: Kind[float] = Kind('a duration such as "10m", "12h" or "7d"', parse_duration)
FILE_MODE: Kind[int] = Kind('a file mode such as "0660"', lambda value: int(_matching(_MODE)(value), 8))
LOOPBACK: Kind[Endpoint] = Kind(
    'a loopback address and port such as "127.0.0.1:7844"', lambda value: parse_endpoint(_matching(_LOOPBACK)(value))
)
ENDPOINT: Kind[Endpoint] = Kind('an IP address and port such as "[::]:7843" or "127.0.0.1:0"', parse_endpoint)
STATIC_PEER: Kind[StaticPeer] = Kind('"host", "host:port", "[IPv6]:port" or "ID@host:port"', parse_static_peer)
WEBHOOK_URL: Kind[str] = Kind('a URL such as "https://host/path", or ""', _matching(_WEBHOOK_URL), is_secret=True)
SECRET: Kind[str] = Kind("one line of text", TEXT.read, is_secret=True)
RELAY_URL: Kind[str] = Kind('a URL such as "wss://relay.example:443" or "quic://192.0.2.1:443"', parse_relay_url)


def integer(minimum: int, maximum: int) -> Kind[int]:
    """An integer within bounds."""

    def read(value: object) -> int:
        if not minimum <= (number := _only(int, value)) <= maximum:
            raise ValueError("out of bounds")
        return number

    return Kind(f"an integer {minimum} to {maximum}", read, int)


def choice(*words: str) -> Kind[str]:
    """One of ``words``."""

    def read(value: object) -> str:
        if (word := _only(str, value)) not in words:
            raise ValueError("not one of them")
        return word

    return Kind("one of " + ", ".join(f'"{word}"' for word in words), read)


def list_of(kind: Kind[_T], least: int = 0) -> Kind[tuple[_T, ...]]:
    """A list of at least so many; separated by commas in the environment."""

    def read(value: object) -> tuple[_T, ...]:
        items = tuple([kind.read(item) for item in _only(list, value)])
        if len(items) < least:
            raise ValueError("too few")
        return items

    def from_text(text: str) -> list[object]:
        return [kind.from_text(item.strip()) for item in text.split(",") if item.strip()]

    return Kind(f"a list{f' of at least {least}' if least else ''}, each item {kind.expected}", read, from_text)


def table_of(names: Kind[str], kind: Kind[_T]) -> Kind[tuple[tuple[str, _T], ...]]:
    """A table of names, as sorted pairs; ``name=value,name=value`` in the environment."""

    def read(value: object) -> tuple[tuple[str, _T], ...]:
        for name in _only(dict, value):
            names.read(name)
        return tuple(sorted((name, kind.read(item)) for name, item in _only(dict, value).items()))

    def from_text(text: str) -> dict[str, object]:
        pairs = [item.strip().partition("=") for item in text.split(",") if item.strip()]
        if not all(equals for _, equals, _ in pairs):
            raise ValueError("not name=value")
        return {name: kind.from_text(item) for name, _, item in pairs}

    return Kind(f"a table, each name {names.expected}; each value {kind.expected}", read, from_text)


LOG_LEVEL = choice(*LOG_LEVELS)


def _read_component(value: object) -> str:
    if not is_log_component(name := _only(str, value)):
        raise ValueError("no component")
    return name


LOG_COMPONENT: Kind[str] = Kind(
    f"a component ({', '.join(LOG_COMPONENTS)}), or a part of one, such as discovery.mdns", _read_component
)
