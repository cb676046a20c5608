"""``errors lookup``: what a code means and what to do about it, without a daemon."""

import difflib

import click

from meshd.cli import screen
from meshd.cli.session import Command, Group, Session, pass_session
from meshd.errors import CATALOGUE, MeshdError


@click.group(cls=Group)
def errors() -> None:
    """Explain error codes."""


@errors.command(cls=Command)
@click.argument("code")
@pass_session
def lookup(session: Session, code: str) -> None:
    """Say what CODE (such as E_NO_MESH) means, and what to do."""
    known = code.upper()
    explanation = CATALOGUE.get(known)
    if explanation is None:
        near = difflib.get_close_matches(known, CATALOGUE, n=3)
        advice = (
            f"Did you mean {', '.join(near)}?" if near else "Codes look like E_NO_MESH; errors show them in brackets."
        )
        raise MeshdError("E_USAGE", f"{code!r} is not an error code of meshd.", advice)
    if session.as_json:
        screen.document({"code": known, "meaning": explanation.meaning, "advice": explanation.advice})
        return
    screen.line(f"{screen.paint(known, bold=True)}: {explanation.meaning}")
    screen.line(f"  {explanation.advice}")
