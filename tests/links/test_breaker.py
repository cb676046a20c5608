import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.links.breaker import LONGEST_OPEN_SECONDS, Breaker, State


def opened(now: float = 0.0) -> Breaker:
    breaker = Breaker(random.Random(1))
    breaker.down(now)
    assert breaker.state is State.OPEN
    return breaker


def half_open(now: float = 10.0) -> Breaker:
    breaker = opened()
    assert breaker.allow(now)
    assert breaker.state is State.HALF_OPEN
    return breaker


def test_five_failed_dials_in_a_row_open_it() -> None:
    breaker = Breaker(random.Random(1))
    for n in range(5):
        assert breaker.allow(float(n))
        breaker.dial_failed(float(n))
        assert breaker.state is (State.OPEN if n == 4 else State.CLOSED)


def test_a_success_between_failed_dials_starts_the_count_over() -> None:
    breaker = Breaker(random.Random(1))
    for n in range(12):
        if n % 4 == 3:
            breaker.dial_succeeded(float(n))
        breaker.dial_failed(float(n))
        if breaker.statistics().recent_failures < 12:
            assert breaker.state is State.CLOSED


@pytest.mark.parametrize(("failures", "openings"), [(11, 0), (12, 1)])
def test_sixty_percent_of_the_last_twenty_attempts_open_it(failures: int, openings: int) -> None:
    breaker = Breaker(random.Random(1))
    for _ in range(100):  # long ago: forgotten
        breaker.data_acked(0.0)
    outcomes = [False] * failures + [True] * (20 - failures)
    random.Random(failures).shuffle(outcomes)
    for ok in outcomes:
        (breaker.data_acked if ok else breaker.data_timeout)(1.0)
    assert breaker.statistics().openings == openings


def test_pings_do_not_outweigh_missing_data_acks() -> None:
    breaker = Breaker(random.Random(1))
    for n in range(12):
        for _ in range(10):
            breaker.answered(float(n))
        breaker.data_timeout(float(n))
    assert breaker.state is State.OPEN


def test_it_stays_open_for_its_time_and_then_lets_one_probe_through() -> None:
    breaker = opened(now=100.0)
    due = breaker.next_attempt_at
    assert due is not None
    assert 100.5 <= due <= 101.0
    assert not breaker.allow(due - 0.001)
    assert breaker.allow(due)
    assert breaker.state is State.HALF_OPEN
    assert breaker.next_attempt_at is None
    assert not breaker.allow(due + 1000)


def test_a_probe_that_says_nothing_gives_its_turn_back() -> None:
    breaker = half_open()
    breaker.dial_void()
    assert breaker.state is State.HALF_OPEN
    assert breaker.allow(10.0)


def test_local_trouble_and_busy_peers_never_open_it() -> None:
    breaker = Breaker(random.Random(1))
    for n in range(1000):
        assert breaker.allow(float(n))
        breaker.dial_void()
    assert breaker.state is State.CLOSED
    assert breaker.statistics().recent_attempts == 0


def test_three_successes_close_it() -> None:
    breaker = half_open()
    breaker.dial_succeeded(10.0)
    breaker.answered(11.0)
    assert breaker.state is State.HALF_OPEN
    breaker.data_acked(12.0)
    assert breaker.state is State.CLOSED
    assert breaker.statistics().recent_failures == 0


def test_one_failure_while_half_open_opens_it_for_about_twice_as_long_up_to_the_cap() -> None:
    breaker = opened()
    now = 0.0
    for n in range(1, 14):
        due = breaker.next_attempt_at
        assert due is not None
        full = min(LONGEST_OPEN_SECONDS, 2.0 ** (n - 1))
        assert full / 2 <= due - now <= full
        now = due
        assert breaker.allow(now)
        breaker.dial_failed(now)
    assert breaker.statistics().openings == 14


def test_a_peer_that_reaches_us_counts_while_it_is_open() -> None:
    breaker = opened()
    for n in range(3):
        breaker.data_acked(float(n))
    assert breaker.state is State.CLOSED


def test_a_changed_address_earns_one_early_probe_per_opening() -> None:
    breaker = opened(now=0.0)
    for _ in range(8):  # make the wait long
        due = breaker.next_attempt_at
        assert due is not None
        assert breaker.allow(due)
        breaker.dial_failed(due)
    now = due + 1
    assert not breaker.allow(now)
    breaker.address_changed(now)
    assert breaker.allow(now)
    breaker.dial_failed(now)
    breaker.address_changed(now)
    assert breaker.allow(now), "a new opening, a new chance"
    breaker.dial_void()
    breaker = opened(now=0.0)
    breaker.address_changed(0.0)
    before = breaker.next_attempt_at
    breaker.address_changed(0.1)
    assert breaker.next_attempt_at == before


def test_reset_closes_it_and_forgets() -> None:
    breaker = half_open()
    breaker.dial_failed(10.0)
    breaker.reset()
    assert breaker.state is State.CLOSED
    statistics = breaker.statistics()
    assert (statistics.recent_attempts, statistics.dial_failures, statistics.next_attempt_at) == (0, 0, None)
    breaker.down(20.0)
    due = breaker.next_attempt_at
    assert due is not None
    assert due <= 21.0, "the waits start over"


CALLS = ("allow", "ok", "failed", "void", "acked", "timeout", "answered", "lost", "down", "changed", "reset", "wait")


@given(st.lists(st.sampled_from(CALLS), max_size=200), st.integers(0, 1000))
def test_whatever_happens_only_one_probe_is_out_and_no_wait_exceeds_the_cap(calls: list[str], seed: int) -> None:
    breaker = Breaker(random.Random(seed))
    now, probes = 0.0, 0
    for call in calls:
        match call:
            case "allow":
                if breaker.allow(now) and breaker.state is not State.CLOSED:
                    probes += 1
            case "ok" | "failed" | "void" if probes or breaker.state is State.CLOSED:
                probes = 0
                {"ok": breaker.dial_succeeded, "failed": breaker.dial_failed, "void": lambda _: breaker.dial_void()}[
                    call
                ](now)
            case "acked":
                breaker.data_acked(now)
            case "timeout":
                breaker.data_timeout(now)
            case "answered":
                breaker.answered(now)
            case "lost":
                breaker.lost(now)
            case "down":
                breaker.down(now)
            case "changed":
                breaker.address_changed(now)
            case "reset":
                probes = 0
                breaker.reset()
            case "wait":
                now += 7.0
        assert probes <= 1
        if breaker.next_attempt_at is not None:
            assert breaker.next_attempt_at <= now + LONGEST_OPEN_SECONDS
