"""The simulator on lines and rings: routing and custody under faults. Seeds of its own."""

import pytest

from tests.sim.shape import neighbours
from tests.sim.test_seeds import simulate

BATCH = 10


def check(*seeds: int) -> None:
    """All must end well."""
    for seed in seeds:
        ended = simulate("--hops", "--seed", str(seed))
        assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]


def test_who_hears_whom() -> None:
    assert neighbours("line", 4) == {(0, 1), (1, 2), (2, 3)}
    assert neighbours("ring", 4) == {(0, 1), (1, 2), (2, 3), (0, 3)}
    assert len(neighbours("lan", 5)) == 10


@pytest.mark.sim
@pytest.mark.system
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("first", range(0, 40, BATCH))
def test_what_was_promised_is_kept_over_hops(first: int) -> None:
    check(*range(first, first + BATCH))


@pytest.mark.soak
@pytest.mark.parametrize("first", range(1000, 3000, 100))
def test_what_was_promised_is_kept_over_hops_by_two_thousand_seeds(first: int) -> None:
    ended = simulate("--hops", "--seeds", f"{first}:{first + 100}", "--keep-going")
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
