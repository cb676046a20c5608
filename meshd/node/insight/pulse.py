"""How the daemon itself is doing: how long the event loop makes others wait, and what alerts are to be raised about."""

import math
import time
from collections.abc import Callable, Collection, Mapping
from typing import NoReturn

import attrs
import trio

from meshd.ids import NodeId
from meshd.node.inbox import Inbox
from meshd.node.insight.vitals import Vitals
from meshd.node.insight.watch import CALM_INTERVAL_S, LOOK_INTERVAL_S, Survey, Thresholds

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


@attrs.frozen(kw_only=True)
class Sights:
    """What there is to see.

    Args:
        free_bytes: asks the disk. closings: see :class:`Survey`.
        turns: how many the node has made. is_waiting: whether it wants to hear that time has passed.
        outages: parts that don't run.
        thresholds: of what is worth telling.
    """

    free_bytes: Callable[[], int]
    closings: Callable[[], Mapping[NodeId, int]]
    turns: Callable[[], int]
    is_waiting: Callable[[], bool]
    outages: Collection[str]
    thresholds: Thresholds


async def look_around(inbox: Inbox, vitals: Vitals, sights: Sights) -> NoReturn:
    """Look, twice a second, at what no event tells: free disk, the clock, the event loop's worst.

    It sleeps on the clock because disks and clocks have nothing else to wait for. Posts a Survey when there is
    something to tell, when the node has made a turn since the last one, whose changes are to be judged too, and
    every CALM_INTERVAL_S: on an idle device each turn counts.
    """
    told: tuple[Survey, frozenset[str]] | None = None
    turns, due = 0, trio.current_time()
    while True:
        await trio.sleep(LOOK_INTERVAL_S)
        worst, vitals.loop_worst = vitals.loop_worst, 0.0
        survey = Survey(
            loop_worst_s=worst, free_bytes=sights.free_bytes(), wall_s=time.time(), closings=sights.closings()
        )
        outages = frozenset(sights.outages)
        if (
            told is None
            or trio.current_time() >= due
            or sights.turns() > turns
            or sights.is_waiting()
            or survey.is_news(told[0], sights.thresholds)
            or outages != told[1]
        ):
            turns, due = sights.turns() + 1, trio.current_time() + CALM_INTERVAL_S  # it makes a turn itself
            told = survey, outages
            await inbox.send(survey)
