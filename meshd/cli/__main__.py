"""``python -m meshd.cli`` is meshctl."""

from meshd.cli import main

main()
