"""The mesh and its devices: ``init``, ``invite``, ``join``, ``members``, ``remove``."""

import shutil
import sys

import click

from meshd.cli import screen
from meshd.cli.answers import Fields, fields_of, rows_of
from meshd.cli.session import Command, Session, Span, pass_session
from meshd.cli.units import span

JOIN_TIMEOUT_S = 40.0
"""Longer than the daemon tries each of the inviting device's addresses."""

_STATE_COLOURS = {"admin": "green", "removed": "red"}


@click.command(cls=Command)
@click.argument("name")
@pass_session
def init(session: Session, name: str) -> None:
    """Found a mesh called NAME; this device is its first admin.

    Prints the recovery words once: they alone can remove an admin whose device was lost or stolen.
    """
    answer = session.ask("init", {"name": name})
    if session.as_json:
        screen.document(answer)
        return
    fields = fields_of(answer)
    mesh, device = fields.inner("mesh"), fields.inner("device")
    screen.line(f"Founded the mesh {mesh.text('name')}, with {device.text('name')} as its admin.")
    words = _recovery_words(fields)
    if words:
        screen.line()
        screen.line(screen.paint("Recovery words: write them down now. They are not shown again.", "yellow", bold=True))
        screen.line(f"\n    {screen.printable(words)}\n")
        screen.line("They can remove an admin device that was lost or stolen. Keep them on paper,")
        screen.line("away from the devices: whoever holds them can take over the mesh.")
    screen.line()
    screen.hint("Next, to bring in another device: meshctl invite")


def _recovery_words(fields: Fields) -> str:
    if isinstance(fields.values.get("recovery_words"), (list, tuple)):
        return " ".join(fields.texts("recovery_words"))
    return fields.text_or("recovery_words")


@click.command(cls=Command)
@click.option(
    "--expires", type=Span("1s", "7d"), default="10m", show_default=True, help="How long the code can be used."
)
@click.option(
    "--role",
    type=click.Choice(["member", "admin", "relay"]),
    default="member",
    show_default=True,
    help="What the device will be.",
)
@pass_session
def invite(session: Session, expires: int, role: str) -> None:
    """Make a code that lets one other device into the mesh.

    On a terminal the code is also shown as a QR code.
    """
    answer = session.ask("invite", {"expires_s": expires // 1000, "role": role})
    if session.as_json:
        screen.document(answer)
        return
    fields = fields_of(answer)
    code = fields.text("code")
    if screen.on_terminal():
        _show_qr(code)
    screen.line("On the other device, type:")
    screen.line(f"\n    {screen.paint(f'meshctl join {screen.printable(code)}', bold=True)}\n")
    screen.line(f"The code works once, for {span(fields.number('expires_in_s'))}. Keep this device on until then.")


def _show_qr(code: str) -> None:
    import io

    import segno  # only here: a terminal that shows a QR code can wait for it, `meshctl status` can't

    drawn = io.StringIO()
    segno.make_qr(code, error="l").terminal(out=drawn, border=2, compact=True)
    picture = drawn.getvalue()
    width = 4 + segno.make_qr(code, error="l").symbol_size(border=0)[0]
    if width <= shutil.get_terminal_size().columns:  # a folded QR code can't be read
        screen.line(picture)


@click.command(cls=Command)
@click.argument("code")
@click.option(
    "--name", help="What this device is called in the mesh.  [default: the daemon's --name, or the host name]"
)
@pass_session
def join(session: Session, code: str, name: str | None) -> None:
    """Enter a mesh with the CODE of an invitation.

    One of the mesh's admins prints it with `meshctl invite`.
    """
    answer = session.ask("join", {"code": code.strip(), "name": name}, timeout=JOIN_TIMEOUT_S)
    if session.as_json:
        screen.document(answer)
        return
    fields = fields_of(answer)
    mesh, device = fields.inner("mesh"), fields.inner("device")
    screen.line(f"This device is now {device.text('name')} in the mesh {mesh.text('name')}.")
    if name is not None and name != device.text("name"):
        screen.line(f"Another device there is called {screen.printable(name)}.")
    screen.hint("See who is there: meshctl peers")


@click.command(cls=Command)
@pass_session
def members(session: Session) -> None:
    """List the devices of the mesh."""
    answer = session.ask("members")
    if session.as_json:
        screen.document(answer)
        return
    rows = rows_of(answer)
    screen.table(
        ("NAME", "ROLE", "STATE", "ID"),
        [(row.text("name"), row.text("role"), row.text("state"), row.text("id")) for row in rows],
        [_STATE_COLOURS.get(row.text("state")) or _STATE_COLOURS.get(row.text("role")) for row in rows],
    )
    if len(rows) < 2:
        screen.hint("No other device yet. Bring one in with: meshctl invite")


@click.command(cls=Command)
@click.argument("device")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@pass_session
def remove(session: Session, device: str, yes: bool) -> None:
    """Shut DEVICE out of the mesh, for ever.

    DEVICE is a name, an id or the start of an id. Every member that hears of it cuts the device
    off at once. Coming back takes a new key. Asks before it acts when run by hand on a terminal.
    """
    if not yes and not session.as_json and sys.stdin.isatty():
        click.confirm(f"Remove {device} from the mesh for ever?", abort=True)
    answer = session.ask("remove", {"device": device})
    if session.as_json:
        screen.document(answer)
        return
    screen.line(
        f"Removed {screen.printable(fields_of(answer).text('name'))}. Every member that hears of it cuts it off."
    )
