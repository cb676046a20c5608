"""Fifty devices that lose one: how they dial it while it is away, and when it comes back. Pure."""

import heapq
import itertools
import random
from collections import Counter

import pytest

from meshd.ids import Epoch, NodeId
from meshd.links.events import LinkDown, LinkUp
from meshd.links.outgoing import Outgoing
from meshd.links.peer import UNHURRIED_SECONDS, DialOutcome, PeerControl
from meshd.transport.base import Address

DEVICES = 50
GONE = NodeId(b"\xff" * 16)
ADDRESS = Address("quic", "10.0.0.9", 7843)
AWAY_S = 7200.0


class Storm:
    """Dials of all devices, as they begin. ``slow``: nobody answers; else each is refused at once."""

    def __init__(self, seed: int, *, slow: bool, unhurried: bool) -> None:
        rng = random.Random(seed)
        self.dials: list[float] = []
        self.linked: list[float] = []
        self._takes = 8.0 if slow else 0.001
        self._order = itertools.count()
        self._controls = []
        for number in range(DEVICES):
            control = PeerControl(
                me=NodeId(bytes([number + 1]) * 16),
                peer=GONE,
                transports=["quic"],
                rng=random.Random(rng.random()),
                now=0.0,
            )
            control.candidates_seen([ADDRESS], "mdns", 0.0)
            up = LinkUp(number, GONE, "quic", ADDRESS, False, Epoch(1, bytes(8)), None, outgoing=Outgoing())
            control.link_up(up, 0.0)
            control.want(True, 0.0, unhurried=unhurried)
            control.link_down(LinkDown(number, GONE, "P_TIMEOUT", "silent"), 100.0 + rng.uniform(0, 1.0))
            self._controls.append(control)

    def run(self, start: float, until: float, *, is_back: bool) -> None:
        """Let everybody do what is due."""
        due = [(start, next(self._order), control) for control in self._controls]
        heapq.heapify(due)
        while due and due[0][0] < until:
            now, _, control = heapq.heappop(due)
            step = control.next_step(now)
            if not step.candidates:
                heapq.heappush(due, (max(now, step.until), next(self._order), control))
                continue
            self.dials.append(now)
            if is_back:
                self.linked.append(now)
                continue
            now += self._takes
            control.attempt_failed(ADDRESS, "no answer", now)
            control.dial_ended(DialOutcome.FAILED, now)
            heapq.heappush(due, (now, next(self._order), control))

    def news(self, now: float) -> None:
        """The device announces itself, and everybody hears it."""
        for control in self._controls:
            control.candidates_seen([ADDRESS], "mdns", now)


def peak(times: list[float], start: float, until: float, window_s: float) -> tuple[float, float]:
    """The most in one window, and the mean of all windows."""
    inside = [at for at in times if start <= at < until]
    counts = Counter(int((at - start) // window_s) for at in inside)
    return max(counts.values()), len(inside) / ((until - start) / window_s)


@pytest.mark.parametrize("slow", [False, True])
def test_while_it_is_away_the_dials_are_spread(slow: bool) -> None:
    for seed in range(10):
        storm = Storm(seed, slow=slow, unhurried=True)
        storm.run(101.0, AWAY_S, is_back=False)
        most, mean = peak(storm.dials, 1200.0, AWAY_S, 60.0)
        assert most <= 3 * mean, f"seed {seed}: {most} in a minute, {mean:.1f} on average"
        assert mean <= DEVICES * 60 / 150, "more than one a device in 150 s"


def test_when_it_is_back_they_do_not_come_all_at_once() -> None:
    for seed in range(10):
        storm = Storm(seed, slow=False, unhurried=True)
        storm.run(101.0, 3600.0, is_back=False)
        storm.news(3600.0)
        storm.run(3600.0, 3600.0 + UNHURRIED_SECONDS, is_back=True)
        most, mean = peak(storm.linked, 3600.0, 3600.0 + UNHURRIED_SECONDS, 0.5)
        assert len(storm.linked) == DEVICES
        assert most <= 3 * mean, f"seed {seed}: {most} in half a second, {mean:.1f} on average"
