"""``python -m tests.sim --seeds 0:100``, or ``--seed 7 --trace``: prints what fails, and how to see it again."""

import argparse
import sys
import time
import traceback

from tests.sim.determinism import with_fixed_hashes
from tests.sim.world import run_seed


def main() -> int:
    """Exits with 1 when a seed fails."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", metavar="FROM:TO", help="run these (TO is not among them)")
    parser.add_argument("--seed", type=int, help="run one")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--hops", action="store_const", dest="kind", const="hops", help="on lines and rings: mail crosses others"
    )
    kinds.add_argument(
        "--carriers", action="store_const", dest="kind", const="carriers", help="on islands, with laptops between"
    )
    parser.add_argument("--trace", action="store_true", help="print all that happens")
    parser.add_argument("--digests", action="store_true", help="print a line per seed that equal runs share")
    parser.add_argument("--keep-going", action="store_true", help="go on after a seed that fails")
    given = parser.parse_args()
    with_fixed_hashes(sys.argv[1:])
    first, _, last = (given.seeds or f"{given.seed or 0}:{(given.seed or 0) + 1}").partition(":")
    started = time.monotonic()
    failed = 0
    seeds = range(int(first), int(last))
    for seed in seeds:
        try:
            outcome = run_seed(seed, echo=given.trace, kind=given.kind or "")
        except Exception as error:
            failed += 1
            if given.trace:
                traceback.print_exc()
            again = f"python -m tests.sim{f' --{given.kind}' if given.kind else ''} --seed {seed} --trace"
            print(f"seed {seed}: {_first_line(error)}; replay: {again}", flush=True)
            if not given.keep_going:
                return 1
        else:
            if given.digests:
                print(f"seed {seed}: {outcome.digest} {outcome.lines} {outcome.messages} {outcome.deliveries}")
    print(f"{len(seeds)} seeds, {failed} failed, {len(seeds) / (time.monotonic() - started):.2f} a second")
    return 1 if failed else 0


def _first_line(error: BaseException) -> str:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:600]}"


if __name__ == "__main__":
    sys.exit(main())
