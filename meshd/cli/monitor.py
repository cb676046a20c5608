"""Is anything wrong, and how does it all run: ``alerts``, ``metrics``."""

import click

from meshd.cli import screen
from meshd.cli.answers import Fields, fields_of, rows_of
from meshd.cli.session import Command, Session, pass_session

_SEVERITY_COLOURS = {"critical": "red", "warning": "yellow"}


@click.command(cls=Command)
@click.option("--active", "only_active", is_flag=True, help="Only those that are not over.")
@pass_session
def alerts(session: Session, only_active: bool) -> None:
    """List active and past alerts.

    The daemon keeps the last 200, also over restarts. What each means, and how to be told of them:
    docs/alerts.md.
    """
    rows = [row for row in rows_of(session.ask("alerts")) if not only_active or row.text("state") == "active"]
    if session.as_json:
        screen.document([row.values for row in rows])
        return
    if not rows:
        screen.line("No alerts." if not only_active else "No active alerts.")
        return
    screen.table(
        ("ALERT", "SEVERITY", "STATE", "ABOUT", "SINCE", "UNTIL", "DETAIL"),
        [_alert_cells(row) for row in rows],
        [_SEVERITY_COLOURS.get(row.text("severity")) if row.text("state") == "active" else None for row in rows],
        spare=("UNTIL", "SEVERITY", "ABOUT"),
    )


def _alert_cells(row: Fields) -> tuple[str, ...]:
    return (
        row.text("name"),
        row.text("severity"),
        row.text("state"),
        row.text_or("peer_name", "this device"),
        row.text("since"),
        row.text_or("until", "-"),
        row.text("detail"),
    )


@click.command(cls=Command)
@pass_session
def metrics(session: Session) -> None:
    """Print all metrics as OpenMetrics text, for Prometheus.

    What each means: docs/metrics.md. --json wraps the text, and its content type, in a document.
    """
    answer = session.ask("metrics")
    if session.as_json:
        screen.document(answer)
        return
    screen.line(fields_of(answer).text("text").rstrip("\n"))
