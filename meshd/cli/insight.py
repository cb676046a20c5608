"""Looking into the mesh: ``why`` a device is linked or not, its ``graph``, its ``events``, and ``breaker reset``."""

import time

import click

from meshd.cli import drawing, screen
from meshd.cli.advice import Failure, advise
from meshd.cli.answers import Fields, fields_of, rows_of
from meshd.cli.session import Command, Group, Session, pass_session
from meshd.cli.units import age, count, milliseconds, percent
from meshd.errors import MeshdError

_BATCH = 500
"""Events that the daemon may send before the first of them is printed."""

_EVENT_WIDTH = 14
_NAME_WIDTH = 16
_EVENT_COLOURS = {
    "peer-up": "green",
    "peer-answers": "green",
    "peer-suspect": "yellow",
    "peer-down": "red",
    "peer-removed": "red",
    "link-failed": "yellow",
    "route-lost": "yellow",
    "missed": "yellow",
}


@click.command(cls=Command)
@click.argument("peer")
@pass_session
def why(session: Session, peer: str) -> None:
    """Say why PEER is linked or not, and what to do.

    The decision and its reason, what is known of PEER, each address that was tried with the last
    error there, and what that calls for.
    """
    answer = session.ask("why", {"peer": peer})
    if session.as_json:
        screen.document(answer)
        return
    fields = fields_of(answer)
    decision = screen.printable(fields.text("decision"))
    screen.line(f"{screen.paint(screen.printable(fields.text('name')), bold=True)}: {decision}")
    _heading("What it is")
    screen.facts([(name, value) for name, value in _facts(fields) if value])
    _heading("What was tried")
    candidates = fields.rows("candidates")
    _show_candidates(candidates)
    is_linked = fields.inner_or_none("link") is not None
    failures = [] if is_linked else [failure for row in candidates if (failure := _failure(row)) is not None]
    steps = advise(fields.text("name"), fields.text_or("hint"), failures)
    if steps:
        _heading("What to do")
    for step in steps:
        screen.line(f"- {screen.printable(step)}")


def _heading(text: str) -> None:
    screen.line()
    screen.line(screen.paint(text, bold=True))


def _failure(row: Fields) -> Failure | None:
    error = row.text_or("last_error")
    return Failure(row.text("address"), error) if error and row.values.get("usable", True) else None


def _facts(fields: Fields) -> list[tuple[str, str]]:
    link = fields.inner_or_none("link")
    return [
        ("link", "" if link is None else _link(link)),
        ("quality", "" if link is None else _quality(fields)),
        ("route", _route(fields)),
        ("breaker", _breaker(fields)),
        ("last error", fields.text_or("last_error")),
        ("went silent", _hearsay(fields)),
        ("id", fields.text("peer")),
    ]


def _link(link: Fields) -> str:
    who = "dialed by this device" if link.values.get("dialed") else "dialed by the other device"
    return f"{link.text('address')}, {who} {age(link.number('since_s'))} ago"


def _quality(fields: Fields) -> str:
    rtt, breaks = fields.number_or_none("rtt_ms"), fields.integer("broken_last_hour")
    return (
        f"{fields.text_or('grade')} {fields.number('quality'):.0f}: "
        f"round trip {milliseconds(rtt)}, loss {percent(fields.number_or_none('loss'))}, "
        f"broke {count(breaks, 'time')} in the last hour"
    )


def _route(fields: Fields) -> str:
    route = fields.inner_or_none("route")
    if route is None:
        return "none" if fields.text("state") == "removed" else "none: mail for it waits"
    hop = "direct" if route.text("next_hop") == fields.text("peer") else f"by way of {route.text('next_hop_name')}"
    return f"{hop}, metric {route.integer('metric')}"


def _breaker(fields: Fields) -> str:
    state, detail = fields.text("breaker"), fields.inner_or_none("breaker_detail")
    if detail is None:
        return state
    notes = [detail.text_or("reason")]
    wait = detail.number_or_none("next_attempt_s")
    if wait is not None:
        notes.append(f"next attempt in {age(wait)}" if wait > 0 else "next attempt now")
    attempts = detail.integer("recent_attempts")
    if attempts:
        notes.append(f"{detail.integer('recent_failures')} of the last {count(attempts, 'attempt')} failed")
    if not any(notes):
        return state
    return f"{state} ({'; '.join(note for note in dict.fromkeys(notes) if note)})"


def _hearsay(fields: Fields) -> str:
    hearsay = fields.inner_or_none("hearsay")
    return "" if hearsay is None else f"{age(hearsay.number('ago_s'))} ago; {hearsay.text('detail')}"


def _show_candidates(rows: list[Fields]) -> None:
    if not rows:
        screen.line("No address of it is known.")
        return
    screen.table(
        ("ADDRESS", "FROM", "TRIED", "WORKED", "LAST ERROR"),
        [
            (
                row.text("address"),
                row.text("source"),
                _ago(row.number_or_none("last_tried_s")),
                _ago(row.number_or_none("last_success_s")),
                row.text_or("last_error", "-") if row.values.get("usable", True) else "not used here",
            )
            for row in rows
        ],
    )


