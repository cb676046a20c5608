"""``config show`` and ``config check``: what is set, where it comes from, and whether a file is right."""

import os
from collections.abc import Sequence

import click

from meshd.cli import screen
from meshd.cli.answers import Fields, rows_of
from meshd.cli.session import Command, Group, Session, pass_session
from meshd.errors import CATALOGUE, MeshdError

DEFAULT_FILE = "/etc/meshd/meshd.toml"
"""Where the packages put it; the daemon reads the one it is started with."""


@click.group(cls=Group)
def config() -> None:
    """Show and check the configuration."""


@config.command(cls=Command)
@click.option(
    "--file", "path", metavar="FILE", help="What FILE and this shell's environment would set; no daemon needed."
)
@click.option("--set", "only_set", is_flag=True, help="Leave out what has its default.")
@pass_session
def show(session: Session, path: str | None, only_set: bool) -> None:
    """Show every setting, and where its value comes from.

    As the running daemon has it: the default, FILE:LINE, an environment variable, or the command line.
    """
    rows = rows_of(session.ask("config") if path is None else _read(path))
    if only_set:
        rows = [row for row in rows if row.text("source") != "default"]
    if session.as_json:
        screen.document([dict(row.values) for row in rows])
        return
    if not rows:
        screen.line("Nothing is set: everything has its default.")
        return
    screen.table(("KEY", "VALUE", "FROM"), [(row.text("key"), _toml(row), row.text("source")) for row in rows])


@config.command(cls=Command)
@click.argument("file", default=DEFAULT_FILE)
@pass_session
def check(session: Session, file: str) -> None:
    """Check a configuration without starting anything.

    FILE is /etc/meshd/meshd.toml unless given. Variables MESHD_SECTION_KEY of this shell count too.
    When something is wrong the exit code is 2, and the error names the file, the line and the key.
    """
    try:
        rows = [row for row in rows_of(_read(file)) if row.text("source") != "default"]
    except MeshdError as error:
        if error.hint != CATALOGUE["E_CONFIG"].advice:
            raise
        raise MeshdError("E_CONFIG", error.message, "See docs/configuration.md, or: man meshd.toml") from error
    if session.as_json:
        screen.document({"file": file, "settings": len(rows)})
        return
    names = ", ".join(row.text("key") for row in rows)
    screen.line(f"{file} is right. " + (f"It sets {names}." if names else "It sets nothing."))


def _read(path: str) -> Sequence[object]:
    # Inside, so that `config show` of a running daemon does not wait for it.
    from meshd.api.settings import in_effect, read_file

    return [row.plain() for row in in_effect(read_file(path), filename=path, environ=os.environ)]


def _toml(row: Fields) -> str:
    """A value as one would write it in the file."""
    return _written(row.values.get("value"))


def _written(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_written(item) for item in value)}]"
    if isinstance(value, dict):
        inner = ", ".join(f"{name} = {_written(item)}" for name, item in value.items())
        return f"{{ {inner} }}" if inner else "{}"
    return f'"{value}"' if isinstance(value, str) else str(value)
