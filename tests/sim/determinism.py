"""The same seed, the same run: Trio's scheduler seeded, and hashes of strings and bytes fixed."""

import os
import random
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio
from trio.testing import MockClock

T = TypeVar("T")
_HASH_SEED = "0"


def run_seeded(body: Callable[[], Awaitable[T]], seed: int) -> T:
    """Run ``body`` on virtual time, its tasks scheduled as ``seed`` says.

    Trio has no public way to do this: the two names are checked, and put back after the run.
    """
    scheduler = trio._core._run
    chance = getattr(scheduler, "_r", None)
    if not isinstance(chance, random.Random) or not hasattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING"):
        raise RuntimeError(f"Trio {trio.__version__} can't be seeded as others could: see tests/sim/determinism.py")
    state, allowed = chance.getstate(), scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    chance.seed(seed)
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        return trio.run(body, clock=MockClock(autojump_threshold=0))
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = allowed
        chance.setstate(state)


def with_fixed_hashes(arguments: Sequence[str]) -> None:
    """Start this program again unless hashes are fixed: sets iterate in the order of hashes."""
    if os.environ.get("PYTHONHASHSEED") != _HASH_SEED:
        environment = {**os.environ, "PYTHONHASHSEED": _HASH_SEED}
        os.execve(sys.executable, [sys.executable, "-m", "tests.sim", *arguments], environment)
