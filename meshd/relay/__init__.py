"""meshd-relay: one identity, a node for each mesh that it serves, and a listener that tells them apart."""

import signal


def main() -> None:
    """Load the relay and run it. Until it listens for Ctrl-C, that ends it without a word, as SIGTERM does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from meshd.relay.server import main as run  # inside, so that the line before comes first

    run()
