"""``python -m meshd``, and the ``meshd`` command: it is told to stop before all of it is loaded, too."""

import signal


def main() -> None:
    """Load the daemon and run it. Until it listens for Ctrl-C, that ends it without a word, as SIGTERM does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from meshd.daemon import main as run  # inside, so that the line before comes first

    run()


if __name__ == "__main__":
    main()
