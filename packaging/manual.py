"""Manual pages made of what is there: meshctl(1) of its commands, meshd.toml(5) of the documentation."""

import re
from collections.abc import Iterator

import click

from meshd.cli.app import meshctl

_INLINE_CODE = re.compile(r"``?([^`]+)``?")
_STRONG = re.compile(r"\*\*([^*]+)\*\*")
_LINK = re.compile(r"\[([^]]+)]\([^)]+\)")


def meshctl_page(version: str, date: str) -> str:
    """meshctl(1)."""
    context = click.Context(meshctl, info_name="meshctl")
    lines = [
        f'.TH MESHCTL 1 "{date}" "meshd {version}" "User commands"',
        ".SH NAME",
        r"meshctl \- control meshd, send and receive messages",
        ".SH SYNOPSIS",
        r".B meshctl",
        r"[\fIOPTIONS\fR] \fICOMMAND\fR [\fIARGUMENTS\fR]",
        ".SH DESCRIPTION",
        *_help_text(meshctl.help or ""),
        ".SH OPTIONS",
        *_options(meshctl, context),
        ".SH COMMANDS",
    ]
    for name in meshctl.list_commands(context):
        lines += _command(meshctl, name, context)
    lines += [".SH SEE ALSO", r".BR meshd (8)"]
    return "\n".join(lines) + "\n"


def _command(group: click.Group, name: str, parent: click.Context) -> Iterator[str]:
    command = group.get_command(parent, name)
    assert command is not None, name
    context = click.Context(command, info_name=name, parent=parent)
    yield f".SS {_escape(' '.join([context.command_path, *command.collect_usage_pieces(context)]))}"
    yield from _help_text(command.help or "")
    yield from _options(command, context, but=frozenset(option.name for option in meshctl.params))
    if isinstance(command, click.Group):
        for inner in command.list_commands(context):
            yield from _command(command, inner, context)


def _options(command: click.Command, context: click.Context, but: frozenset[str | None] = frozenset()) -> Iterator[str]:
    for parameter in command.params:  # not get_params(), which adds --help everywhere
        record = parameter.get_help_record(context)
        if record is not None and record[1] and parameter.name not in but:
            yield ".TP"
            yield rf"\fB{_escape(record[0])}\fR"
            yield _line(record[1])


def _help_text(text: str) -> Iterator[str]:
    for paragraph in re.split(r"\n\s*\n", "\n".join(line.strip("\n") for line in text.splitlines())):
        rows = paragraph.strip("\n").splitlines()
        if not rows:
            continue
        yield ".PP"
        if rows[0].strip() == "\b":
            yield ".nf"
            margin = min(len(row) - len(row.lstrip()) for row in rows[1:])
            yield from (_line(row[margin:]) for row in rows[1:])
            yield ".fi"
        else:
            yield _line(" ".join(row.strip() for row in rows))


def configuration_page(markdown: str, version: str, date: str) -> str:
    """meshd.toml(5), of docs/configuration.md. Raises ValueError for a table of another shape."""
    lines = [
        f'.TH MESHD.TOML 5 "{date}" "meshd {version}" "File formats"',
        ".SH NAME",
        r"meshd.toml \- configuration of meshd",
        ".SH DESCRIPTION",
    ]
    fenced = False
    for row in markdown.splitlines()[1:]:
        if row.startswith("```"):
            fenced = not fenced
            lines += [".PP", ".RS 4", ".nf"] if fenced else [".fi", ".RE"]
        elif fenced:
            lines.append(_line(row))
        elif row.startswith("#"):
            lines.append(f".SH {_inline(row.lstrip('# '), heading=True)}")
        elif row.startswith("    "):
            lines += [".br", rf"\&    {_escape(row[4:])}", ".br"]
        elif row.startswith("|"):
            lines += _key(row)
        else:
            lines.append(_inline(row) if row.strip() else ".PP")
    lines += [".SH SEE ALSO", r".BR meshd (8)"]
    return "\n".join(lines) + "\n"


def _key(row: str) -> list[str]:
    if set(row) <= set("|- "):
        return []
    cells = [cell.strip() for cell in row.strip("|").split(" | ")]
    if len(cells) != 3:
        raise ValueError(f"not key, default and meaning: {row}")
    key, default, meaning = cells
    if key == "key":
        return []
    return [".TP", rf"\fB{_escape(key.strip('`'))}\fR (default: {_escape(default.strip('`'))})", _inline(meaning)]


def _inline(text: str, *, heading: bool = False) -> str:
    plain = _line(_LINK.sub(r"\1", text))
    if heading:
        return _INLINE_CODE.sub(r"\1", plain)
    return _STRONG.sub(r"\\fB\1\\fR", _INLINE_CODE.sub(r"\\fB\1\\fR", plain))


def _escape(text: str) -> str:
    return text.replace("\\", "\\e").replace("-", "\\-")


def _line(text: str) -> str:
    """A line of text, none of which is a request to the formatter."""
    escaped = _escape(text)
    return rf"\&{escaped}" if escaped.startswith((".", "'")) else escaped
