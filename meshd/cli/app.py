"""The command tree, each command imported when it is called, and the one boundary where errors become exit codes."""

import importlib
import os
import traceback
from collections.abc import Mapping, Sequence

import click

from meshd import __version__
from meshd.cli.screen import drop_output, failure
from meshd.cli.session import Group, Session, global_options
from meshd.errors import CATALOGUE, MeshdError

EXIT_REFUSED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130
EXIT_PIPE_CLOSED = 141
"""As a program that dies of SIGPIPE looks to a shell."""

EXIT_CODES = {"E_USAGE": EXIT_USAGE, "E_CONFIG": EXIT_USAGE, "E_NO_DAEMON": 3, "E_TIMEOUT": 4}
"""Exit codes by error code; anything else is a refusal."""

COMMANDS: Mapping[str, str] = {
    "init": "meshd.cli.mesh",
    "invite": "meshd.cli.mesh",
    "join": "meshd.cli.mesh",
    "members": "meshd.cli.mesh",
    "remove": "meshd.cli.mesh",
    "relay": "meshd.cli.relay",
    "status": "meshd.cli.views",
    "peers": "meshd.cli.views",
    "routes": "meshd.cli.views",
    "queue": "meshd.cli.views",
    "why": "meshd.cli.insight",
    "graph": "meshd.cli.insight",
    "events": "meshd.cli.insight",
    "breaker": "meshd.cli.insight",
    "alerts": "meshd.cli.monitor",
    "metrics": "meshd.cli.monitor",
    "log": "meshd.cli.log",
    "ping": "meshd.cli.probes",
    "trace": "meshd.cli.probes",
    "send": "meshd.cli.send",
    "receive": "meshd.cli.receive",
    "doctor": "meshd.cli.doctor",
    "support-bundle": "meshd.cli.support",
    "config": "meshd.cli.config",
    "token": "meshd.cli.tokens",
    "errors": "meshd.cli.errors",
    "demo": "meshd.cli.demo",
}
"""Each command and the module that holds it, under its own name (with ``_`` for ``-``)."""


class LazyGroup(Group):
    """The top group: imports a command's module when the command is named."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The commands in the order a newcomer needs them."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a command; None when there is none of that name."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        return command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the arguments, up to the command's name. A reader that went away ends it without a word."""
        try:
            return super().parse_args(ctx, args)
        except BrokenPipeError:
            drop_output()
            ctx.exit(EXIT_PIPE_CLOSED)

    def invoke(self, ctx: click.Context) -> object:
        """Run the command. Ctrl-C, and a reader that went away (``| head``), end it without a word."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            ctx.exit(EXIT_INTERRUPTED)
        except BrokenPipeError:
            drop_output()
            ctx.exit(EXIT_PIPE_CLOSED)


def _meshctl() -> None:
    """Talk to this device's meshd: found or join a mesh, send and receive, and see how everything is.

    \b
    First steps:  meshctl init home       on the first device
                  meshctl invite          there; it prints a code
                  meshctl join CODE       on each other device
                  meshctl send NAME hello
                  meshctl receive         on the device called NAME

    Exit codes: 0 done, 1 refused, 2 usage, 3 no daemon reachable, 4 timed out.
    """


meshctl = LazyGroup(
    name="meshctl",
    callback=_meshctl,
    help=_meshctl.__doc__,
    params=global_options(),
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
click.version_option(__version__, prog_name="meshctl", message="%(prog)s %(version)s")(meshctl)


def run(arguments: Sequence[str]) -> int:
    """Run one command; return the exit code. Every error is printed here, none as a traceback."""
    session = Session()
    try:
        code: object = meshctl.main(list(arguments), prog_name="meshctl", standalone_mode=False, obj=session)
        return code if isinstance(code, int) else 0
    except click.Abort:
        return EXIT_INTERRUPTED
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return EXIT_USAGE
    except click.ClickException as error:
        return _report(_usage_error(error), as_json=session.as_json or "--json" in arguments)
    except MeshdError as error:
        return _report(error, as_json=session.as_json)
    except UnicodeEncodeError as error:  # of what was typed: standard output shows what it can't write as escapes
        message = f"What was typed is not UTF-8: {ascii(error.object)[:80]}"
        return _report(
            MeshdError("E_USAGE", message, "Send such bytes from a file: meshctl send DEST --file FILE"),
            as_json=session.as_json,
        )
    except Exception as error:  # the boundary to the user: a defect is one line, with the details on request
        if os.environ.get("MESHD_DEBUG"):
            traceback.print_exc()
        message = f"meshctl failed: {type(error).__name__}: {error}"
        advice = f"{CATALOGUE['E_INTERNAL'].advice} MESHD_DEBUG=1 shows where it failed."
        return _report(MeshdError("E_INTERNAL", message, advice), as_json=session.as_json)


def _report(error: MeshdError, *, as_json: bool) -> int:
    failure(error.code, error.message, error.hint, as_json=as_json)
    return exit_code(error)


def exit_code(error: MeshdError) -> int:
    """What meshctl ends with for an error."""
    return EXIT_CODES.get(error.code, EXIT_REFUSED)


def _usage_error(error: click.ClickException) -> MeshdError:
    context = error.ctx if isinstance(error, click.UsageError) else None
    advice = f"See: {context.command_path} --help" if context is not None else "See: meshctl --help"
    return MeshdError("E_USAGE", error.format_message(), advice)
