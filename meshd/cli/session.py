"""What all commands share: the global options, the way to the daemon, and how a command is declared."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import attrs
import click

from meshd.cli.progress import waiting
from meshd.cli.screen import written
from meshd.cli.units import parse_span
from meshd.errors import CATALOGUE, MeshdError

if TYPE_CHECKING:
    from meshd.client.blocking import Client

ANSWER_TIMEOUT_S = 10.0
"""How long one answer may take when no ``--timeout`` says otherwise."""

MAX_TIMEOUT_S = 366 * 86_400.0
"""What select(2) and its kin are sure to take."""

_OF_ARGUMENT = re.compile(r"[a-z-]+: argument '(\w+)': ")
"""How the daemon begins what is wrong with an argument: the operation is of no interest to who typed a command."""


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
            type=Seconds(),
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

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; all that is printed then is help."""
        with written():
            return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        """Run it. What the daemon calls wrong usage is told in the words of the command line."""
        try:
            return super().invoke(ctx)
        except MeshdError as error:
            if isinstance(error.__cause__, UnicodeEncodeError):
                raise error.__cause__ from None  # here it is of what was typed: the end of the program says so
            if error.code != "E_USAGE" or error.hint != CATALOGUE["E_USAGE"].advice:
                raise
            message = _OF_ARGUMENT.sub(r"\1: ", error.message)
            raise MeshdError("E_USAGE", message, f"See: {ctx.command_path} --help") from error


class Group(click.Group):
    """A command that only has others below it."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments; all that is printed then is help, and the version."""
        with written():
            return super().parse_args(ctx, args)


class Seconds(click.ParamType[float]):
    """A number of seconds to wait at most."""

    name = "seconds"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Seconds. A value that is none, or can't be waited for, is a usage error."""
        try:
            seconds = float(str(value))
        except ValueError:
            seconds = 0.0
        if not 0 < seconds <= MAX_TIMEOUT_S:  # not a number is neither
            self.fail(f"{value!r} is no number of seconds, over 0 and at most a year", param, ctx)
        return seconds


class Span(click.ParamType[int]):
    """A span of time such as ``10m``, as milliseconds; from ``least`` to ``most``, given as spans."""

    name = "span"

    def __init__(self, least: str = "1ms", most: str = "3650d") -> None:
        self.least, self.most = least, most

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Milliseconds. A value that is none is a usage error."""
        if isinstance(value, int):
            return value
        try:
            span = parse_span(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if not parse_span(self.least) <= span <= parse_span(self.most):
            self.fail(f"{value!r} is not between {self.least} and {self.most}", param, ctx)
        return span
