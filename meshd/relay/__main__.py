"""``python -m meshd.relay``."""

from meshd.relay import main

if __name__ == "__main__":
    main()
