import itertools
import random

import pytest

from meshd.links.liveness import Action, Liveness, Phase, PhaseChanged, SendPing


def make(*, lower: bool = True, interval: float = 1.0) -> Liveness:
    return Liveness(lower=lower, first_ping=False, now=0.0, rng=random.Random(1), interval=interval)


def run(liveness: Liveness, until: float) -> list[tuple[float, Action]]:
    """Poll exactly when due, with a peer that never answers."""
    log: list[tuple[float, Action]] = []
    while liveness.next_deadline <= until:
        now = liveness.next_deadline
        log += [(now, action) for action in liveness.poll(now)]
    return log


def converse(liveness: Liveness, until: float, rtt: float = 0.01) -> list[float]:
    """Poll when due, with a peer that answers every ping; returns when pings were sent."""
    pings: list[float] = []
    while (now := liveness.next_deadline) <= until:
        for action in liveness.poll(now):
            assert isinstance(action, SendPing)
            pings.append(now)
            liveness.receive(now + rtt)
            assert liveness.pong(action.token, now + rtt) == pytest.approx(rtt)
    return pings


def test_the_lower_id_pings_once_a_second_with_jitter() -> None:
    pings = converse(make(), 100.0)
    gaps = [b - a for a, b in itertools.pairwise(pings)]
    assert all(0.9 <= gap <= 1.1 for gap in gaps)
    assert len(set(gaps)) > 10


def test_the_higher_id_only_measures() -> None:
    liveness = make(lower=False)
    pings = 0
    for n in range(1, 151):
        liveness.receive(n * 1.0)
        while liveness.next_deadline <= n + 0.5:
            pings += sum(isinstance(action, SendPing) for action in liveness.poll(n + 0.5))
    assert liveness.phase is Phase.ALIVE
    assert 9 <= pings <= 12


def test_silence_makes_suspect_then_four_probes_then_down() -> None:
    liveness = make()
    converse(liveness, 30.0)
    log = run(liveness, 60.0)
    changes = [(now, action.phase) for now, action in log if isinstance(action, PhaseChanged)]
    assert [phase for _, phase in changes] == [Phase.SUSPECT, Phase.DOWN]
    (suspect_at, _), (down_at, _) = changes
    probes = [now for now, action in log if isinstance(action, SendPing) and now >= suspect_at]
    assert len(probes) == 4
    assert 2.5 <= suspect_at - 30.0 <= 3.5
    assert down_at - suspect_at == pytest.approx(1.1)
    assert liveness.next_deadline == float("inf")
    assert liveness.poll(100.0) == ()


def test_any_frame_ends_the_suspicion() -> None:
    liveness = make()
    run(liveness, 3.3)
    assert liveness.phase is Phase.SUSPECT
    assert liveness.receive(3.4) == (PhaseChanged(Phase.ALIVE),)
    assert liveness.receive(3.5) == ()
    assert liveness.next_deadline <= 3.5 + liveness.patience


@pytest.mark.parametrize(("gap", "patience"), [(0.1, 3.0), (1.0, 3.0), (2.0, 6.0), (20.0, 10.0)])
def test_patience_is_three_times_the_usual_gap_within_bounds(gap: float, patience: float) -> None:
    liveness = make(lower=False)
    for n in range(1, 200):
        liveness.receive(n * gap)
    assert liveness.patience == pytest.approx(patience, rel=0.01)


def test_traffic_does_not_make_it_impatient_of_idleness() -> None:
    liveness = make(lower=False, interval=2.0)
    for n in range(1, 10_000):
        liveness.receive(n * 0.001)
    assert liveness.patience == pytest.approx(6.0)


def test_our_own_lag_is_not_the_peers_silence() -> None:
    liveness = make()
    converse(liveness, 30.0)
    late = liveness.next_deadline + 8.0
    actions = liveness.poll(late)
    assert all(isinstance(action, SendPing) for action in actions)
    assert liveness.phase is Phase.ALIVE
    log = run(liveness, late + 60.0)
    down = [now for now, action in log if action == PhaseChanged(Phase.DOWN)]
    assert len(down) == 1
    assert down[0] >= late + 3.0


def test_lag_between_probes_does_not_shorten_them() -> None:
    liveness = make()
    run(liveness, 3.3)
    assert liveness.phase is Phase.SUSPECT
    late = liveness.next_deadline + 30.0
    liveness.poll(late)
    assert liveness.phase is Phase.SUSPECT
    assert liveness.next_deadline >= late + 0.19


def test_while_we_do_not_listen_nobody_is_suspect() -> None:
    liveness = make()
    liveness.deafen()
    run(liveness, 60.0)
    assert liveness.phase is Phase.ALIVE
    liveness.receive(60.0)
    assert liveness.patience == 3.0, "our own deafness is no gap of the peer's"
    run(liveness, 66.0)
    assert liveness.phase is Phase.DOWN


def test_challenge_doubts_at_once() -> None:
    liveness = make()
    converse(liveness, 10.0)
    liveness.challenge(10.2)
    assert PhaseChanged(Phase.SUSPECT) in liveness.poll(10.2)
    run(liveness, 11.4)
    assert liveness.phase is Phase.DOWN


def test_challenge_passes_when_the_peer_answers() -> None:
    liveness = make()
    converse(liveness, 10.0)
    liveness.challenge(10.2)
    liveness.poll(10.2)
    assert liveness.receive(10.3) == (PhaseChanged(Phase.ALIVE),)
    converse(liveness, 20.0)
    assert liveness.phase is Phase.ALIVE


def test_unknown_pongs_measure_nothing() -> None:
    liveness = make()
    assert liveness.pong(12345, 1.0) is None
    assert liveness.take_outcomes() == (0, 0)


def test_outcomes_count_answers_in_time_late_ones_and_none() -> None:
    liveness = make()
    converse(liveness, 5.5)
    assert liveness.take_outcomes() == (5, 0)
    (ping,) = liveness.poll(liveness.next_deadline)
    assert isinstance(ping, SendPing)
    liveness.pong(ping.token, liveness.next_deadline + 5.0)
    assert liveness.take_outcomes() == (0, 1)
    for n in range(20):  # never answered, but the peer speaks
        liveness.receive(20.0 + n)
        liveness.poll(20.0 + n)
    assert liveness.take_outcomes()[1] >= 5


def test_a_slow_path_gets_time_for_the_last_answer() -> None:
    liveness = make()
    liveness.round_trip.add(1.0)
    log = run(liveness, 60.0)
    times = [now for now, action in log if isinstance(action, PhaseChanged)]
    assert times[1] - times[0] == pytest.approx(0.6 + 3.0)


def test_a_slower_pace_comes_step_by_step_so_that_the_peer_never_doubts() -> None:
    low, high = make(), make(lower=False)
    low.pace(5.0)
    now, pings = 0.0, []
    while now < 120.0:
        now = min(low.next_deadline, high.next_deadline)
        assert high.poll(now) == () or all(isinstance(action, SendPing) for action in high.poll(now))
        for action in low.poll(now):
            assert isinstance(action, SendPing)
            pings.append(now)
            high.receive(now + 0.01)
            low.receive(now + 0.02)
            low.pong(action.token, now + 0.02)
    assert 4.5 <= pings[-1] - pings[-2] <= 5.5
    low.pace(1.0)
    low.poll(low.next_deadline)
    assert low.next_deadline - pings[-1] <= 6.7
