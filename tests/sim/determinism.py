"""The same seed, the same run: Trio's scheduler seeded, and hashes of strings and bytes fixed."""

import os
import random
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import trio
from trio.testing import MockClock

T = TypeVar("T")
_HASH_SEED = "0"


MAX_STEPS = 20_000
"""As many steps of tasks without time moving on are a loop that waits for nothing."""


class Spinning(AssertionError):
    """A task goes on for ever in one moment."""


class _Watch(trio.abc.Instrument):
    """Ends the run when time stands still."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.culprit: str | None = None
        self._moment = -1.0
        self._count = 0
        self._steps: Counter[str] = Counter()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        now = trio.current_time()
        if now != self._moment:
            self._moment, self._count = now, 0
            self._steps.clear()
        self._count += 1
        if self._count > MAX_STEPS // 2:
            self._steps[task.name] += 1
        if self._count > MAX_STEPS and self.culprit is None:
            self.culprit = f"{self._steps.most_common(3)} at {now:.4f} s"
            self.scope.cancel()


def run_seeded(body: Callable[[], Awaitable[T]], seed: int) -> T:
    """Run ``body`` on virtual time, its tasks scheduled as ``seed`` says. Raises Spinning.

    Trio has no public way to do this: the two names are checked, and put back after the run.
    """
    scheduler = trio._core._run
    chance = getattr(scheduler, "_r", None)
    if not isinstance(chance, random.Random) or not hasattr(scheduler, "_ALLOW_DETERMINISTIC_SCHEDULING"):
        raise RuntimeError(f"Trio {trio.__version__} can't be seeded as others could: see tests/sim/determinism.py")
    state, allowed = chance.getstate(), scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    watch = _Watch()

    async def watched() -> list[T]:
        with watch.scope:
            return [await body()]
        return []

    chance.seed(seed)
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True
    try:
        outcome = trio.run(watched, clock=MockClock(autojump_threshold=0), instruments=[watch])
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = allowed
        chance.setstate(state)
    if watch.culprit is not None:
        raise Spinning(watch.culprit)
    return outcome[0]


def with_fixed_hashes(arguments: Sequence[str]) -> None:
    """Start this program again unless hashes are fixed: sets iterate in the order of hashes."""
    if os.environ.get("PYTHONHASHSEED") != _HASH_SEED:
        environment = {**os.environ, "PYTHONHASHSEED": _HASH_SEED}
        os.execve(sys.executable, [sys.executable, "-m", "tests.sim", *arguments], environment)
