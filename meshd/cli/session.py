"""What all commands share: the global options, the way to the daemon, and how a command is declared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import click

from meshd.cli.progress import waiting
from meshd.cli.units import parse_span

if TYPE_CHECKING:
    from meshd.client.blocking import Client

ANSWER_TIMEOUT_S = 10.0
"""How long one answer may take when no ``--timeout`` says otherwise."""


@attrs.define(eq=False, kw_only=True)
class Session:
    """The global options of one run of meshctl.

    Args:
        socket: the daemon's socket as given, None to look at the usual places.
        as_json: documents for scripts instead of text for people.
        timeout: seconds, as given; None when not.
    """

    socket: str | None = None
    as_json: bool = False
    timeout: float | None = None

    def client(self) -> Client:
        """A connection, to be used as a context manager. Raises MeshdError (``E_NO_DAEMON``, ``E_PERMISSION``)."""
        # Imported here so that `meshctl --help` and `errors lookup` need neither sockets nor CBOR.
        from meshd.client.blocking import Client

        return Client(self.socket, self.timeout or ANSWER_TIMEOUT_S)

    def ask(self, op: str, args: Mapping[str, object] | None = None, *, timeout: float | None = None) -> object:
        """One request over a connection of its own.

        ``timeout`` (seconds) is the default for this request; ``--timeout`` wins. Raises MeshdError.
        """
        with self.client() as client, waiting(op):
            answer: object = client.call(op, dict(args or {}), timeout=self.timeout or timeout or ANSWER_TIMEOUT_S)
        return answer


pass_session = click.make_pass_decorator(Session)


def _remember(context: click.Context, option: click.Parameter, value: object) -> None:
    if value is not None and value is not False and option.name is not None:
        setattr(context.ensure_object(Session), option.name, value)


def global_options() -> list[click.Parameter]:
    """``--socket``, ``--json`` and ``--timeout``: understood before and after the command's name."""
    return [
        click.Option(
            ["--socket"],
            metavar="PATH",
            expose_value=False,
            callback=_remember,
            help="The daemon's socket. Else MESHD_SOCKET, yours, then /run/meshd/meshd.sock.",
        ),
        click.Option(
            ["--json", "as_json"],
            is_flag=True,
            expose_value=False,
            callback=_remember,
            help="Print JSON: one document, or one a line for streams.",
        ),
        click.Option(
            ["--timeout"],
            type=click.FloatRange(min=0, min_open=True),
            metavar="SECONDS",
            expose_value=False,
            callback=_remember,
            help="Give up after this long, with exit code 4.",
        ),
    ]


class Command(click.Command):
    """A command that also takes the global options after its name."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self.params.extend(global_options())


class Span(click.ParamType[int]):
    """A span of time such as ``10m``, as milliseconds."""

    name = "span"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds. A value that is none is a usage error."""
        if isinstance(value, int):
            return value
        try:
            return parse_span(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
