"""Mail that is not answered for: when its link is doubted, and that no link ends by that. Pure."""

import heapq
import math
import random

import attrs
import pytest

from meshd.links.liveness import Action, Liveness, Phase, PhaseChanged, SendPing


def make(*, lower: bool = True, rtt: float = 0.001) -> Liveness:
    """A link whose round trip is known, at time 0.1; nothing is under way."""
    liveness = Liveness(lower=lower, first_ping=True, now=0.0, rng=random.Random(1))
    [ping] = liveness.poll(0.0)
    assert isinstance(ping, SendPing)
    liveness.receive(rtt)
    liveness.pong(ping.token, rtt)
    return liveness


def silence(liveness: Liveness, until: float) -> list[tuple[float, Action]]:
    """Poll exactly when due, with a peer that says nothing."""
    log: list[tuple[float, Action]] = []
    while liveness.next_deadline <= until:
        now = liveness.next_deadline
        log += [(now, action) for action in liveness.poll(now)]
    return log


def changes(log: list[tuple[float, Action]]) -> list[tuple[float, Phase]]:
    return [(round(at, 3), action.phase) for at, action in log if isinstance(action, PhaseChanged)]


@pytest.mark.parametrize("lower", [True, False])
def test_silence_after_mail_is_asked_about_and_then_doubted_and_ends_no_link_sooner(lower: bool) -> None:
    liveness, idle = make(lower=lower), make(lower=lower)
    assert liveness.expect(0.1)
    log = silence(liveness, 60.0)
    (asked_at, ask), (doubted_at, doubt) = log[:2]
    assert isinstance(ask, SendPing)
    assert asked_at == pytest.approx(0.35)
    assert (doubted_at, doubt) == (pytest.approx(0.6), PhaseChanged(Phase.DOUBTED))
    assert [phase for _, phase in changes(log)] == [Phase.DOUBTED, Phase.SUSPECT, Phase.DOWN]
    assert changes(log)[1:] == changes(silence(idle, 60.0))


def test_without_mail_nothing_is_asked() -> None:
    liveness = make(lower=False)
    assert not [action for _, action in silence(liveness, 2.9) if not isinstance(action, SendPing)]


def test_a_sign_of_life_ends_the_doubt() -> None:
    liveness = make(lower=False)
    liveness.expect(0.1)
    silence(liveness, 0.7)
    assert liveness.phase is Phase.DOUBTED
    assert liveness.receive(0.8) == (PhaseChanged(Phase.ALIVE),)
    assert silence(liveness, 3.0) == []


def test_only_the_first_mail_after_a_pause_needs_the_detector_to_be_called_earlier() -> None:
    liveness = make()
    assert [liveness.expect(0.1 + n / 100) for n in range(20)] == [True] + [False] * 19
    liveness.receive(0.101)
    assert not liveness.expect(0.2), "it looks again in time"
    assert changes(silence(liveness, 2.0)) == [(pytest.approx(0.2 + 0.25 + 0.25), Phase.DOUBTED)]


def test_a_peer_that_answers_slowly_as_a_rule_is_waited_for() -> None:
    liveness = make(lower=False)
    now = 0.1
    for _ in range(20):  # a bundle at a time, over a slow line
        liveness.expect(now)
        while liveness.next_deadline < now + 0.4:
            liveness.poll(liveness.next_deadline)
        now += 0.4
        liveness.receive(now)
    liveness.expect(now)
    log = silence(liveness, now + 0.39)
    assert changes(log) == []
    assert len(log) == 1, "it is asked, as that costs little"


@pytest.mark.parametrize("ours", ["late", "deaf"])
def test_time_in_which_we_did_not_listen_is_no_reason(ours: str) -> None:
    liveness = make(lower=False)
    liveness.expect(0.1)
    if ours == "deaf":
        liveness.deafen()
        assert changes(silence(liveness, 2.0)) == []
        return
    liveness.poll(1.0)
    assert liveness.phase is Phase.ALIVE
    assert changes(silence(liveness, 3.0)) == [(1.25, Phase.DOUBTED)], "asked at once, with time to answer"


@attrs.define
class Tally:
    """What a simulation saw."""

    exchanges: int = 0
    false_doubts: int = 0
    detections: list[float] = attrs.field(factory=list)

    @property
    def detection_p99(self) -> float:
        return sorted(self.detections)[math.ceil(len(self.detections) * 0.99) - 1]


def talk(rng: random.Random, loss: float, tally: Tally, lives_s: float) -> None:
    """Mail about once a second over a path that sends again what is lost, as TCP does; then the path dies.

    Adds the time from the first mail on the dead path until it is doubted.
    """
    delay = rng.choice((0.001, 0.02, 0.1))
    liveness = Liveness(lower=rng.random() < 0.5, first_ping=True, now=0.0, rng=rng)
    mail_at, unanswered_since = rng.random(), math.inf
    arrivals: list[tuple[float, int]] = []

    def trip(now: float) -> float:
        took, again = 2 * delay + rng.expovariate(1 / delay), max(0.2, 4 * delay)
        while rng.random() < loss:
            took, again = took + again, again * 2
        return now + took

    while True:
        now = min(liveness.next_deadline, mail_at, arrivals[0][0] if arrivals else math.inf)
        if arrivals and arrivals[0][0] <= now:
            _, token = heapq.heappop(arrivals)
            if now < lives_s:
                liveness.receive(now)
            if now < lives_s and token:
                liveness.pong(token, now)
        if mail_at <= now:
            mail_at = now + rng.expovariate(1.0)
            liveness.expect(now)
            tally.exchanges += 1
            heapq.heappush(arrivals, (trip(now), 0))
            if now >= lives_s:
                unanswered_since = min(unanswered_since, now)
        for action in liveness.poll(now):
            if isinstance(action, SendPing):
                heapq.heappush(arrivals, (trip(now), action.token))
            elif isinstance(action, PhaseChanged) and now < lives_s:
                tally.false_doubts += action.phase is Phase.DOUBTED
                assert action.phase is not Phase.DOWN
            elif isinstance(action, PhaseChanged) and action.phase is not Phase.ALIVE:
                tally.detections.append(max(0.0, now - unanswered_since))
                return


@pytest.mark.parametrize(("loss", "false_share", "p99_s"), [(0.0, 0.0, 1.3), (0.02, 0.0001, 1.4), (0.1, 0.001, 1.8)])
def test_a_dead_path_is_doubted_soon_and_a_lossy_one_rarely(loss: float, false_share: float, p99_s: float) -> None:
    rng, tally = random.Random(3), Tally()
    for _ in range(200):
        talk(rng, loss, tally, 100.0)
    assert tally.exchanges > 15_000
    assert tally.false_doubts <= false_share * tally.exchanges
    assert tally.detection_p99 <= p99_s
