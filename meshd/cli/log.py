"""``log level``: what the running daemon writes to its log."""

import click

from meshd.cli import screen
from meshd.cli.answers import fields_of
from meshd.cli.session import Command, Group, Session, pass_session

_LEVELS = ("debug", "info", "warning", "error", "default")


@click.group(cls=Group)
def log() -> None:
    """Change what the daemon logs."""


@log.command(cls=Command)
@click.argument("words", nargs=-1, required=True, metavar="[COMPONENT] LEVEL")
@pass_session
def level(session: Session, words: tuple[str, ...]) -> None:
    """Log more, or less, until the daemon is restarted or reloaded.

    LEVEL is debug, info, warning, error, or default: what the configuration says. COMPONENT is one of
    alerts, api, daemon, delivery (the life of each message), discovery, http, lib (other libraries), links,
    node, relay, store, transport, or a part of one; all without it.
    """
    *component, wanted = words
    if wanted not in _LEVELS or len(component) > 1:
        raise click.UsageError(f"expected [COMPONENT] LEVEL, LEVEL one of {', '.join(_LEVELS)}")
    arguments = {"level": wanted} | ({"component": component[0]} if component else {})
    answer = session.ask("log-level", arguments)
    if session.as_json:
        screen.document(answer)
        return
    fields = fields_of(answer)
    of_one = fields.inner("levels").values
    screen.facts([("level", fields.text("level")), *[(name, str(value)) for name, value in of_one.items()]])
    hint = "journalctl -u meshd -f" if wanted != "default" else ""
    if hint:
        screen.hint(f"See them: {hint}. Back to what is configured: meshctl log level default")
