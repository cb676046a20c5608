"""Relays: ``relay add``, ``relay list``, ``relay remove``."""

import base64
import binascii
import re
import sys
from pathlib import Path

import click

from meshd.cli import screen
from meshd.cli.answers import fields_of, rows_of
from meshd.cli.session import Command, Group, Session, pass_session
from meshd.errors import MeshdError

ADD_TIMEOUT_S = 20.0
"""Longer than the daemon waits for the relay's certificate."""

_HASH = re.compile(r"(?:sha-?256:)?((?:[0-9a-f]{2}:?){31}[0-9a-f]{2})", re.IGNORECASE)
_PEM = re.compile(rb"-----BEGIN CERTIFICATE-----(.+?)-----END CERTIFICATE-----", re.DOTALL)
_MAX_FILE_BYTES = 64 * 1024
_STATE_COLOURS = {"up": "green", "suspect": "yellow", "down": "red"}


@click.group(cls=Group)
def relay() -> None:
    """Add, list and remove relays, which join networks."""


@relay.command("add", cls=Command)
@click.argument("url")
@click.option(
    "--certificate",
    required=True,
    metavar="FILE|HASH",
    help="The relay's certificate as a file (PEM or DER), or its SHA-256 in hex.",
)
@click.option("--name", help="What the relay is called in the mesh.  [default: its host name]")
@pass_session
def add(session: Session, url: str, certificate: str, name: str | None) -> None:
    """Take the relay at URL into the mesh.

    URL is wss://HOST or quic://HOST, with :PORT unless it is 443. The relay prints its certificate
    with `meshd-relay --certificate`. Given the hash alone, the daemon asks the relay for the
    certificate, and trusts it only when it has that hash. Every device of the mesh will use the relay.
    """
    answer = session.ask("relay-add", {"url": url, "name": name, **_certificate(certificate)}, timeout=ADD_TIMEOUT_S)
    if session.as_json:
        screen.document(answer)
        return
    fields = fields_of(answer)
    screen.line(f"The relay {screen.printable(fields.text('name'))} is in the mesh.")
    screen.hint("See whether it is reached: meshctl relay list")


def _certificate(given: str) -> dict[str, bytes]:
    if found := _HASH.fullmatch(given):
        return {"certificate_hash": bytes.fromhex(found[1].replace(":", ""))}
    try:
        with Path(given).open("rb") as file:
            data = file.read(_MAX_FILE_BYTES)
    except OSError as error:
        raise MeshdError(
            "E_USAGE", f"{given} can't be read: {error.strerror}.", "Give a file, or 64 hexadecimal digits."
        ) from error
    pem = _PEM.search(data)
    if pem is None:
        return {"certificate": data}
    try:
        return {"certificate": base64.b64decode(b"".join(pem[1].split()), validate=True)}
    except binascii.Error as error:
        raise MeshdError(
            "E_USAGE", f"{given} holds a damaged certificate.", "Print it again: meshd-relay --certificate"
        ) from error


@relay.command("list", cls=Command)
@pass_session
def list_relays(session: Session) -> None:
    """List the mesh's relays, the one that is used first on top."""
    answer = session.ask("relays")
    if session.as_json:
        screen.document(answer)
        return
    rows = rows_of(answer)
    screen.table(
        ("NAME", "URL", "STATE", "ID"),
        [(row.text("name"), row.text_or("url") or "?", row.text("state"), row.text("id")) for row in rows],
        [_STATE_COLOURS.get(row.text("state")) for row in rows],
    )
    if not rows:
        screen.hint("No relay. Add one with: meshctl relay add URL --certificate HASH")


@relay.command("remove", cls=Command)
@click.argument("name")
@click.option("--yes", is_flag=True, help="Don't ask for confirmation.")
@pass_session
def remove(session: Session, name: str, yes: bool) -> None:
    """Shut the relay NAME out of the mesh, for ever.

    NAME is its name, URL, id or the start of its id. Coming back takes a new key. Asks before it
    acts when run by hand on a terminal.
    """
    if not yes and not session.as_json and sys.stdin.isatty():
        click.confirm(f"Remove the relay {name} from the mesh for ever?", abort=True)
    answer = session.ask("relay-remove", {"relay": name})
    if session.as_json:
        screen.document(answer)
        return
    screen.line(f"Removed the relay {screen.printable(fields_of(answer).text('name'))}.")
