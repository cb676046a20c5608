"""Where answers go: JSON documents for scripts, aligned and coloured text for people.

Text from other devices (names, errors, payloads) passes :func:`printable`, so that no peer can
write escape sequences to somebody's terminal.
"""

import contextlib
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence

import click

from meshd.errors import MeshdError

# Control characters but newline and tab, lone surrogates, and what reverses the direction of text.
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


_LEAST_ROOM = 20
"""Columns; in less, wrapped text is worse to read than what the terminal makes of it."""


def printable(text: str) -> str:
    """``text`` with control characters (except newline and tab) shown as escapes."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def on_terminal() -> bool:
    """Whether standard output is a terminal."""
    return sys.stdout.isatty()


def coloured(*, to_stderr: bool = False) -> bool:
    """Whether colour is welcome: on a terminal, unless NO_COLOR is set or the terminal is dumb."""
    stream = sys.stderr if to_stderr else sys.stdout
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, colour: str | None = None, *, bold: bool = False, dim: bool = False) -> str:
    """``text`` in this style, or plain where colour is not welcome."""
    if not coloured() or not (colour or bold or dim):
        return text
    return click.style(text, fg=colour, bold=bold or None, dim=dim or None)


def line(text: str = "") -> None:
    """Print one line of text and let it out at once.

    Raises BrokenPipeError when nobody reads any more, MeshdError when it can't be written.
    """
    _write(text, colour=coloured())


def _write(text: str, *, colour: bool) -> None:
    with written():
        click.echo(text, color=colour)


@contextlib.contextmanager
def written() -> Iterator[None]:
    """What is done inside does nothing but print. Raises as :func:`line`."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        drop_output()
        reason = error.strerror or str(error)
        raise MeshdError("E_OUTPUT", f"Can't write the output: {reason}.") from error


def drop_output() -> None:
    """Keep what is still buffered from failing again while the interpreter closes standard output."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def hint(text: str) -> None:
    """Print what to do next, in the background colour."""
    line(paint(text, dim=True))


def document(value: object) -> None:
    """Print ``value`` as one JSON document on one line; bytes as hexadecimal text. Raises as :func:`line`."""
    _write(json.dumps(value, default=_plain), colour=False)


def _plain(value: object) -> object:
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    return str(value)


def wrapped(text: str, indent: int) -> str:
    """``text`` in lines that fit beside ``indent`` columns of a terminal, all but the first indented; else as it is."""
    room = _columns() - indent
    if len(text) <= room or room < _LEAST_ROOM:
        return text
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return ("\n" + " " * indent).join(lines)


def _columns() -> int:
    return shutil.get_terminal_size().columns if on_terminal() else sys.maxsize


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[str]],
    colours: Sequence[str | None] = (),
    spare: Sequence[str] = (),
) -> None:
    """Print aligned columns; a column without any content is left out. The last is wrapped on a narrow terminal.

    Args:
        headings: one per column.
        rows: cells; their control characters are made visible and newlines become spaces.
        colours: per row, the colour of its second cell (its state).
        spare: headings of what a terminal that is too narrow goes without, the first first.
    """
    cells = [[printable(cell).replace("\n", " ").replace("\t", " ") for cell in row] for row in rows]
    shown = [at for at in range(len(headings)) if any(row[at] not in ("", "-") for row in cells)]
    widths = {at: max(len(headings[at]), *(len(row[at]) for row in cells)) for at in shown}
    for at in (headings.index(name) for name in spare):
        if at in shown and sum(widths[other] + 2 for other in shown) - 2 > _columns():
            shown.remove(at)
    indent = sum(widths[at] + 2 for at in shown[:-1])
    if cells:
        line(paint("  ".join(headings[at].ljust(widths[at]) for at in shown).rstrip(), dim=True))
    for number, row in enumerate(cells):
        colour = colours[number] if number < len(colours) else None
        padded = []
        for at in shown:
            words = row[at] if at != shown[-1] else wrapped(row[at], indent)
            painted = paint(words, colour if at == 1 else None, bold=at == 0)
            padded.append(painted + " " * (widths[at] - len(row[at])))
        line("  ".join(padded).rstrip())


def facts(pairs: Sequence[tuple[str, str]]) -> None:
    """Print a block of names and values, the values aligned."""
    width = max(len(name) for name, _ in pairs)
    for name, value in pairs:
        line(f"{paint(name.ljust(width), dim=True)}  {printable(value)}")


def failure(code: str, message: str, advice: str, *, as_json: bool) -> None:
    """Print an error on standard error: a JSON document, or what happened, its code and what to do."""
    if as_json:
        error = {"error": {"code": code, "message": message, "hint": advice}}
        click.echo(json.dumps(error), err=True, color=False)
        return
    colour = coloured(to_stderr=True)
    label = click.style("error:", fg="red", bold=True) if colour else "error:"
    click.echo(f"{label} {printable(message)} [{code}]", err=True, color=colour)
    if advice:
        click.echo(f"  {printable(advice)}", err=True, color=colour)
