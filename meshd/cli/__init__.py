"""meshctl: the command line of a meshd daemon. It talks to the daemon's socket and knows nothing of its inside."""

import io
import os
import sys


def main() -> None:
    """Run meshctl with the process's arguments, and exit."""
    try:
        _prepare_streams()
        from meshd.cli.app import run  # inside, so that Ctrl-C during the imports is quiet too

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _prepare_streams() -> None:
    """Have all three: one that was closed fails when it is used. What the locale has no letters for is escaped."""
    # Standard input and output are opened the wrong way round, so that no message is made of nothing, and none is shown
    # and acknowledged into nothing.
    for name, way, mode in (("stdin", os.O_WRONLY, "r"), ("stdout", os.O_RDONLY, "w"), ("stderr", os.O_WRONLY, "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.open(os.devnull, way), mode))  # noqa: SIM115  # for as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
