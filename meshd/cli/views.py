"""What the daemon knows, at a glance: ``status``, ``peers``, ``routes``, ``queue``."""

import click

from meshd.cli import screen
from meshd.cli.answers import Fields, fields_of, rows_of
from meshd.cli.session import Command, Session, pass_session
from meshd.cli.units import age, count, milliseconds, percent, size
from meshd.errors import CATALOGUE
from meshd.ids import Priority

NO_MESH = "This device is in no mesh yet. Found one: meshctl init NAME. Or enter one: meshctl join CODE"

_LINK_COLOURS = {"up": "green", "suspect": "yellow", "down": "red"}

REASONS = {
    "no-route": "no path to it now",
    "no-path": "no path to it now",
    "at-relay": "no path to it now; the relay keeps it too",
    "carried": "no path to it now; carriers have copies",
    "no-card": "nothing heard of it yet, so it can't be sealed",
    "awaiting-receipt": "sent, not confirmed yet",
    "saving": "held back to save power or volume",
    "sending": "on its way",
    "credit": "its mailbox is full: an app there reads too slowly",
    "window": "the link is full; it goes out in turn",
    "busy": "the next device has too much in hand",
    "hop-limit": "too many hops; held here",
    "removed": "the device was removed from the mesh",
    "lifetime": "its lifetime ended",
    "no-reader": "no app has read there yet",
    "not-read": "not read yet",
    "out-of-order": "earlier mail comes first",
}
"""Why mail waits, in words. A code that is not listed is shown as it is, with spaces."""


_PATHLESS = ("no-route", "no-path", "at-relay", "carried")


def reason_in_words(code: str) -> str:
    """The words for a reason code of the daemon."""
    return REASONS.get(code, code.replace("-", " ").replace("_", " "))


@click.command(cls=Command)
@pass_session
def status(session: Session) -> None:
    """Show this device at a glance."""
    answer = session.ask("status")
    if session.as_json:
        screen.document(answer)
        return
    fields = fields_of(answer)
    device, mesh, spool = fields.inner("device"), fields.inner_or_none("mesh"), fields.inner("spool")
    listen = fields.inner("listen")
    addresses = [f"{kind} {at}" for kind in ("quic", "websocket") for at in listen.texts(kind)]
    up, known = fields.integer("peers_up"), fields.integer("peers_known")
    is_removed = fields.values.get("removed") is True
    alerts = _active_alerts(session)
    quota = spool.number_or_none("quota_bytes")
    spool_text = f"{count(spool.integer('messages'), 'message')} waiting, {size(spool.integer('bytes'))}"
    screen.facts(
        [
            ("device", f"{device.text('name')}  {device.text('id')}"),
            ("mesh", f"{mesh.text('name')}  {mesh.text('id')}" if mesh else "none"),
            *([("removed", "this device is in the mesh no more")] if is_removed else []),
            ("peers", f"{up} of {known} linked" if known else "none"),
            ("spool", spool_text + (f" of {size(int(quota))}" if quota else "")),
            ("relays", ", ".join(f"{r.text('url')} ({r.text('state')})" for r in fields.rows("relays")) or "none"),
            ("listens", ", ".join(addresses) or "nowhere"),
            *(("not running", _outage(outage)) for outage in fields.rows("outages")),
            *([("alerts", f"{alerts}. See: meshctl alerts --active")] if alerts else []),
            ("meshd", f"{fields.text('version')}, up for {age(fields.number('uptime_s'))}"),
        ]
    )
    advice = CATALOGUE["E_REMOVED_DEVICE"].advice if is_removed else _status_advice(mesh is not None, up, known)
    if advice:
        screen.line()
        screen.hint(advice)


def _active_alerts(session: Session) -> str:
    """Each once, with whom it is about. A part that does not run is not told twice."""
    rows = [row for row in rows_of(session.ask("alerts")) if row.text("state") == "active"]
    return ", ".join(
        f"{row.text('name')} ({row.text_or('peer_name')})" if row.text_or("peer_name") else row.text("name")
        for row in rows
        if row.text("name") != "part-down"
    )


def _outage(outage: Fields) -> str:
    return f"{outage.text('part')}: {outage.text('reason')}. [{outage.text('code')}] {outage.text('fix')}"


