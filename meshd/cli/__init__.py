"""meshctl: the command line of a meshd daemon. It talks to the daemon's socket and knows nothing of its inside."""

import sys


def main() -> None:
    """Run meshctl with the process's arguments, and exit."""
    try:
        from meshd.cli.app import run  # inside, so that Ctrl-C during the imports is quiet too

        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
