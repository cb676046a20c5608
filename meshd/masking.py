"""Keeping secrets out of logs: what a value may look like, and what a line is searched for. Pure."""

import re
from collections.abc import Mapping, MutableMapping
from typing import Any

MASK = "***"
TEXT_MAX = 1000
"""Characters of one value; longer ones are cut."""

_ITEMS_MAX = 64
_SECRET_FIELDS = frozenset(
    ("body", "key", "password", "payload", "private_key", "recovery", "secret", "token", "words")
)
"""Fields that never hold what may be read, whatever is in them."""

_PATTERNS = (
    re.compile(r"meshd[0-9]-[a-z2-7]{24,}", re.IGNORECASE),  # invitation codes
    re.compile(r"meshd_[a-z2-7]{24,}", re.IGNORECASE),  # tokens of the HTTP gateway
    re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|$)", re.DOTALL),
    re.compile(r"(?<=Bearer )[^\s\"',}]+"),
)
_BYTES = re.compile(r"""(?<![A-Za-z0-9_])b(?:'(?:[^'\\]|\\.)+(?:'|$)|"(?:[^"\\]|\\.)+(?:"|$))""", re.DOTALL)
"""Bytes as Python shows them, in the text of an exception: what they are is not known here."""

_known: set[str] = set()


def hide(secret: str) -> None:
    """From now on this text appears in no log line. For secrets that have no form of their own."""
    if secret:
        _known.add(secret)


def scrub(line: str) -> str:
    """``line`` without what looks like a secret, or is known to be one."""
    for pattern in _PATTERNS:
        line = pattern.sub(MASK, line)
    for secret in _known:
        line = line.replace(secret, MASK)
    return line


def plain_event(logger: Any, method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """A processor that leaves plain, short values: no bytes, and no objects that would show what is in them."""
    for name, value in event.items():
        if name in _SECRET_FIELDS:
            event[name] = MASK
        elif name == "exception":
            event[name] = _BYTES.sub(MASK, str(value))
        else:
            event[name] = _plain(value)
    return event


def _plain(value: object) -> object:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, str):
        value = _BYTES.sub(MASK, value)
        return value if len(value) <= TEXT_MAX else f"{value[:TEXT_MAX]}... ({len(value)} characters)"
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, Mapping):
        items = list(value.items())[:_ITEMS_MAX]
        return {str(name): MASK if name in _SECRET_FIELDS else _plain(item) for name, item in items}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in list(value)[:_ITEMS_MAX]]
    return f"<{type(value).__name__}>"
