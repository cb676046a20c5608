"""No routing loop, at any instant, whatever happens."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.routing.schedules import run_schedule
from tests.routing.simulation import World

SCHEDULES = 320
SOAK_SCHEDULES = 10_000
CHUNK = 20


def run_chunk(first: int) -> None:
    for seed in range(first, first + CHUNK):
        try:
            run_schedule(seed)
        except Exception as error:
            error.add_note(f"schedule {seed}: run_schedule({seed}) replays it")
            raise


@pytest.mark.sim
@pytest.mark.parametrize("first", range(0, SCHEDULES, CHUNK))
def test_random_schedules_have_no_loops_and_converge(first: int) -> None:
    run_chunk(first)


@pytest.mark.soak
@pytest.mark.parametrize("first", range(SCHEDULES, SCHEDULES + SOAK_SCHEDULES, CHUNK))
def test_many_more_random_schedules(first: int) -> None:
    run_chunk(first)


NAMES = "abcdef"
PAIRS = list(itertools.combinations(NAMES, 2))
pairs = st.sampled_from(PAIRS)
steps = st.one_of(
    st.tuples(st.just("cut"), pairs),
    st.tuples(st.just("connect"), pairs),
    st.tuples(st.just("price"), pairs, st.sampled_from((1, 10, 100, 30_000))),
    st.tuples(st.just("restart"), st.sampled_from(NAMES), st.booleans()),
    st.tuples(st.just("run"), st.sampled_from((0.01, 0.1, 1.0, 6.0))),
)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1000), st.sampled_from((0.0, 0.3)), st.lists(steps, max_size=25))
def test_six_devices_all_linked_to_each_other_have_no_loops(
    seed: int, trouble: float, script: list[tuple[str, object]]
) -> None:
    world = World(seed, split_horizon=bool(seed % 2))
    world.loss = world.disorder = trouble
    world.join((a, b, 10) for a, b in PAIRS)
    world.run(1.0)
    for step in script:
        match step:
            case ("cut", (str(a), str(b))):
                world.cut(a, b)
            case ("connect", (str(a), str(b))):
                world.connect(a, b)
            case ("price", (str(a), str(b)), int(cost)):
                world.reprice(a, b, cost)
            case ("restart", str(name), bool(forgets)):
                world.restart(name, forgets_epoch=forgets)
            case ("run", float(seconds)):
                world.run(seconds)
    world.run(20.0)
    world.check_loops()
    if not trouble:
        assert world.unconverged() == []
