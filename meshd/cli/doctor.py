"""``doctor``: what is wrong with this device and its network, and what to do about it."""

import click

from meshd.cli import screen
from meshd.cli.answers import Fields, rows_of
from meshd.cli.app import exit_code
from meshd.cli.session import Command, Session, pass_session
from meshd.cli.units import count
from meshd.errors import MeshdError

TIMEOUT_S = 30.0
"""An examination takes 4 to 8 s, and they queue."""

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}


@click.command(cls=Command)
@pass_session
def doctor(session: Session) -> None:
    """Find what is wrong here and in the network, and the fix.

    The network is looked at from both sides: other devices dial this one, listen for its multicast,
    and send theirs. It takes some seconds. The exit code is 0 whatever is found; without a daemon 3.
    """
    try:
        rows = rows_of(session.ask("doctor", timeout=TIMEOUT_S))
    except MeshdError as error:
        if error.code not in ("E_NO_DAEMON", "E_PERMISSION"):
            raise
        detail = error.message if session.as_json else f"{error.message} [{error.code}]"
        _show(session, [Fields({"check": "daemon", "verdict": "fail", "detail": detail, "fix": error.hint})])
        if session.as_json:
            raise
        click.get_current_context().exit(exit_code(error))  # people have read it already
    daemon = {"check": "daemon", "verdict": "ok", "detail": "meshd runs and answers", "fix": ""}
    _show(session, [Fields(daemon), *rows])


def _show(session: Session, rows: list[Fields]) -> None:
    if session.as_json:
        screen.document([dict(row.values) for row in rows])
        return
    width = max(len(row.text("check")) for row in rows)
    for row in rows:
        verdict = row.text("verdict")
        label = screen.paint(verdict.ljust(4), _COLOURS.get(verdict), bold=verdict != "ok")
        name = screen.printable(row.text("check")).ljust(width)
        screen.line(f"{label}  {name}  {screen.wrapped(screen.printable(row.text('detail')), width + 8)}")
        if row.text_or("fix"):
            # Not wrapped: a command in it can be copied as one line.
            screen.line(f"{' ' * (width + 8)}{screen.paint('fix:', bold=True)} {screen.printable(row.text('fix'))}")
    bad = {kind: sum(row.text("verdict") == kind for row in rows) for kind in ("fail", "warn")}
    screen.line()
    if not any(bad.values()):
        screen.line("Nothing is wrong.")
    else:
        parts = [count(bad["fail"], "fault")] * bool(bad["fail"]) + [count(bad["warn"], "warning")] * bool(bad["warn"])
        screen.line(f'{" and ".join(parts)}. What they mean: docs/troubleshoot.md, section "What the doctor says".')
