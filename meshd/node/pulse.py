"""How the daemon itself is doing: how long the event loop makes others wait, and what alerts are to be raised about."""

import math
import time
from collections.abc import Callable
from typing import NoReturn

import trio

from meshd.node.inbox import Inbox
from meshd.node.vitals import Vitals
from meshd.node.watch import LOOK_INTERVAL_S, Survey

_BRIEF_S = 0.001
"""Passes below this are far too many to be told apart: they all go into the first bucket."""


class Pulse(trio.abc.Instrument):
    """Notes how long each pass of Trio's loop takes, and how much later than asked it wakes up.

    Whatever became ready at the beginning of a pass has waited so long at its end.
    """

    def __init__(self, vitals: Vitals) -> None:
        self._vitals = vitals
        self._woke_at = time.monotonic()
        self._due_at = math.inf

    def before_io_wait(self, timeout: float) -> None:
        """The pass is over; the loop is about to wait for ``timeout`` seconds."""
        now = time.monotonic()
        self._note(now - self._woke_at)
        self._due_at = now + timeout

    def after_io_wait(self, timeout: float) -> None:
        """Woken up, by a deadline or by something that is ready."""
        now = self._woke_at = time.monotonic()
        if now - self._due_at > _BRIEF_S:
            self._note(now - self._due_at)

    def _note(self, seconds: float) -> None:
        vitals = self._vitals
        vitals.loop.observe(seconds)
        if seconds > vitals.loop_worst:
            vitals.loop_worst = seconds


async def look_around(inbox: Inbox, vitals: Vitals, free_bytes: Callable[[], int]) -> NoReturn:
    """Tell the node, twice a second, what no event tells: free disk, the clock, the event loop's worst.

    It sleeps on the clock because disks and clocks have nothing else to wait for. Posts a Survey each time.
    """
    while True:
        await trio.sleep(LOOK_INTERVAL_S)
        worst, vitals.loop_worst = vitals.loop_worst, 0.0
        await inbox.send(Survey(loop_worst_s=worst, free_bytes=free_bytes(), wall_s=time.time()))
