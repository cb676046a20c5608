"""``python -m meshd.relay``."""

from meshd.relay.server import main

if __name__ == "__main__":
    main()
