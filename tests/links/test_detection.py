"""The failure detector and the breaker together, on paths that lose and die, over many virtual hours. Pure."""

import heapq
import math
import random

import attrs
import pytest

from meshd.links.breaker import Breaker, State
from meshd.links.liveness import Liveness, Phase, PhaseChanged, SendPing

HOUR = 3600.0


@attrs.define
class Tally:
    """What a simulation saw; detection times in seconds after the path died."""

    outages: int = 0
    false_opens: int = 0
    detections: list[float] = attrs.field(factory=list)

    @property
    def detection_p99(self) -> float:
        return sorted(self.detections)[math.ceil(len(self.detections) * 0.99) - 1]


def watch_one_link(rng: random.Random, start: float, dies_at: float, loss: float, breaker: Breaker) -> float:
    """Run the lower side of one idle link until it is declared down; returns when.

    Each ping and each pong is lost with probability ``loss`` and never sent again: harsher than any
    transport of ours. From ``dies_at`` on, nothing gets through.
    """
    liveness = Liveness(lower=True, first_ping=True, now=start, rng=rng)
    delay = rng.choice((0.001, 0.02, 0.1))
    pongs: list[tuple[float, int]] = []
    while liveness.phase is not Phase.DOWN:
        now = min(liveness.next_deadline, pongs[0][0] if pongs else math.inf)
        if pongs and pongs[0][0] <= now:
            _, token = heapq.heappop(pongs)
            liveness.receive(now)
            liveness.pong(token, now)
            breaker.answered(now)
        for action in liveness.poll(now):
            if isinstance(action, SendPing) and now < dies_at and rng.random() >= loss and rng.random() >= loss:
                heapq.heappush(pongs, (now + 2 * delay + rng.expovariate(1 / delay), action.token))
            elif action == PhaseChanged(Phase.DOWN):
                breaker.down(now)
                return now
    raise AssertionError("unreachable")


def simulate(seed: int, hours: float, *, loss: float, mean_up: float = 600.0) -> Tally:
    """Links that live for ten minutes on average before their path dies, one after the other."""
    rng = random.Random(seed)
    tally = Tally()
    now = 0.0
    while now < hours * HOUR:
        breaker = Breaker(rng)
        dies_at = now + rng.expovariate(1 / mean_up)
        while True:
            now = watch_one_link(rng, now, dies_at, loss, breaker)
            assert breaker.state is State.OPEN
            if now >= dies_at:
                break
            tally.false_opens += 1
            assert breaker.next_attempt_at is not None
            now = breaker.next_attempt_at
            assert breaker.allow(now)
            breaker.dial_succeeded(now)
            if now >= dies_at:
                dies_at = now
        tally.outages += 1
        tally.detections.append(now - dies_at)
    return tally


@pytest.mark.parametrize("loss", [0.0, 0.1])
def test_few_false_alarms_and_quick_detection_on_lossy_paths(loss: float) -> None:
    tally = simulate(1, 20.0, loss=loss)
    assert tally.outages > 80
    assert tally.false_opens / tally.outages < 0.01
    assert tally.detection_p99 <= 6.0
    assert min(tally.detections) >= 1.0, "a verdict before the probes could be answered"


@pytest.mark.soak
def test_a_thousand_hours_of_lossy_paths() -> None:
    for seed, loss in enumerate((0.02, 0.05, 0.1)):
        tally = simulate(seed, 1000.0, loss=loss)
        assert tally.false_opens / tally.outages < 0.01, f"seed {seed}"
        assert tally.detection_p99 <= 6.0, f"seed {seed}"
