"""Asking after one thing: ``ping`` a device, ``trace`` a message."""

import datetime

import click

from meshd.cli import screen
from meshd.cli.answers import Fields, fields_of, items_of
from meshd.cli.progress import waiting
from meshd.cli.session import Command, Session, pass_session
from meshd.cli.units import milliseconds
from meshd.cli.views import reason_in_words
from meshd.errors import MeshdError

PING_TIMEOUT_S = 5.0
MAX_PING_TIMEOUT_S = 3600.0
"""What the local protocol allows."""

_ANSWER_MARGIN_S = 2.0
"""The daemon ends the measurement itself; only a dead daemon makes meshctl wait this much longer."""


_DETAILS = {
    "sent": "to {}",
    "forwarded": "to {}",
    "copied": "a copy to {}",
    "custody": "from {}",
    "carried": "a copy from {}, to carry",
    "arrived": "for the service {}",
}
"""What the detail of an event is. Those that are not listed speak for themselves."""


@click.command(cls=Command)
@click.argument("dest")
@click.option("--count", type=click.IntRange(1, 1000), default=4, show_default=True, help="How many round trips.")
@pass_session
def ping(session: Session, dest: str, count: int) -> None:
    """Measure round trips to DEST, and show the path.

    --timeout is how long to wait for the answers in all (default 5 s). Exit code 4 when none came.
    """
    timeout = min(session.timeout or PING_TIMEOUT_S, MAX_PING_TIMEOUT_S)
    with session.client() as client, waiting("ping"):
        request = {"destination": dest, "count": count, "timeout_s": timeout}
        try:
            answer: object = client.call("ping", request, timeout=timeout + _ANSWER_MARGIN_S)
        except MeshdError as error:
            if error.code != "E_UNREACHABLE":
                raise
            raise MeshdError(error.code, f"There is no path to {dest} now.", f"See why: meshctl why {dest}") from error
    fields = fields_of(answer)
    sent, received = fields.integer("sent"), fields.integer("received")
    if session.as_json:
        screen.document(answer)
    else:
        _show_ping(dest, fields, sent, received)
    if received == 0:
        raise MeshdError("E_TIMEOUT", f"{dest} did not answer within {timeout:g} s.", f"See why: meshctl why {dest}")


def _show_ping(dest: str, fields: Fields, sent: int, received: int) -> None:
    screen.line(f"{screen.paint(screen.printable(dest), bold=True)}: {received} of {sent} answered")
    pairs = []
    rtt = fields.inner_or_none("rtt_ms")
    if received and rtt is not None:
        times = [f"{name} {milliseconds(rtt.number_or_none(name))}" for name in ("min", "p50", "p99", "max")]
        pairs.append(("round trip", ", ".join(times)))
    path = [_hop_name(hop) for hop in items_of(fields.values.get("path", []), "path")]
    if path:
        pairs.append(("path", " > ".join(path)))
    if pairs:
        screen.facts(pairs)


def _hop_name(hop: object) -> str:
    if isinstance(hop, str):
        return hop
    fields = fields_of(hop, "path")
    return fields.text_or("name") or fields.text("id")


@click.command(cls=Command)
@click.argument("message_id", metavar="ID")
@pass_session
def trace(session: Session, message_id: str) -> None:
    """Tell the life of one message.

    Where it was, when, and why it waited.

    ID is what `meshctl send` printed. Every device is asked; those that can't be are named. Records
    are kept for 7 days.
    """
    answer = session.ask("trace", {"id": message_id})
    if session.as_json:
        screen.document(answer)
        return
    fields = fields_of(answer)
    screen.line(f"{screen.paint(fields.text('id'), bold=True)}: {screen.printable(fields.text('state'))}")
    events = fields.rows("events")
    if events:
        screen.table(
            ("WHEN", "EVENT", "DEVICE", "WHY"),
            [(_moment(row), row.text("event"), row.text_or("device", "-"), _why(row)) for row in events],
        )
    unasked = fields.rows("unasked")
    if unasked:
        screen.line()
        screen.hint("What these devices know of it is missing; ask again when they can be reached:")
    for row in unasked:
        screen.hint(f"  {screen.printable(row.text('device'))}: {screen.printable(row.text('reason'))}")


def _moment(row: Fields) -> str:
    at = row.values.get("at")
    if isinstance(at, str):
        return at
    try:
        local = datetime.datetime.fromtimestamp(row.number("at"), datetime.UTC).astimezone()
    except (OverflowError, ValueError, OSError):  # a clock far outside the calendar
        return f"{row.number('at'):g}"
    return local.strftime("%Y-%m-%d %H:%M:%S.") + f"{local.microsecond // 1000:03d}"


def _why(row: Fields) -> str:
    reason, detail = row.text_or("reason"), row.text_or("detail")
    if detail and reason in ("", "carrier") and row.text("event") in _DETAILS:
        return _DETAILS[row.text("event")].format(detail)
    words = reason_in_words(reason) if reason else ""
    return f"{words} ({detail})" if words and detail else words or detail
