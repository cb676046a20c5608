"""``python -m tests.bench``: measure whole processes on real sockets. See docs/benchmarks.md."""

import argparse
import json
import os
import signal
from pathlib import Path

from tests.bench.report import HEADER, Figure, document, line
from tests.bench.rows import ROWS, Effort

FULL = Effort(runs=5, scale=1)
QUICK = Effort(runs=3, scale=5)


def main() -> None:
    """Measure what was asked for; print lines as they come, then write the JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--only", metavar="NAME", action="append", help="rows that begin so; may be repeated")
    parser.add_argument("--quick", action="store_true", help="less work and fewer runs: a first impression")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all runs there")
    parser.add_argument("--list", action="store_true", help="print the names of the rows")
    given = parser.parse_args()
    if given.list:
        print("\n".join(ROWS))
        return
    chosen = [name for name in ROWS if not given.only or name.startswith(tuple(given.only))]
    if not chosen:
        parser.error(f"no row begins with {', '.join(given.only)}; see --list")
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))  # so that its daemons end with it
    load_before = os.getloadavg()[0]
    figures: list[Figure] = []
    print(HEADER, flush=True)
    for name in chosen:
        for figure in ROWS[name](QUICK if given.quick else FULL):
            figures.append(figure)
            print(line(figure), flush=True)
    if given.json is not None:
        given.json.write_text(json.dumps(document(figures, load_before), indent=2) + "\n")


if __name__ == "__main__":
    main()
