"""Figures for monitoring: ``metrics``."""

import click

from meshd.cli import screen
from meshd.cli.answers import fields_of
from meshd.cli.session import Command, Session, pass_session


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
