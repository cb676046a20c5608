"""From a value or an error to what goes over the wire: JSON, its status, ETag and compression. Pure."""

import gzip
import hashlib
import json
from collections.abc import Mapping
from typing import Any

import attrs

from meshd.errors import CATALOGUE, MeshdError

COMPRESS_FROM_BYTES = 1400
"""About one packet: below it, compressing saves nothing."""

_COMPRESS_UP_TO_BYTES = 512 * 1024
"""Beyond it, compressing would hold up the node for milliseconds."""

_LEVEL = 1
_NO_STATUS = 500

STATUS: Mapping[str, int] = {
    "E_USAGE": 400,
    "E_TOKEN": 401,
    "E_ORIGIN": 403,
    "E_NOT_ADMIN": 403,
    "E_PERMISSION": 403,
    "E_UNKNOWN_DEVICE": 404,
    "E_UNKNOWN_MESSAGE": 404,
    "E_UNSUPPORTED": 404,
    "E_AMBIGUOUS_DEVICE": 409,
    "E_LEASED": 409,
    "E_NO_LEASE": 409,
    "E_NO_MESH": 409,
    "E_REMOVED_DEVICE": 409,
    "E_EXPIRED": 410,
    "E_GONE": 410,
    "E_TOO_LARGE": 413,
    "E_REFUSED": 422,
    "E_INTERNAL": 500,
    "E_STATE_DIR": 500,
    "E_BUSY": 503,
    "E_STOPPING": 503,
    "E_UNREACHABLE": 503,
    "E_TIMEOUT": 504,
    "E_FULL": 507,
}
"""HTTP status by error code (RFC 9110; 507 of RFC 4918)."""

_RETRY_AFTER_S = {"E_BUSY": 1, "E_STOPPING": 5, "E_UNREACHABLE": 5, "E_FULL": 5}

_COMMON = {"cache-control": "no-store", "x-content-type-options": "nosniff", "vary": "accept-encoding"}


@attrs.frozen
class Answer:
    """One whole answer."""

    status: int
    headers: dict[str, str]
    body: bytes


def document(value: Any, *, status: int = 200) -> Answer:
    """A JSON document."""
    body = json.dumps(value, ensure_ascii=False, separators=(",", ":"), default=_plain).encode()
    return Answer(status, {"content-type": "application/json", **_COMMON}, body + b"\n")


def text(body: str, content_type: str) -> Answer:
    """Plain text of some kind."""
    return Answer(200, {"content-type": content_type, **_COMMON}, body.encode())


def _plain(value: object) -> str:
    if isinstance(value, bytes):
        return value.hex()
    raise TypeError(f"{type(value).__name__} is no JSON")


def failure(error: MeshdError, *, status: int | None = None) -> Answer:
    """An error, as ``meshctl --json`` shows it.

    Args:
        status: instead of the one that belongs to the error's code.
    """
    code = error.code if error.code in CATALOGUE else "E_INTERNAL"
    answer = document({"error": {"code": error.code, "message": error.message, "hint": error.hint}})
    headers = dict(answer.headers)
    if code in _RETRY_AFTER_S:
        headers["retry-after"] = str(_RETRY_AFTER_S[code])
    if code == "E_TOKEN":
        headers["www-authenticate"] = 'Bearer realm="meshd"'
    return Answer(status or STATUS.get(code, _NO_STATUS), headers, answer.body)


def fitted(answer: Answer, request_headers: Mapping[str, str]) -> Answer:
    """The answer to a GET as this client wants it: nothing when it has it already, compressed when that helps.

    The tag is weak: it stands for the document, compressed or not (RFC 9110 section 8.8.3).
    """
    if answer.status != 200:
        return answer
    tag = f'W/"{hashlib.blake2b(answer.body, digest_size=12).hexdigest()}"'
    headers = answer.headers | {"etag": tag, "cache-control": "no-cache"}
    if _names(request_headers.get("if-none-match", ""), tag):
        return Answer(304, {name: headers[name] for name in ("etag", "cache-control", "vary")}, b"")
    if COMPRESS_FROM_BYTES <= len(answer.body) <= _COMPRESS_UP_TO_BYTES and accepts_gzip(request_headers):
        body = gzip.compress(answer.body, _LEVEL, mtime=0)
        return Answer(200, headers | {"content-encoding": "gzip"}, body)
    return Answer(200, headers, answer.body)


def _names(condition: str, tag: str) -> bool:
    wanted = tag.removeprefix("W/")
    return any(item.strip().removeprefix("W/") in (wanted, "*") for item in condition.split(","))


def accepts_gzip(headers: Mapping[str, str]) -> bool:
    """Whether Accept-Encoding takes gzip (RFC 9110 section 12.5.3)."""
    for item in headers.get("accept-encoding", "").split(","):
        coding, _, weight = item.partition(";")
        if coding.strip().lower() == "gzip":
            return weight.replace(" ", "").lower() not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return False