def _status_advice(in_mesh: bool, up: int, known: int) -> str | None:
    if not in_mesh:
        return NO_MESH
    if known == 0:
        return "No other device in this mesh yet. Bring one in with: meshctl invite"
    if up == 0:
        return "No device is linked. Find out why: meshctl doctor"
    return None


@click.command(cls=Command)
@pass_session
def peers(session: Session) -> None:
    """List the other devices: who is linked, and how well."""
    answer = session.ask("peers")
    if session.as_json:
        screen.document(answer)
        return
    rows = rows_of(answer)
    if not rows:
        in_mesh = fields_of(session.ask("status")).inner_or_none("mesh") is not None
        screen.line("No peers.")
        screen.hint(_status_advice(in_mesh, 0, 0) or "")
        return
    screen.table(
        ("NAME", "STATE", "VIA", "RTT", "LOSS", "QUALITY", "BREAKER", "ADDRESS", "LAST ERROR", "ID"),
        [_peer_cells(row) for row in rows],
        [_LINK_COLOURS.get(row.text("state")) for row in rows],
        spare=("ID", "ADDRESS", "LOSS"),
    )
    down = [row for row in rows if row.text("state") == "down"]
    if down:
        screen.line()
        screen.hint(f"Why not, and what to do: meshctl why {screen.printable(down[0].text('name'))}")
    if len(down) == len(rows):
        screen.hint("No device is linked. To look at this device and its network: meshctl doctor")


def _peer_cells(row: Fields) -> tuple[str, ...]:
    quality = row.number_or_none("quality")
    breaker = row.text_or("breaker")
    return (
        row.text("name"),
        row.text("state"),
        row.text_or("transport", "-"),
        milliseconds(row.number_or_none("rtt_ms")),
        percent(row.number_or_none("loss")),
        "-" if quality is None else f"{row.text_or('grade')} {quality:.0f}".strip(),
        "-" if breaker == "closed" else breaker,
        row.text_or("address", "-"),
        row.text_or("last_error", "-"),
        row.text("id"),
    )


@click.command(cls=Command)
@pass_session
def routes(session: Session) -> None:
    """Show the routing table.

    For each device the next hop and the metric, which is lower for better paths.
    """
    answer = session.ask("routes")
    if session.as_json:
        screen.document(answer)
        return
    rows = rows_of(answer)
    if not rows:
        screen.line("No routes.")
        screen.hint("A route needs a linked device. See: meshctl peers")
        return
    screen.table(
        ("DESTINATION", "STATE", "NEXT HOP", "METRIC", "SEQNO", "FEASIBLE BELOW"),
        [
            (
                row.text_or("name") or row.text("destination"),
                row.text("state"),
                row.text_or("next_hop_name") or row.text_or("next_hop", "-"),
                *(_whole(row.number_or_none(name)) for name in ("metric", "seqno", "feasibility_distance")),
            )
            for row in rows
        ],
    )


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}"


def _priority(row: Fields) -> str:
    value = row.values.get("priority")
    return Priority(value).name.lower() if isinstance(value, int) and 0 <= value <= 3 else row.text("priority")


@click.command(cls=Command)
@pass_session
def queue(session: Session) -> None:
    """List the mail that waits on this device, and why."""
    answer = session.ask("queue")
    if session.as_json:
        screen.document(answer)
        return
    rows = rows_of(answer)
    if not rows:
        screen.line("Nothing waits.")
        return
    screen.table(
        ("FOR", "PRIORITY", "MESSAGES", "SIZE", "OLDEST", "WHY"),
        [
            (
                row.text_or("name") or row.text("destination"),
                _priority(row),
                str(row.integer("messages")),
                size(row.integer("bytes")),
                age(row.number_or_none("oldest_age_s")),
                reason_in_words(row.text_or("reason", "-")),
            )
            for row in rows
        ],
    )
    cut_off = next((row for row in rows if row.text_or("reason") in _PATHLESS), None)
    if cut_off is not None:
        screen.line()
        screen.hint(f"Why there is no path: meshctl why {screen.printable(cut_off.text_or('name') or '')}".rstrip())
