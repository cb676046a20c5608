"""The first of many timers."""

from meshd.node.soonest import Soonest


def test_all_timers_are_looked_at_once_at_the_beginning() -> None:
    timers = Soonest()
    assert timers.take(0.0)
    assert not timers.take(1e9)
    assert timers.at is None


def test_the_soonest_counts_whatever_the_order() -> None:
    timers = Soonest()
    timers.take(0.0)
    for at in (7.0, 5.0, None, 9.0):
        timers.note(at)
    assert timers.at == 5.0
    assert not timers.take(4.9)
    assert timers.take(5.0)


def test_what_was_noted_before_the_look_is_forgotten_with_it() -> None:
    timers = Soonest()
    timers.note(3.0)
    timers.take(3.0)
    timers.note(8.0)
    assert timers.at == 8.0
