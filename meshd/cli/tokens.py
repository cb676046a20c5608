"""``token``: who may do more than look over the HTTP gateway's TCP port."""

import click

from meshd.cli import screen
from meshd.cli.answers import fields_of, rows_of
from meshd.cli.session import Command, Group, Session, pass_session


@click.group(cls=Group)
def token() -> None:
    """Make, list and revoke tokens for the HTTP gateway."""


@token.command(cls=Command)
@click.argument("name")
@pass_session
def create(session: Session, name: str) -> None:
    """Make a token called NAME, and print it once.

    Over TCP the HTTP gateway only lets look without one. Only a hash of it is kept.
    """
    answer = session.ask("token-create", {"name": name})
    if session.as_json:
        screen.document(answer)
        return
    screen.line(fields_of(answer).text("token"))
    if screen.on_terminal():
        screen.hint("It is not shown again. Send it with each request: Authorization: Bearer TOKEN")


@token.command("list", cls=Command)
@pass_session
def list_(session: Session) -> None:
    """List the tokens by name. What they are is not known here."""
    answer = session.ask("tokens")
    if session.as_json:
        screen.document(answer)
        return
    rows = rows_of(answer)
    if rows:
        screen.table(("NAME", "MADE"), [(row.text("name"), row.text("created")) for row in rows])
    else:
        screen.line("There are no tokens. To make one: meshctl token create NAME")


@token.command(cls=Command)
@click.argument("name")
@pass_session
def revoke(session: Session, name: str) -> None:
    """Make the token called NAME worthless, at once."""
    answer = session.ask("token-revoke", {"name": name})
    if session.as_json:
        screen.document(answer)
        return
    screen.line(f"The token {screen.printable(fields_of(answer).text('name'))} opens nothing any more.")
