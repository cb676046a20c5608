"""A place in a mailbox: what was read so far, at each priority. Pure."""

import re
from collections.abc import Mapping

from meshd.errors import MeshdError

Place = tuple[int, int]
"""(priority, offset) of one message."""

_TEXT = re.compile(r"[0-3]\.[0-9]{1,19}(?:-[0-3]\.[0-9]{1,19}){0,3}")


def format_position(position: Mapping[int, int]) -> str:
    """``"1.12-2.7"``: up to offset 12 at priority 1, and 7 at priority 2; empty when nothing was read."""
    return "-".join(f"{priority}.{offset}" for priority, offset in sorted(position.items()))


def parse_position(text: str) -> dict[int, int]:
    """Inverse of :func:`format_position`. Raises MeshdError(E_USAGE)."""
    if not text:
        return {}
    if _TEXT.fullmatch(text) is None:
        raise MeshdError("E_USAGE", f"{text[:40]!r} is no position.", "Give it as it came with the messages.")
    pairs = [item.split(".") for item in text.split("-")]
    return {int(priority): int(offset) for priority, offset in pairs}