def _ago(seconds: float | None) -> str:
    return "-" if seconds is None else f"{age(seconds)} ago"


@click.command(cls=Command)
@click.option("--format", "style", type=click.Choice(list(drawing.STYLES)), default="text", show_default=True)
@pass_session
def graph(session: Session, style: str) -> None:
    """Draw the mesh as seen from this device.

    Its own links, and behind them what its routes tell: there, one line may stand for several
    hops. `--format dot` is for Graphviz, `--format svg` for a browser. --json gives the data.
    """
    answer = session.ask("graph")
    if session.as_json:
        screen.document(answer)
        return
    fields = fields_of(answer)
    nodes = [
        drawing.Node(row.text("id"), row.text("name"), row.text("role"), row.text("state"))
        for row in fields.rows("nodes")
    ]
    edges = [
        drawing.Edge(
            source=row.text("from"),
            target=row.text("to"),
            is_link=row.text("kind") == "link",
            transport=row.text_or("transport"),
            metric=row.integer("metric"),
            is_used=row.values.get("selected") is not False,
        )
        for row in fields.rows("edges")
    ]
    for line in drawing.STYLES[style](drawing.Graph(tuple(nodes), tuple(edges))):
        screen.line(screen.printable(line))
    if style == "text" and len(nodes) < 2:
        screen.hint("No other device yet. Bring one in with: meshctl invite")


@click.command(cls=Command)
@click.option("--follow", is_flag=True, help="Then wait for more, for ever.")
@click.option(
    "--last", type=click.IntRange(0, 1000), default=100, show_default=True, help="How many past ones to show."
)
@pass_session
def events(session: Session, follow: bool, last: int) -> None:
    """Show what happened to devices, links and routes.

    The daemon keeps the last 1000 events since its start. With --follow, --timeout limits it all:
    when it passes, the exit code is 4. Whoever reads too slowly misses the oldest, and is told.
    """
    if follow:
        _follow(session, last)
        return
    rows = rows_of(session.ask("events", {"last": last}))
    for row in rows:
        _show_event(session, row)
    if not rows and not session.as_json and last:
        screen.line("Nothing has happened since the daemon started.")


def _follow(session: Session, last: int) -> None:
    deadline = None if session.timeout is None else time.monotonic() + session.timeout
    shown = taken = 0
    with session.client() as client:
        stream = client.stream("events", {"follow": True, "last": last, "credit": _BATCH})
        while True:
            left_s = None if deadline is None else max(0.0, deadline - time.monotonic())
            try:
                item: object = stream.next(left_s)
            except StopIteration:
                raise MeshdError("E_STOPPING", "The daemon ended the stream of events.") from None
            except MeshdError as error:
                if error.code != "E_TIMEOUT":
                    raise
                raise MeshdError("E_TIMEOUT", f"{count(shown, 'event')} within {session.timeout:g} s.") from error
            rows = rows_of(item)
            for row in rows:
                _show_event(session, row)
            shown += len(rows)
            taken += len(rows)
            if taken >= _BATCH // 2:  # by halves: a request for each event would be as much traffic as the events
                client.tell("credit", {"subscription": stream.id, "messages": taken})
                taken = 0


def _show_event(session: Session, row: Fields) -> None:
    if session.as_json:
        screen.document(row.values)
        return
    event, alert = screen.printable(row.text("event")), screen.printable(row.text_or("alert"))
    name = screen.printable(row.text_or("name", "this device" if alert else "-"))
    label = screen.paint(event.ljust(_EVENT_WIDTH), _EVENT_COLOURS.get(event))
    at = screen.paint(screen.printable(row.text("at")), dim=True)
    detail = screen.printable(row.text_or("detail")).replace("\n", " ")
    if alert:
        detail = f"{alert} is over: {detail}" if event == "alert-resolved" else f"{alert}: {detail}"
    screen.line(f"{at}  {label}  {screen.paint(name.ljust(_NAME_WIDTH), bold=True)}  {detail}".rstrip())


@click.group(cls=Group)
def breaker() -> None:
    """Act on breakers: they hold back dials that keep failing."""


@breaker.command(cls=Command)
@click.argument("peer")
@pass_session
def reset(session: Session, peer: str) -> None:
    """Close the breaker of PEER, and dial it at once."""
    answer = session.ask("breaker-reset", {"peer": peer})
    if session.as_json:
        screen.document(answer)
        return
    fields = fields_of(answer)
    name, before = screen.printable(fields.text("name")), screen.printable(fields.text("before"))
    was = "already closed" if before == "closed" else f"{before}, and is closed now"
    screen.line(f"The breaker of {name} was {was}. Unless it is linked, it is dialed at once.")
    screen.hint(f"See what comes of it: meshctl why {name}")
