"""Numbers as people read them, and spans of time as people write them. Pure."""

import math
import re

_SPAN = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|[smhdw]))+")
_SPAN_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[smhdw])")
_UNIT_MS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 604_800_000}
_MAX_SPAN_MS = 10 * 365 * 86_400_000

_AGES = ((86_400, "d"), (3600, "h"), (60, "min"))


def parse_span(text: str) -> int:
    """Milliseconds in ``90s``, ``10m``, ``1h30m``, ``7d``, ``2w``, ``500ms``. Raises ValueError."""
    if not _SPAN.fullmatch(text):
        raise ValueError(f"{text!r} is not a span of time; write for example 90s, 10m, 1h30m or 7d")
    total_ms = sum(float(number) * _UNIT_MS[unit] for number, unit in _SPAN_PART.findall(text))
    if not 1 <= total_ms <= _MAX_SPAN_MS:
        raise ValueError(f"{text!r} is out of range; a span is between 1ms and ten years")
    return round(total_ms)


def milliseconds(value: float | None) -> str:
    """``3.2 ms``; seconds from one second on; a dash for unknown."""
    if value is None:
        return "-"
    if value >= 1000:
        return f"{value / 1000:.1f} s"
    return f"{value:.1f} ms" if value < 100 else f"{value:.0f} ms"


def size(count: int) -> str:
    """``12.4 KiB``; whole bytes below 1 KiB."""
    if count < 1024:
        return f"{count} B"
    power = min(int(math.log2(count) // 10), 4)
    scaled = count / 1024**power
    return f"{scaled:.1f} {('KiB', 'MiB', 'GiB', 'TiB')[power - 1]}"


def age(seconds: float | None) -> str:
    """``3 min``: the largest whole unit, tenths below ten seconds; a dash for unknown."""
    if seconds is None:
        return "-"
    for unit_s, name in _AGES:
        if seconds >= unit_s:
            return f"{int(seconds // unit_s)} {name}"
    return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"


def span(seconds: float) -> str:
    """``1 h 30 min``: the two largest units, for a time that somebody asked for."""
    for (unit_s, name), (next_s, next_name) in zip(_AGES, (*_AGES[1:], (1, "s")), strict=True):
        if seconds >= unit_s:
            rest = int(seconds % unit_s // next_s)
            return f"{int(seconds // unit_s)} {name}" + (f" {rest} {next_name}" if rest else "")
    return f"{seconds:g} s"


def percent(fraction: float | None) -> str:
    """``0.4 %`` of a fraction 0..1; a dash for unknown."""
    if fraction is None:
        return "-"
    value = 100 * fraction
    return f"{value:.1f} %" if 0 < value < 10 else f"{value:.0f} %"


def count(number: int, noun: str) -> str:
    """``1 message``, ``2 messages``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
