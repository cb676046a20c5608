import random

from hypothesis import given
from hypothesis import strategies as st

from meshd.links.backoff import Backoff


@given(st.integers(0, 2**32), st.integers(0, 200))
def test_each_wait_is_half_to_all_of_the_doubled_and_capped_base(seed: int, n: int) -> None:
    backoff = Backoff(0.25, 300.0, random.Random(seed))
    for _ in range(n):
        backoff.next_wait()
    full = min(300.0, 0.25 * 2.0**n)
    assert full / 2 <= backoff.next_wait() <= full


def test_reset_starts_over() -> None:
    backoff = Backoff(1.0, 300.0, random.Random(1))
    for _ in range(8):
        backoff.next_wait()
    assert backoff.next_wait() > 64
    backoff.reset()
    assert backoff.next_wait() <= 1.0


def test_two_peers_that_fail_together_do_not_retry_together() -> None:
    first, second = Backoff(1.0, 300.0, random.Random(1)), Backoff(1.0, 300.0, random.Random(2))
    assert [first.next_wait() for _ in range(5)] != [second.next_wait() for _ in range(5)]
