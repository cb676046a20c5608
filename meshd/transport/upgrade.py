"""The HTTP request and response that open a WebSocket (RFC 6455 section 4). Pure."""

import base64
import binascii
import hashlib
from collections.abc import Mapping

from meshd.transport.base import TransportError

MAX_HEAD_BYTES = 8 * 1024
"""No request or response is longer."""

END = b"\r\n\r\n"
"""Ends a head; what follows belongs to the WebSocket."""

KEY_BYTES = 16

_ACCEPT_SUFFIX = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"  # RFC 6455 section 1.3
_VERSION = "13"


class Refused(Exception):
    """The request can't be granted; ``response`` says so."""

    def __init__(self, response: bytes) -> None:
        super().__init__(response)
        self.response = response


def encode_request(host: str, path: str, key: bytes) -> bytes:
    """A client's request; ``key`` is KEY_BYTES random bytes."""
    return _encode(
        f"GET {path} HTTP/1.1",
        {
            "Host": host,
            "Upgrade": "websocket",
            "Connection": "Upgrade",
            "Sec-WebSocket-Key": base64.b64encode(key).decode(),
            "Sec-WebSocket-Version": _VERSION,
        },
    )


def answer_request(head: bytes, path: str) -> bytes:
    """The response that grants a request (its bytes, END included). Raises Refused."""
    try:
        line, headers = _decode(head)
        method, target, version = line.split(" ")
    except ValueError as error:
        raise Refused(_refusal("400 Bad Request")) from error
    if method != "GET" or version != "HTTP/1.1" or "host" not in headers:
        raise Refused(_refusal("400 Bad Request"))
    if target != path:
        raise Refused(_refusal("404 Not Found"))
    if headers.get("sec-websocket-version") != _VERSION:
        raise Refused(_refusal("426 Upgrade Required", {"Sec-WebSocket-Version": _VERSION}))
    key = headers.get("sec-websocket-key", "")
    if not _is_upgrade(headers) or not _is_key(key):
        raise Refused(_refusal("400 Bad Request"))
    granted = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Accept": _accept(key.encode())}
    return _encode("HTTP/1.1 101 Switching Protocols", granted)


def check_response(head: bytes, key: bytes) -> None:
    """Raise TransportError unless ``head`` (END included) grants the request with this key."""
    try:
        line, headers = _decode(head)
    except ValueError as error:
        raise TransportError("the other side does not speak this protocol") from error
    version, _, status = line.partition(" ")
    accept = _accept(base64.b64encode(key))
    if (
        version != "HTTP/1.1"
        or not status.startswith("101")
        or not _is_upgrade(headers)
        or headers.get("sec-websocket-accept") != accept
        or "sec-websocket-extensions" in headers
        or "sec-websocket-protocol" in headers
    ):
        raise TransportError("the other side ended the WebSocket handshake")


def _encode(line: str, headers: Mapping[str, str]) -> bytes:
    return "\r\n".join([line, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode("ascii")


def _refusal(status: str, headers: Mapping[str, str] | None = None) -> bytes:
    return _encode(f"HTTP/1.1 {status}", {**(headers or {}), "Connection": "close", "Content-Length": "0"})


def _decode(head: bytes) -> tuple[str, dict[str, str]]:
    """The first line, and the headers by lower-case name. Raises ValueError."""
    line, *fields = head.removesuffix(END).decode("ascii").split("\r\n")
    headers: dict[str, str] = {}
    for field in fields:
        name, colon, value = field.partition(":")
        if not colon or not name or name != name.strip():
            raise ValueError("not a header")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return line, headers


def _is_upgrade(headers: Mapping[str, str]) -> bool:
    def words(name: str) -> list[str]:
        return [word.strip().lower() for word in headers.get(name, "").split(",")]

    return "websocket" in words("upgrade") and "upgrade" in words("connection")


def _is_key(text: str) -> bool:
    try:
        return len(base64.b64decode(text, validate=True)) == KEY_BYTES
    except binascii.Error:
        return False


def _accept(key: bytes) -> str:
    return base64.b64encode(hashlib.sha1(key + _ACCEPT_SUFFIX, usedforsecurity=False).digest()).decode()
